"""Pixels to try a network on: the user's images, or noise with the spectrum of photographs.

Legend: N images, S side in pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seed_hub.data import Images
from seed_hub.data.center import center_pixels


def image_pixels(images: Images, size: int) -> Tensor:
    """The centre view that evaluation uses: uint8 ``[N, 3, S, S]``."""
    return torch.stack([center_pixels(images.load(i), size) for i in range(len(images))])


def natural_pixels(count: int, size: int, seed: int = 0) -> Tensor:
    """uint8 ``[N, 3, S, S]`` whose amplitude falls as 1 / frequency, as that of photographs does (Field 1987).

    White noise would show a network nothing that it knows, and all its embeddings would be alike.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf  # no mean: it is added below
    white = rng.normal(size=(count, 3, size, size))
    white[:, 1:] = 0.8 * white[:, :1] + 0.6 * white[:, 1:]  # channels of a photograph go together
    pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, s=(size, size))
    pink /= pink.std(axis=(1, 2, 3), keepdims=True)
    mean, contrast = rng.uniform(0.3, 0.6, (count, 3, 1, 1)), rng.uniform(0.1, 0.3, (count, 1, 1, 1))
    return torch.from_numpy((255 * (mean + contrast * pink)).round().clip(0, 255).astype(np.uint8))
