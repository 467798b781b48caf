"""What a run leaves on disk, and how it is found again.

config.json       the resolved settings
environment.json  versions, commit, machine
log.jsonl         one line per report, one per look at the held-out images
checkpoint.pt     everything needed to continue exactly; no teacher
best/ last/       the student, ready to ship (see seed_hub.model_folder)
looks/STEP/       the same as it was at each look, if asked for (keep_looks)
bad_images.txt    what was skipped, and why
stream.jsonl      of a stream, where reading can begin again
verdict.json      did it work?
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from seed_hub.errors import SeedHubError
from seed_hub.machine import cores
from seed_hub.model_folder import replace_file
from seed_hub.training.settings import RunSettings

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "pillow", "seed_hub")


class RunFolder:
    """The folder of one run; nothing is created before :meth:`claim`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoint, self.log = self.path / "checkpoint.pt", self.path / "log.jsonl"
        self.best, self.last, self.looks = self.path / "best", self.path / "last", self.path / "looks"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raises:
        SeedHubError: the folder holds a run already, or none to resume, or is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise SeedHubError(f"{self.path} is a file: name another folder with --out.")
        config = self.path / "config.json"
        exists = config.exists()
        if exists and '"method_settings"' not in config.read_text(encoding="utf-8", errors="replace"):
            raise SeedHubError(
                f"{self.path} holds something else than a run: name another folder with --out."
            )
        if resume and not exists:
            raise SeedHubError(f"There is no run to resume in {self.path}: start one without --resume.")
        if exists and not (resume or overwrite):
            raise SeedHubError(
                f"{self.path} already holds a run: continue it with --resume, replace it with --overwrite, or name another --out."
            )

    def claim(self, overwrite: bool) -> None:
        """Make the folder; with ``overwrite``, remove what an earlier run left in it, and nothing else."""
        if overwrite and (self.path / "config.json").exists():
            for name in (
                "checkpoint.pt",
                "log.jsonl",
                "verdict.json",
                "bad_images.txt",
                "stream.jsonl",
                "report.html",
                "config.json",
            ):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.best, self.last, self.looks):
                shutil.rmtree(folder, ignore_errors=True)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SeedHubError(
                f"Cannot make the folder {self.path} ({error.strerror}): name another with --out."
            ) from error

    def release(self) -> None:
        """Undo :meth:`claim` for a run that did not get to start."""
        for name in ("config.json", "environment.json", "bad_images.txt", "stream.jsonl"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it held something before
            self.path.rmdir()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        replace_file(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise SeedHubError(
                f"{path} is missing or damaged ({error}): is {self.path} the folder of a run?"
            ) from error

    def settings(self) -> tuple[RunSettings, dict[str, Any]]:
        """The run's settings and its method's, as they were resolved at the start."""
        config = self.read_json("config.json")
        method_settings = config.pop("method_settings", {})
        known = {f.name for f in fields(RunSettings)}
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in known
        }
        return RunSettings(**values), method_settings

    def save_settings(self, settings: RunSettings, method_settings: Any) -> None:
        self.write_json("config.json", asdict(settings) | {"method_settings": asdict(method_settings)})
        self.write_json("environment.json", environment())

    def append_log(self, line: dict[str, Any]) -> None:
        with open(self.log, "ab+") as file:
            text = json.dumps(line) + "\n"
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                text = "\n" + text  # a kill or a full disk cut the last line short
            file.write(text.encode())

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl; after a kill, lines written past the checkpoint are superseded by later ones."""
        if not self.log.exists():
            return []
        kept: list[dict[str, Any]] = []
        for text in self.log.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # cut short by a kill or a full disk
                continue
            if line.get("event") == "resume":
                kept = [k for k in kept if k.get("step", 0) <= line["step"]]
            kept.append(line)
        return kept

    def hours(self) -> float:
        """Time spent training, over all sittings; what a kill threw away is not counted."""
        total = sitting = 0.0
        for line in self.read_log():
            if line["event"] == "resume":
                total, sitting = total + sitting, 0.0
            sitting = line.get("seconds", sitting)
        return (total + sitting) / 3600

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint in one step: a full disk or a kill leaves the previous one whole."""
        partial = self.checkpoint.with_suffix(".partial")
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.checkpoint)
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            partial.unlink(missing_ok=True)
            kept = (
                "the previous checkpoint is kept" if self.checkpoint.exists() else "no checkpoint exists yet"
            )
            raise SeedHubError(
                f"Could not save {self.checkpoint} ({_reason(error)}); {kept}. Free some space, then continue with --resume."
            ) from error

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint, or None before the first."""
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for a damaged file
            raise SeedHubError(
                f"{self.checkpoint} is damaged ({_reason(error)}): start again with --overwrite."
            ) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0][:160]


def environment() -> dict[str, Any]:
    """Versions, commit and machine, for the record."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, with a + if files differ; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty.strip() else "")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
