"""``doctor``: what this machine can do, and what is missing. Nothing here uses the network."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import textwrap
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import facts, show
from seed_hub.machine import cores

# What pyproject.toml asks for (a test compares): distribution -> lowest version.
NEEDED = {
    "torch": "2.6",
    "torchvision": "0.21",
    "timm": "1.0.29",
    "safetensors": "0.4",
    "huggingface-hub": "0.26",
    "datasets": "3.0",
    "transformers": "4.48",
    "accelerate": "1.0",
    "numpy": "1.26",
    "pillow": "10.1",
    "opencv-python-headless": "4.9",
    "simplejpeg": "1.8",
    "fsspec": "2023.5",
    "rich": "13.0",
    "matplotlib": "3.8",
    "scikit-learn": "1.4",
    "scipy": "1.11",
}
EXTRAS = {
    "detection": "pycocotools",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "executorch": "executorch",
    "coreml": "coremltools",
}  # extra -> distribution
GB = 1e9


def doctor(argv: list[str]) -> dict[str, Any]:
    Parser("doctor", "What this machine can do, and what is missing. Uses no network.").parse(argv)
    found, problems = _packages()
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
        "extras": {extra: _version(name) for extra, name in EXTRAS.items()},
        "cores": cores(),
        "memory_gb": _memory(),
        "shared_memory_gb": _shared_memory(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / GB, 1),
        "hub": _hub(),
    }
    if sys.version_info < (3, 10):  # noqa: UP036  a checkout can be run by any Python
        problems.append(f"Python {report['python']} is too old: 3.10 or newer is needed.")
    if found.get("torch"):
        report["devices"], report["bf16"] = _devices(), _bf16()
    report["problems"] = problems
    show(facts([*_rows(report), ("missing", "\n".join(problems) or "nothing that is needed")]))
    return report


def _rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    absent = [extra for extra, there in report["extras"].items() if there is None]
    extras = (
        ", ".join(f"{extra} {there}" for extra, there in report["extras"].items() if there)
        or "none installed"
    )
    if absent:
        extras += f"\n{', '.join(absent)} missing, for exporting or detection: pip install -e '.[{','.join(absent)}]' in a checkout"
    memory, shared = report["memory_gb"], report["shared_memory_gb"]
    rows = [
        ("python", f"{report['python']} on {report['platform']}"),
        (
            "packages",
            textwrap.fill(
                ", ".join(f"{name} {there}" for name, there in report["packages"].items() if there), 90
            ),
        ),
        ("extras", extras),
        ("cores", str(report["cores"])),
        (
            "memory",
            "unknown"
            if memory is None
            else f"{memory:.1f} GB" + ("" if shared is None else f", {shared:.1f} GB shared between workers"),
        ),
        ("disk", f"{report['disk_free_gb']:.0f} GB free in {Path.cwd()}"),
        ("hub", report["hub"]["text"]),
    ]
    if "devices" in report:
        rows.insert(2, ("devices", "\n".join(report["devices"])))
        rows.insert(3, ("bf16", report["bf16"]["text"]))
    return rows


def _packages() -> tuple[dict[str, str | None], list[str]]:
    """(version or None by distribution, one sentence per problem)."""
    found = {name: _version(name) for name in NEEDED}
    wrong = [
        f"{name}>={least}"
        for name, least in NEEDED.items()
        if found[name] is None or _numbers(str(found[name])) < _numbers(least)
    ]
    if not wrong:
        return found, []
    return found, [
        f"{len(wrong)} needed packages are missing or too old: pip install "
        + " ".join(f"'{w}'" for w in wrong)
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> list[int]:
    """``2.15.0+cpu`` -> ``[2, 15, 0]``."""
    parts = text.split("+")[0].split(".")
    return [int(digits) for part in parts if (digits := "".join(c for c in part if c.isdigit()))]


def _devices() -> list[str]:
    import torch

    names = [
        f"cuda:{i}  {torch.cuda.get_device_name(i)}, {torch.cuda.get_device_properties(i).total_memory / GB:.0f} GB"
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        names.append("mps  Apple GPU")
    return [*names, f"cpu  {_cpu_name()}, {torch.get_num_threads()} threads for torch"]


def _bf16() -> dict[str, Any]:
    """Is bf16 worth it here? Asked of the processor, and measured on a matrix product."""
    import torch

    from seed_hub.machine import has_amx, resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    amx = has_amx()
    gain = _seconds(torch.float32, device) / _seconds(torch.bfloat16, device)
    choice = resolve_precision("auto", device.type)
    unit = "" if device.type == "cuda" else f"AMX tiles: {'yes' if amx else 'no'}; "
    takes = f"1/{gain:.1f} of" if gain >= 1 else f"{1 / gain:.1f} times"
    text = f"{unit}a bf16 matrix product takes {takes} float32's time; --precision auto means {choice} on {device.type}"
    return {"amx": amx, "gain": round(gain, 2), "auto": choice, "text": text}


def _seconds(dtype: Any, device: Any) -> float:
    """Best of five products of two 512 x 512 matrices."""
    import torch

    a = torch.randn(512, 512, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):  # the first one warms up, and is never the best
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    return best


def _cpu_name() -> str:
    from seed_hub.eval.provenance import machine

    return str(machine()["cpu"])


def _memory() -> float | None:
    """GB that this process may use: the machine's, or a container's limit."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return round(min(total, int(limit) if limit.isdigit() else total) / GB, 1)


def _shared_memory() -> float | None:
    """GB through which loader processes hand over images; containers often give 0.064."""
    return round(shutil.disk_usage("/dev/shm").total / GB, 3) if os.path.isdir("/dev/shm") else None


def _hub() -> dict[str, Any]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    home = os.path.expanduser(home)
    state = (
        "HF_HUB_OFFLINE is set: the cache only"
        if offline
        else "online (HF_HUB_OFFLINE is not set); not tried here"
    )
    return {
        "offline": offline,
        "cache": home,
        "text": f"{state}; cache {home}{'' if os.path.isdir(home) else ' (not there yet)'}",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
