"""Three images made by arithmetic, and what a network says of them: whether a weight arrived is then one comparison.

Whole numbers only, and no generator of random ones: the same pixels on every machine and in every version.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seed_hub.encoder import Encoder, Frozen

GOLDEN, KEY = "golden.safetensors", "embeddings"
LEAST_SIDE = 16  # in pixels: the smallest checks are an eighth of it


def golden_images(side: int) -> Tensor:
    """``[3, 3, side, side]`` in [0, 1], multiples of 1/255: ramps, checks of three sizes, and rings.

    Args:
        side: in pixels, :data:`LEAST_SIDE` or more.
    """
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y = right * 255 // (side - 1), down * 255 // (side - 1)
    ramps = torch.stack([x, y, 255 - (x + y) // 2])
    checks = torch.stack([255 * ((right * n // side + down * n // side) % 2) for n in (2, 4, 8)])
    squared = (x - 127) ** 2 + (y - 127) ** 2  # 0 to 32,768 whatever the side
    rings = torch.stack([squared // n % 256 for n in (128, 32, 8)])
    return torch.stack([ramps, checks, rings]).float() / 255


def golden_embeddings(encoder: Encoder) -> Tensor:
    """``[3, D]`` float32: what ``encoder`` makes of :func:`golden_images` at its own input size, pooled."""
    return Frozen(encoder)(
        golden_images(encoder.input_size)
    ).pooled.contiguous()  # of a ViT, a slice of its tokens
