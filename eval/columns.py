"""What makes a column of a table: a protocol, its mode, its test images and the metric; and which settings are its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.eval.results_file import MODES, SAID, defaults_of, departures, measurement, settings_of
from seed_hub.settings import declared_in

Line = dict[str, Any]
Column = tuple[str, str, str, str]  # protocol, what sets its mode apart, test images, metric

PROTOCOLS = declared_in(Path(__file__).resolve().parents[1] / "seed_hub" / "eval")


def latest(lines: Sequence[Line]) -> list[Line]:
    """A measurement made again replaces the earlier one, also in another precision: each machine has its fast one."""
    return list({(line["model"]["name"], measurement(line)): line for line in lines}.values())


def by_column(lines: Sequence[Line]) -> dict[Column, list[Line]]:
    """The lines of each column; those of one are alike in all that decides a number."""
    columns: dict[Column, list[Line]] = {}
    for line in lines:
        for metric in shown(line):
            columns.setdefault(_column(line, metric), []).append(line)
    for column, own in columns.items():
        whole = [line for line in own if not line.get("shortened")]
        for first, other in pairwise(whole):
            _check_alike(column[0], first, other)
    return columns


def shown(line: Line) -> list[str]:
    """The metrics of a line that a table shows: the headline; top-1 at every share of labels; AP50 beside AP."""
    values = line["values"]
    if line["protocol"] == "semi":
        return [name for name in values if name.startswith("top1_")]
    return [line["metric"], *(["AP50"] if line["metric"] == "AP" and "AP50" in values else [])]


def title(column: Column, lines: Sequence[Line]) -> str:
    """``linear, protocol seed``; ``dtd10 top-1``; a star where settings are not the protocol's own."""
    protocol, mode, test, metric = column
    share, neighbours = re.fullmatch(r"top1_([\d.]+)pct", metric), re.fullmatch(r"top1_k(\d+)", metric)
    words = metric.replace("top1", "top-1").replace("top5", "top-5").replace("_", " ")
    name = {"linear": "linear top-1", "detection": f"{test} {metric}", "transfer": f"{test} {words}"}.get(
        protocol, f"{protocol} {words}"
    )
    if neighbours:
        name = f"k-NN (k = {neighbours[1]})"
    if share:
        name = f"{share[1]} % of labels"
    star = "\\*" if any(map(departures, lines)) else ""
    return f"{name}{', ' + mode if mode else ''}{star}"


def _column(line: Line, metric: str) -> Column:
    settings, defaults = settings_of(line), defaults_of(line["protocol"])
    mode = [f"{name} {settings[name]}" for name in MODES if settings.get(name) != defaults.get(name)]
    return line["protocol"], " ".join(mode), line["data"]["test"]["source"], metric


def _check_alike(protocol: str, first: Line, other: Line) -> None:
    one, two = settings_of(first), settings_of(other)
    for name in [name for name in one if name not in SAID and one[name] != two.get(name)]:
        raise SeedHubError(
            f"The {protocol} results of one table were measured with different {name} ({one[name]} and "
            f"{two.get(name)}): keep them in two files."
        )
    for part in ("train", "test"):
        if first["data"][part]["fingerprint"] != other["data"][part]["fingerprint"]:
            raise SeedHubError(
                f"The {protocol} results of one table were measured on different {part} images of "
                f"{first['data'][part]['source']}: keep them in two files."
            )
