"""Training views for evaluation: which images a step sees, and how they are cropped.

Everything follows from (seed, epoch, image): the number of worker processes changes nothing.

Legend: B batch, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from seed_hub.data import Images
from seed_hub.machine import loading_processes


def batches(n: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """All of 0 ... n - 1, shuffled by (seed, epoch), in batches; the last may be smaller.

    A single image left over joins the batch before it: batch norm knows no spread of one.
    """
    generator = torch.Generator().manual_seed(_mixed(seed, epoch, 0))
    parts = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1 and batch_size > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


class Order(Sampler[list[tuple[int, int]]]):
    """The keys (epoch, image) of every step, epoch after epoch: one loader for the whole run."""

    def __init__(self, images: int, *, batch_size: int, seed: int, epochs: int, least_steps: int = 1) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.per_epoch = len(batches(images, batch_size, seed, 0))
        self.epochs = max(epochs, ceil(least_steps / self.per_epoch))

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.epochs):
            for part in batches(self.images, self.batch_size, self.seed, epoch):
                yield [(epoch, i) for i in part.tolist()]

    def images_after(self, step: int) -> int:
        epoch, inside = divmod(step, self.per_epoch)
        return epoch * self.images + inside * self.batch_size


class TrainingViews(Dataset):
    """[epoch, i] -> (uint8 [3, S, S], i): a random crop, perhaps mirrored, the same whoever computes it."""

    def __init__(
        self, images: Images, size: int, *, crop: tuple[float, float], flip: float = 0.5, seed: int = 0
    ) -> None:
        self.images, self.seed = images, seed
        cut = v2.RandomResizedCrop(size, scale=crop)
        self.view = v2.Compose([cut, v2.RandomHorizontalFlip(flip), v2.PILToTensor()])

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, i = key
        image = self.images.load(i)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator of the CPU
            torch.default_generator.manual_seed(_mixed(self.seed, epoch, 1 + i))
            return self.view(image), i


def _mixed(*numbers: int) -> int:
    """64 well-mixed bits of a few numbers >= 0. Trailing zeros do not count: (1, 2) and (1, 2, 0) are the same."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def training_loader(views: TrainingViews, order: Order, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        views,
        batch_sampler=order,
        num_workers=loading_processes(workers),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # of the workers' seeds, which nothing here reads: not the global one
    )
