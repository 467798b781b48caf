"""What the machine gives while it is measured: a processor that is shared with others is another one each hour."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seed_hub.bench.timing import Timing

SIDE = {"cpu": 1024, "cuda": 8192}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def products(device: torch.device) -> dict[str, Callable[[], object]]:
    """One product of two square matrices in each precision."""
    n = SIDE.get(device.type, SIDE["cpu"])

    def product(dtype: torch.dtype) -> Callable[[], object]:
        a = torch.rand(n, n, device=device).to(dtype)
        return lambda: a @ a

    return {f"product {name}": product(dtype) for name, dtype in PRECISIONS.items()}


def gflops(timings: dict[str, Timing], device: torch.device) -> dict[str, float]:
    """10^9 operations per second, by precision, from the timings of :func:`products`; they leave ``timings``."""
    n = SIDE.get(device.type, SIDE["cpu"])
    return {name: 2 * n**3 / timings.pop(f"product {name}").median / 1e9 for name in PRECISIONS}
