"""What a recipe costs: operations, which can be counted; hours at the pace of a published run; days, which have to be measured.

Legend: D width of an embedding, K rows of the queue, W devices.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from rows import ALONE, Row
from torch.utils.flop_counter import FlopCounterMode

from seed_hub.catalog import find_student
from seed_hub.encoder import create_flexible
from seed_hub.registration import register_with_timm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for eval/, which no wheel ships

from eval.scaling import IMAGENET  # noqa: E402

SIDE, SMALL_SIDE = 224, 96
PACE = ROOT / "eval" / "results" / "published" / "cost.jsonl"


def operations(row: Row, student: str) -> float:
    """Of the whole recipe, a multiply-accumulate counted as two: the frozen network's forward pass of each view, three
    forward passes of the student, as a backward pass is counted as two, and the products with the queue. Heads and pictures
    are left out.
    """
    own = find_student(student).macs
    # Without a teacher, the moving average of the student sees as many views.
    frozen = macs_of(row.arch) if row.arch else own
    networks = (frozen + 3 * own) * whole_views(row)
    # Of each view with K rows of D: similarities, and the rows weighted by them; of teacher and student, or of the query.
    products = 2 * (2 if row.teacher else 1) * int(row.flags.get("--queue-size", 0)) * row.width
    views = 1 + int(row.flags.get("--small-patches", 0))
    return 2.0 * (networks + products * views) * IMAGENET * float(row.flags["--epochs"])


def in_words(row: Row, student: str) -> str:
    """Operations, and hours of the device of a published run at its pace."""
    count, known = operations(row, student), timed_run()
    hours = float(f"{count * known['pace']:.2g}")
    return (
        f"{count / 1e18:,.1f} x 10^18 operations for {student.removeprefix('seed_')}, {hours:,.0f} {known['device']} hours at "
        "the pace of MoCo v2's own run"
    )


def timed_run() -> dict[str, Any]:
    """The run whose time is published, MoCo v2's ResNet-50: devices, their hours, and ``pace``, their hours for an operation."""
    known: dict[str, Any] = json.loads(PACE.read_text("utf-8"))
    spent = known["devices"] * known["hours"]
    return known | {"pace": spent / operations(Row(ALONE), known["student"])}


def whole_views(row: Row) -> float:
    """Views of each image by their pixels: small patches count as parts of a whole one."""
    return 1 + int(row.flags.get("--small-patches", 0)) * (SMALL_SIDE / SIDE) ** 2


@cache
def macs_of(arch: str) -> int:
    """Multiply-accumulates of one forward pass of one image at 224 px, counted on shapes alone; attention written out, as
    the counter does not see into the fused one."""
    register_with_timm()
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        with torch.device("meta"):
            network = create_flexible(arch, num_classes=0).eval().requires_grad_(False)
    finally:
        timm.layers.set_fused_attn(bool(fused))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.empty(1, 3, SIDE, SIDE, device="meta"))
    return counter.get_total_flops() // 2


def estimate(row: Row, students: Sequence[str], more: Sequence[str]) -> str:
    """Time a step of the recipe on this machine, and tell the days of the whole.

    Args:
        more: flags of `seed-hub bench`.

    Raises:
        SeedHubError: one of them is none, or cannot be meant.
    """
    from seed_hub.cli.bench import bench

    words = ["--teacher", f"untrained:{row.arch or students[0]}", "--embedding-width", str(row.width)]
    words += ["--student", students[0], "--queue-size", row.flags["--queue-size"], "--only", "live"]
    if (
        torch.cuda.is_available()
    ):  # there seconds are counted, not those of one core, which would wait for the images
        words += ["--workers", "-1", "--batch-size", row.flags["--batch-size"]]
    if students[1:]:
        words += ["--together", *students[1:]]
    found = bench([*words, *more])
    which = "together" if students[1:] else "live"
    # Where processes load the images, a few steps take what lay ready.
    rate = (found["images_per_second_sustained"] or found["images_per_second"])[which]
    days = IMAGENET * float(row.flags["--epochs"]) * whole_views(row) / rate / 86400
    patches = ", small patches by their pixels" if whole_views(row) > 1 else ""
    return (
        f"ImageNet-1k, {row.flags['--epochs']} epochs: {days:.3g} days on one device like this one at {rate:,.1f} images a second, "
        f"and 1 / W of that on W of them, with nothing lost{patches}"
    )
