"""Tiny-ImageNet-200 rows: what every run of this folder shares.

    python training/tin200/moco_resnet18.py --data tiny-imagenet-200 --out runs

Images are seen at 48 pixels while training and at 64 (their own size) when measured: a crop shows objects larger than
the whole image does, and two thirds of the side cost half the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seed_hub.training.run import run_together
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
# The queue is a sixth of the images; both temperatures suit features that are not negative, whose cosines are all large.
SEED = {"queue_size": 16_384, "student_temperature": 0.07, "teacher_temperature": 0.04}
# Seen by a student of the MoCo teacher, and by its baseline without a teacher: most for the two the zoo is about.
STUDENT_IMAGES = {
    "seed_mobilenetv3_large": 160_000,
    "seed_efficientnet_b0": 320_000,  # the slowest to learn
    "seed_resnet18": 80_000,
    "seed_resnet34": 80_000,
    "seed_mobilenetv3_small": 80_000,
    "seed_vit_tiny": 80_000,
}
# The supervised ImageNet network, a file of one's own: what its weights are.
MOBILENETV2 = "arch=mobilenetv2_100&pad_type=same&mean=0.5&std=0.5&licence=apache-2.0"


def parser(about: str, teacher_file: bool = False) -> argparse.ArgumentParser:
    """Of the flags every row has; ``about`` is its docstring. ``teacher_file``: its teacher is the supervised network."""
    flags = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", required=True, help="Tiny-ImageNet-200 as parquet files")
    flags.add_argument("--out", default="runs", type=Path, help="folder of the runs")
    if teacher_file:
        flags.add_argument("--teacher-file", required=True, help="the ImageNet MobileNetV2")
    return flags


def train(
    rows: dict[str, str],  # run -> student, trained together
    args: argparse.Namespace,
    images_seen: int,
    settings: dict[str, Any],
    method_settings: dict[str, Any],
) -> None:
    """Run the rows (or, if their folders exist, go on with them)."""
    torch.set_num_threads(1)
    shared = SHARED | settings | {"data": args.data, "epochs": images_seen / IMAGES}
    runs = [RunSettings(student=student, out=str(args.out / row), **shared) for row, student in rows.items()]
    begun = all((args.out / row / "config.json").exists() for row in rows)
    run_together(runs, method_settings, resume=begun)


def train_alone(about: str, way: str, settings: dict[str, Any], method_settings: dict[str, Any]) -> None:
    """One student without a teacher, as long as with one: the script whose docstring ``about`` is. The run is
    ``WAY_student``."""
    flags = parser(about)
    flags.add_argument("--student", required=True, choices=STUDENT_IMAGES)
    lr = settings.get("lr", SHARED["lr"])
    flags.add_argument("--lr", type=float, default=lr, help="peak learning rate (default: %(default)g)")
    args = flags.parse_args()
    rows = {args.student.replace("seed", way, 1): args.student}
    train(rows, args, STUDENT_IMAGES[args.student], settings | {"lr": args.lr}, method_settings)


def train_taught(
    about: str,
    way: str,
    teachers: Callable[[argparse.Namespace], dict[str, Any]],
    *,
    method: str = "cc",
    method_settings: dict[str, Any] | None = None,
    teacher_file: bool = False,
) -> None:
    """Students together from the same teachers: the script whose docstring ``about`` is. Runs are ``WAY_student``.

    Args:
        teachers: flags -> the settings that name the teachers.
        method_settings: of the method; its defaults if None.
    """
    flags = parser(about, teacher_file)
    flags.add_argument("--student", required=True, choices=STUDENT_IMAGES, nargs="+")
    flags.add_argument(
        "--lr",
        type=float,
        default=3e-3,
        help="peak learning rate (default: %(default)g); lower for longer runs, and for ViTs",
    )
    flags.add_argument(
        "--start",
        default="",
        help="a run or released weight to go on from, for one student (default: from scratch)",
    )
    flags.add_argument("--images", type=int, help="images seen (default: STUDENT_IMAGES)")
    args = flags.parse_args()
    budgets = {args.images or STUDENT_IMAGES[name] for name in args.student}
    if len(budgets) > 1:
        flags.error(
            "--student: these do not see equally many images, so they are not trained together (STUDENT_IMAGES)"
        )
    rows = {name.replace("seed", way, 1): name for name in args.student}
    settings = {"method": method, "lr": args.lr, "start": args.start} | teachers(args)
    train(rows, args, budgets.pop(), settings, method_settings or {})
