"""Measure every row of this folder: k-NN and linear, at 64 pixels, into eval/results/tin200.jsonl.

    python training/tin200/measure.py --data tiny-imagenet-200 --runs runs --teacher-file MOBILENETV2.safetensors

The bank, and the linear probe's training set, is the first of the five training shards (20,000 images); the test set is the
whole validation split (10,000). Lines that are there already are not measured again. Then `python eval/tables.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from seed_hub.cli import main as seed_hub
from seed_hub.eval.features import remembered

UNTRAINED = ("seed_mobilenetv3_large", "seed_resnet18", "seed_mobilenetv3_small")
ROWS = (
    "moco_resnet18",
    "alone_resnet18",
    "seed_resnet18",
    "alone_mobilenetv3_large",
    "seed_mobilenetv3_large",
    "seed_mobilenetv3_small",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", default=Path("runs"), type=Path)
    parser.add_argument("--teacher-file", type=Path)
    parser.add_argument("--only", nargs="*", help="these rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {f"untrained:{name}": f"untrained:{name}" for name in UNTRAINED}
    models |= {row: str(args.runs / row) for row in ROWS if (args.runs / row / "verdict.json").exists()}
    if args.teacher_file:
        how = "?arch=mobilenetv2_100&pad_type=same&mean=0.5&std=0.5&licence=apache-2.0"
        models["mobilenetv2"] = f"file:{args.teacher_file}{how}"
    for row, model in models.items():
        if args.only and row not in args.only:
            continue
        # Depthwise convolutions are slower in bf16 than in float32 on a CPU.
        words = ["--model", model, "--size", "64", "--workers", "0"]
        words += ["--precision", "bf16" if "resnet" in row else "fp32"]
        words += ["--data", str(args.data / "train-00000-of-00005.parquet")]
        words += ["--test-data", str(args.data / "validation-00000-of-00001.parquet")]
        with remembered():
            for protocol in ("knn", "linear"):
                if seed_hub(["eval", protocol, *words, "--out", "eval/results/tin200.jsonl"]):
                    raise SystemExit(f"{protocol} of {row} failed")


if __name__ == "__main__":
    main()
