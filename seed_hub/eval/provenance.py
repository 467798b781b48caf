"""Where a number comes from: commit, machine and versions."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seed_hub.machine import cores

PACKAGES = ("seed_hub", "torch", "torchvision", "timm", "numpy", "pillow")


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
