"""Measure the ways of a step in turns, and what follows from them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from seed_hub.bench.ceiling import bandwidth, gflops, products
from seed_hub.bench.ground import Ground, lay_ground
from seed_hub.bench.limit import Machine, layers_of, limits
from seed_hub.bench.settings import BenchSettings
from seed_hub.bench.timing import Timing, peak_megabytes, sustained, take_turns
from seed_hub.bench.ways import Way, reference_step, stages_of, step_of
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError, nearest
from seed_hub.machine import has_amx, loading_processes, resolve_precision
from seed_hub.teachers import load_teacher
from seed_hub.training.device import build_accelerator
from seed_hub.training.job import PREFETCH
from seed_hub.training.settings import RunSettings

STEPS = ("reference", "live", "cached", "packed", "packed_cached", "raw", "raw_cached")
STAGES = ("input", "teacher", "floor", "loss", "optimizer")
TOGETHER = "together"


def bench(asked: BenchSettings, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Seconds of each way and stage, peak memory of the steps, and ratios; see :func:`ratios`.

    Raises:
        SeedHubError: bad settings.
    """
    _check(asked)
    torch.set_num_threads(asked.threads)
    device = build_accelerator(RunSettings(device=asked.device, precision=asked.precision)).device
    with tempfile.TemporaryDirectory(prefix="seed-hub-bench-") as folder:
        ground = lay_ground(asked, Path(folder))
        ways = _ways(ground, device, say)
        say(f"measuring {', '.join(ways)}")
        with _engine_state():
            timings = take_turns(ways | products(device), device, turns=asked.turns, say=say)
            reached, moved = gflops(timings, device), bandwidth(timings, device)
            machine = Machine({kind: 1e9 * rate for kind, rate in reached.items()}, moved)
            shares = _of_limit(
                asked, ground, timings, machine, resolve_precision(asked.precision, device.type)
            )
            lasting = _lasting(asked, ways, device, say)
            peaks = {
                name: peak_megabytes(way, device) for name, way in ways.items() if name in (*STEPS, TOGETHER)
            }
    return {
        "seconds": {name: timing.median for name, timing in timings.items()},
        "spread": {name: timing.spread for name, timing in timings.items()},
        "turns": {name: list(timing.seconds) for name, timing in timings.items()},
        "peak_mb": peaks,
        "images_per_second": {name: asked.batch_size / timing.median for name, timing in timings.items()},
        "images_per_second_sustained": lasting,
        "ratios": ratios(timings, asked),
        "device": str(device),
        "amx": has_amx(),
        "gflops": reached,
        "gigabytes_per_second": moved / 1e9,
        "of_limit": shares,
    }


def _lasting(
    asked: BenchSettings, ways: dict[str, Way], device: torch.device, say: Callable[[str], None]
) -> dict[str, float]:
    """Images per second of each step in the long run, by the clock, where processes load the images; else nothing: what a
    few steps take from batches that lie ready tells nothing of how fast these are made."""
    ahead = PREFETCH * loading_processes(asked.workers)
    steps = {name: way for name, way in ways.items() if name in (*STEPS, TOGETHER)} if ahead else {}
    if steps:
        say(f"and {5 * ahead} steps in a row, until what was loaded ahead is used up")
    return {name: asked.batch_size / sustained(way, device, ahead) for name, way in steps.items()}


def _of_limit(
    asked: BenchSettings, ground: Ground, timings: dict[str, Timing], machine: Machine, precision: str
) -> dict[str, float]:
    """The share of its time that each of our steps would take at least, see :mod:`seed_hub.bench.limit`."""
    pixels = torch.empty(asked.batch_size, 3, asked.size, asked.size, device="meta")  # counted on shapes
    teacher = load_teacher(ground.teacher, allow_random=True, image_size=asked.size).encoder
    least = limits(
        layers_of(build_student(asked.student).to("meta"), pixels),
        layers_of(teacher.to("meta"), pixels),
        machine,
        precision,
        batch=asked.batch_size,
        rows=asked.queue_size,
        width=asked.embedding_width,
    )
    kinds = {name: "cached" if "cached" in name else "live" for name in STEPS[1:]}
    return {name: least[kind] / timings[name].median for name, kind in kinds.items() if name in timings}


def ratios(timings: dict[str, Timing], asked: BenchSettings) -> dict[str, float]:
    """``reference/NAME``: how many times faster a step is than the reference's; ``NAME/floor``: how far it is from the
    student alone; ``together/alone``: several students from one teacher pass, over the sum of their runs."""
    found: dict[str, float] = {}
    for name in STEPS[1:]:
        if name not in timings:
            continue
        if "reference" in timings:
            found[f"reference/{name}"] = timings["reference"].median / timings[name].median
        if "floor" in timings:
            found[f"{name}/floor"] = timings[name].median / timings["floor"].median
    alone = [timings[_alone(student)].median for student in asked.together if _alone(student) in timings]
    if TOGETHER in timings and "live" in timings:
        found["together/alone"] = timings[TOGETHER].median / (timings["live"].median + sum(alone))
    return found


def _ways(ground: Ground, device: torch.device, say: Callable[[str], None]) -> dict[str, Way]:
    asked = ground.asked
    wanted = [name for name in (*STEPS, *STAGES) if not asked.only or name in asked.only]
    ways: dict[str, Way] = {}
    if "reference" in wanted:
        ways["reference"] = reference_step(ground, device)
    settings = {"live": ground.run}
    for name, form in (("packed", "jpeg"), ("raw", "raw")):
        if {name, f"{name}_cached"} & set(wanted):
            say(f"packing as {form}")
            settings[name] = ground.packed(form)
    for name in ("live", "packed", "raw"):
        cached = "cached" if name == "live" else f"{name}_cached"
        if cached in wanted:
            say(f"caching what the teacher says, for {cached}")
            settings[cached] = ground.cached(settings[name], cached)
    for name in STEPS[1:]:
        if name in wanted:
            ways[name] = step_of(ground.job(name, settings[name]))
    if set(STAGES) & set(wanted):
        job = ground.job("stages", ground.run)
        step_of(job)
        ways |= {name: way for name, way in stages_of(job).items() if name in wanted}
    for student in asked.together:
        ways[_alone(student)] = step_of(ground.job("alone", ground.run, (student,)))
    if asked.together:
        everyone = (asked.student, *asked.together)
        ways[TOGETHER] = step_of(ground.job(TOGETHER, ground.run, everyone))
    return ways


def _alone(student: str) -> str:
    return f"alone {student}"


def _check(asked: BenchSettings) -> None:
    for name in asked.only:
        if name not in (*STEPS, *STAGES):
            raise SeedHubError(
                f'There is no "{name}" to measure: name some of {", ".join((*STEPS, *STAGES))}.'
                + nearest(name, (*STEPS, *STAGES))
            )
    for name in ("turns", "batch_size", "queue_size", "embedding_width", "threads", "size"):
        if getattr(asked, name) < 1:
            raise SeedHubError(f"--{name.replace('_', '-')} is {getattr(asked, name)}: it is at least 1.")


@contextmanager
def _engine_state() -> Iterator[None]:
    """Denormals are flushed while ours are measured, as in a run, and left as they are by default afterwards."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
