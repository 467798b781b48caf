"""The paper's claim on two cores, offline: without labels, a small student learns more from a teacher than alone.

scikit-learn's 1,797 handwritten digits; the same small student by MoCo v2 alone and by SEED from a released weight of
this package, with as many images seen; then how often each one's nearest neighbours name the right digit. The teacher
learned from photographs, without labels either, and has seen no digit before. Every number is of the run just made.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from seed_hub.demo.digits import Digits
    from seed_hub.training.settings import RunSettings

STUDENT, TEACHER = "seed_mobilenetv3_small", "seed_resnet18.moco_r18_tin200"
BATCH, EPOCHS = 64, 18.0
K = 20  # neighbours that vote
NEXT = (
    "seed-hub distill --data YOUR_IMAGES --teacher timm:vit_small_patch14_dinov2.lvd142m "
    "--student seed_mobilenetv3_large --out runs/first"
)


@dataclass(frozen=True)
class Row:
    """A network and how it did."""

    name: str
    network: str
    images_seen: int
    """of these images"""
    accuracy: float
    """k-NN on the test digits, percent"""


def main(out: str | Path = "demo", *, budget: float = 1.0, seed: int = 0, workers: int = -1) -> int:
    """Run it all into the folder ``out``; 0 if the claim held in this run, else 1.

    Args:
        budget: share of the steps to take; below 1 for tests.
        seed: of weights, order and views.
        workers: processes that load images, as in ``RunSettings``.
    """
    from rich.console import Console

    from seed_hub.demo.digits import write_digits
    from seed_hub.demo.picture import draw
    from seed_hub.training.run import run

    folder, console, start = Path(out), Console(highlight=False), time.monotonic()
    digits = write_digits(folder / "digits")
    console.print(
        f"{len(digits.train) + len(digits.test):,} handwritten digits, without labels, in {digits.folder}"
    )
    plans = plan(folder, budget, seed, workers)
    for number, (title, settings, own) in enumerate(plans.values(), 1):
        console.print(f"\n[bold]{number} of {len(plans)}: {title}[/]")
        run(settings, own, overwrite=True)
    features = {
        name: _features(name, plans, digits) for name in ("untrained", "alone", "distilled", "teacher")
    }
    rows = [_row(name, *found, plans, digits) for name, found in features.items()]
    (folder / "demo.json").write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    draw(rows, features, digits, seed).savefig(folder / "demo.png", dpi=150)
    minutes = (time.monotonic() - start) / 60
    console.print("\n", table(rows, len(digits.test)), "\n", closing(rows), sep="")
    console.print(f"{minutes:.1f} minutes. The picture is {folder / 'demo.png'}.")
    console.print(f"\nNext, on images of your own, which need no labels:\n\n  {NEXT}\n", soft_wrap=True)
    return 0 if claim_holds(rows) else 1


def plan(
    folder: Path, budget: float, seed: int, workers: int
) -> dict[str, tuple[str, RunSettings, dict[str, Any]]]:
    """The two runs, in order: name -> (title, settings, the method's settings)."""
    from seed_hub.demo.digits import SIDE
    from seed_hub.training.settings import RunSettings

    shared = RunSettings(
        data=str(folder / "digits"),
        split="train",
        size=SIDE,
        crop_min=0.4,  # half a digit may be any digit
        flip=0.0,  # and a mirrored one is none
        batch_size=BATCH,
        optimizer="adamw",
        lr=1e-3,
        clip=1.0,
        epochs=EPOCHS * budget,
        seed=seed,
        workers=workers,
    )
    moco = {"queue_size": 512, "key_momentum": 0.99, "hidden_width": 512}
    seed_own = {
        "queue_size": 1024,
        "hidden_width": 512,
        # Pooled features are compared, which are not negative, and digits all look alike to a network of photographs: their
        # cosines are all large.
        "student_temperature": 0.02,
    }
    alone, distilled = (str(folder / name) for name in ("alone", "distilled"))
    return {
        "alone": (
            f"the student, {STUDENT}, by MoCo v2 alone",
            replace(shared, student=STUDENT, method="moco", out=alone),
            moco,
        ),
        "distilled": (
            f"the same student by SEED, from {TEACHER}",
            replace(
                shared,
                student=STUDENT,
                method="seed",
                teacher=f"seed:{TEACHER}?head=none",
                out=distilled,
                lr=3e-3,
            ),
            seed_own,
        ),
    }


def _features(name: str, plans: dict[str, Any], digits: Digits) -> tuple[Tensor, Tensor]:
    """Pooled features of the training and the test digits: ``[1297, D]``, ``[500, D]``."""
    import torch

    from seed_hub.encoder import build_student
    from seed_hub.eval.features import extract
    from seed_hub.teachers import load_model

    _, settings, _ = plans[name if name in plans else "alone"]
    if name == "untrained":
        torch.manual_seed(settings.seed)  # the weights that both students start from
        network: Any = build_student(settings.student)
    else:
        network = load_model(f"seed:{TEACHER if name == 'teacher' else settings.out}")
    bank, queries = (
        extract(network, images, device="auto", size=settings.size) for images in (digits.train, digits.test)
    )
    return bank, queries


def _row(name: str, bank: Tensor, queries: Tensor, plans: dict[str, Any], digits: Digits) -> Row:
    from seed_hub.eval.knn import knn_accuracy

    accuracy = knn_accuracy(bank, digits.train_labels, queries, digits.test_labels, k=(K,))[K]
    if name not in plans:
        return Row(name, TEACHER if name == "teacher" else STUDENT, 0, accuracy)
    _, settings, _ = plans[name]
    return Row(name, settings.student, _images_seen(settings), accuracy)


def _images_seen(settings: RunSettings) -> int:
    from seed_hub.training.run_folder import RunFolder

    return max(line.get("images", 0) for line in RunFolder(settings.out).read_log())


def claim_holds(rows: list[Row]) -> bool:
    """Distilled is better than alone, and than not trained at all."""
    of = {row.name: row.accuracy for row in rows}
    return of["distilled"] > max(of["untrained"], of["alone"])


def closing(rows: list[Row]) -> str:
    """What this run showed, in one sentence; also when it did not show what it should."""
    of = {row.name: row.accuracy for row in rows}
    if not claim_holds(rows):
        return (
            f"The claim did not hold in this run: untrained {of['untrained']:.1f} %, alone {of['alone']:.1f} %, "
            f"distilled {of['distilled']:.1f} %. Please report it, with the folder's demo.json."
        )
    text = (
        f"With as many images seen, the distilled student is {of['distilled'] - of['alone']:.1f} points better than the one "
        f"trained alone, and {of['distilled'] - of['untrained']:.1f} better than untrained"
    )
    base = max(of["alone"], of["untrained"])
    gain, gap = of["distilled"] - base, of["teacher"] - base
    return (
        f"{text}: {gain / gap:.0%} of the gap between the better of these and the teacher."
        if gap > gain
        else f"{text}, and as good as the teacher."
    )


def table(rows: list[Row], tested: int) -> Table:
    from rich.table import Table

    shown = Table(title=f"k-NN accuracy on {tested} test digits (k = {K})", title_justify="left")
    shown.add_column("")
    shown.add_column("network")
    shown.add_column("digits seen", justify="right")
    shown.add_column("k-NN", justify="right")
    for row in rows:
        style = "bold" if row.name == "distilled" else ""
        shown.add_row(row.name, row.network, f"{row.images_seen:,}", f"{row.accuracy:.1f} %", style=style)
    return shown
