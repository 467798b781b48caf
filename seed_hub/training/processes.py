"""What the processes of a run tell each other: rows of a batch that is shared out, in the order of their ranks.

Legend: B rows of one process, W processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(rows: Tensor) -> Tensor:
    """``[B, ...]`` on each of W processes -> ``[W B, ...]`` on all, without gradient; the identity for one process."""
    if _alone():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def asked_of_any(asked: bool, device: torch.device) -> bool:
    """``asked`` of at least one process; each has to ask. Waits for the accelerator if there are several."""
    if _alone():
        return asked
    anyone = torch.tensor(float(asked), device=device)
    dist.all_reduce(anyone, dist.ReduceOp.MAX)
    return bool(anyone)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """As :func:`gather`, in float32 or wider; the gradient goes back to the process that the rows came from, summed over
    those that used them.

    For losses over pairs of images, which every process then computes for the whole batch: a row's gradient comes back
    W times, once from each, and the mean over processes that data-parallel training takes undoes the factor.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return rows if _alone() else _Gather.apply(rows)


def gather_others(rows: Tensor) -> Tensor:
    """The rows of the other processes only, ``[(W - 1) B, ...]``, with their gradient; empty for one process.

    When each process takes the mean over its own rows' losses and gradients are averaged over processes, W processes
    learn what one would from the same batch.
    """
    everyone = gather_with_gradient(rows)
    first = 0 if _alone() else dist.get_rank() * len(rows)
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
