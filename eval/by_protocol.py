"""The table of models by protocols: a row for each model, a column for each protocol, mode and data set; and the commands.

A column whose settings are not the protocol's own is starred; what was shortened to fit a time is daggered, cell by cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from eval.columns import PROTOCOLS, Column, Line, by_column, latest, title
from eval.markdown import table
from seed_hub.eval.budget import in_words
from seed_hub.eval.results_file import MODES, own_settings

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
    models = _by_family(found)
    facts = {name: _facts(found, name) for name in models}
    known = [fact for fact in _FACTS if any(facts[name].get(fact) is not None for name in models)]
    titles = [title(column, own) for column, own in columns.items()]
    suites = _suites(columns)
    body = []
    for name in models:
        mine = [[line for line in own if line["model"]["name"] == name] for own in columns.values()]
        for size in _sizes(mine):
            sized = [[line for line in own if size in (None, line["settings"]["size"])] for own in mine]
            label = short(name) + (f" at {size} px" if size else "")
            cells = [cell(own, column[3]) for own, column in zip(sized, columns, strict=True)]
            cells += [
                _suite_mean([own for own, c in zip(sized, columns, strict=True) if c in suite])
                for suite in suites
            ]
            body.append([label, *(_said(facts[name].get(fact)) for fact in known), *cells])
    head = ["model", *(_FACTS[fact] for fact in known), *(f"{each}, %" for each in titles)]
    head += [f"mean of {', '.join(column[2] for column in suite)}, %" for suite in suites]
    return f"{table(head, body, words=1 + len(known))}\n\n{caption(columns)}"


def _by_family(lines: Sequence[Line]) -> list[str]:
    """Names of the models as they come, those of one architecture together."""
    family = {
        line["model"]["name"]: line["model"]["facts"].get("name")
        or line["model"]["name"].removeprefix("untrained:")
        for line in lines
    }
    order = list(dict.fromkeys(family.values()))
    return sorted(family, key=lambda name: order.index(family[name]))


def _suites(columns: dict[Column, list[Line]]) -> list[list[Column]]:
    """Columns of transfer to several data sets in one mode: the field gives their mean."""
    modes: dict[str, list[Column]] = {}
    for column in columns:
        if column[0] == "transfer":
            modes.setdefault(column[1], []).append(column)
    return [found for found in modes.values() if len(found) > 1]


def _suite_mean(lines: list[list[Line]]) -> str:
    """Of a model that was measured on all of a suite."""
    if not all(lines):
        return ""
    mark = "†" if any(line.get("shortened") for own in lines for line in own) else ""
    return f"{fmean(fmean(line['mean'] for line in own) for own in lines):.1f}{mark}"


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
    """``seed:moco_resnet18?head=none`` -> ``moco_resnet18``; ``file:x.safetensors?arch=...`` -> ``x``; of several each."""
    if " + " in name:
        return " + ".join(map(short, name.split(" + ")))
    return name.partition("?")[0].removeprefix("seed:").removeprefix("file:").removesuffix(".safetensors")


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
