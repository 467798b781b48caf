"""``list`` and ``info``: what there is. No torch for our own students: both answer at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seed_hub.catalog import find_student, students
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import facts, show, table
from seed_hub.errors import SeedHubError
from seed_hub.project import HUB_ORGANISATION
from seed_hub.students.student import Student
from seed_hub.weights import Weight, find_weight, weights_of

PACKAGE = Path(__file__).resolve().parents[1]
# Of a checkout, and what a wheel carries of it.
RESULTS = (PACKAGE.parent / "eval" / "results", PACKAGE / "results")
IN_LIST = ("knn", "linear")  # of a weight's scores; `seed-hub info` shows all


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
    if any(row["weights"] for row in found):
        show("\n" + _weight_table([weight for row in found for weight in row["weights"]]))
    return {"students": found}


def info(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "info",
        "One student: sizes, input, licence, and scores where measured. One teacher, run or model folder: what will be used "
        "of it; it is loaded, and looked at.",
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="student as `seed-hub list` names it, with or without a weight's tag, a teacher such as timm:NAME, or the folder "
        "of a run or model",
    )
    given = parser.parse(argv)
    if "name" not in given:
        raise SeedHubError("Name a student: `seed-hub info NAME`; `seed-hub list` names all.")
    name = given["name"]
    if ":" in name:
        return _teacher(name)
    if Path(name).is_dir() and not _in_zoo(name):
        return _teacher(f"seed:{name}")
    name = name.removeprefix(f"{HUB_ORGANISATION}/")
    student = find_student(name)
    released = [find_weight(name)] if "." in name else weights_of(student.name)
    side = released[0].input_size if "." in name else student.input_size
    found = _facts(student) | {"input": [3, side, side]}
    scores = _scores(released, None if "." in name else student)
    show(
        facts(
            [
                (student.name, student.summary),
                ("architecture", f"{student.base} of timm, without a classifier"),
                ("parameters", f"{student.parameters / 1e6:.2f} M"),
                ("MACs", f"{student.macs / 1e9:.3f} G at 224 px"),
                ("input", f"[B, 3, {side}, {side}], or another side"),
                ("embedding", f"[B, {student.width}]"),
                ("licence", f"{student.licence} (the code; each weight has its own)"),
                (
                    "weights",
                    "\n".join(f"{w.name} ({w.licence}, {w.input_size} px): {w.description}" for w in released)
                    or "none yet",
                ),
                ("scores", _score_table(scores, released) if scores else "none measured yet"),
            ]
        )
    )
    return {**found, "scores": scores}


def _in_zoo(name: str) -> bool:
    arch = name.partition(".")[0]
    return arch in students() and name in {arch, *(weight.name for weight in weights_of(arch))}


def _teacher(spec: str) -> dict[str, Any]:
    from seed_hub.teachers import load_teacher
    from seed_hub.teachers.check import check_teacher
    from seed_hub.teachers.description import describe

    teacher = load_teacher(spec)
    about = describe(teacher)
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
            ]
        )
    )
    verdict = check_teacher(teacher)  # after what may explain why it fails
    show(facts([("check", f"{verdict} (generated images)")]))
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
    return {
        "name": weight.name,
        "tag": weight.tag,
        "licence": weight.licence,
        "description": weight.description,
        "input": [3, weight.input_size, weight.input_size],
        "sha256": weight.sha256,
        "scores": [_score(line) for line in _scores([weight]) if "shortened" not in line],
    }


def _score(line: dict[str, Any]) -> dict[str, Any]:
    from seed_hub.eval.results_file import departures, settings_of

    settings = settings_of(line)
    return {
        **{name: line[name] for name in ("protocol", "metric", "mean", "std", "n")},
        "mode": settings.get("protocol"),  # linear: fast, or the paper's
        "departures": departures(line),
        "test": line["data"]["test"]["source"],
        "size": settings.get("size"),
    }


def _weight_table(weights: list[dict[str, Any]]) -> str:
    rows = []
    for weight in weights:
        told: dict[str, list[str]] = {}  # by test images, which are named once
        for score in weight["scores"]:
            if score["protocol"] in IN_LIST:
                other = score["departures"] and f"({score['departures']})"
                what = " ".join(filter(None, (score["protocol"], score["mode"], other, score["metric"])))
                told.setdefault(score["test"], []).append(f"{what} {score['mean']:.1f} %")
        scores = [f"{', '.join(words)} on {test}" for test, words in told.items()]
        rows.append(
            [
                weight["name"],
                weight["licence"],
                f"{weight['input'][-1]} px",
                "; ".join(scores) or "not measured",
            ]
        )
    return table(rows, ["released weight", "licence", "input", "scores"])


def _scores(released: Sequence[Weight], student: Student | None = None) -> list[dict[str, Any]]:
    """Lines of the results files about these weights, and about the ``student``; of a repeated measurement the last."""
    from seed_hub.eval.results_file import measurement, results

    tensors = {weight.tensors for weight in released if weight.tensors}
    lines = [line for folder in RESULTS for path in sorted(folder.glob("*.jsonl")) for line in results(path)]
    about = [
        line for line in lines if line["model"]["sha256"] in tensors or (student and _is_of(line, student))
    ]
    return list({measurement(line): line for line in about}.values())


def _is_of(line: dict[str, Any], student: Student) -> bool:
    name, spec = line["model"]["name"], line["model"]["spec"].removeprefix("untrained:")
    return student.name in (name.split(".")[0], spec.split(".")[0])


def _score_table(scores: list[dict[str, Any]], released: Sequence[Weight]) -> str:
    from seed_hub.eval.results_file import departures

    names = {weight.tensors: weight.name for weight in released}
    rows = []
    for line in scores:
        data = line["data"]["test"]
        facts_of = line["model"].get("facts") or {}
        made_by = " from ".join(str(facts_of[key]) for key in ("method", "teacher") if facts_of.get(key))
        spread = "" if line["std"] is None else f" ± {line['std']:.1f}"
        rows.append(
            [
                f"{line['mean']:.1f}{spread} %" + (" †" if "shortened" in line else ""),
                f"{line['protocol']} {line['metric']}" + (" *" if departures(line) else ""),
                f"n = {line['n']}",
                f"{data['source']} {data['split'] or ''}".strip() + f" ({data['images']:,} images)",
                f"{line['settings'].get('size', '')} px",
                names.get(line["model"]["sha256"]) or made_by or line["model"]["spec"],
            ]
        )
    starred = any(map(departures, scores))
    return table(rows) + ("\n*: not by the protocol's own settings; --json has them" if starred else "")
