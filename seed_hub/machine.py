"""What of this machine is ours to use."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)


def cores() -> int:
    """Processor cores this process may use: ``taskset``, a scheduler or a container may leave fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    found = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota = (
            Path("/sys/fs/cgroup/cpu.max").read_text().split()
        )  # of a container: "200000 100000", or "max 100000"
    except OSError:
        quota = []
    if len(quota) == 2 and quota[0].isdigit():
        found = min(found, max(1, int(quota[0]) // int(quota[1])))
    return found


def loading_processes(workers: int) -> int:
    """``workers`` as settings give it; -1 stands for one less than the cores, at most 8."""
    return min(8, cores() - 1) if workers < 0 else workers


def resolve_precision(requested: str, device_kind: str) -> str:
    """``auto`` -> ``bf16`` or ``fp32``.

    A CPU gains from bf16 only with AMX tiles. With AVX-512 alone a ResNet-50 was measured slower than in float32; with
    neither, torch imitates bf16, and matrix products were measured at a 90th of float32's speed: asked for by name, it is
    warned of.

    Raises:
        SeedHubError: neither of the two nor auto.
    """
    import torch

    if requested not in ("auto", "fp32", "bf16"):
        raise SeedHubError(f'Unknown --precision "{requested}": choose auto, fp32 or bf16.')
    if requested == "bf16" and device_kind == "cpu" and not has_amx():
        _log.warning(
            "This CPU has no bf16 units (AMX): bf16 is slower than float32 here, and can be many times slower. "
            "--precision auto takes what is fast."
        )
    if requested != "auto":
        return requested
    if device_kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if device_kind == "cpu" and has_amx() else "fp32"


def has_amx() -> bool:
    """The processor multiplies tiles of bf16, and oneDNN may use that."""
    import torch

    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "DEFAULT"
    if allowed.upper() not in ("DEFAULT", "ALL") and "AMX" not in allowed.upper():
        return False
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private: absent in some versions
    return supported is not None and supported()
