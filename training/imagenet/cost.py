"""What a recipe costs: operations, which can be counted, and days, which have to be measured.

Legend: W devices.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import timm
import torch
from rows import Row
from torch.utils.flop_counter import FlopCounterMode

from seed_hub.catalog import find_student
from seed_hub.encoder import create_flexible
from seed_hub.registration import register_with_timm

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for eval/, which no wheel ships

from eval.scaling import IMAGENET  # noqa: E402

SIDE, SMALL_SIDE = 224, 96


def operations(row: Row, student: str) -> float:
    """Of the whole recipe, a multiply-accumulate counted as two: the frozen network's forward pass of each view, and three
    forward passes of the student, as a backward pass is counted as two. The loss, the head and the pictures are left out.
    """
    own = find_student(student).macs
    # Without a teacher, the moving average of the student sees as many views.
    frozen = macs_of(row.arch) if row.arch else own
    return 2.0 * (frozen + 3 * own) * IMAGENET * float(row.flags["--epochs"]) * whole_views(row)


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
        words += ["--workers", "-1"]
    if students[1:]:
        words += ["--together", *students[1:]]
    found = bench([*words, *more])
    rate = found["images_per_second"]["together" if students[1:] else "live"]
    days = IMAGENET * float(row.flags["--epochs"]) * whole_views(row) / rate / 86400
    patches = ", small patches by their pixels" if whole_views(row) > 1 else ""
    return (
        f"ImageNet-1k, {row.flags['--epochs']} epochs: {days:.3g} days on one device like this one at {rate:,.1f} images a second, "
        f"and 1 / W of that on W of them, with nothing lost{patches}"
    )
