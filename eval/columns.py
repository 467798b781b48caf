"""What makes a column of a table: a protocol, its mode, its test images and the metric; and which settings are its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.eval.results_file import HOW_FAST, identity, settings_of
from seed_hub.settings import declared_in

Line = dict[str, Any]
Column = tuple[str, str, str, str]  # protocol, what sets its mode apart, test images, metric

PROTOCOLS = declared_in(Path(__file__).resolve().parents[1] / "seed_hub" / "eval")
MODES = ("protocol", "mode", "head")  # settings that make another measurement, with a column of its own
# May differ within a column: bf16 where it is faster, the number of trials, neighbours that are not the headline's.
_FREE = {*HOW_FAST, *MODES, "size", "precision", "metric", "seed", "trials", "k"}


def latest(lines: Sequence[Line]) -> list[Line]:
    """A measurement made again replaces the earlier one."""
    return list({(line["model"]["name"], identity(line)): line for line in lines}.values())


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
    star = "\\*" if any(set(own_settings(line)) - _FREE for line in lines) else ""
    return f"{name}{', ' + mode if mode else ''}{star}"


def own_settings(line: Line) -> dict[str, Any]:
    """Settings that are not the protocol's defaults; of a shortened line, as they were asked for."""
    asked = {name: value[0] for name, value in line.get("shortened", {}).items() if name in line["settings"]}
    defaults = _defaults(line["protocol"])
    return {
        name: value
        for name, value in (line["settings"] | asked).items()
        if name not in HOW_FAST and value != defaults.get(name)
    }


def _defaults(protocol: str) -> dict[str, Any]:
    return {
        option.name: list(option.default) if option.several else option.default
        for option in PROTOCOLS[protocol].options
    }


def _column(line: Line, metric: str) -> Column:
    settings, defaults = settings_of(line), _defaults(line["protocol"])
    mode = [f"{name} {settings[name]}" for name in MODES if settings.get(name) != defaults.get(name)]
    return line["protocol"], " ".join(mode), line["data"]["test"]["source"], metric


def _check_alike(protocol: str, first: Line, other: Line) -> None:
    one, two = settings_of(first), settings_of(other)
    for name in [name for name in one if name not in _FREE and one[name] != two.get(name)]:
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
