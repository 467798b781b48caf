"""Several ways to do a thing, timed in turns.

On a shared machine the same work takes twice as long a minute later. So the ways take turns within one process, and what is
compared are medians: of processor seconds of one thread on a CPU (what others compute does not count, except for the memory
and caches they share), of wall-clock seconds between synchronisations on an accelerator.
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of each turn, in order."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median"""
        return (max(self.seconds) - min(self.seconds)) / self.median


def take_turns(
    ways: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    turns: int = 5,
    warm_up: int = 1,
    say: Callable[[str], None] | None = None,
) -> dict[str, Timing]:
    """Each way of doing a thing once per turn; the first ``warm_up`` turns do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(warm_up + turns):
        for name, way in ways.items():
            taken = timed(way, device)
            if turn >= warm_up:
                seconds[name].append(taken)
        if say is not None:
            say(f"turn {turn + 1} of {warm_up + turns}")
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def timed(way: Callable[[], object], device: torch.device) -> float:
    """Seconds of this process's processor time; of wall-clock time on an accelerator."""
    if device.type == "cpu":
        start = time.process_time()
        way()
        return time.process_time() - start
    torch.accelerator.synchronize(device)
    start = time.perf_counter()
    way()
    torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def sustained(way: Callable[[], object], device: torch.device, ahead: int) -> float:
    """Seconds of wall-clock time that ``way`` takes in the long run, where processes prepare what it needs.

    Args:
        ahead: how often it can be done with what they have prepared already: that often it is done uncounted, and then four
            times that often, since they deliver in bursts.
    """
    for _ in range(ahead):
        way()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    start = time.perf_counter()
    for _ in range(4 * ahead):
        way()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return (time.perf_counter() - start) / (4 * ahead)


def peak_megabytes(way: Callable[[], object], device: torch.device) -> float | None:
    """Memory that ``way`` needs at its peak beyond what was held before it, in MB; None where it cannot be told."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        way()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here
    except OSError:
        return None
    held = _status("VmRSS")
    way()
    return max(0.0, _status("VmHWM") - held)


def _give_back() -> None:
    """What was freed before is still held by the allocator, and would be taken again unseen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # of glibc alone
    if trim is not None:
        trim(0)


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
