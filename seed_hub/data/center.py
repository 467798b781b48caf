"""The view that evaluation uses: the centre square of an image, nothing random."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from seed_hub.data.images import Images


def center_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """uint8 [3, size, size]: the short side scaled to ``size`` (bilinear, antialiased), then the centre.

    The geometry of torchvision's ``Resize(size)`` and ``CenterCrop(size)`` on a PIL image, and its values to
    within one grey level; but only the pixels that are kept get computed, so that a panorama costs no more
    than a square.
    """
    width, height = image.size
    short = min(width, height)
    # Size after scaling; the long side is rounded down, as torchvision does.
    scaled = (int(size * width / short), int(size * height / short))
    corner = [round((side - size) / 2) for side in scaled]
    grain = (width / scaled[0], height / scaled[1])  # source pixels per pixel of the result
    box = (
        corner[0] * grain[0],
        corner[1] * grain[1],
        min(width, (corner[0] + size) * grain[0]),
        min(height, (corner[1] + size) * grain[1]),
    )
    square = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


class CenterViews(Dataset):
    """[i] -> (uint8 [3, size, size], i) for every image, in order."""

    def __init__(self, images: Images, size: int):
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return center_pixels(self.images.load(i), self.size), i
