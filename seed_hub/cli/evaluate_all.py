"""``eval all``: several protocols on a model and on the rows that give its numbers a meaning, as one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.evaluation_images import add_data_flags, opened
from seed_hub.cli.flags import Parser
from seed_hub.cli.measuring import add_record_flags, folder_of, measure, results_file
from seed_hub.cli.terminal import say, show, table
from seed_hub.errors import SeedHubError, nearest
from seed_hub.network_settings import check_numbers
from seed_hub.settings import Declared

if TYPE_CHECKING:
    from seed_hub.data import Images
    from seed_hub.encoder import Frozen
    from seed_hub.eval.budget import Cut

# What every protocol that reads frozen features is told alike.
SHARED = ("size", "precision", "batch_size", "workers", "device")
WORDS = ("teacher", "untrained", "supervised")


def evaluate_all(argv: list[str], protocols: dict[str, Declared]) -> dict[str, Any]:
    parser = Parser(
        "eval all", "Several protocols on a model, beside the rows that give its numbers a meaning."
    )
    what = add_data_flags(parser)
    what.add_argument(
        "--against",
        metavar="ROWS",
        help="what it is compared with, with commas: teacher (the run's), untrained (its architecture), supervised "
        "(timm's weights of its architecture), or any model (default: untrained, and teacher where there is one)",
    )
    what.add_argument(
        "--protocols",
        metavar="NAMES",
        help=f"which, with commas: {', '.join(protocols)} (default: knn,linear)",
    )
    shared = [option for option in protocols["knn"].options if option.name in SHARED]
    parser.add_options("features", shared)
    add_record_flags(parser, "all")
    given = parser.parse(argv)
    parser.need(given, "model", "data")
    check_numbers(given)
    names = _listed(given.get("protocols", "knn,linear"))
    for name in names:
        if name not in protocols:
            raise SeedHubError(
                f'There is no protocol "{name}": choose from {", ".join(protocols)}.'
                + nearest(name, protocols)
            )
    rows = _rows(given["model"], given.get("against"))
    learns = any(protocols[name].constants.get("NEEDS_TRAINING", True) for name in names)
    lines = _measure(rows, names, given, opened(given, learns=learns))
    _show(rows, names, lines)
    return {"rows": rows, "lines": [line for found in lines.values() for line in found.values()]}


def _listed(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _rows(model: str, against: str | None) -> dict[str, str]:
    """Title -> model, the model itself first."""
    facts = _run_facts(model)
    wanted = (
        ["untrained", *(["teacher"] if facts.get("teacher") else [])] if against is None else _listed(against)
    )
    rows = {model: model}
    for word in wanted:
        if word not in WORDS:
            rows[word] = word
            continue
        if word == "teacher" and not facts.get("teacher"):
            raise SeedHubError(
                f"{model} is no run that had a teacher: name the teacher itself, such as timm:NAME, in --against."
            )
        if word != "teacher" and not facts.get("student"):
            raise SeedHubError(
                f"{model} is no run of this package: name a model, such as untrained:NAME, in --against."
            )
        rows[word] = {
            "teacher": facts.get("teacher", ""),
            "untrained": f"untrained:{facts.get('student')}",
            "supervised": f"timm:{facts.get('architecture')}",
        }[word]
    return rows


def _run_facts(model: str) -> dict[str, str]:
    """Teacher, student and timm architecture of the run in the folder ``model``; of a zoo name its architecture."""
    try:
        config = json.loads((folder_of(model) / "config.json").read_text(encoding="utf-8"))
        student = config["student"]
    except (OSError, ValueError, KeyError):
        if not model.startswith("seed_"):
            return {}
        student, config = model.partition(".")[0], {}
    from seed_hub.encoder import plain_architecture

    architecture = plain_architecture(student) if student.startswith("seed_") else student
    return {"teacher": config.get("teacher", ""), "student": student, "architecture": architecture}


def _measure(
    rows: dict[str, str], names: list[str], given: dict[str, Any], images: tuple[Images, Images]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Row -> protocol -> line; the images are opened once, and the features of a row computed once."""
    from seed_hub.eval.features import remembered
    from seed_hub.teachers import load_model

    train, test = images
    models = [
        load_model(model) for model in rows.values()
    ]  # what cannot be loaded is refused before an hour of others
    # All rows see what the first one is for, unless told otherwise.
    given = given | {"size": given.get("size") or models[0].input_size}
    minutes = given["budget"] / (len(rows) * len(names)) if "budget" in given else None
    cuts = {name: _common_cut(name, models, train, test, minutes) for name in names} if minutes else {}
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for title, model in rows.items():
        say(f"{title}: {model}" if title != model else model)
        found[title] = {}
        with remembered():
            for name in names:
                known = import_module(f"seed_hub.eval.{name}").Settings.__dataclass_fields__
                own = {key: given[key] for key in SHARED if key in given and key in known}
                out = Path(given.get("out") or results_file("all"))
                again = given.get("again", False)
                how = {"out": out, "again": again, "minutes": minutes, "cut": cuts.get(name)}
                found[title][name] = measure(name, model, train, test, own, **how)
    return found


def _common_cut(
    name: str, models: list[Frozen], train: Images, test: Images, minutes: float
) -> Callable[[Any], Cut]:
    """What fits for the slowest of ``models``: all are measured on the same images. Timed once, if it is asked for."""
    from seed_hub.eval.budget import Cut, fit

    protocol = import_module(f"seed_hub.eval.{name}")

    @cache
    def cut(settings: Any) -> Cut:
        fits = [fit(protocol, model, train, test, settings, minutes) for model in models]
        return reduce(Cut.both, fits)

    return cut


def _show(rows: dict[str, str], names: list[str], lines: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A row for each model: scores with their intervals, and what the first one is ahead by."""
    from seed_hub.eval.budget import in_words
    from seed_hub.eval.intervals import difference, unpack

    first = next(iter(rows))
    body = [["", *(word for name in names for word in (f"{name}, %", f"{_short(first)} is ahead by"))]]
    for title in rows:
        cells = [_short(title)]
        for name in names:
            line, ours = lines[title][name], lines[first][name]
            sure = " ({:.2f} to {:.2f})".format(*line["interval"]) if "interval" in line else ""
            ahead = ""
            if title != first and "correct" in line and "correct" in ours:
                count = line["data"]["test"]["images"]
                both = [[unpack(text, count) for text in each["correct"]] for each in (ours, line)]
                mean, (low, high) = difference(*both)
                ahead = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
            cells += [f"{line['mean']:.2f}{'†' if 'shortened' in line else ''}{sure}", ahead]
        body.append(cells)
    show(table(body))
    show("In brackets: 95 % intervals, by bootstrap over the test images.")
    notes = [line["shortened"] for found in lines.values() for line in found.values() if "shortened" in line]
    for words in dict.fromkeys(map(in_words, notes)):
        show(f"†: not the whole measurement, {words}.")


def _short(title: str) -> str:
    return title.rstrip("/").split("/")[-1]
