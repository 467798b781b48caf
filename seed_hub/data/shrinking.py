"""One image as a packed store keeps it: shrunk, then written as JPEG or as raw pixels; many of them, by threads."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from seed_hub.data.decode import MIN_SIDE
from seed_hub.data.images import Images
from seed_hub.data.packed import FORMATS
from seed_hub.errors import SeedHubError, nearest

AHEAD = 4  # images in memory for each thread: one is slow, the others need not wait for it


@dataclass(frozen=True)
class Recipe:
    """What is kept of an image, and how.

    Raises:
        SeedHubError: a value that cannot be.
    """

    side: int
    """px of the short side; a smaller image stays as it is; 0: all do"""
    format: str
    """jpeg or raw"""
    quality: int | None
    """of JPEG, 1 to 100; None for raw"""
    shard_mb: int
    """10^6 bytes after which a shard is closed"""

    def __post_init__(self) -> None:
        if self.side and self.side < MIN_SIDE:
            raise SeedHubError(
                f"--side {self.side} is below {MIN_SIDE} px: give more, or 0 to keep every size."
            )
        if self.format not in FORMATS:
            raise SeedHubError(
                f'There is no --format "{self.format}": choose one of {", ".join(FORMATS)}.'
                + nearest(self.format, FORMATS)
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise SeedHubError(f"--quality is between 1 and 100, not {self.quality}.")
        if self.shard_mb < 1:
            raise SeedHubError(f"--shard-mb is 1 or more, not {self.shard_mb}.")


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with ``side`` px on its short side, antialiased; as it is if that is not smaller, or ``side`` is 0."""
    short = min(image.size)
    if not side or short <= side:
        return image
    width, height = (max(side, round(length * side / short)) for length in image.size)
    # Of Pillow's filters the one whose 224 px crops came closest to those of the original photographs (480 px):
    # 0.41/255 apart on average; bicubic 0.43, bilinear 0.51, box 0.74.
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


class Packed(NamedTuple):
    """An image as it is stored: its JPEG, or its pixels row by row; px; its name in UTF-8."""

    data: bytes
    height: int
    width: int
    name: bytes


def _pack_one(images: Images, i: int, recipe: Recipe) -> Packed:
    image = shrink(images.load(i), recipe.side)
    name = images.name(i).encode("utf-8", "surrogateescape")
    if recipe.format == "raw":
        return Packed(image.tobytes(), image.height, image.width, name)
    file = io.BytesIO()
    try:
        # A comment of the original would be copied.
        image.save(file, "JPEG", quality=recipe.quality, comment=b"")
    except (OSError, ValueError) as error:
        raise SeedHubError(
            f'Image "{images.name(i)}" of {images.source}, {image.width} x {image.height} px, cannot be written as JPEG '
            f"({error}): give a --side, or --format raw."
        ) from error
    return Packed(file.getvalue(), image.height, image.width, name)


def pack_all(images: Images, first: int, recipe: Recipe, threads: int) -> Generator[Packed, None, None]:
    """Images from number ``first`` on, in order, made by ``threads`` (Pillow works outside the interpreter's lock), of
    which no more than AHEAD each are in memory."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Packed]] = deque()
    try:
        for i in range(first, len(images)):
            waiting.append(pool.submit(_pack_one, images, i, recipe))
            if len(waiting) >= AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
