"""Which score that needs no labels tells a good checkpoint? Correlations with the linear probe, over the looks of a run.

    python eval/correlate.py RUN --data D --test-data T        the looks of a run that was trained with --keep-looks
    python eval/correlate.py --runs A B C --data D             the best students of several runs: over models

Every checkpoint is measured by the protocols representation (against the run's teacher), linear and knn, at the side it was
trained at; lines that the results file holds already are not measured again. For each score its Spearman and Pearson
correlation with linear top-1 is printed, each with the p-value of a permutation test, and added as one line to another file.
Alignment, uniformity and the loss are better when lower. The loss is that of the last report up to the look; over models it
is left out, since methods have losses of their own.

The p-values take checkpoints for independent, and no account of how many scores were tried. The looks of one run are not
independent: whatever grows with time correlates with whatever else does. So the row `step`, time itself, is what a score has
to beat there. `knn` reads labels, and stands beside for comparison.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from seed_hub.cli.evaluation_images import opened  # noqa: E402
from seed_hub.cli.measuring import measure  # noqa: E402
from seed_hub.cli.terminal import say, show, table  # noqa: E402
from seed_hub.data import Images, choose_share  # noqa: E402
from seed_hub.errors import SeedHubError  # noqa: E402
from seed_hub.eval.features import remembered  # noqa: E402
from seed_hub.eval.provenance import commit, versions  # noqa: E402
from seed_hub.eval.record import without_folders  # noqa: E402
from seed_hub.eval.representation import LEAST_CHECKPOINTS, Correlation, score_correlations  # noqa: E402
from seed_hub.eval.results_file import append_result  # noqa: E402
from seed_hub.training.run_folder import RunFolder  # noqa: E402

RESULTS = ROOT / "eval" / "results"
SHARED = ("precision", "batch_size", "workers", "device")
ACCURACY = "linear"

Line = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A student to measure."""

    model: str
    size: int
    """side of its views in training, in pixels"""
    teacher: str
    teacher_size: int
    known: dict[str, float]
    """scores that need no measuring"""


def main(words: Sequence[str] | None = None) -> int:
    args = _arguments(words)
    try:
        if (args.run is None) == (args.runs is None):
            raise SeedHubError("Name the folder of one run, for its looks, or several with --runs.")
        checkpoints = _looks(args.run) if args.run else [_best(run) for run in args.runs]
        if len(checkpoints) < LEAST_CHECKPOINTS:
            raise SeedHubError(
                f"{args.run or '--runs'} gives {len(checkpoints)} checkpoint(s), and a correlation needs at least "
                f"{LEAST_CHECKPOINTS}: train with --keep-looks and a smaller --watch-every, or name more runs."
            )
        correlate(checkpoints, args)
    except SeedHubError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a run with looks/")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="folders of runs, for their best students")
    parser.add_argument("--data", required=True, metavar="D", help="labelled images")
    parser.add_argument("--test-data", metavar="T", help="where the split to test on is (default: as --data)")
    parser.add_argument("--split-train", metavar="SPLIT", help="split to learn from (default: train)")
    parser.add_argument("--split", metavar="SPLIT", help="split to test on (default: validation, else test)")
    parser.add_argument("--limit", type=int, metavar="N", help="about N images of each split, by classes")
    parser.add_argument("--teacher", metavar="T", help="to compare with (default: the runs' own)")
    parser.add_argument(
        "--teacher-size",
        type=int,
        default=0,
        metavar="PX",
        help="side of --teacher's images (default: its own)",
    )
    parser.add_argument("--precision", default="fp32", help="of the networks: fp32 or bf16")
    parser.add_argument("--batch-size", type=int, default=256, help="images per forward pass")
    parser.add_argument("--workers", type=int, default=-1, help="processes that load images")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    for flag, name, what in (
        ("--out", "looks", "measurements"),
        ("--correlations", "correlations", "correlations"),
    ):
        file = RESULTS / f"{name}.jsonl"
        parser.add_argument(flag, type=Path, default=file, metavar="FILE", help=f"where the {what} go")
    return parser.parse_args(words)


def _looks(run: str) -> list[Checkpoint]:
    """The kept looks of a run that its log knows, in time order."""
    folder, found = RunFolder(run), []
    folder.settings()  # it is a run, or refused as none
    log = folder.read_log()
    for step in sorted(line["step"] for line in log if line["event"] == "look"):
        path = folder.looks / str(step)
        if (path / "config.json").exists():
            reported = [line["loss"] for line in log if line["event"] == "step" and line["step"] <= step]
            loss = {"loss": reported[-1]} if reported else {}
            found.append(_checkpoint(folder, path, {"step": step, **loss}))
    return found


def _best(run: str) -> Checkpoint:
    return _checkpoint(RunFolder(run), Path(run), {})


def _checkpoint(folder: RunFolder, path: Path, known: dict[str, float]) -> Checkpoint:
    run, _ = folder.settings()
    return Checkpoint(str(path), run.size, run.teacher, run.teacher_size or run.size, known)


def correlate(checkpoints: Sequence[Checkpoint], args: argparse.Namespace) -> dict[str, Correlation]:
    """Measure, show, record."""
    given = {name: getattr(args, name) for name in ("data", "test_data", "split_train", "split")}
    train, test = (
        limited(images, args.limit)
        for images in opened({name: value for name, value in given.items() if value is not None})
    )
    teacher, teacher_size = _teacher(checkpoints, args)
    shared = {name: getattr(args, name) for name in SHARED}

    def measured(protocol: str, each: Checkpoint, **own: Any) -> Line:
        own = {**shared, "size": each.size, **own}
        return measure(protocol, each.model, train, test, own, out=args.out)

    lines: list[dict[str, Line]] = []
    with remembered():  # the teacher sees the images once, not once for each checkpoint
        for each in checkpoints:
            how = {"teacher": teacher, "teacher_size": teacher_size}
            lines.append({"representation": measured("representation", each, **how)})
    for each, found in zip(checkpoints, lines, strict=True):
        with remembered():
            found |= {protocol: measured(protocol, each) for protocol in ("linear", "knn")}
    rows = [_row(each, found) for each, found in zip(checkpoints, lines, strict=True)]
    _show(rows)
    known = {name: sum(name in row for row in rows) for row in rows for name in row}
    if rare := [name for name, count in known.items() if count < LEAST_CHECKPOINTS]:
        say(f"left out, as fewer than {LEAST_CHECKPOINTS} checkpoints have it: {', '.join(rare)}")
    scores = [{name: row[name] for name in row if name not in rare and name != "model"} for row in rows]
    found = score_correlations(scores, accuracy=ACCURACY)
    _show_correlations(found)
    append_result(args.correlations, _line(rows, found, lines, teacher))
    say(f"added to {args.correlations}")
    return found


def limited(images: Images, count: int | None) -> Images:
    """About ``count`` of them, of every class alike; all of them without a ``count``."""
    return choose_share(images, count / len(images), seed=0) if count and count < len(images) else images


def _teacher(checkpoints: Sequence[Checkpoint], args: argparse.Namespace) -> tuple[str, int]:
    """(name, side in pixels) of the one that all are compared with; ("", 0) if none of the runs had one."""
    if args.teacher:
        return args.teacher, args.teacher_size
    found = sorted({(each.teacher, each.teacher_size) for each in checkpoints if each.teacher})
    if len(found) > 1:
        said = " and ".join(f"{name} at {size} px" for name, size in found)
        raise SeedHubError(f"The runs learnt from {said}: name the one to compare with by --teacher.")
    return found[0] if found else ("", 0)


def _row(each: Checkpoint, lines: dict[str, Line]) -> dict[str, Any]:
    label_free = {name: value["mean"] for name, value in lines["representation"]["values"].items()}
    reached = {"knn": lines["knn"]["mean"], ACCURACY: lines["linear"]["values"]["top1"]["mean"]}
    name = each.known.get("step", without_folders(each.model))
    return {"model": str(name), **label_free, **each.known, **reached}


def _show(rows: Sequence[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("model", "step")))
    body = [[row["model"], *(_number(row.get(name)) for name in names)] for row in rows]
    show(table(body, ["step" if "step" in rows[0] else "model", *names]))


def _show_correlations(found: dict[str, Correlation]) -> None:
    body = [
        [name, *(_number(value) for value in (each.rho, each.rho_p, each.r, each.r_p)), str(each.n)]
        for name, each in found.items()
    ]
    show("\n" + table(body, ["with linear top-1", "Spearman", "p", "Pearson", "p", "n"]))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _line(
    rows: Sequence[dict[str, Any]],
    found: dict[str, Correlation],
    lines: Sequence[dict[str, Line]],
    teacher: str,
) -> Line:
    first = lines[0]["linear"]
    return {
        "protocol": "correlation",
        "accuracy": "linear top1",
        "scores": {name: each._asdict() for name, each in found.items()},
        "teacher": without_folders(teacher),
        "checkpoints": [
            {**row, "sha256": each["linear"]["model"]["sha256"]}
            for row, each in zip(rows, lines, strict=True)
        ],
        "facts": first["model"]["facts"],
        "data": first["data"],
        "settings": {protocol: line["settings"] for protocol, line in lines[0].items()},
        **commit(),
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


if __name__ == "__main__":
    sys.exit(main())
