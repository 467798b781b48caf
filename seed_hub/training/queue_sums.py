"""The sums of a softmax over a queue, block of rows after block: in full, beside a candidate of each query's own, in bf16.

Legend: B batch, D embedding width, E width of further values, n rows of a block, m similarities picked out of B n.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FUSED = "_scaled_dot_product_flash_attention_for_cpu"
ROWS_PICKED = 2048  # of a block in which near rows are looked for at once, in bf16
# exp(-60) of the largest term is below float64's rounding even a billion times over, and far from the denormal numbers
# that made products 25 times slower.
_NATS = 60.0
# Of a sum over 2**20 rows, those this much smaller than a further term hold less than 5e-12 of the whole.
_FAR = 40.0
_FEW = 64  # of so many similarities one may be picked out before a product of all is faster


class Attention(NamedTuple):
    """What a softmax over the queue gives, without gradient."""

    expectation: Tensor
    """E ``[B, D]``, or ``[B, D + E]`` with further values; 0 without a candidate"""
    log_partition: Tensor
    """log Z ``[B]``; -inf without a candidate"""


class Sums:
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
        if self._picked_out(s, rows, values):
            return
        self._exponentiate(s)
        if excluded is not None:
            s.masked_fill_(excluded, 0.0)  # the clamp lifted them
        self.z += s.sum(dim=1, keepdim=True)
        self.weighted.addmm_(s, values)

    def _picked_out(self, s: Tensor, rows: Tensor, values: Tensor) -> bool:
        """What counts of a block with similarities ``s`` ``[B, n]`` is added already."""
        return False

    def _exponentiate(self, s: Tensor) -> None:
        """Similarities ``[B, n]`` become exp(similarity / tau - shift), in place; what is summed already follows the shift."""
        if not self.flat:
            shift = torch.maximum(self.shift, s.amax(dim=1, keepdim=True) * self.scale)
            shrink = (self.shift - shift).exp_()
            assert self.weighted is not None
            self.z *= shrink
            self.weighted *= shrink
            self.shift = shift
            # Scaled and shifted in one pass; what rounding does to the shift, it does to log Z as well, and they cancel.
            torch.add(-shift, s, alpha=self.scale, out=s).clamp_(min=-_NATS)
        s.exp_()

    def result(self, width: int) -> Attention:
        if self.weighted is None:
            return nothing(self.queries, width)
        expectation = self.weighted / self.z.clamp(min=torch.finfo(self.z.dtype).tiny)
        return Attention(expectation, (self.z.log() + self.shift)[:, 0])


class SumsBesideOwn(Sums):
    """:class:`Sums` that will be merged with each query's own candidate, whose cosine is 1: relative to it, all rows that
    are more than _FAR nats away hold less than K exp(-_FAR) of the whole, and are left out.

    Of a sharp softmax that is nearly all: on a CPU what is left of a block is picked out, if it is little.
    """

    def __init__(self, queries: Tensor, temperature: float) -> None:
        super().__init__(queries, temperature)
        self.queries, self.flat = queries, False
        self.shift = queries.new_full((len(queries), 1), self.scale)
        self.least = 1 - _FAR / self.scale  # cosine

    def _picked_out(self, s: Tensor, rows: Tensor, values: Tensor) -> bool:
        return self._pick(s, self.least, rows, values)

    def _exponentiate(self, s: Tensor) -> None:
        # exp of less than the clamp is denormal, and slow; what the clamp lifts is below rounding.
        torch.add(-self.shift, s, alpha=self.scale, out=s).clamp_(min=-_NATS).exp_()

    def _pick(self, s: Tensor, least: float, rows: Tensor, values: Tensor) -> bool:
        """Add the rows whose cosine in ``s`` ``[B, n]`` is above ``least``, computed anew; False if they are too many, or
        the device would have to be waited for."""
        if s.device.type != "cpu":
            return False
        if s.amax() <= least:
            return True
        query, row = (s > least).nonzero().unbind(1)  # [m] each
        if len(query) > s.numel() // _FEW:
            return False
        assert self.weighted is not None
        near = rows[row]
        cosine = (self.queries[query] * near).sum(dim=1, keepdim=True)  # [m, 1]
        weight = ((cosine - 1) * self.scale).exp_()
        self.z.index_add_(0, query, weight)
        self.weighted.index_add_(0, query, weight * (near if values is rows else values[row]))
        return True


class Bf16Sums:
    """The same from torch's fused attention for CPUs, of the rows alone: bf16 in and out, similarities and log Z in float32.

    Private, since the public function does not return log Z. A plain bf16 product would round the similarities. In float32,
    B 256, K 65,536, it took 0.80 to 0.84 of the time of the sums above (three rounds, a busy machine), and more than they
    did on a quiet one; it has no mask and no float64.
    """

    def __init__(self, queries: Tensor, temperature: float) -> None:
        self.queries, self.scale = queries, 1 / temperature
        self.so_far: Attention | None = None

    def add(self, rows: Tensor, values: Tensor, excluded: Tensor | None, room: Tensor) -> None:
        self.attend(rows)

    def attend(self, rows: Tensor) -> None:
        q, r = (x.bfloat16()[None, None] for x in (self.queries, rows))
        expectation, log_z = getattr(torch.ops.aten, FUSED)(q, r, r, scale=self.scale)
        new = Attention(expectation[0, 0].float(), log_z.float().flatten())
        self.so_far = new if self.so_far is None else _merge(self.so_far, new)

    def result(self, width: int) -> Attention:
        return nothing(self.queries, width) if self.so_far is None else self.so_far


class Bf16SumsBesideOwn(SumsBesideOwn):
    """:class:`SumsBesideOwn` that looks for near rows in bf16, and computes with them in the queries' precision; blocks in which they
    are many go the way of :class:`Bf16Sums`."""

    def __init__(self, queries: Tensor, temperature: float) -> None:
        super().__init__(queries, temperature)
        self.many = Bf16Sums(queries, temperature)
        self.rounded = queries.bfloat16()

    def add(self, rows: Tensor, values: Tensor, excluded: Tensor | None, room: Tensor) -> None:
        if self.weighted is None:
            self.weighted = rows.new_zeros(len(self.queries), values.shape[1])
        # Both factors and the product are rounded to 8 bits: none that counts is missed by a hundredth.
        for part in rows.split(ROWS_PICKED):
            if not self._pick(self.rounded @ part.bfloat16().T, self.least - 0.02, part, part):
                self.many.attend(part)

    def result(self, width: int) -> Attention:
        few = super().result(width)
        return few if self.many.so_far is None else _merge(few, self.many.so_far)


def _merge(a: Attention, b: Attention) -> Attention:
    """Over the rows of both."""
    share = (b.log_partition - a.log_partition).sigmoid()[:, None]  # of b
    return Attention(
        a.expectation.lerp(b.expectation, share), torch.logaddexp(a.log_partition, b.log_partition)
    )


def nothing(queries: Tensor, width: int) -> Attention:
    return Attention(queries.new_zeros(len(queries), width), queries.new_full((len(queries),), -torch.inf))
