"""One JSON line per measurement: what was measured, on what, how, by which code, on which machine.

``eval/results/*.jsonl`` is made of these, and every number in a table or card comes from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from seed_hub.errors import SeedHubError
from seed_hub.machine import cores
from seed_hub.settings import read_settings

if TYPE_CHECKING:
    from torch import nn

    from seed_hub.data import Images

PACKAGES = ("seed_hub", "torch", "torchvision", "timm", "numpy", "pillow")
HOW_FAST = ("batch_size", "workers", "device", "pictures", "pictures_count")
"""settings that change the time a measurement takes or what it leaves to look at, and not what it measures"""


def result_line(
    protocol: str,
    values: Iterable[tuple[str, Any]],
    *,
    headline: str,
    spec: str,
    encoder: nn.Module,
    train: Images,
    test: Images,
    settings: Any,
    seconds: float,
    facts: dict[str, Any] | None = None,
    shortened: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The line of one run of a protocol.

    Args:
        values: what ``evaluate`` yielded; a name that came n times is summarised by mean and deviation, and of
            ``correct``, which test images the headline counts, comes its 95 % interval; ``curves`` stays as it is.
        headline: the metric to put first (the protocol's ``HEADLINE``); the first of ``values`` if it is not there.
        spec: the model as it was asked for; paths are cut to their last part.
        encoder: whose weights were measured.
        settings: the protocol's frozen dataclass.
        shortened: what was left out to fit a time (:func:`seed_hub.eval.budget.shortened`).
        facts: anything a table should know of the model (method, teacher, images seen, cost).
    """
    from seed_hub.eval.intervals import interval, pack  # numpy: `seed-hub info` reads results without it

    grouped: dict[str, list[float]] = {}
    correct, curves = [], {}
    for name, value in values:
        if name == "correct":
            correct.append(value.numpy())
        elif name == "curves":
            curves = {"curves": value}
        else:
            grouped.setdefault(name, []).append(float(value))
    if not grouped:
        raise SeedHubError(f"The protocol {protocol} gave no value: there is nothing to record.")
    summary = {name: _summary(found) for name, found in grouped.items()}
    metric = headline if headline in summary else next(iter(summary))
    return {
        "protocol": protocol,
        "metric": metric,
        **summary[metric],
        **(
            {"interval": list(interval(correct)), "correct": [pack(each) for each in correct]}
            if correct
            else {}
        ),
        **curves,
        "values": summary,
        "model": {
            "spec": without_folders(spec),
            "name": without_folders(getattr(encoder, "name", spec)),
            "sha256": weights_sha256(_measured(encoder, settings)),
            "facts": {k: without_folders(v) if isinstance(v, str) else v for k, v in (facts or {}).items()},
        },
        "data": {"train": _data(train), "test": _data(test)},
        "settings": _settings(settings, encoder),
        **({"shortened": shortened} if shortened else {}),
        **commit(),
        "seconds": round(seconds, 1),
        "machine": machine(getattr(settings, "device", "cpu")),
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _summary(found: list[float]) -> dict[str, Any]:
    """``value`` and ``mean`` agree; ``std`` is that of a sample, and unknown for one run."""
    mean = fmean(found)
    return {"value": mean, "n": len(found), "mean": mean, "std": stdev(found) if len(found) > 1 else None}


def _settings(settings: Any, encoder: nn.Module) -> dict[str, Any]:
    """As JSON holds them, with the input size that 0 stands for."""
    resolved = {
        name: without_folders(value) if isinstance(value, str) else value
        for name, value in asdict(settings).items()
    }
    if resolved.get("size") == 0:
        resolved["size"] = getattr(encoder, "input_size", 0)
    return {name: _as_json(value) for name, value in resolved.items()}


def _as_json(value: Any) -> Any:
    """Tuples as lists, infinity as a word: JSON has neither."""
    return json.loads(json.dumps(str(value) if value == inf else value))


def _data(images: Images) -> dict[str, Any]:
    return {
        "source": without_folders(images.source),
        "split": images.split,
        "images": len(images),
        "fingerprint": images.fingerprint,
    }


def without_folders(name: str) -> str:
    """A path becomes its last part, so that no line tells how someone's disk is laid out; other names stay.

    ``file:/home/me/moco.pth?arch=resnet50`` -> ``file:moco.pth?arch=resnet50``; of a run, ``runs/a/best`` ->
    ``a/best``; ``org/name`` on the Hub, where no such file is, stays.
    """
    found = re.match(r"((?:file|seed):)?(.*?)(\?.*)?$", name, re.DOTALL)
    prefix, path, options = (part or "" for part in found.groups())  # type: ignore[union-attr]
    is_path = prefix == "file:" or re.match(r"[/~.\\]|[A-Za-z]:[/\\]", path) or os.path.exists(path)
    if is_path:
        parts = [part for part in re.split(r"[/\\]", os.path.abspath(os.path.expanduser(path))) if part]
        path = "/".join(
            parts[-3:]
            if parts[-2:-1] == ["looks"]
            else parts[-2:]
            if parts[-1] in ("best", "last")
            else parts[-1:]
        )
    return prefix + path + options


def _measured(encoder: nn.Module, settings: Any) -> nn.Module:
    """The part whose weights decide the number: a run and its published, headless model are one for pooled features."""
    encoder = getattr(encoder, "encoder", encoder)  # Frozen or Encoder
    if getattr(settings, "head_layer", "none") != "none" and getattr(settings, "mode", "") == "finetune":
        return encoder  # the head's first layer takes part
    return (
        encoder if getattr(settings, "features", "") == "projected" else getattr(encoder, "backbone", encoder)
    )


def weights_sha256(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of the weights, 64 hex digits: the same from any file."""
    import torch

    state = module.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def commit() -> dict[str, Any]:
    """``commit`` of the checkout this package runs from and ``dirty``: True if its code differs; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # a wheel inside another project's checkout is not that project
        return {"commit": None, "dirty": None}
    head, changed = (
        _git(root, *ask) for ask in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "seed_hub"])
    )
    return {"commit": head or None, "dirty": None if changed is None else bool(changed)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine(device: str = "auto") -> dict[str, Any]:
    """Processor, cores this process may use, threads of torch, and the GPU if ``device`` is one; not the machine's name."""
    import torch

    from seed_hub.eval.features import pick_device

    used = pick_device(device)
    gpu = (
        torch.cuda.get_device_name(used) if used.type == "cuda" else None if used.type == "cpu" else used.type
    )
    return {"cpu": _cpu(), "cores": cores(), "threads": torch.get_num_threads(), "gpu": gpu}


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Of Python and the packages a number may depend on; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str | None:
    if package == "seed_hub":  # from a checkout there is no installed version to ask for
        import seed_hub

        return seed_hub.__version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
    path = Path(__file__).with_name(f"{line['protocol']}.py")
    declared = read_settings(path).options if path.is_file() else ()
    return {option.name: _as_json(option.default) for option in declared} | line["settings"]


def identity(line: dict[str, Any]) -> tuple[str, ...]:
    """What makes two lines the same measurement: protocol, settings, weights and data; not time, machine or commit."""
    settings = {name: value for name, value in settings_of(line).items() if name not in HOW_FAST}
    data = [[part["fingerprint"], part["split"], part["images"]] for part in line["data"].values()]
    parts = (line["protocol"], settings, line["model"]["sha256"], data)
    return tuple(json.dumps(part, sort_keys=True) for part in parts)


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
