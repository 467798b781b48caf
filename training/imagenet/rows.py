"""ImageNet rows: what the recipes of this folder share, one file for each teacher.

    python training/imagenet/dinov2_vit_small.py --data imagenet/train --student seed_resnet18 --out runs/dinov2_small_r18

Give --student several times to train several from one teacher pass, each into a folder of its own in --out. Every further
flag is one of `seed-hub distill` (of `seed-hub pretrain` for alone.py), counts more than the recipe's own, and is how
to go on (--resume):

    --hidden-width 2048                              a wider head than the paper's: 2.3 points in an independent re-run
    --optimizer adamw --weight-decay 0.02 --clip 1   for a ViT beside the paper's SGD
    --batch-size 1024                                of all processes together; the learning rate follows

Nothing is trained with --show, which prints the words of `seed-hub`, for ../launch; nor with --estimate: `seed-hub bench` times
the step on this machine, with flags of its own (--data, --batch-size, --workers), and the days of the whole recipe follow.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seed_hub.cli import main as seed_hub
from seed_hub.errors import SeedHubError

# SEED's, as its released code and an independent re-run have them: the learning rate is 0.03 for 256 images, in proportion
# for other batches. The teacher temperature is the re-run's (and the paper's, from memory): the code's 1e-4 leaves
# of a distribution its largest entry.
PAPER = {
    "--epochs": "200",
    "--batch-size": "256",
    "--optimizer": "sgd",
    "--weight-decay": "1e-4",
    "--warmup-epochs": "5",
    "--queue-size": "65536",
    "--student-temperature": "0.2",
    "--teacher-temperature": "0.01",
    "--hidden-width": "0",
}
SMALL_PATCHES = {"--small-patches": "6"}
# For teachers whose own features are compared, without a head that was trained for such a comparison: the temperatures of
# ../compare_methods, found on small pictures with a teacher whose features are all positive, and an optimiser by which a ViT
# can share the teacher pass with convolutions. A first guess for these teachers.
FEATURES = {
    "--epochs": "200",
    "--batch-size": "256",
    "--optimizer": "adamw",
    "--weight-decay": "0.02",
    "--clip": "1",
    "--queue-size": "65536",
    "--student-temperature": "0.07",
    "--teacher-temperature": "0.04",
    "--hidden-width": "2048",
}
# MoCo v2's at 200 epochs, but for what keeps an encoder from telling keys apart by the statistics of their batch: the released
# code shuffles keys between processes for it, here the other keys of the batch are negatives too (methods/moco.py).
ALONE = {
    "--epochs": "200",
    "--batch-size": "256",
    "--optimizer": "sgd",
    "--weight-decay": "1e-4",
    "--warmup-epochs": "0",
    "--queue-size": "65536",
    "--temperature": "0.2",
    "--hidden-width": "0",
}

# What SEED reports, and where each number was read: the paper's own tables were not at hand.
PUBLISHED = Path(__file__).resolve().parents[2] / "eval" / "results" / "published" / "seed.jsonl"
RECALLED = "from memory of SEED's table 1, not verified"


@dataclass(frozen=True)
class Published:
    """A number in percent of ImageNet's validation images, and where it was read."""

    value: float
    source: str


@dataclass(frozen=True)
class Claim:
    """What SEED reports of a student."""

    linear: Published
    """top-1"""
    knn: Published | None = None
    """top-1 of the 10 nearest neighbours, as far as is known by the 128 numbers of the head"""


def published(recipe: str) -> dict[str, Claim]:
    """By student."""
    found: dict[str, dict[str, Published]] = {}
    for text in PUBLISHED.read_text("utf-8").splitlines():
        line = json.loads(text)
        if line["recipe"] == recipe:
            number = Published(line["value"], line["read_in"])
            found.setdefault(line["student"], {})[line["protocol"]] = number
    return {student: Claim(**numbers) for student, numbers in found.items()}


@dataclass(frozen=True)
class Row:
    """A teacher and how its students are trained."""

    flags: Mapping[str, str]
    teacher: str = ""
    """as `seed-hub distill` takes it, ``{folder}`` standing for --teacher-folder; empty: none"""
    arch: str = ""
    """the teacher's architecture, of timm or of this package: for counting and timing"""
    width: int = 128
    """D, numbers in an embedding that is compared"""
    published: Mapping[str, Claim] = field(default_factory=dict)
    """by student"""

    @property
    def command(self) -> str:
        return "distill" if self.teacher else "pretrain"

    def words(self, folder: str | None, more: Sequence[str]) -> list[str]:
        """The words of ``seed-hub``; ``more`` come last and count more.

        Raises:
            SeedHubError: the teacher lies in a folder, and none is named.
        """
        if "{folder}" in self.teacher and not folder:
            raise SeedHubError(
                "--teacher-folder is missing: convert the published checkpoint with `seed-hub convert CKPT --out FOLDER`, and "
                "name that folder."
            )
        taught = ["--method", "seed", "--teacher", self.teacher.format(folder=folder)] if self.teacher else []
        own = [word for pair in self.flags.items() for word in pair]
        return [self.command, *taught, *own, *more]


def main(row: Row, about: str | None) -> None:
    """Run ``row`` as the command line says.

    Args:
        about: the recipe's docstring, for --help.
    """
    parser = argparse.ArgumentParser(
        description=f"{about}\n{__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--student", action="append", required=True, help="a network of the zoo, or of timm")
    if "{folder}" in row.teacher:
        parser.add_argument("--teacher-folder", help="what `seed-hub convert` made of the checkpoint")
    parser.add_argument("--show", action="store_true", help="only print the words of seed-hub")
    parser.add_argument("--estimate", action="store_true", help="only time a step, and tell the days")
    args, more = parser.parse_known_args()
    try:
        if args.estimate:
            from cost import estimate

            print(estimate(row, args.student, more))
            return
        students = [word for student in args.student for word in ("--student", student)]
        words = row.words(getattr(args, "teacher_folder", None), [*students, *more])
    except SeedHubError as error:
        print(f"seed-hub: {error}", file=sys.stderr)
        sys.exit(2)
    if args.show:
        print("seed-hub", shlex.join(words))
        return
    sys.exit(seed_hub(words))
