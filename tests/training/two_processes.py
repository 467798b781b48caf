"""Run the function ``one_of_two(rank, folder)`` of a test file in two gloo processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[2]


def run_in_two(file: str, folder: Path) -> None:
    """Raises AssertionError with what they wrote to stderr, if one of them fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # In a process of its own: one that has run a backward pass must not fork.
    done = subprocess.run(
        [sys.executable, __file__, file, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def _one(file: str, rank: int, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("one_of_two", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    module.one_of_two(rank, folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    context = torch.multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_one, args=(sys.argv[1], rank, Path(sys.argv[2]))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in processes))
