"""Photographs to measure with, for who names no data: files as cameras and web sites leave them, not noise, which no
decoder ever sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDES, QUALITY = (500, 375), 95
"""of each file: about ImageNet's mean area and, with this quality, its mean size in bytes"""


def write_photos(folder: Path, n: int, seed: int = 0) -> Path:
    """``n`` JPEG files, cut from scikit-learn's two sample photographs and scaled to :data:`SIDES`; returns ``folder``."""
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        photo = photos[number % len(photos)]
        width = int(rng.integers(photo.width // 2, photo.width))
        height = width * SIDES[1] // SIDES[0]
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, max(1, photo.height - height + 1)))
        cut = photo.resize(
            SIDES,
            Image.Resampling.BICUBIC,
            box=(left, top, left + width, min(top + height, photo.height)),
        )
        cut.save(folder / f"{number:05d}.jpg", quality=QUALITY)
    return folder
