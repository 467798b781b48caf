"""The table of methods: quality and cost of each, the best first."""

from __future__ import annotations

from collections import Counter
from statistics import fmean, stdev
from typing import Any

from eval.markdown import table

Line = dict[str, Any]
COLUMNS = ("method", "teacher", "k-NN, %", "linear, %", "images per CPU second", "peak memory, GB")


def methods_table(lines: list[Line], costs: list[Line]) -> str:
    """Markdown.

    Args:
        lines: of the protocols knn and linear, one student by many methods; models that no method made (the teacher, the
            untrained student) stand below.
        costs: lines of the protocol cost, by the same names.
    """
    names = list(dict.fromkeys(_name(line) for line in lines))
    scores = {name: {p: _values(lines, name, p) for p in ("knn", "linear")} for name in names}
    taught = {_name(line): line["model"]["facts"].get("teacher") for line in lines}
    cost = {_name(line): line["values"] for line in costs}
    # What all the methods trained: most lines are its, and among equally many the last (the teacher is measured first).
    students = [line["model"]["facts"].get("name") for line in reversed(lines)]
    student = Counter(students).most_common(1)[0][0]
    made = {_name(line): line["model"]["facts"].get("name") == student for line in lines}
    rows = []
    for name in sorted(names, key=lambda n: (made[n], fmean(scores[n]["linear"] or [0.0])), reverse=True):
        spent = cost.get(name, {})
        rows.append(
            (
                f"`{name}`" if made[name] else name,
                "yes" if made[name] and taught[name] else "",
                _shown(scores[name]["knn"]),
                _shown(scores[name]["linear"]),
                f"{spent['images_per_cpu_second']:.0f}" if spent else "",
                f"{spent['peak_memory_gb']:.1f}" if spent else "",
            )
        )
    shown = len(COLUMNS) if any(row[-1] for row in rows) else len(COLUMNS) - 2  # costs that were measured
    return table(COLUMNS[:shown], [cells[:shown] for cells in rows], words=2)


def _name(line: Line) -> str:
    return line["model"]["name"].removeprefix("seed:").partition("?")[0]


def _values(lines: list[Line], name: str, protocol: str) -> list[float]:
    """One for each set of weights."""
    found = {
        line["model"]["sha256"]: line["mean"]
        for line in lines
        if line["protocol"] == protocol and _name(line) == name
    }
    return list(found.values())


def _shown(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{fmean(values):.2f} ± {stdev(values):.2f} (n = {len(values)})"
