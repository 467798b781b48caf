"""Tiny-ImageNet-200 rows: what every run of this folder shares.

    python training/tin200/moco_resnet18.py --data tiny-imagenet-200 --out runs

Images are seen at 48 pixels while training and at 64 (their own size) when measured: a crop shows objects larger than
the whole image does, and two thirds of the side cost half the time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings

IMAGES = (
    98_944  # 99,000 that are not held out, less what does not fill a batch: turns images seen into epochs
)

SHARED: dict[str, Any] = {
    "split": "train",
    "size": 48,
    "batch_size": 64,  # many small steps: the budget is counted in images, not in steps
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.02,
    "clip": 1.0,
    "held_out": 1000,
    "workers": 0,  # one core per run
    "save_every": 5.0,
}
# Short runs at a high learning rate: fast keys, and a queue whose oldest keys are 64 steps old.
MOCO = {"queue_size": 4096, "key_momentum": 0.99, "temperature": 0.1}
# The teacher's pooled features are compared: students of its head's output had the worse neighbours. They are not negative,
# so their cosines are all large: both temperatures differ from the paper's.
SEED = {"queue_size": 16384, "student_temperature": 0.07, "teacher_temperature": 0.04}
STUDENT_IMAGES = 64_000  # seen by every student of the MoCo teacher, and by its baseline without a teacher


def main(name: str, images_seen: int, settings: dict[str, Any], method_settings: dict[str, Any]) -> None:
    """Run (or, if its folder exists, resume) the row ``name``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Tiny-ImageNet-200 as parquet files")
    parser.add_argument("--out", default="runs", help="folder of the runs")
    parser.add_argument(
        "--teacher-file", default="", help="the ImageNet MobileNetV2, where a row learns from it"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(args.out)
    merged = SHARED | settings
    merged["teacher"] = merged.get("teacher", "").format(runs=out, file=args.teacher_file)
    row = RunSettings(data=args.data, out=str(out / name), epochs=images_seen / IMAGES, **merged)
    run(row, method_settings, resume=(out / name / "config.json").exists())
