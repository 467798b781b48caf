"""Two processes, as `accelerate launch` starts them: the same run, shared out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


def _free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="module")
def two(pictures, teacher_run, tmp_path_factory):
    """The folder of a SEED run of two processes."""
    out = tmp_path_factory.mktemp("two") / "run"
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", _free_port()]
    words = [
        "-m",
        "seed_hub.cli",
        "distill",
        "--data",
        str(pictures),
        "--teacher",
        f"seed:{teacher_run}",
        "--allow-random-teacher",
        "--out",
        str(out),
    ]
    words += "--student seed_mobilenetv3_small --size 32 --batch-size 8 --epochs 0.7 --held-out 6 --workers 0".split()
    words += "--device cpu --queue-size 20 --hidden-width 32 --precision fp32".split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, *words], capture_output=True, text=True, env=environment, timeout=400
    )
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_make_one_run(two):
    lines = [json.loads(line) for line in (two / "log.jsonl").read_text().splitlines()]
    looks = [line["step"] for line in lines if line["event"] == "look"]
    assert looks == sorted(set(looks)), "one process writes"
    assert lines[-1]["images"] == 4 * 8, "a batch is the images of both"
    assert (two / "best" / "model.safetensors").exists()
    assert json.loads((two / "verdict.json").read_text())["verdict"]


def test_both_push_into_one_queue(two):
    state = torch.load(two / "checkpoint.pt", weights_only=True)["state"]
    queue = state["queues.0.rows"]
    # Four steps of eight images went through twenty places: all are filled, with unit rows, and none twice.
    assert torch.allclose(queue.norm(dim=1), torch.ones(20), atol=1e-5)
    assert state["queues.0._extra_state"] == {"next": 32 % 20, "count": 20}
    assert len(torch.unique(queue, dim=0)) == 20
    assert load_file(two / "last" / "model.safetensors")
