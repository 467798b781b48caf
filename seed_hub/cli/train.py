"""``distill`` and ``pretrain``: every setting of a run and of its method as a flag."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.continuing import TRAINING, check_students, continued, run_folders, stored_config
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, facts, say, show
from seed_hub.errors import SeedHubError, nearest
from seed_hub.settings import Declared, as_typed, declared_in, flag_of, read_settings

if TYPE_CHECKING:
    from seed_hub.training.monitor import Look
    from seed_hub.training.settings import RunSettings

SUMMARY = {
    "distill": "Train a student, without labels, to see images as a teacher does.",
    "pretrain": "Train a student without a teacher; without labels, unless a method says otherwise.",
}
DEFAULT_METHOD = {"distill": "seed", "pretrain": "moco"}
REPEATED = ("student", "teacher")


def distill(argv: list[str]) -> dict[str, Any]:
    return _train("distill", argv)


def pretrain(argv: list[str]) -> dict[str, Any]:
    return _train("pretrain", argv)


def _train(command: str, argv: list[str]) -> dict[str, Any]:
    methods = declared_in(TRAINING / "methods")
    early = _early(command, argv)
    folders = run_folders(early["out"]) if early.get("resume") and early.get("out") else []
    stored = stored_config(folders[0]) if folders else None
    name = early.get("method") or (stored["method"] if stored else DEFAULT_METHOD[command])
    if name not in methods:
        fitting = ", ".join(_methods_of(command, methods))
        raise SeedHubError(
            f'There is no method "{name}"; `seed-hub {command}` has: {fitting}.' + nearest(name, methods)
        )
    if not stored and name not in _methods_of(command, methods):
        does, other = ("from", "distill") if command == "pretrain" else ("without", "pretrain")
        raise SeedHubError(
            f'The method "{name}" learns {does} a teacher: use `seed-hub {other} --method {name}`.'
        )
    teaching = _needs_teacher(methods[name])
    parser = _parser(command, methods, name, teaching)
    given = parser.parse(argv, elsewhere=_elsewhere(methods, name, teaching))
    if "teacher" in given:
        given["teacher"], given["more_teachers"] = given["teacher"][0], given["teacher"][1:]
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    if resume and overwrite:
        raise SeedHubError("--resume continues the run and --overwrite replaces it: give one of them.")
    parser.need(given, *(("out",) if resume else _required(teaching)))
    preset = _preset(methods[name], given.pop("preset", None))
    students = given.pop("student", ())
    if resume:
        check_students(students, folders, given["out"])
        old = [continued({**given, "out": folder}, preset, methods[name]) for folder in folders]
        return _run(command, [values for values, _ in old], old[0][1], out=given["out"], resume=True)
    own_names = {option.name for option in methods[name].options}
    run_values = {key: value for key, value in given.items() if key not in own_names}
    own = preset | {key: value for key, value in given.items() if key in own_names}
    run_values["method"] = name
    if len(students) == 1:
        run_values["student"] = students[0]
    runs = [run_values]
    if len(students) > 1:
        runs = [{**run_values, "student": s, "out": os.path.join(given["out"], s)} for s in students]
    return _run(command, runs, own, out=given["out"], overwrite=overwrite)


def _early(command: str, argv: list[str]) -> dict[str, Any]:
    """What decides which flags there are: the method, or the run that is continued."""
    parser = Parser(command)
    for flag in ("--method", "--out"):
        parser.add_argument(flag)
    parser.add_argument("--resume", action="store_true")
    return vars(parser.parse_known_args(argv)[0])


def _parser(command: str, methods: dict[str, Declared], name: str, teaching: bool) -> Parser:
    parser = Parser(command, SUMMARY[command])
    start = parser.add_argument_group("start")
    start.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with its own settings"
    )
    start.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    run = read_settings(TRAINING / "settings.py", "RunSettings")
    skip = ("more_teachers",) if teaching else _teacher_names(run)
    start.add_argument(
        "--method",
        help=f"how to train it: {', '.join(_methods_of(command, methods))} (default: {DEFAULT_METHOD[command]})",
    )
    parser.add_options(
        "run", run.options, required=_required(teaching), skip=("method", *skip), repeated=REPEATED
    )
    parser.add_options(f"method {name}", methods[name].options, summary=methods[name].summary)
    presets = methods[name].constants.get("PRESETS", {})
    if presets:
        lines = [f"{word} ({_as_flags(values)})" for word, values in presets.items()]
        start.add_argument("--preset", metavar="NAME", help="settings by name: " + ", ".join(lines))
    return parser


def _elsewhere(methods: dict[str, Declared], name: str, teaching: bool) -> dict[str, str]:
    """Flags that belong to another method, each with the sentence for whoever gives it to this one."""
    own = ", ".join(option.flag for option in methods[name].options)
    found = {}
    for other, declared in methods.items():
        for option in declared.options:
            for flag in {option.flag, flag_of(option.name)}:  # a switch also as it is not typed
                found[flag] = (
                    f'The method "{name}" has no option {flag} (it is one of {other}\'s); its own are {own}.'
                )
    if not methods[name].constants.get("PRESETS"):
        found["--preset"] = f'The method "{name}" has no presets; its own options are {own}.'
    if not teaching:
        for word in _teacher_names(read_settings(TRAINING / "settings.py", "RunSettings")):
            flag = "--" + word.replace("_", "-")
            found[flag] = (
                f'The method "{name}" learns without a teacher: leave out {flag}, or use `seed-hub distill`.'
            )
    return found


def _preset(declared: Declared, word: str | None) -> dict[str, Any]:
    presets: dict[str, dict[str, Any]] = declared.constants.get("PRESETS", {})
    if word is None:
        return {}
    if word not in presets:
        raise SeedHubError(
            f'The method "{declared.name}" has no preset "{word}"; it has: {", ".join(presets)}.'
            + nearest(word, presets)
        )
    return presets[word]


def _run(
    command: str,
    values: list[dict[str, Any]],
    own: dict[str, Any],
    *,
    out: str,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Train the students of ``values``, one run each, together; the result of the only one, or of each by its name."""
    from seed_hub.training.engine import Stopped
    from seed_hub.training.run import run_together
    from seed_hub.training.settings import RunSettings

    runs = [RunSettings(**each) for each in values]
    try:
        best = run_together(
            runs, own, resume=resume, overwrite=overwrite, say=say, progress=Count("checking images")
        )
    except Stopped as stop:
        again = f"seed-hub {command} --resume --out {shlex.quote(out)}"
        raise KeyboardInterrupt(f"{stop} Continue with: {again}") from stop
    if best[0] is None:  # another process than the first: that one speaks
        return {}
    results = {each.student: _result(each, look) for each, look in zip(runs, best, strict=True)}
    return results[runs[0].student] if len(runs) == 1 else {"students": results}


def _result(settings: RunSettings, best: Look | None) -> dict[str, Any]:
    """What one run came to, shown and returned."""
    assert best is not None
    verdict = json.loads((Path(settings.out) / "verdict.json").read_text(encoding="utf-8"))
    student = Path(settings.out) / "best"
    embed = f"seed-hub embed --model {shlex.quote(settings.out)} --data IMAGES --out embeddings.parquet"
    show(
        facts(
            [
                ("verdict", verdict["verdict"]),
                ("student", f"{student}  ({settings.student})"),
                ("next", f"seed-hub report {shlex.quote(settings.out)}"),
                ("", embed),
            ]
        )
    )
    return {"run": settings.out, "student": str(student), **verdict, "best": asdict(best)}


def _needs_teacher(declared: Declared) -> bool:
    return bool(declared.constants.get("needs_teacher", True))


def _methods_of(command: str, methods: dict[str, Declared]) -> list[str]:
    return [name for name, declared in methods.items() if _needs_teacher(declared) == (command == "distill")]


def _required(teaching: bool) -> tuple[str, ...]:
    return ("data", "teacher", "out") if teaching else ("data", "out")


def _teacher_names(run: Declared) -> tuple[str, ...]:
    return tuple(option.name for option in run.options if "teacher" in option.name or option.name == "cache")


def _as_flags(values: dict[str, Any]) -> str:
    return " ".join(as_typed(key, value) for key, value in values.items())
