"""First-in first-out memory of embeddings, the same on every process."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seed_hub.training.processes import gather


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

    @property
    def full(self) -> bool:
        """K rows have been pushed."""
        return self._count == self.size

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Append ``rows`` ``[B, D]`` of this process, and those of all others in the order of their ranks."""
        rows = gather(nn.functional.normalize(rows.float(), dim=1))[-self.size :]
        first = min(len(rows), self.size - self._next)
        self.rows[self._next : self._next + first] = rows[:first]
        self.rows[: len(rows) - first] = rows[first:]
        self._next = (self._next + len(rows)) % self.size
        self._count = min(self._count + len(rows), self.size)


def queue_fills(method: nn.Module) -> bool:
    """A queue of ``method`` is not full yet: each step has more to contrast against than the one before, and a higher loss."""
    return any(isinstance(part, FeatureQueue) and not part.full for part in method.modules())
