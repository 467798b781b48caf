"""Views of images with their masks: one geometry for both.

Everything follows from (seed, epoch, image): the number of worker processes changes nothing.

Legend: B batch, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2.functional import (
    center_crop,
    horizontal_flip,
    pil_to_tensor,
    resize,
    resized_crop,
)

from seed_hub.data.center import center_pixels
from seed_hub.data.masks import Masks
from seed_hub.machine import loading_processes

RATIO = [3 / 4, 4 / 3]  # width / height of a random crop: torchvision's


class MaskedViews(Dataset):
    """[epoch, i] -> (uint8 ``[3, S, S]``, uint8 ``[S, S]``): a view of image i, bilinear, and of its mask, by nearest pixel.

    The centre square (short side scaled to S), or a random crop of at least ``crop_min`` of the area, if that is below 1;
    mirrored with probability ``flip``. The mask goes through Pillow, whose nearest pixel is the middle one of those that
    become one: torchvision's, of tensors, is the upper left one, up to half a pixel of the view beside the image.
    """

    def __init__(
        self, masks: Masks, size: int, *, crop_min: float = 1.0, flip: float = 0.0, seed: int = 0
    ) -> None:
        self.masks, self.size, self.crop_min, self.flip, self.seed = masks, size, crop_min, flip, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = key
        image, mask = self.masks.images.load(i), Image.fromarray(self.masks.load(i))
        side = [self.size, self.size]
        state = np.random.SeedSequence((self.seed, epoch, 1 + i)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator of the CPU
            torch.default_generator.manual_seed(int(state[0]))
            mirrored = bool(torch.rand(()) < self.flip)
            if self.crop_min < 1:
                box = RandomResizedCrop.get_params(image, [self.crop_min, 1.0], RATIO)
                pixels = pil_to_tensor(resized_crop(image, *box, side))
                mask = resized_crop(mask, *box, side, InterpolationMode.NEAREST)
            else:
                pixels = center_pixels(image, self.size)
                mask = center_crop(resize(mask, [self.size], InterpolationMode.NEAREST), side)
        labels = pil_to_tensor(mask)[0]
        return (horizontal_flip(pixels), horizontal_flip(labels)) if mirrored else (pixels, labels)


def masked_batches(
    views: MaskedViews, steps: list[list[tuple[int, int]]], workers: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(uint8 ``[B, 3, S, S]``, int64 ``[B, S, S]``) of the keys of each step, on ``device``."""
    loader = DataLoader(
        views,
        batch_sampler=steps,
        num_workers=loading_processes(workers),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # of the workers' seeds, which nothing here reads: not the global one
    )
    for pixels, labels in loader:
        yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True).long()
