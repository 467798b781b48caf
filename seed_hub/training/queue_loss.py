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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import normalize

from seed_hub.errors import SeedHubError

PRECISIONS = ("fp32", "bf16")

# Similarities of a block, B x n numbers: on a CPU they and the rows stay in a core's cache. At B 256 and K 65,536, one
# thread, 2**17 was 1.27 and 2**19 1.04 times slower for a temperature of 0.2. An accelerator wants few, larger products.
_CPU_BLOCK, _ACCELERATOR_BLOCK = 2**18, 2**21
_LEAST_ROWS, _CPU_MOST_ROWS = 128, 2048  # at a small batch the rows themselves would leave the cache
_BF16_ROWS = 16384
_FUSED = "_scaled_dot_product_flash_attention_for_cpu"
# exp(-60) of the largest term is below float64's rounding even a billion times over, and far from the denormal numbers
# that made products 25 times slower.
_NATS = 60.0

Excluded = Callable[[slice], Tensor]
"""places of some n rows -> bool ``[B, n]``: what is no candidate of which query"""


class Attention(NamedTuple):
    """What a softmax over the queue gives, without gradient."""

    expectation: Tensor
    """E ``[B, D]``, or ``[B, D + E]`` with further values; 0 without a candidate"""
    log_partition: Tensor
    """log Z ``[B]``; -inf without a candidate"""


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
    return _walk([_Sums(queries, _positive(temperature))], rows, values, excluded)[0]


@torch.no_grad()
def attend_each(
    queries: Sequence[Tensor], rows: Tensor, temperatures: Sequence[float], *, precision: str = "fp32"
) -> list[Attention]:
    """:func:`attend` of several batches of queries over the same rows, each block of which is read once for all.

    Args:
        precision: bf16 rounds queries, rows and expectations to bf16 on a CPU; similarities and log Z stay in float32. On other
            devices, and for float64, it is fp32. With a teacher's temperature of 0.01, its probabilities move by 0.6 % (total
            variation) where the queue is tight clusters.

    Raises:
        SeedHubError: a temperature is not above 0, or there is no such precision.
    """
    if precision not in PRECISIONS:
        raise SeedHubError(f'Unknown queue precision "{precision}": choose {" or ".join(PRECISIONS)}.')
    able = rows.device.type == "cpu" and queries[0].dtype == torch.float32 and hasattr(torch.ops.aten, _FUSED)
    sums: Any = _Bf16Sums if precision == "bf16" and able else _Sums
    return _walk([sums(q, _positive(t)) for q, t in zip(queries, temperatures, strict=True)], rows)


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


class _Sums:
    """Z and sum_j exp(q . r_j / tau) r_j over the rows so far, each times exp(-shift)."""

    def __init__(self, queries: Tensor, temperature: float) -> None:
        self.scale = 1 / temperature
        # No cosine is beyond 1: from this temperature on exp neither overflows nor underflows, and needs no shift.
        self.flat = self.scale <= _NATS
        self.queries = queries * self.scale if self.flat else queries
        self.shift = queries.new_full((len(queries), 1), 0.0 if self.flat else -self.scale)
        self.z = queries.new_zeros(len(queries), 1)
        self.weighted: Tensor | None = None  # [B, D + E]

    def add(self, rows: Tensor, values: Tensor, excluded: Tensor | None, room: Tensor) -> None:
        """Unit ``rows`` ``[n, D]`` and what they stand for, ``values`` ``[n, D + E]``; ``room`` for B n numbers."""
        b, n = len(self.queries), len(rows)
        s = torch.mm(self.queries, rows.T, out=room[: b * n].view(b, n))
        if self.weighted is None:
            self.weighted = s.new_zeros(b, values.shape[1])
        if excluded is not None:
            s.masked_fill_(excluded, -torch.inf)
        if not self.flat:
            shift = torch.maximum(self.shift, s.amax(dim=1, keepdim=True) * self.scale)
            shrink = (self.shift - shift).exp_()
            self.z *= shrink
            self.weighted *= shrink
            self.shift = shift
            # Scaled and shifted in one pass; what rounding does to the shift, it does to log Z as well, and they cancel.
            torch.add(-shift, s, alpha=self.scale, out=s).clamp_(min=-_NATS)
        s.exp_()
        if excluded is not None:
            s.masked_fill_(excluded, 0.0)  # the clamp lifted them
        self.z += s.sum(dim=1, keepdim=True)
        self.weighted.addmm_(s, values)

    def result(self, width: int) -> Attention:
        if self.weighted is None:
            return _nothing(self.queries, width)
        expectation = self.weighted / self.z.clamp(min=torch.finfo(self.z.dtype).tiny)
        return Attention(expectation, (self.z.log() + self.shift)[:, 0])


class _Bf16Sums:
    """The same from torch's fused attention for CPUs, of the rows alone: bf16 in and out, similarities and log Z in float32.

    Private, since the public function does not return log Z. A plain bf16 product would round the similarities. In float32,
    B 256, K 65,536, it took 0.80 to 0.84 of the time of the sums above (three rounds, a busy machine), and more than they
    did on a quiet one; it has no mask and no float64.
    """

    def __init__(self, queries: Tensor, temperature: float) -> None:
        self.queries, self.scale = queries, 1 / temperature
        self.so_far: Attention | None = None

    def add(self, rows: Tensor, values: Tensor, excluded: Tensor | None, room: Tensor) -> None:
        q, r = (x.bfloat16()[None, None] for x in (self.queries, rows))
        expectation, log_z = getattr(torch.ops.aten, _FUSED)(q, r, r, scale=self.scale)
        new = Attention(expectation[0, 0].float(), log_z.float().flatten())
        self.so_far = new if self.so_far is None else _merge(self.so_far, new)

    def result(self, width: int) -> Attention:
        return _nothing(self.queries, width) if self.so_far is None else self.so_far


def _merge(a: Attention, b: Attention) -> Attention:
    """Over the rows of both."""
    share = (b.log_partition - a.log_partition).sigmoid()[:, None]  # of b
    return Attention(
        a.expectation.lerp(b.expectation, share), torch.logaddexp(a.log_partition, b.log_partition)
    )


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise SeedHubError(f"A softmax temperature is {temperature}: choose one above 0.")
    return temperature


def _nothing(queries: Tensor, width: int) -> Attention:
    return Attention(queries.new_zeros(len(queries), width), queries.new_full((len(queries),), -torch.inf))


def _walk(
    sums: Sequence[_Sums | _Bf16Sums],
    rows: Tensor,
    values: Tensor | None = None,
    excluded: Excluded | None = None,
) -> list[Attention]:
    """Every block of rows into every one of the sums."""
    queries = max((s.queries for s in sums), key=len)
    fused = isinstance(sums[0], _Bf16Sums)
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
