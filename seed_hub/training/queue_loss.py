"""Softmax over a long queue, without a matrix of batch x queue.

    p(j) = exp(q . r_j / tau) / Z,    Z = sum_j exp(q . r_j / tau),    E = sum_j p(j) r_j
    d log Z / d q = E / tau

A contrast needs log Z only. A cross-entropy between a target p_T and p over the same rows needs E_T of the target besides:

    - sum_j p_T(j) log p(j) = log Z - q . E_T / tau

Z and E are an attention whose keys and values are the queue: sums over blocks of rows, each block used while it lies in the
cache. The gradient of log Z is known with its value, so that nothing is kept for the backward pass but ``[B, D]``.

Whatever a candidate needs a gradient of its own for (the other view, the batch's other keys) stays ordinary autograd, and is
merged with the queue by ``logaddexp``.

Legend: B batch, D embedding width, E width of further values, K rows of the queue, n rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from seed_hub.errors import SeedHubError
from seed_hub.training.queue_sums import FUSED, Attention, Bf16Sums, Bf16SumsBesideOwn, Sums, SumsBesideOwn

PRECISIONS = ("fp32", "bf16")

# Similarities of a block, B x n numbers: on a CPU they and the rows stay in a core's cache. At B 256 and K 65,536, one
# thread, 2**17 was 1.27 and 2**19 1.04 times slower for a temperature of 0.2. An accelerator wants few, larger products.
_CPU_BLOCK, _ACCELERATOR_BLOCK = 2**18, 2**21
_LEAST_ROWS, _CPU_MOST_ROWS = 128, 2048  # at a small batch the rows themselves would leave the cache
_BF16_ROWS = 16384

Excluded = Callable[[slice], Tensor]
"""places of some n rows -> bool ``[B, n]``: what is no candidate of which query"""


@torch.no_grad()
def attend(
    queries: Tensor,
    rows: Tensor,
    temperature: float,
    *,
    values: Tensor | None = None,
    excluded: Excluded | None = None,
) -> Attention:
    """E and log Z of each query over the rows that are not excluded, exact in the queries' precision.

    Args:
        queries: unit vectors ``[B, D]``.
        rows: ``[K, D]``, normalised here, block by block; may be empty.
        temperature: tau > 0.
        values: ``[K, E]``, normalised here: the expectation is of (row, value).

    Raises:
        SeedHubError: the temperature is not above 0.
    """
    return _walk([Sums(queries, _positive(temperature))], rows, values, excluded)[0]


@torch.no_grad()
def attend_each(
    queries: Sequence[Tensor],
    rows: Tensor,
    temperatures: Sequence[float],
    *,
    precision: str = "fp32",
    beside_own: Sequence[bool] = (),
) -> list[Attention]:
    """:func:`attend` of several batches of queries over the same rows, each block of which is read once for all.

    Args:
        beside_own: which of them will be merged with a candidate of cosine 1, the query itself: rows too far from it to
            count are left out.
        precision: bf16 rounds queries, rows and expectations to bf16 on a CPU; similarities and log Z stay in float32. On other
            devices, and for float64, it is fp32. With a teacher's temperature of 0.01, its probabilities move by 0.6 % (total
            variation) where the queue is tight clusters.

    Raises:
        SeedHubError: a temperature is not above 0, or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise SeedHubError(f'Unknown queue precision "{precision}": choose {" or ".join(PRECISIONS)}.')
    able = rows.device.type == "cpu" and queries[0].dtype == torch.float32 and hasattr(torch.ops.aten, FUSED)
    fused = precision == "bf16" and able
    plain, beside = (Bf16Sums, Bf16SumsBesideOwn) if fused else (Sums, SumsBesideOwn)
    kinds: Any = [beside if own else plain for own in beside_own or [False] * len(queries)]
    each = zip(kinds, queries, temperatures, strict=True)
    return _walk([kind(q, _positive(t)) for kind, q, t in each], rows, fused=fused)


def log_partition(queries: Tensor, attention: Attention, temperature: float) -> Tensor:
    """log Z ``[B]`` of ``attention``, which is of these queries at this temperature, with its gradient: E / tau.

    It can be differentiated once.
    """
    return _LogPartition.apply(queries, attention, temperature)


@torch.no_grad()
def nearest_rows(
    queries: Tensor, rows: Tensor, k: int, excluded: Excluded | None = None
) -> tuple[Tensor, Tensor]:
    """(cosines, places) ``[B, min(k, K)]`` of the rows nearest to each query, nearest first; cosine -inf where only excluded
    rows are left."""
    cosines = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for block in _blocks(len(queries), len(rows), queries.device):
        near = queries @ normalize(rows[block], dim=1).T  # [B, n]
        if excluded is not None:
            near.masked_fill_(excluded(block), -torch.inf)
        found = near.topk(min(k, near.shape[1]))
        both = torch.cat([cosines, found.values], dim=1)
        cosines, chosen = both.topk(min(k, both.shape[1]))
        places = torch.cat([places, found.indices + block.start], dim=1).gather(1, chosen)
    return cosines, places


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, attention: Attention, temperature: float) -> Tensor:
        ctx.save_for_backward(attention.expectation)
        ctx.temperature = temperature
        return attention.log_partition.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (expectation,) = ctx.saved_tensors
        return expectation * (grad / ctx.temperature)[:, None], None, None


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise SeedHubError(f"A softmax temperature is {temperature}: choose one above 0.")
    return temperature


def _walk(
    sums: Sequence[Sums | Bf16Sums],  # of one precision
    rows: Tensor,
    values: Tensor | None = None,
    excluded: Excluded | None = None,
    *,
    fused: bool = False,
) -> list[Attention]:
    """Every block of rows into every one of the sums."""
    queries = max((s.queries for s in sums), key=len)
    blocks = list(_blocks(len(queries), len(rows), queries.device, _BF16_ROWS if fused else 0))
    longest = max((b.stop - b.start for b in blocks), default=0)
    room = queries.new_empty(0 if fused else len(queries) * longest)
    for block in blocks:
        unit = normalize(rows[block], dim=1)  # [n, D]
        mask = None if excluded is None else excluded(block)  # [B, n]
        what = unit if values is None else torch.cat([unit, normalize(values[block], dim=1)], dim=1)
        for each in sums:
            each.add(unit, what, mask, room)
    return [each.result(rows.shape[1] + (0 if values is None else values.shape[1])) for each in sums]


def _blocks(queries: int, rows: int, device: torch.device, length: int = 0) -> Iterator[slice]:
    """Consecutive places, ``length`` at a time, by default as many as suit the device's cache."""
    if not length and device.type == "cpu":
        length = min(max(_CPU_BLOCK // max(queries, 1), _LEAST_ROWS), _CPU_MOST_ROWS)
    elif not length:
        length = max(_ACCELERATOR_BLOCK // max(queries, 1), _LEAST_ROWS)
    for start in range(0, rows, length):
        yield slice(start, min(start + length, rows))
