"""What a view costs to make, in images per second and core, beside Pillow and torchvision's transforms.

    python training/bench_input.py                       # one JSON line per size of view
    python training/bench_input.py --out eval/results/speed/input.jsonl

MoCo v2's recipe on JPEG photographs of 500 x 375 px: from the files, from a packed store of JPEG, and from one of raw pixels
(short side 256 for views of 224 px, 96 for 64). One thread, in turns, in seconds of this process's CPU; medians. The
reference always reads the files: it is what there is without a store.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seed_hub.bench.photos import write_photos
from seed_hub.bench.reference import reference_views
from seed_hub.bench.timing import take_turns
from seed_hub.data import Images, open_images
from seed_hub.data.packing import Packing
from seed_hub.data.shrinking import Recipe
from seed_hub.eval.provenance import commit, machine, versions
from seed_hub.eval.results_file import append_result
from seed_hub.training.views import MOCO_V2, ViewsDataset

STORES = {224: 256, 64: 96}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128, help="photographs per turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON lines file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for size in STORES:
        with tempfile.TemporaryDirectory() as folder:
            line = measure(size, args.images, args.turns, Path(folder))
        print(json.dumps(line))
        if args.out:
            append_result(args.out, line)


def measure(size: int, images: int, turns: int, folder: Path) -> dict[str, Any]:
    """One line: seconds of every turn, and how many times faster than the reference each way is."""
    files = open_images(write_photos(folder / "photos", images), check=False)
    packed = {form: _packed(files, folder / form, STORES[size], form) for form in ("jpeg", "raw")}
    transform = reference_views(size)
    ways = {
        "reference": lambda: [transform(files.load(i)) for i in range(images)],
        "files": _views(files, size),
        **{form: _views(store, size) for form, store in packed.items()},
    }
    timings = take_turns(ways, CPU, turns=turns)
    return {
        "protocol": "input",
        "settings": {"size": size, "images": images, "store_side": STORES[size]},
        "seconds": {name: timing.median for name, timing in timings.items()},
        "turns": {name: list(timing.seconds) for name, timing in timings.items()},
        "ratios": {name: timings["reference"].median / timing.median for name, timing in timings.items()},
        **commit(),
        "machine": machine("cpu"),
        "versions": versions(),
    }


def _packed(images: Images, out: Path, side: int, form: str) -> Images:
    Packing(images, out, Recipe(side, form, 90 if form == "jpeg" else None, 256)).run(1)
    return open_images(out, check=False)


def _views(images: Images, size: int) -> Callable[[], object]:
    dataset = ViewsDataset(images, [replace(MOCO_V2, size=size)], seed=0)
    epoch = iter(range(10**9))

    def once() -> list[object]:
        now = next(epoch)  # other views each time, as in training
        return [dataset[i, now] for i in range(len(images))]

    return once


if __name__ == "__main__":
    main()
