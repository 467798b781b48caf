"""Perceptual hash: what of a picture survives re-encoding, resizing and, known how, mirroring.

    c      = the 64 lowest frequencies, without the mean, of the DCT of the luminance at 32 x 32    (Zauner 2010)
    hash   = [c_i > 0], i = 1..64
    mirror = the hash with each bit of an odd horizontal frequency turned: what the mirrored picture has

A coefficient within the noise of re-encoding has no sign worth comparing. A picture with many of them is *plain*: flat colour, a
soft gradient, one line on white, or symmetric. Hashes of plain pictures say little, and flat ones would all be near
duplicates of each other, so plain pictures are compared by their thumbnail instead, colours included.

Bits are kept as +-1: the Hamming distance of two hashes is (64 - their inner product) / 2, so that hashes are searched
by the same blockwise product as embeddings.

Legend: N images, 64 bits, 8 x 8 cells of 3 colours in a thumbnail.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from seed_hub.data import Images
from seed_hub.errors import SeedHubError
from seed_hub.machine import cores

BITS, SIDE, CELLS = 64, 32, 8
# Saving at quality 50 or at half the size changed coefficients by a deviation of 0.4 to 3.5, on four data sets.
NOISE = 8.0
# A picture with fewer coefficients above the noise is plain: 1 % of tiny ImageNet, 26 % of a data set of textures. A
# symmetric picture, half of whose frequencies vanish, must be.
PLAIN = 48
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as in JPEG
_BLOCK = 256  # images per task: a task per image would cost a gigabyte of futures at a million images
_FREQUENCIES = np.array(
    sorted(((u, v) for u in range(SIDE) for v in range(SIDE) if u + v), key=lambda uv: (sum(uv), uv))[:BITS]
)  # [64, 2], vertical and horizontal


@dataclass(frozen=True)
class Fingerprints:
    """Of N images, in their order."""

    signs: Tensor
    """int8 ``[N, 64]``, +-1"""
    thumbnails: Tensor
    """uint8 ``[N, 8, 8, 3]``"""
    plain: Tensor
    """bool ``[N]``: the hash says too little, the thumbnail is to be compared"""

    def mirrored(self) -> Fingerprints:
        """Those of the same images, left and right swapped."""
        turn = torch.from_numpy(1 - 2 * (_FREQUENCIES[:, 1] % 2)).to(torch.int8)
        return Fingerprints(self.signs * turn, self.thumbnails.flip(2), self.plain)


def fingerprints(
    images: Images, *, threads: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Fingerprints:
    """Every image decoded once, whole (no crop), by ``threads`` threads (default: the cores, at most 8)."""
    count = len(images)
    if count == 0:
        raise SeedHubError(f"{images.source} holds no images to compare.")
    blocks = [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    pool = ThreadPoolExecutor(threads or min(8, cores()))  # Pillow decodes outside Python's lock
    found = []
    try:
        for block, part in zip(blocks, pool.map(lambda block: _of(images, block), blocks), strict=True):
            found.append(part)
            if progress:
                progress(block.stop, count)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the rest
    return Fingerprints(
        torch.cat([part.signs for part in found]),
        torch.cat([part.thumbnails for part in found]),
        torch.cat([part.plain for part in found]),
    )


def _of(images: Images, block: range) -> Fingerprints:
    # Bilinear, as Pillow does it, is antialiased: a copy of half the size keeps its bits (with box it lost 13 of 64).
    small = [images.load(i).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for i in block]
    return fingerprints_of(np.stack([np.asarray(each) for each in small]))


def fingerprints_of(small: np.ndarray) -> Fingerprints:
    """uint8 ``[N, 32, 32, 3]`` -> fingerprints of N images."""
    frequencies = dctn(small @ _LUMINANCE, axes=(1, 2), norm="ortho")  # [N, 32, 32]
    c = frequencies[:, _FREQUENCIES[:, 0], _FREQUENCIES[:, 1]]  # [N, 64]
    cells = small.reshape(-1, CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, 3).mean(axis=(2, 4))
    return Fingerprints(
        signs=torch.from_numpy(np.where(c > 0, 1, -1).astype(np.int8)),
        thumbnails=torch.from_numpy(np.rint(cells).astype(np.uint8)),  # [N, 8, 8, 3]
        plain=torch.from_numpy((np.abs(c) > NOISE).sum(axis=1) < PLAIN),
    )
