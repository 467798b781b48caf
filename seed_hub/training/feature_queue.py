"""First-in first-out memory of embeddings, the same on every process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """The last K rows pushed, L2-normalised, ``[K, D]`` float32.

    It starts empty and grows: until K rows have been seen, a loss contrasts against what there is, never against
    random vectors (the released MoCo and SEED codes begin with K random rows, and spend K / B steps on noise).
    Any batch size works: a push that reaches the end continues at the beginning.
    """

    rows: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("rows", torch.zeros(size, width))
        # On the CPU side of every device: slicing by them must not wait for the accelerator.
        self._next, self._count = 0, 0

    def get_extra_state(self) -> dict[str, int]:
        return {"next": self._next, "count": self._count}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._next, self._count = state["next"], state["count"]

    def get(self) -> Tensor:
        """``[min(pushed, K), D]``, a view of the memory: do not keep it over a push."""
        return self.rows[: self._count]

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Append ``rows`` ``[B, D]`` of this process, and those of all others in the order of their ranks."""
        rows = gather(nn.functional.normalize(rows.float(), dim=1))[-self.size :]
        first = min(len(rows), self.size - self._next)
        self.rows[self._next : self._next + first] = rows[:first]
        self.rows[: len(rows) - first] = rows[first:]
        self._next = (self._next + len(rows)) % self.size
        self._count = min(self._count + len(rows), self.size)


def gather(rows: Tensor) -> Tensor:
    """``[B, ...]`` on each of W processes -> ``[W B, ...]`` on all, without gradient; the identity for one process."""
    if _alone():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_others(rows: Tensor) -> Tensor:
    """``[B, ...]`` on each of W processes -> those of the others ``[(W - 1) B, ...]``, in float32 or wider; empty for one.

    The gradient goes back to the process that the rows came from, summed over those that used them. So, when each process
    takes the mean over its own rows' losses and gradients are averaged over processes, W processes learn what one would
    from the same batch.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if _alone():
        return rows[:0]
    everyone, first = _Gather.apply(rows), dist.get_rank() * len(rows)
    return torch.cat([everyone[:first], everyone[first + len(rows) :]])


class _Gather(torch.autograd.Function):
    """:func:`gather`, and the gradient's way back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)  # is summed in place, and may be another's
        dist.all_reduce(grad)
        return grad[dist.get_rank() * ctx.rows :][: ctx.rows]


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
