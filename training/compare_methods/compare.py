"""Train the methods of one table on one budget, and measure each: k-NN and linear, into eval/results/.

    python training/compare_methods/compare.py methods --data tiny-imagenet-200 --teacher 'seed:runs/moco_resnet18?head=none' --out runs/compare
    python training/compare_methods/compare.py methods_supervised --data tiny-imagenet-200 --teacher seed:runs/classifier_resnet18 --out runs/compare
    python training/compare_methods/compare.py going_on --data tiny-imagenet-200 --teacher 'file:MOBILENETV2.safetensors?arch=mobilenetv2_100&pad_type=same&mean=0.5&std=0.5&licence=apache-2.0' --out runs/going_on
    python training/compare_methods/compare.py ablations --data tiny-imagenet-200 --teacher seed:seed_resnet18.moco_r18_tin200 --out runs/ablations

Each row is a ``seed-hub`` command, printed before it runs. A row that is done is not done again, one that was stopped goes
on where it was, so the same command finishes an interrupted table; ``--only`` shares the rows out among processes. Then
``cost.py``, and ``python eval/tables.py`` writes docs/methods.md.

Trained and measured on the first of the five training shards (20,000 images, 1,000 of them held out); tested on the whole
validation split (10,000), at the images' own 64 pixels.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from rows import ALONE, SHARED, STUDENT, TABLES, TAUGHT, Row

from seed_hub.cli import main as seed_hub
from seed_hub.eval.features import remembered

SHARD, TEST = "train-00000-of-00005.parquet", "validation-00000-of-00001.parquet"
TRAINED_ON = 19_000


def main() -> None:
    args = arguments(__doc__)
    torch.set_num_threads(1)
    if not args.only:
        for model in (f"untrained:{STUDENT}", args.teacher):  # the rows that give a number its meaning
            measure(model, args)
    for row in TABLES[args.table]:
        if args.only and str(row) not in args.only:
            continue
        for seed in range(row.seeds):
            train(row, seed, args)
            measure(str(folder_of(row, seed, args)), args)


def arguments(text: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", required=True, type=Path, help="Tiny-ImageNet-200 as parquet files")
    parser.add_argument("--teacher", required=True, help="for the methods that take one")
    parser.add_argument("--out", required=True, type=Path, help="folder of the runs")
    parser.add_argument("--images", type=int, default=24_000, help="images seen by every student")
    parser.add_argument(
        "--results", type=Path, default=Path("eval/results"), help="folder of the .jsonl files"
    )
    parser.add_argument(
        "--suffix", default="", help="behind the rows' names: another teacher's beside those there are"
    )
    parser.add_argument("--only", nargs="*", help="these rows")
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    return args


def folder_of(row: Row, seed: int, args: argparse.Namespace) -> Path:
    """Its name is the row's in the table."""
    return args.out / f"seed{seed}" / f"{row}{args.suffix}"


def command(row: Row, seed: int, args: argparse.Namespace) -> list[str]:
    """The row as one typed it."""
    words = ["distill", "--teacher", args.teacher] if row.teacher else ["pretrain"]
    flags = {
        "--method": row.method,
        "--data": str(args.data / SHARD),
        "--out": str(folder_of(row, seed, args)),
        "--seed": str(seed),
        "--epochs": f"{args.images / TRAINED_ON:.4f}",
        "--lr": TAUGHT if row.teacher else ALONE,
        **SHARED,
        **row.flags,
    }
    return words + [word for pair in flags.items() for word in pair]


def train(row: Row, seed: int, args: argparse.Namespace) -> None:
    """In a process of its own: its peak memory is the method's."""
    folder = folder_of(row, seed, args)
    if (folder / "verdict.json").exists():
        return
    words = command(row, seed, args)
    if (folder / "config.json").exists():
        words = [words[0], "--resume", "--out", str(folder)]
    print("seed-hub", shlex.join(words), flush=True)
    subprocess.run(
        [sys.executable, "-m", "seed_hub.cli", *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def measure(model: str, args: argparse.Namespace) -> None:
    words = ["--model", model, "--size", "64", "--workers", "0", "--precision", "fp32"]
    words += ["--data", str(args.data / SHARD), "--test-data", str(args.data / TEST)]
    with remembered():
        for protocol in ("knn", "linear"):
            if seed_hub(["eval", protocol, *words, "--out", str(args.results / f"{args.table}.jsonl")]):
                raise SystemExit(f"{protocol} of {model} failed")


if __name__ == "__main__":
    main()
