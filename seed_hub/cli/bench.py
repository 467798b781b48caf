"""``bench``: how long a distillation step takes, stage by stage, beside the published way of doing it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import say, show, table
from seed_hub.settings import PACKAGE, read_settings


def bench(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "bench",
        "Time a distillation step, its stages, and the same step done plainly, in turns in one process: processor seconds "
        "of one thread on a CPU, seconds on an accelerator; medians.",
    )
    parser.add_options("bench", read_settings(PACKAGE / "bench" / "settings.py", "BenchSettings").options)
    given = parser.parse(argv)

    from seed_hub.bench.measure import bench as measure
    from seed_hub.bench.settings import BenchSettings

    asked = BenchSettings(**given)
    found = measure(asked, say)
    _print(asked, found)
    if asked.out:
        _record(asked, found)
    return found


def _print(asked: Any, found: dict[str, Any]) -> None:
    seconds, live = found["seconds"], found["seconds"].get("live")
    body = [
        [
            name,
            f"{1000 * taken:.0f}",
            f"{found['spread'][name]:.0%}",
            f"{found['images_per_second'][name]:.1f}",
            f"{taken / live:.0%}" if live else "",
            "" if found["peak_mb"].get(name) is None else f"{found['peak_mb'][name]:.0f}",
        ]
        for name, taken in seconds.items()
    ]
    show(
        f"{asked.teacher} -> {asked.student}, {asked.size} px, {asked.batch_size} images a step, {found['device']}"
    )
    reached = ", ".join(f"{value:,.0f} in {name}" for name, value in found["gflops"].items())
    show(
        f"meanwhile products of matrices reached {reached} GFLOP/s, and a copy {found['gigabytes_per_second']:,.0f} GB/s"
    )
    show(table(body, ["", "ms", "spread", "images/s", "of live", "peak MB"]))
    if lasting := found["images_per_second_sustained"]:
        rates = ", ".join(f"{name} {rate:,.1f}" for name, rate in lasting.items())
        show(f"in the long run, when what was loaded ahead is used up, images/s: {rates}")
    shares = {f"limit/{name}": share for name, share in found["of_limit"].items()}
    body = [[name, f"{value:.2f}"] for name, value in (found["ratios"] | shares).items()]
    show(table(body, ["ratio", ""]))


def _record(asked: Any, found: dict[str, Any]) -> None:
    from seed_hub.eval.provenance import commit, machine, versions
    from seed_hub.eval.results_file import append_result

    settings = {name: value for name, value in asdict(asked).items() if name not in ("out", "data")}
    settings["data"] = Path(asked.data).name
    line = {
        "protocol": "bench",
        "settings": settings,
        **found,
        **commit(),
        "machine": machine(),
        "versions": versions(),
    }
    append_result(Path(asked.out), line)
