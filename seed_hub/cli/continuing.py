"""``--resume``: a run goes on with its own settings, and what is given again must agree with them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.settings import Declared, as_typed, flag_of, read_settings

TRAINING = Path(__file__).resolve().parents[1] / "training"
# What may change: where the run is and computes, and how often it saves; never what comes out.
MAY_CHANGE = ("out", "device", "workers", "save_every")


def run_folders(out: str) -> list[str]:
    """The run in ``out``, or those of the students that were trained together into it."""
    inside = Path(out).glob("*/config.json")
    together = sorted(str(p.parent) for p in inside if '"method_settings"' in p.read_text(encoding="utf-8"))
    return [out] if (Path(out) / "config.json").exists() or not together else together


def check_students(given: Sequence[str], folders: Sequence[str], out: str) -> None:
    """Students named again must be those of the runs."""
    were = sorted(stored_config(folder)["student"] for folder in folders)
    if given and sorted(given) != were:
        raise SeedHubError(
            f"The run in {out} was started with --student {' '.join(were)}, not {' '.join(given)}: leave out --student to "
            "continue it, or name another --out for a new run."
        )


def stored_config(out: str) -> dict[str, Any]:
    """config.json of the run in ``out``."""
    path = Path(out) / "config.json"
    if not path.exists():
        raise SeedHubError(f"There is no run to resume in {out}: start one without --resume.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["method"], config["method_settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SeedHubError(
            f"{path} is damaged, or not the settings of a run: name the folder of a run with --out."
        ) from error
    return config


def continued(
    given: dict[str, Any], preset: dict[str, Any], declared: Declared
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(run values, method values) of the run in ``given["out"]``; what was given again must agree with them."""
    stored = stored_config(given["out"])
    own = stored["method_settings"]
    known = {option.name for option in read_settings(TRAINING / "settings.py", "RunSettings").options}
    for key, value in {**preset, **given}.items():
        was = own.get(key) if key in {option.name for option in declared.options} else stored.get(key)
        check_agrees(given["out"], key, was, value)
    changed = {key: given[key] for key in MAY_CHANGE if key in given}
    values = {key: value for key, value in stored.items() if key in known} | changed
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}, own


def check_agrees(out: str, key: str, was: Any, value: Any) -> None:
    """What is given again must be what the run in ``out`` was started with, unless it may change."""
    if key not in MAY_CHANGE and not _agree(key, was, value):
        flag = as_typed(key, value) if isinstance(value, bool) else flag_of(key)
        started = f"without {flag}" if isinstance(value, bool) else f"with {flag} {was}, not {value}"
        raise SeedHubError(
            f"The run in {out} was started {started}: leave out {flag} to continue it, "
            "or name another --out for a new run."
        )


def _agree(key: str, was: Any, value: Any) -> bool:
    if key == "data" and os.path.exists(value):
        return os.path.realpath(str(was)) == os.path.realpath(value)
    return bool(
        (list(was) if isinstance(was, list) else was) == (list(value) if isinstance(value, tuple) else value)
    )
