"""``simclr2``: SimCLR v2's three stages with one command, which goes on where it was stopped."""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from seed_hub.cli.continuing import MAY_CHANGE, TRAINING, check_agrees
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, facts, say, show
from seed_hub.errors import SeedHubError
from seed_hub.settings import read_settings

RECIPE = "recipe.json"
# What the stages set themselves.
STAGE_OWN = (
    *("method", "start", "share", "epochs", "steps", "stream"),
    *("teacher", "more_teachers", "teacher_size", "allow_random_teacher", "cache"),
)


def simclr2(argv: list[str]) -> dict[str, Any]:
    parser = _parser()
    given = parser.parse(argv)
    resume, overwrite = given.pop("resume", False), given.pop("overwrite", False)
    if resume and overwrite:
        raise SeedHubError("--resume continues the runs and --overwrite replaces them: give one of them.")
    parser.need(given, *(("out",) if resume else ("data", "out")))
    values = _continued(given) if resume else given
    recipe = Path(values["out"]) / RECIPE
    if recipe.exists() and not (resume or overwrite):
        raise SeedHubError(
            f"{values['out']} already holds the runs of this recipe: continue them with --resume, replace them with "
            "--overwrite, or name another --out."
        )
    return _run(values, recipe, resume=resume, overwrite=overwrite)


def _parser() -> Parser:
    parser = Parser(
        "simclr2",
        "Train a classifier from few labels: pretrain by SimCLR on all images, fine-tune on a share of the labels, distill "
        "the class scores on all images.",
    )
    start = parser.add_argument_group("start")
    start.add_argument(
        "--resume", action="store_true", help="continue the runs in --out, with their own settings"
    )
    start.add_argument("--overwrite", action="store_true", help="replace the runs in --out")
    recipe = read_settings(TRAINING / "simclr2.py", "Settings")
    parser.add_options("recipe", recipe.options)
    run = read_settings(TRAINING / "settings.py", "RunSettings")
    parser.add_options("run", run.options, required=("data", "out"), skip=STAGE_OWN)
    return parser


def _continued(given: dict[str, Any]) -> dict[str, Any]:
    """What the runs in ``given["out"]`` were started with; what was given again must agree."""
    path = Path(given["out"]) / RECIPE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SeedHubError(
            f"There are no runs of this recipe to resume in {given['out']}: start them without --resume."
        ) from error
    except ValueError as error:
        raise SeedHubError(f"{path} is damaged: name another --out and start again.") from error
    for key, value in given.items():
        check_agrees(given["out"], key, stored.get(key), value)
    return stored | {key: given[key] for key in MAY_CHANGE if key in given}


def _run(values: dict[str, Any], recipe: Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    from seed_hub.model_folder import replace_file
    from seed_hub.training.engine import Stopped
    from seed_hub.training.settings import RunSettings
    from seed_hub.training.simclr2 import Settings, run_stages, stages

    names = {field.name for field in fields(Settings)}
    own = Settings(**{key: value for key, value in values.items() if key in names})
    wanted = stages(RunSettings(**{key: value for key, value in values.items() if key not in names}), own)

    def begin() -> None:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        replace_file(recipe, (json.dumps(values, indent=2) + "\n").encode())

    try:
        run_stages(
            wanted,
            resume=resume,
            overwrite=overwrite,
            begin=begin,
            say=say,
            progress=Count("checking images"),
        )
    except SeedHubError:
        if not resume and not any(stage.begun for stage in wanted):  # a failed start leaves nothing behind
            recipe.unlink(missing_ok=True)
            with suppress(OSError):  # it held something before
                recipe.parent.rmdir()
        raise
    except Stopped as stop:
        again = f"seed-hub simclr2 --resume --out {shlex.quote(values['out'])}"
        raise KeyboardInterrupt(f"{stop} Continue with: {again}") from stop
    verdicts = {
        stage.name: json.loads((Path(stage.run.out) / "verdict.json").read_text(encoding="utf-8"))
        for stage in wanted
    }
    student = str(Path(wanted[-1].run.out) / "best")
    rows = [(name, found["verdict"]) for name, found in verdicts.items()]
    show(facts([*rows, ("student", student), ("next", f"seed-hub report {shlex.quote(wanted[-1].run.out)}")]))
    return {"run": values["out"], "student": student, "stages": verdicts}
