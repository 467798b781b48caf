"""The zoo's tables: each student trained in several ways, how much of the way to its teacher it came, and what is published;
and the released weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from eval.by_protocol import caption, cell, short
from eval.columns import Column, Line, by_column, latest, title
from eval.markdown import table
from seed_hub.catalog import students
from seed_hub.errors import SeedHubError
from seed_hub.weights import Weight

PUBLISHED = Path("published") / "seed.jsonl"
BESIDE = "moco_v2_resnet50"  # the paper's first teacher, and the one nearest to this zoo's
RECALLED = "memory"
PREFIXES = {"untrained": "untrained:seed_", "alone": "alone_", "with all labels": "supervised_"}


def zoo_table(lines: Sequence[Line], words: Sequence[str], folder: Path) -> str:
    """Markdown: a row per student.

    Args:
        words: the protocol; the method, which is what names of distilled rows begin with (``cc`` of ``cc_resnet18``); the
            teacher's row; further methods, which had other teachers.
        folder: of the results, which holds the published numbers too.

    Raises:
        SeedHubError: other words; or the teacher, or no student, was measured so.
    """
    if len(words) < 3:
        raise SeedHubError(f'zoo takes a protocol, a method and a teacher, not "{" ".join(words)}".')
    protocol, method, teacher, *others = words
    column, measured = _headline(lines, protocol)
    own = [line for line in measured if _is_shown(short(line["model"]["name"]), (method, *others), teacher)]
    goal = _mean(own, teacher)
    if goal is None:
        raise SeedHubError(
            f"There is no {protocol} result of {teacher}: measure it, or name another teacher."
        )
    # A way that nothing was trained in yet has no column.
    names = [short(line["model"]["name"]) for line in own]
    prefixes = {way: prefix for way, prefix in PREFIXES.items() if any(n.startswith(prefix) for n in names)}
    body = []
    for name in students():
        student = name.removeprefix("seed_")
        if _mean(own, f"{method}_{student}") is None:
            continue
        before = [_cell(own, prefix + student, column) for prefix in prefixes.values()]
        after = [_cell(own, f"{other}_{student}", column) for other in others]
        distilled = [_cell(own, f"{method}_{student}", column), _closed(own, student, method, goal)]
        body.append([f"`{name}`", *before, *distilled, *after, published_scores(folder, name, protocol)])
    if not body:
        raise SeedHubError(f"There is no {protocol} result of a student by {method}: measure one.")
    also = [f"**distilled**, `{other}`" for other in others]
    head = [
        "student",
        *prefixes,
        "**distilled**",
        "gap closed",
        *also,
        "published, ImageNet: alone → distilled",
    ]
    note = (
        f"{title(column, own)}, %. Gap closed: of the way from alone to the teacher, `{teacher}`, which has "
        f"{goal:.1f}. The last column is not ours: what SEED reports for ImageNet by MoCo v2's ResNet-50, *in italics* as far "
        "as it is remembered, not read."
    )
    return f"{table(head, body)}\n\n{note} {caption({column: own})}"


def few_labels_table(lines: Sequence[Line], words: Sequence[str]) -> str:
    """Markdown: a row per student, fine-tuned on a share of the labels, from scratch and from what it learnt without them.

    Args:
        words: methods, as of :func:`zoo_table`.

    Raises:
        SeedHubError: other words; or no student was fine-tuned so.
    """
    if not words:
        raise SeedHubError("labels takes at least one method.")
    ways = {"from scratch": PREFIXES["untrained"], "alone": PREFIXES["alone"]}
    ways |= {f"**distilled**, `{word}`" if len(words) > 1 else "**distilled**": f"{word}_" for word in words}
    fine_tuned = [line for line in latest(lines) if line["protocol"] == "semi"]
    columns = {c: own for c, own in by_column(fine_tuned).items() if not c[1]}  # those with a mode are frozen
    body = []
    for name in students():
        student = name.removeprefix("seed_")
        if any(_of(own, f"{word}_{student}") for own in columns.values() for word in words):
            cells = [_cell(own, way + student, c) for c, own in columns.items() for way in ways.values()]
            body.append([f"`{name}`", *cells])
    if not body:
        raise SeedHubError(
            f"There is no semi result of a student by {' or '.join(words)}, fine-tuned: measure one."
        )
    shown = [i for i in range(len(body[0])) if any(row[i] for row in body)]
    head = ["student", *(f"{title(c, own)}, {way}" for c, own in columns.items() for way in ways)]
    return (
        f"{table([head[i] for i in shown], [[row[i] for i in shown] for row in body])}\n\n{caption(columns)}"
    )


def weights_table(lines: Sequence[Line], words: Sequence[str], weights: Sequence[Weight]) -> str:
    """Markdown: a row per released weight.

    Args:
        words: protocols to show, in their own modes.

    Raises:
        SeedHubError: a weight that was not measured so.
    """
    if not weights:
        return "No weights are released yet."
    columns = [_headline(lines, protocol) for protocol in words]
    facts, body = students(), []
    for weight in weights:
        cells = []
        for column, own in columns:
            mine = [line for line in own if line["model"]["sha256"] == weight.tensors]
            if not mine:
                raise SeedHubError(f"There is no {column[0]} result of {weight.name}: measure its run.")
            cells.append(cell(mine, column[3]))
        size = f"{facts[weight.arch].parameters / 1e6:.1f}"
        body.append([f"[{weight.name}](model_cards/{weight.name})", weight.licence, size, *cells])
    measured = [f"{title(column, own)}, %" for column, own in columns]
    heads = ["weight", "licence", "million parameters", *measured]
    return f"{table(heads, body, words=2)}\n\n{caption(dict(columns))}"


def _headline(lines: Sequence[Line], protocol: str) -> tuple[Column, list[Line]]:
    """The protocol's own mode, by the metric it is known by, and what was measured so.

    Raises:
        SeedHubError: nothing was.
    """
    for column, own in by_column([line for line in latest(lines) if line["protocol"] == protocol]).items():
        if not column[1] and own[0]["metric"] == column[3]:
            return column, own
    raise SeedHubError(f"There is no {protocol} result: measure one.")


def _is_shown(name: str, methods: Sequence[str], teacher: str) -> bool:
    return name == teacher or name.startswith((*PREFIXES.values(), *(f"{method}_" for method in methods)))


def _cell(lines: Sequence[Line], row: str, column: Column) -> str:
    return cell(_of(lines, row), column[3])


def _of(lines: Sequence[Line], row: str) -> list[Line]:
    return [line for line in lines if short(line["model"]["name"]) == row]


def _mean(lines: Sequence[Line], row: str) -> float | None:
    found = {line["model"]["sha256"]: line["mean"] for line in _of(lines, row)}
    return sum(found.values()) / len(found) if found else None


def _closed(lines: Sequence[Line], student: str, method: str, goal: float) -> str:
    alone, own = _mean(lines, f"alone_{student}"), _mean(lines, f"{method}_{student}")
    if alone is None or own is None:
        return ""
    return f"{(own - alone) / (goal - alone):.1%}" if goal > alone else "no gap"


def published_scores(folder: Path, student: str, protocol: str) -> str:
    """Of the paper, alone and distilled: ``36.3 → *55.2*``; empty where either is not known."""
    path = folder / PUBLISHED
    known = [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.exists() else []
    said = {
        line["recipe"]: f"*{line['value']:.1f}*" if RECALLED in line["read_in"] else f"{line['value']:.1f}"
        for line in known
        if (line["student"], line["protocol"]) == (student, protocol)
    }
    return f"{said['alone']} → {said[BESIDE]}" if {"alone", BESIDE} <= said.keys() else ""
