"""Lines of results in a file: added whole, read, and found again by what they measured (loads no torch)."""

from __future__ import annotations

import hashlib
import json
import os
from math import inf
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.settings import read_settings

HOW_FAST = ("batch_size", "workers", "device", "pictures", "pictures_count")
"""settings that change the time a measurement takes, and not what it measures"""
MODES = ("protocol", "mode", "head")
"""settings that make another measurement, with a name of its own"""
SAID = frozenset({*HOW_FAST, *MODES, "size", "precision", "metric", "seed", "trials", "k"})
"""settings that a score's name or the words beside it tell, or that hardly move it: bf16 where that is faster"""


def append_result(path: str | Path, line: dict[str, Any]) -> None:
    """Add one line, whole or not at all, in a single write: several evaluations may share a file.

    Raises:
        SeedHubError: a value that is no number, or a disk that is full; the file is as it was.
    """
    path = Path(path)
    try:
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise SeedHubError(
            f"The result for {path} holds a value that is not finite: it is not recorded."
        ) from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_once(path, data)
    except OSError as error:
        reason = error.strerror or error
        raise SeedHubError(
            f"Could not add the result to {path} ({reason}); nothing in it changed."
        ) from error


def _write_once(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    try:
        before = os.fstat(handle).st_size
        if before:
            os.lseek(handle, before - 1, os.SEEK_SET)
            if os.read(handle, 1) != b"\n":  # someone's editor left the last line open
                data = b"\n" + data
        written = os.write(handle, data)
        if written < len(data):
            if os.fstat(handle).st_size == before + written:
                os.ftruncate(handle, before)
            raise OSError(0, "the disk is full")
        os.fsync(handle)
    finally:
        os.close(handle)


def results(path: str | Path) -> list[dict[str, Any]]:
    """All lines of a results file, in order; none if there is no file.

    Raises:
        SeedHubError: a line that is not JSON, by its number.
    """
    path = Path(path)
    if not path.exists():
        return []
    found = []
    for number, text in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            found.append(json.loads(text))
        except ValueError as error:
            raise SeedHubError(
                f"Line {number} of {path} is not a result ({error}): repair or remove it."
            ) from error
    return found


def settings_of(line: dict[str, Any]) -> dict[str, Any]:
    """All settings of a line: one that the protocol did not have yet when it was measured had today's default."""
    return defaults_of(line["protocol"]) | line["settings"]


def defaults_of(protocol: str) -> dict[str, Any]:
    """What a protocol is by itself; nothing for one that this package does not have."""
    path = Path(__file__).with_name(f"{protocol}.py")
    declared = read_settings(path).options if path.is_file() else ()
    return {option.name: as_json(option.default) for option in declared}


def own_settings(line: dict[str, Any]) -> dict[str, Any]:
    """Settings that are not the protocol's defaults; of a shortened line, as they were asked for."""
    asked = {name: value[0] for name, value in line.get("shortened", {}).items() if name in line["settings"]}
    defaults = defaults_of(line["protocol"])
    return {
        name: value
        for name, value in (line["settings"] | asked).items()
        if name not in HOW_FAST and value != defaults.get(name)
    }


def departures(line: dict[str, Any]) -> str:
    """Settings by which this is not the protocol's own measurement: ``paper epochs 2``; empty if it is."""
    other = {name: value for name, value in own_settings(line).items() if name not in SAID}
    return ", ".join(f"{name.replace('_', ' ')} {str(value).strip('[]')}" for name, value in other.items())


def identity(line: dict[str, Any]) -> tuple[str, ...]:
    """What makes two lines the same measurement: protocol, settings, weights and data; not time, machine or commit."""
    settings = {name: value for name, value in settings_of(line).items() if name not in HOW_FAST}
    data = [[part["fingerprint"], part["split"], part["images"]] for part in line["data"].values()]
    parts = (line["protocol"], settings, line["model"]["sha256"], data)
    return tuple(json.dumps(part, sort_keys=True) for part in parts)


def measurement(line: dict[str, Any]) -> tuple[str, ...]:
    """:func:`identity`, whatever the precision: each machine has one that is fast, and the number means the same."""
    return identity(line | {"settings": line["settings"] | {"precision": ""}})


def identity_hash(line: dict[str, Any]) -> str:
    """16 hex digits of :func:`identity`."""
    return hashlib.sha256("\n".join(identity(line)).encode()).hexdigest()[:16]


def find_result(
    path: str | Path, line: dict[str, Any], *, minutes: float | None = None
) -> dict[str, Any] | None:
    """The last line of the file that is the same measurement as ``line``, or None.

    Args:
        minutes: failing that, one that was shortened from it to fit that time.
    """
    wanted, asked = identity(line), identity_hash(line)
    every = results(path)
    same = [other for other in every if "shortened" not in other and identity(other) == wanted]
    short = [
        other
        for other in every
        if (other.get("shortened") or {}).get("asked") == asked and other["shortened"]["minutes"] == minutes
    ]
    return same[-1] if same else short[-1] if short else None


def as_json(value: Any) -> Any:
    """Tuples as lists, infinity as a word: JSON has neither."""
    return json.loads(json.dumps(str(value) if value == inf else value))
