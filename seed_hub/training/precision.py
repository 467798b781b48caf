"""Losses are computed in full precision, whatever precision the networks run in: a small temperature turns the rounding of a
bf16 cosine into several percent of a probability."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """``loss`` computed in float32 (float64 where an argument is), also under autocast, whatever its tensors came in."""

    @functools.wraps(loss)
    def exactly(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [t for value in (*args, *kwargs.values()) for t in _tensors(value)]
        exact = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        with torch.autocast(tensors[0].device.type, enabled=False):
            given: Any = [_cast(value, exact) for value in args]
            named: Any = {name: _cast(value, exact) for name, value in kwargs.items()}
            return loss(*given, **named)

    return exactly


def _tensors(value: object) -> list[Tensor]:
    """The tensors in a tensor, a list of tensors, or anything else."""
    return [t for t in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(t, Tensor)]


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return [_cast(v, dtype) for v in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
