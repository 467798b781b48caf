"""``list`` and ``info``: what there is. No torch for our own students: both answer at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seed_hub.catalog import find_student, students
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import facts, show, table
from seed_hub.errors import SeedHubError
from seed_hub.students.student import Student
from seed_hub.weights import Weight, weights_of

PACKAGE = Path(__file__).resolve().parents[1]
# Of a checkout, and what a wheel carries of it.
RESULTS = (PACKAGE.parent / "eval" / "results", PACKAGE / "results")


def list_models(argv: list[str]) -> dict[str, Any]:
    Parser("list", "The students there are.").parse(argv)
    found = [_facts(row) for row in students().values()]
    rows = [
        [
            row["name"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['macs'] / 1e9:.2f} G",
            str(row["input"][-1]),
            str(row["width"]),
            ", ".join(weight["tag"] for weight in row["weights"]) or "none yet",
        ]
        for row in found
    ]
    show(table(rows, ["name", "parameters", "MACs", "input px", "embedding", "weights"]))
    return {"students": found}


def info(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "info",
        "One student: sizes, input, licence, and scores where measured. One teacher: what will be used of it; it is loaded, "
        "and looked at.",
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="student as `seed-hub list` names it, with or without a weight's tag, or a teacher such as timm:NAME",
    )
    given = parser.parse(argv)
    if "name" not in given:
        raise SeedHubError("Name a student: `seed-hub info NAME`; `seed-hub list` names all.")
    if ":" in given["name"]:
        return _teacher(given["name"])
    student = find_student(given["name"])
    found = _facts(student)
    scores = list(_scores(student))
    side = student.input_size
    show(
        facts(
            [
                (student.name, student.summary),
                ("architecture", f"{student.base} of timm, without a classifier"),
                ("parameters", f"{student.parameters / 1e6:.2f} M"),
                ("MACs", f"{student.macs / 1e9:.3f} G at 224 px"),
                (
                    "input",
                    f"[B, 3, {side}, {side}]" + ("" if student.fixed_input_size else ", or another side"),
                ),
                ("embedding", f"[B, {student.width}]"),
                ("licence", f"{student.licence} (the code; each weight has its own)"),
                (
                    "weights",
                    "\n".join(f"{w.name} ({w.licence}): {w.description}" for w in weights_of(student.name))
                    or "none yet",
                ),
                ("scores", _score_table(scores) if scores else "none measured yet"),
            ]
        )
    )
    return {**found, "scores": scores}


def _teacher(spec: str) -> dict[str, Any]:
    from seed_hub.teachers import load_teacher
    from seed_hub.teachers.check import check_teacher
    from seed_hub.teachers.description import describe

    teacher = load_teacher(spec)
    about = describe(teacher)
    verdict = check_teacher(teacher)
    tokens = "" if about.prefix is None else f", {about.prefix} tokens ahead of the patches"
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (about.mean, about.std))
    show(
        facts(
            [
                (about.name, about.network),
                ("family", (about.family or "not known") + (f": {about.note}" if about.note else "")),
                ("revision", about.revision or "not known"),
                ("parameters", f"{about.parameters / 1e6:.2f} M"),
                ("input", f"[B, 3, {about.input_size}, {about.input_size}]"),
                ("normalisation", f"mean {mean}, std {std}"),
                ("pooling", about.pooling + tokens),
                ("embedding", f"[B, {about.width}]"),
                ("licence", about.licence or "not known: ask its authors before you publish what it taught"),
                ("check", f"{verdict} (generated images)"),
            ]
        )
    )
    return {**asdict(about), "check": asdict(verdict)}


def _facts(row: Student) -> dict[str, Any]:
    return {
        "name": row.name,
        "architecture": row.base,
        "parameters": row.parameters,
        "macs": row.macs,
        "width": row.width,
        "input": [3, row.input_size, row.input_size],
        "licence": row.licence,
        "weights": [_weight(weight) for weight in weights_of(row.name)],
    }


def _weight(weight: Weight) -> dict[str, Any]:
    return {"tag": weight.tag, "licence": weight.licence, "description": weight.description}


def _scores(student: Student) -> Iterator[dict[str, Any]]:
    """Lines of the results files that measured ``student``, in order; what several files hold comes once."""
    from seed_hub.eval.results_file import identity, results

    seen = set()
    for folder in RESULTS:
        for path in sorted(folder.glob("*.jsonl")):
            for line in results(path):
                model = line["model"]
                if (
                    student.name
                    in (
                        model["name"].split(".")[0],
                        model["spec"].removeprefix("untrained:").split(".")[0],
                    )
                    and identity(line) not in seen
                ):
                    seen.add(identity(line))
                    yield line


def _score_table(scores: list[dict[str, Any]]) -> str:
    rows = []
    for line in scores:
        data = line["data"]["test"]
        facts_of = line["model"].get("facts") or {}
        made_by = " from ".join(str(facts_of[key]) for key in ("method", "teacher") if facts_of.get(key))
        spread = "" if line["std"] is None else f" ± {line['std']:.1f}"
        rows.append(
            [
                f"{line['mean']:.1f}{spread} %",
                f"{line['protocol']} {line['metric']}",
                f"n = {line['n']}",
                f"{data['source']} {data['split'] or ''}".strip() + f" ({data['images']:,} images)",
                f"{line['settings'].get('size', '')} px",
                made_by or line["model"]["spec"],
            ]
        )
    return table(rows)
