"""``demo`` and ``report``: what is looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import show
from seed_hub.errors import SeedHubError


def demo(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "demo", "The paper in five minutes on two cores, offline, on scikit-learn's handwritten digits."
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder for its runs and its picture (default: demo)")
    given = parser.parse(argv)

    from seed_hub.demo import main

    out = Path(given.get("out", "demo"))
    status = main(out)  # 1 if the claim did not hold
    return {"out": str(out), "status": status}


def report(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "report",
        "One self-contained HTML page about a run: curves, measurements, neighbours, a map, settings.",
    )
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder of the run")
    parser.add_argument("--out", metavar="FILE", help="where to write it (default: RUN/report.html)")
    parser.add_argument(
        "--results",
        metavar="FILE",
        nargs="+",
        help="results files that hold its measurements (default: eval/results/*.jsonl of a checkout, else "
        "results.jsonl here and beside the run)",
    )
    parser.add_argument(
        "--pictures", metavar="DIR", help="folder that `seed-hub eval detection --pictures DIR` filled"
    )
    given = parser.parse(argv)
    if "run" not in given:
        raise SeedHubError("Name the folder of a run: `seed-hub report RUN`.")

    from seed_hub.report import write_report

    run = Path(given["run"])
    page = write_report(
        run,
        Path(given["out"]) if "out" in given else None,
        results=[Path(file) for file in given["results"]] if "results" in given else results_of(run),
        pictures=Path(given["pictures"]) if "pictures" in given else None,
    )
    show(str(page))
    return {"report": str(page)}


def results_of(run: Path) -> list[Path]:
    """Results files there are, where ``seed-hub eval`` puts them."""
    from seed_hub.cli.measuring import results_file

    usual = results_file("*")  # eval/results/*.jsonl in a checkout, else results.jsonl
    files = sorted(usual.parent.glob(usual.name))
    if usual.name != "*.jsonl" and (beside := run.parent / usual.name).exists():
        files.append(beside)
    return list({file.resolve(): file for file in files}.values())
