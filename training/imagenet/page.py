"""Write docs/imagenet.md: of every recipe of this folder, what is published and what it costs.

python training/imagenet/page.py            rewrite it
python training/imagenet/page.py --check    change nothing; exit with 1 if it is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

from cost import ROOT, operations, timed_run
from rows import RECALLED, Published, Row

from eval.markdown import table
from seed_hub.catalog import students

PAGE = ROOT / "docs" / "imagenet.md"
TEXT = """\
# ImageNet

One recipe for each teacher, in [training/imagenet](../training/imagenet). `--student` may be any network of the zoo or of timm,
and be given several times: all of them learn from one teacher pass. ImageNet was not at hand, and none of them was run to its
end: a test takes every one through two steps in miniature. `python training/imagenet/page.py` writes this page.

{recipes}

`FOLDER` is what `seed-hub convert` made of a published checkpoint; other teachers are fetched by their names. Each file opens
with its commands, and says where its authors have that checkpoint; none was fetched here.
[training/launch](../training/launch) has what more than one machine needs: it takes the words of `seed-hub`, which a recipe
prints with `--show`.

## What is published

Linear top-1 / top-1 of the 10 nearest neighbours, percent of ImageNet's validation images, as SEED (Fang et al., ICLR 2021)
reports them; the files say which number was read where. Nothing has been measured with this package yet.

- Upright: {sources}.
- *In italics*: {recalled}.

{published}

To measure a run as they are (RUN is its folder; what remains different: the paper tests on 224 of 256 pixels, this package on the
whole centre square):

    seed-hub eval linear --model RUN --data imagenet/train --test-data imagenet/val --protocol seed --no-normalize
    seed-hub eval knn --model RUN --data imagenet/train --test-data imagenet/val --features projected --k 10 --temperature inf

Where the published run differs from `--method seed`, its file says so:
[seed_hub/training/methods/seed.py](../seed_hub/training/methods/seed.py). Temperatures of the teachers without published numbers
are a first guess, found on small pictures: try two or three teacher temperatures on a share of the images (`--share 0.1`)
before a long run.

## What it costs

10^18 operations of a whole recipe, counted on shapes, a multiply-accumulate as two: the teacher's forward pass of every view
and three of the student, small patches by their pixels; and the products with the queue.

{cost}

MoCo v2's own ResNet-50 run, `alone` here, is published with {timed[hours]} hours on {timed[devices]} {timed[device]}s, {timed[pace]} of
their hours for 10^18 operations; at that pace the recipes state theirs. Operations are not time, though: a MobileNet's take longer
than a ResNet's, and a later GPU's are faster.
Any recipe tells the days of your machine with `--estimate`, which times a step on it:

    python training/imagenet/dinov2_vit_small.py --student seed_mobilenetv3_large --estimate

[scaling.md](scaling.md) has days worked out from steps that were timed on one CPU core, and what many devices lose.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only tell whether the page is out of date")
    args = parser.parse_args()
    text = page()
    if PAGE.exists() and PAGE.read_text("utf-8") == text:
        return 0
    if args.check:
        print(f"{PAGE.name} is out of date: run python training/imagenet/page.py")
        return 1
    PAGE.write_text(text, "utf-8")
    return 0


def recipes() -> dict[str, Row]:
    """Every file of this folder with a ``ROW``; first those with published numbers, of them the one without a teacher."""
    names = [
        path.stem for path in Path(__file__).parent.glob("*.py") if "\nROW = " in path.read_text("utf-8")
    ]
    rows = {name: import_module(name).ROW for name in sorted(names)}
    return dict(sorted(rows.items(), key=lambda item: (not item[1].published, item[1].teacher != "")))


def page() -> str:
    rows = recipes()
    claimed = {name: row for name, row in rows.items() if row.published}
    timed = timed_run()
    sources = {number.source for row in claimed.values() for number in _numbers(row)} - {RECALLED}
    return TEXT.format(
        recipes=table(
            ["recipe", "teacher", "views of an image", "epochs"],
            [[f"[{name}](../training/imagenet/{name}.py)", *_about(row)] for name, row in rows.items()],
            words=3,
        ),
        sources="; ".join(sorted(sources)),
        recalled=RECALLED,
        published=_by_student(claimed, _claim),
        cost=_by_student(rows, lambda row, student: f"{operations(row, student) / 1e18:,.1f}"),
        timed=timed | {"pace": f"{1e18 * timed['pace']:.0f}"},
    )


def _about(row: Row) -> list[str]:
    patches = row.flags.get("--small-patches")
    views = f"1, and {patches} small patches" if patches else "1" if row.teacher else "2"
    teacher = f"`{row.teacher.format(folder='FOLDER')}`" if row.teacher else "none"
    return [teacher, views, row.flags["--epochs"]]


def _by_student(rows: Mapping[str, Row], cell: Callable[[Row, str], str]) -> str:
    names = list(students())
    return table(
        ["recipe", *(name.removeprefix("seed_") for name in names)],
        [[recipe, *(cell(row, name) for name in names)] for recipe, row in rows.items()],
    )


def _claim(row: Row, student: str) -> str:
    claim = row.published.get(student)
    return " / ".join(_number(each) for each in (claim.linear, claim.knn) if each) if claim else ""


def _number(number: Published) -> str:
    return f"*{number.value:.1f}*" if number.source == RECALLED else f"{number.value:.1f}"


def _numbers(row: Row) -> Iterator[Published]:
    for claim in row.published.values():
        yield from (each for each in (claim.linear, claim.knn) if each)


if __name__ == "__main__":
    sys.exit(main())
