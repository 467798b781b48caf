"""What the machine gives while it is measured: a processor that is shared with others is another one each hour."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seed_hub.bench.timing import Timing

SIDE = {"cpu": 1024, "cuda": 8192}
COPIED = {"cpu": 2**26, "cuda": 2**30}  # bytes: far more than a cache holds
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def products(device: torch.device) -> dict[str, Callable[[], object]]:
    """One product of two square matrices in each precision, and one copy."""
    n = SIDE.get(device.type, SIDE["cpu"])

    def product(dtype: torch.dtype) -> Callable[[], object]:
        a = torch.rand(n, n, device=device).to(dtype)
        return lambda: a @ a

    ways: dict[str, Callable[[], object]] = {
        f"product {name}": product(dtype) for name, dtype in PRECISIONS.items()
    }
    source = torch.ones(COPIED.get(device.type, COPIED["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return ways | {"copy": lambda: target.copy_(source)}


def gflops(timings: dict[str, Timing], device: torch.device) -> dict[str, float]:
    """10^9 operations per second, by precision, from the timings of :func:`products`; they leave ``timings``."""
    n = SIDE.get(device.type, SIDE["cpu"])
    return {name: 2 * n**3 / timings.pop(f"product {name}").median / 1e9 for name in PRECISIONS}


def bandwidth(timings: dict[str, Timing], device: torch.device) -> float:
    """Bytes per second, read and written, from the copy of :func:`products`; it leaves ``timings``."""
    return 2 * COPIED.get(device.type, COPIED["cpu"]) / timings.pop("copy").median
