"""Measure every row of this folder by every protocol, into eval/results/students.jsonl.

    python training/tin200/measure.py --data data --runs runs --teacher-file MOBILENETV2.safetensors

``--data`` holds tiny-imagenet-200, dtd10, scene15, trashnet6 and bccd. Bank and training set of the first four protocols
are the first of the five training shards (20,000 images), the test set is the whole validation split (10,000), at 64
pixels. What a laptop's two cores cannot do in a day is shortened, and says so in its settings: the paper's linear protocol,
fine-tuning, and detection. Lines that are there already are not measured again. Then ``python eval/tables.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rows import MOBILENETV2, STUDENT_IMAGES

from seed_hub.cli import main as seed_hub
from seed_hub.eval.features import remembered

OUT = "eval/results/students.jsonl"
TEACHERS = ("moco_resnet18", "moco_again_resnet18")
# What the names of a student's runs begin with.
TAUGHT = ("cc", "ensemble", "again", "imagenet", "alone", "supervised")
SHARD = {
    "--data": "{data}/tiny-imagenet-200/train-00000-of-00005.parquet",
    "--test-data": "{data}/tiny-imagenet-200/validation-00000-of-00001.parquet",
    "--size": "64",
}
FROZEN = {"knn": "knn", "linear": "linear"}
TRANSFER = {"transfer": "transfer --suite eval/suites/small.json --suite-root {data} --size 64"}
# Images of 160 px on the short side: a red blood cell is then about 25 px wide.
DETECTION = {
    "detection": "detection --data {data}/bccd --split-train train --split test --iterations 200 --train-batch 4 "
    "--lr 0.01 --trials 2 --rois 32 --size 160 --train-sizes 144 160 176 --longest 320"
}
LONG = {
    "semi": "semi --mode frozen --train-batch 64 --epochs 5 --least-steps 100",
    # Networks from scratch are the competitor here.
    "semi_finetuned": "semi --share 0.1 --trials 1 --train-batch 64 --epochs 20 --optimizer adamw",
    "linear_seed": "linear --protocol seed --paper-epochs 2",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", default=Path("runs"), type=Path)
    parser.add_argument("--teacher-file", type=Path, help="the ImageNet MobileNetV2, as an upper row")
    parser.add_argument("--only", nargs="*", help="these rows")
    parser.add_argument("--protocols", nargs="*", help="these protocols, by their names in this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for row, model in models(args).items():
        if args.only and row not in args.only:
            continue
        with remembered():
            for name, words in commands(args).items():
                # A forward pass of depthwise convolutions gains little by bf16 on a CPU; where they learn, they are in float32.
                depthwise = "mobilenet" in row or "efficientnet" in row
                precision = "auto" if not depthwise or name in ("detection", "semi_finetuned") else "fp32"
                how = ["--precision", precision, "--workers", "0", "--out", OUT]
                if (not args.protocols or name in args.protocols) and seed_hub(
                    ["eval", *words, "--model", model, *how]
                ):
                    sys.exit(f"{name} of {row} failed")


def models(args: argparse.Namespace) -> dict[str, str]:
    """Row -> model, of those that are there."""
    runs = [
        *TEACHERS,
        "seed_mobilenetv3_small",
        *(name.replace("seed", how, 1) for how in TAUGHT for name in STUDENT_IMAGES),
    ]
    found = {row: str(args.runs / row) for row in runs if (args.runs / row / "verdict.json").exists()}
    found |= {f"untrained:{name}": f"untrained:{name}" for name in STUDENT_IMAGES}
    if args.teacher_file:
        found["mobilenetv2"] = f"file:{args.teacher_file}?{MOBILENETV2}"
    return found


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Protocol -> the words of its command, less the model."""
    shard = [word for pair in SHARD.items() for word in pair]
    on_shard = {
        name: [words.split()[0], *shard, *words.split()[1:]] for name, words in (FROZEN | LONG).items()
    }
    elsewhere = {name: words.split() for name, words in (TRANSFER | DETECTION).items()}
    every = on_shard | elsewhere
    return {name: [word.format(data=args.data) for word in words] for name, words in every.items()}


if __name__ == "__main__":
    main()
