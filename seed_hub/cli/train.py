"""``distill`` and ``pretrain``: every setting of a run and of its method as a flag."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seed_hub.cli.continuing import TRAINING, continued, stored_config
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, facts, say, show
from seed_hub.errors import SeedHubError, nearest
from seed_hub.settings import Declared, declared_in, read_settings

SUMMARY = {
    "distill": "Train a student, without labels, to see images as a teacher does.",
    "pretrain": "Train a student, without labels and without a teacher.",
}
DEFAULT_METHOD = {"distill": "seed", "pretrain": "moco"}


def distill(argv: list[str]) -> dict[str, Any]:
    return _train("distill", argv)


def pretrain(argv: list[str]) -> dict[str, Any]:
    return _train("pretrain", argv)


def _train(command: str, argv: list[str]) -> dict[str, Any]:
    methods = declared_in(TRAINING / "methods")
    early = _early(command, argv)
    stored = stored_config(early["out"]) if early.get("resume") and early.get("out") else None
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
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    if resume and overwrite:
        raise SeedHubError("--resume continues the run and --overwrite replaces it: give one of them.")
    parser.need(given, *(("out",) if resume else _required(teaching)))
    preset = _preset(methods[name], given.pop("preset", None))
    if resume:
        return _run(command, *continued(given, preset, methods[name]), resume=True)
    own_names = {option.name for option in methods[name].options}
    run_values = {key: value for key, value in given.items() if key not in own_names}
    own = preset | {key: value for key, value in given.items() if key in own_names}
    return _run(command, {**run_values, "method": name}, own, overwrite=overwrite)


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
    skip = () if teaching else _teacher_names(run)
    start.add_argument(
        "--method",
        help=f"how to train it: {', '.join(_methods_of(command, methods))} (default: {DEFAULT_METHOD[command]})",
    )
    parser.add_options("run", run.options, required=_required(teaching), skip=("method", *skip))
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
            found[option.flag] = (
                f'The method "{name}" has no option {option.flag} (it is one of {other}\'s); its own are {own}.'
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
    values: dict[str, Any],
    own: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    from seed_hub.training.engine import Stopped
    from seed_hub.training.run import run
    from seed_hub.training.settings import RunSettings

    settings = RunSettings(**values)
    try:
        best = run(
            settings, own, resume=resume, overwrite=overwrite, say=say, progress=Count("checking images")
        )
    except Stopped as stop:
        again = f"seed-hub {command} --resume --out {shlex.quote(settings.out)}"
        raise KeyboardInterrupt(f"{stop} Continue with: {again}") from stop
    if best is None:  # another process than the first: that one speaks
        return {}
    verdict = json.loads((Path(settings.out) / "verdict.json").read_text(encoding="utf-8"))
    student = Path(settings.out) / "best"
    show(
        facts(
            [
                ("verdict", verdict["verdict"]),
                ("student", f"{student}  ({settings.student})"),
                ("next", f"seed-hub report {shlex.quote(settings.out)}"),
                (
                    "",
                    f"seed-hub embed --model {shlex.quote(settings.out)} --data IMAGES --out embeddings.parquet",
                ),
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
    return tuple(option.name for option in run.options if "teacher" in option.name)


def _as_flags(values: dict[str, Any]) -> str:
    return " ".join(f"--{key.replace('_', '-')} {value}" for key, value in values.items())
