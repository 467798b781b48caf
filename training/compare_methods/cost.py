"""What a step of each method costs: images per second and peak memory, into eval/results/cost/methods.jsonl.

    python training/compare_methods/cost.py --runs runs/compare

Of the runs that compare.py left. One thread; whole steps (views, teacher, forward, backward, optimiser), of all methods in
turn, timed in seconds of this process's CPU: what else the machine does counts little. The median of the rounds counts.
The peak memory is that of the row's own training process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rows import TABLES

from seed_hub.eval.provenance import commit, machine, versions
from seed_hub.eval.results_file import append_result
from seed_hub.training.engine import prepare, take_steps
from seed_hub.training.run import assemble
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings

WARM_UP = 2


@dataclass
class Timed:
    """A row's run, step by step."""

    name: str
    settings: RunSettings
    steps: Iterator[Any]
    seconds: list[float] = field(default_factory=list)

    def step(self) -> None:
        start = time.process_time()
        next(self.steps)
        self.seconds.append(time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", required=True, type=Path, help="folder of the runs that compare.py left")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=Path("eval/results/cost/methods.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [args.runs / "seed0" / str(row) for rows in TABLES.values() for row in rows]
        timed = [begin(folder, Path(scratch)) for folder in folders if (folder / "verdict.json").exists()]
        for number in range(WARM_UP + args.rounds):
            for each in timed:
                each.step()
            print(f"round {number + 1} of {WARM_UP + args.rounds}", flush=True)
    for each in timed:
        append_result(args.results, line(each, RunFolder(args.runs / "seed0" / each.name)))


def begin(folder: Path, scratch: Path) -> Timed:
    """Everything up to the first step, in a folder of its own."""
    settings, own = RunFolder(folder).settings()
    short = replace(settings, out=str(scratch / folder.name), held_out=20)
    job = assemble([short], own)
    return Timed(folder.name, settings, take_steps(job, prepare(job)))


def line(timed: Timed, run: RunFolder) -> dict[str, Any]:
    seconds = timed.seconds[WARM_UP:]
    speed = timed.settings.batch_size / median(seconds)
    memory = max(found.get("memory_gb", 0.0) for found in run.read_log())
    return {
        "protocol": "cost",
        "metric": "images_per_cpu_second",
        "value": speed,
        "n": len(seconds),
        "values": {
            "images_per_cpu_second": speed,
            "slowest": timed.settings.batch_size / max(seconds),
            "fastest": timed.settings.batch_size / min(seconds),
            "peak_memory_gb": memory,
        },
        "model": {"name": f"seed:{timed.name}"},
        "settings": {"size": timed.settings.size, "batch_size": timed.settings.batch_size},
        **commit(),
        "machine": machine("cpu"),
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


if __name__ == "__main__":
    main()
