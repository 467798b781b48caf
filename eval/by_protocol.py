"""The table of models by protocols: a row for each model, a column for each protocol, mode and data set; and the commands.

A column whose settings are not the protocol's own is starred; what was shortened to fit a time is daggered, cell by cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import in_words
from seed_hub.eval.results_file import HOW_FAST, identity, settings_of
from seed_hub.settings import declared_in

Line = dict[str, Any]
Column = tuple[str, str, str, str]  # protocol, what sets its mode apart, test images, metric

PROTOCOLS = declared_in(Path(__file__).resolve().parents[1] / "seed_hub" / "eval")
MODES = ("protocol", "mode", "head")  # settings that make another measurement, with a column of its own
# May differ within a column: bf16 where it is faster, the number of trials, neighbours that are not the headline's.
_FREE = {*HOW_FAST, *MODES, "size", "precision", "metric", "seed", "trials", "k"}
_FACTS = {"method": "method", "teacher": "teacher", "images_seen": "images seen", "hours": "training, h"}


def results_table(lines: Sequence[Line], wanted: Sequence[str] = ()) -> str:
    """Markdown: one table, with what its columns are below it.

    Args:
        wanted: protocols, in this order; none: all, as they come.

    Raises:
        SeedHubError: results of one column that were measured with different settings, or on different images.
    """
    found = [line for line in latest(lines) if not wanted or line["protocol"] in wanted]
    if not found:
        return "No results yet."
    if wanted:
        found.sort(key=lambda line: wanted.index(line["protocol"]))
    columns = by_column(found)
    models = list(dict.fromkeys(line["model"]["name"] for line in lines if line in found))
    facts = {name: _facts(found, name) for name in models}
    known = [fact for fact in _FACTS if any(facts[name].get(fact) is not None for name in models)]
    titles = [title(column, own) for column, own in columns.items()]
    body = []
    for name in models:
        mine = [[line for line in own if line["model"]["name"] == name] for own in columns.values()]
        for size in _sizes(mine):
            sized = [[line for line in own if size in (None, line["settings"]["size"])] for own in mine]
            label = short(name) + (f" at {size} px" if size else "")
            cells = [cell(own, column[3]) for own, column in zip(sized, columns, strict=True)]
            body.append([label, *(_said(facts[name].get(fact)) for fact in known), *cells])
    head = ["model", *(_FACTS[fact] for fact in known), *(f"{each}, %" for each in titles)]
    rule = ["---"] * (1 + len(known)) + ["---:"] * len(columns)
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])
    return f"{table}\n\n{caption(columns)}"


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


def cell(lines: Sequence[Line], metric: str) -> str:
    """Mean over weights, each the mean over its trials; the deviation over weights, or of the trials of a single one."""
    by_weights: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_weights.setdefault(line["model"]["sha256"], []).append(line["values"][metric])
    if not by_weights:
        return ""
    mark = "†" if any(line.get("shortened") for line in lines) else ""
    means = [[value["mean"] for value in found] for found in by_weights.values()]
    many = [fmean(found) for found in means] if len(means) > 1 else means[0]
    if len(many) > 1:
        return f"{fmean(many):.1f} ± {stdev(many):.1f} (n = {len(many)}){mark}"
    (only,) = next(iter(by_weights.values()))
    spread = f" ± {only['std']:.1f} (n = {only['n']})" if only["n"] > 1 else ""
    return f"{only['mean']:.1f}{spread}{mark}"


def caption(columns: dict[Column, list[Line]]) -> str:
    """What each column is, and on what machines and at which commits it was measured."""
    every = [line for own in columns.values() for line in own]
    said: dict[str, str] = {}
    for column, own in columns.items():
        said.setdefault(_what(own[0]), title(column, own))
    notes = [f"{first}: {what}." for what, first in said.items()]
    if any("\\*" in title(column, own) for column, own in columns.items()):
        notes.append("\\*: not the protocol's own settings.")
    notes += dict.fromkeys(f"†: {in_words(line['shortened'])}." for line in every if line.get("shortened"))
    notes.append("± is the standard deviation; n = 1 where none is given.")
    machines, commits = dict.fromkeys(map(_machine, every)), dict.fromkeys(map(_commit, every))
    return " ".join([*notes, f"Measured on {'; '.join(machines)}, at commit {', '.join(commits)}."])


def commands(lines: Sequence[Line]) -> str:
    """Markdown: the command of every column, with MODEL for the row's."""
    return "\n".join(dict.fromkeys(f"- `{command(line)}`" for line in latest(lines)))


def command(line: Line) -> str:
    """``seed-hub eval ...`` as it measures MODEL again; paths are cut to their last part."""
    train, test = line["data"]["train"], line["data"]["test"]
    words = ["seed-hub eval", line["protocol"], "--model MODEL", f"--data {train['source']}"]
    if test["source"] != train["source"]:
        words.append(f"--test-data {test['source']}")
    elif test["split"]:
        words.append(f"--split {test['split']}")
    for name, value in own_settings(line).items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif name != "precision":
            words.append(f"{flag} {' '.join(map(str, value)) if isinstance(value, list) else value}")
    return " ".join(
        [*words, *([f"--budget {line['shortened']['minutes']:g}"] if line.get("shortened") else [])]
    )


def short(name: str) -> str:
    """``seed:moco_resnet18?head=none`` -> ``moco_resnet18``; ``file:x.safetensors?arch=...`` -> ``x``."""
    return name.partition("?")[0].removeprefix("seed:").removeprefix("file:").removesuffix(".safetensors")


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


def _sizes(found: list[list[Line]]) -> list[int | None]:
    """Input sizes that need rows of their own: more than one in a column."""
    several = [{line["settings"]["size"] for line in own} for own in found]
    return sorted(set().union(*several)) if any(len(each) > 1 for each in several) else [None]


def _what(line: Line) -> str:
    own = {
        name: value
        for name, value in own_settings(line).items()
        if name not in ("precision", "metric", *MODES)
    }
    parts = [f"{name.replace('_', ' ')} {str(value).strip('[]')}" for name, value in own.items()]
    learnt = (
        f"{_images(line, 'train')}; "
        if PROTOCOLS[line["protocol"]].constants.get("HEADLINE") != "effective_rank"
        else ""
    )
    return f"{learnt}tested on {_images(line, 'test')}" + (f"; {', '.join(parts)}" if parts else "")


def _images(line: Line, part: str) -> str:
    data = line["data"][part]
    return f"{data['source']}{' ' + data['split'] if data['split'] else ''} ({data['images']:,} images)"


def _facts(lines: Sequence[Line], name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in lines:
        if line["model"]["name"] == name:
            found |= {fact: value for fact, value in line["model"]["facts"].items() if value is not None}
    return found


def _said(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, (int, float)) else short(str(value))


def _machine(line: Line) -> str:
    machine = line["machine"]
    return machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"


def _commit(line: Line) -> str:
    return (
        "unknown" if not line["commit"] else line["commit"][:10] + (" with changes" if line["dirty"] else "")
    )
