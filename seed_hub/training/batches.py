"""Which images make up each step: a pure function of (seed, step), split over processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from seed_hub.errors import SeedHubError


class StepBatches(Sampler[list[tuple[int, int]]]):
    """For each step from ``first`` to ``last``, this process's list of (image index, epoch of its views).

    Every epoch is a permutation drawn from (seed, epoch); what is left over of less than a batch is dropped.

    Args:
        n: images.
        batch_size: of all processes together.
        rank, world: this process, and how many there are; ``batch_size`` is a multiple of ``world``.
        view_epochs: the views repeat after so many epochs (the order does not); None: never.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        first: int,
        last: int,
        rank: int,
        world: int,
        view_epochs: int | None = None,
    ) -> None:
        if n < batch_size:
            raise SeedHubError(
                f"There are {n} training images, fewer than one batch of {batch_size}: pass --batch-size {max(2, n // 2)} or less."
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.first, self.last, self.rank, self.world = first, last, rank, world
        self.view_epochs = view_epochs
        self.per_epoch = n // batch_size

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        own = self.batch_size // self.world
        order, order_epoch = np.empty(0, dtype=np.int64), -1
        for step in range(self.first, self.last):
            epoch, place = divmod(step, self.per_epoch)
            if epoch != order_epoch:
                order, order_epoch = epoch_order(self.n, self.seed, epoch), epoch
            start = place * self.batch_size + self.rank * own
            views = epoch % self.view_epochs if self.view_epochs else epoch
            yield [(int(i), views) for i in order[start : start + own]]


class EpochRows(Sampler[list[tuple[int, int]]]):
    """Every image of some epochs, in the order and in the batches of :class:`StepBatches`, as lists of (image index,
    epoch); the last list of an epoch holds what is left over, which training drops.

    Args:
        n: images.
        size: of a list, as many as one process sees at once in training.
        starts: (epoch, first place in its order) of each epoch.
    """

    def __init__(self, n: int, size: int, *, seed: int, starts: list[tuple[int, int]]) -> None:
        self.n, self.size, self.seed, self.starts = n, size, seed, starts

    def __len__(self) -> int:
        return sum(len(range(first, self.n, self.size)) for _, first in self.starts)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch, first in self.starts:
            order = epoch_order(self.n, self.seed, epoch)
            for start in range(first, self.n, self.size):
                yield [(int(i), epoch) for i in order[start : start + self.size]]


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of ``range(n)`` for one epoch."""
    # Counter word 0 of a view is never this large, so orders and views do not share random numbers.
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**63, epoch, 0])).permutation(n)
