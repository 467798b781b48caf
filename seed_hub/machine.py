"""What of this machine is ours to use."""

from __future__ import annotations

import os
from pathlib import Path


def cores() -> int:
    """Processor cores this process may use: ``taskset``, a scheduler or a container may leave fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    found = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota = (
            Path("/sys/fs/cgroup/cpu.max").read_text().split()
        )  # of a container: "200000 100000", or "max 100000"
    except OSError:
        quota = []
    if len(quota) == 2 and quota[0].isdigit():
        found = min(found, max(1, int(quota[0]) // int(quota[1])))
    return found


def loading_processes(workers: int) -> int:
    """``workers`` as settings give it; -1 stands for one less than the cores, at most 8."""
    return min(8, cores() - 1) if workers < 0 else workers
