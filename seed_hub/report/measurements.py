"""Lines of results that are about a run, and those they can be compared with.

A line belongs to the run if it holds the sha256 of the weights in ``best/``; two lines can be compared if they differ in
the weights only: the same protocol, settings and images, and the same file, which is one table. The precision may differ:
each network is measured in the one that is fast for it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.report.record import RunRecord

Line = dict[str, Any]
MOST = 10  # bars of a chart: more are a table


@dataclass(frozen=True)
class Bar:
    """A model's score."""

    name: str
    value: float
    whisker: tuple[float, float] | None
    """95 % interval of the line, or mean - std and mean + std"""
    spread: str = ""
    """"± 0.31, n = 3" where the whisker is a standard deviation"""
    own: bool = False


@dataclass(frozen=True)
class Comparison:
    """One measurement of the run, and the same of other models."""

    line: Line
    """the run's own"""
    bars: list[Bar]
    """the best first; the run's among them"""
    left_out: int
    """rows there was no place for"""
    untrained: Line | None
    """of the untrained student"""
    gap_closed: float | None = None
    """of the way from the student without a teacher to the teacher; None if either is not measured, or is not ahead"""


def read_lines(files: Iterable[Path]) -> dict[Path, list[Line]]:
    """The lines of each file.

    Raises:
        SeedHubError: a file is not there, or holds something else.
    """
    from seed_hub.eval.results_file import results

    found = {}
    for path in files:
        if not path.is_file():
            raise SeedHubError(f"There is no results file {path}: name one that `seed-hub eval` wrote.")
        found[path] = results(path)
        if any("protocol" not in line or "sha256" not in line.get("model", {}) for line in found[path]):
            raise SeedHubError(f"{path} holds other lines than results: name one that `seed-hub eval` wrote.")
    return found


def weights_of(run: RunRecord) -> set[str]:
    """sha256 of the weights in ``best/``, as lines of results name them: of the trunk, and with the head upon it.

    Raises:
        SeedHubError: there is no ``best/`` to load.
    """
    from seed_hub.eval.record import weights_sha256
    from seed_hub.model_folder import load_model_folder

    encoder = load_model_folder(run.path / "best")
    return {weights_sha256(encoder), weights_sha256(encoder.backbone)}


def compare(run: RunRecord, weights: Collection[str], tables: dict[Path, list[Line]]) -> list[Comparison]:
    """A comparison for each measurement of ``weights``, in the order of the files; repeated ones count once, the last."""
    from seed_hub.eval.results_file import measurement

    found = []
    for lines in tables.values():
        latest: dict[tuple[str, ...], dict[str, Line]] = {}
        for line in lines:
            protocol, settings, _, data = measurement(line)
            latest.setdefault((protocol, settings, data), {})[line["model"]["sha256"]] = line
        for alike in latest.values():
            found += [_comparison(run, alike, sha) for sha in alike if sha in weights]
    return found


def _comparison(run: RunRecord, alike: dict[str, Line], sha: str) -> Comparison:
    """``alike``: lines by weights."""
    groups: dict[str, list[Line]] = {}  # trainings of one recipe that differ in their seed
    for other, line in alike.items():
        if other != sha:
            groups.setdefault(_recipe(line), []).append(line)
    ranked = sorted(groups.values(), key=_mean, reverse=True)
    own = alike[sha]
    roles = [_role(run, group[0]) for group in ranked]
    meaning = _meaning(own, ranked, roles)
    # The rows that give a number its meaning first, then the best of the others.
    order = sorted(range(len(ranked)), key=lambda i: (i not in meaning.values(), i))
    bars = [_bar([own], "this run", own=True)]
    bars += [_bar(ranked[i], _title(ranked[i][0], roles[i])) for i in order[: MOST - 1]]
    bars.sort(key=lambda bar: bar.value, reverse=True)
    beside = {role: ranked[i] for role, i in meaning.items()}
    untrained = beside["untrained"][0] if "untrained" in beside else None
    return Comparison(own, bars, len(ranked) + 1 - len(bars), untrained, _gap_closed(own, beside))


def _meaning(own: Line, ranked: Sequence[Sequence[Line]], roles: Sequence[str]) -> dict[str, int]:
    """Role -> the place in ``ranked`` of the row that has it: of several the best; of those without a teacher the one that
    saw most nearly as many images, since what a longer run learns is no baseline."""
    found: dict[str, int] = {}
    for i in range(len(ranked)):
        role = roles[i]
        if role == "no teacher" and role in found:
            nearer = _apart(own, ranked[i][0]) < _apart(own, ranked[found[role]][0])
            found[role] = i if nearer else found[role]
        elif role:
            found.setdefault(role, i)
    return found


def _apart(one: Line, other: Line) -> float:
    """By how many times the images seen differ, as a logarithm; infinite where that is not known."""
    a, b = (line["model"].get("facts", {}).get("images_seen") for line in (one, other))
    return abs(log(a / b)) if a and b else inf


def _gap_closed(own: Line, beside: Mapping[str, Sequence[Line]]) -> float | None:
    """``beside``: by role."""
    if not {"teacher", "no teacher"} <= beside.keys():
        return None
    alone, goal = _mean(beside["no teacher"]), _mean(beside["teacher"])
    return (own["mean"] - alone) / (goal - alone) if goal > alone else None


def _recipe(line: Line) -> str:
    facts = {name: value for name, value in line["model"].get("facts", {}).items() if name != "hours"}
    return json.dumps([line["model"]["spec"], facts], sort_keys=True)


def _mean(lines: Sequence[Line]) -> float:
    return fmean(line["mean"] for line in lines)


def _role(run: RunRecord, line: Line) -> str:
    """teacher, untrained, no teacher (the student trained alone), with labels, or nothing special."""
    from seed_hub.eval.record import without_folders

    settings, model = run.settings, line["model"]
    facts = model.get("facts", {})
    teachers = {_plain(without_folders(spec)) for spec in (settings.teacher, *settings.more_teachers) if spec}
    if _plain(model["spec"]) in teachers:
        return "teacher"
    if model["spec"] == f"untrained:{settings.student}":
        return "untrained"
    alone = facts.get("name") == settings.student and facts.get("method") and not facts.get("teacher")
    if not alone:
        return ""
    return "with labels" if facts["method"] == "finetune" else "no teacher"


def _plain(spec: str) -> str:
    """``seed:moco_resnet18?head=none`` -> ``moco_resnet18``: however the same run is asked for."""
    return spec.removeprefix("seed:").removeprefix("file:").partition("?")[0].removesuffix("/best")


def _title(line: Line, role: str) -> str:
    name = _plain(line["model"]["spec"])
    return role if role == "untrained" else f"{name}, {role}" if role else name


def _bar(lines: Sequence[Line], name: str, *, own: bool = False) -> Bar:
    value, first = _mean(lines), lines[0]
    name += "†" if first.get("shortened") else ""  # all of one chart are, or none: their images are the same
    if len(lines) > 1:
        return _spread(name, value, stdev(line["mean"] for line in lines), len(lines), own)
    if first.get("interval"):
        low, high = first["interval"]
        return Bar(name, value, (low, high), own=own)
    if first.get("std") is not None:
        return _spread(name, value, first["std"], first["n"], own)
    return Bar(name, value, None, own=own)


def _spread(name: str, value: float, std: float, n: int, own: bool) -> Bar:
    return Bar(name, value, (value - std, value + std), f"± {std:.2f}, n = {n}", own)
