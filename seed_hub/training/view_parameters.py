"""What makes one view: every random number of it, drawn from (seed, index, view) before a pixel is touched.

That is what makes an interrupted run continue exactly, and a cached teacher embedding belong to one crop only: the
numbers come from a counter-based generator (Philox) whose key is the seed and whose counter starts at (index, view), so
they depend on nothing else, in any order, on any process. How they are applied is written three times: ``fast_views``
(every day, on the CPU), ``device_views`` (a batch at once, wherever it lies), ``reference_views`` (the published
arithmetic, which the other two are measured against).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Part of the key of every stored embedding. Raise it with any change to the draws below, to `fast_views` or to the
# decoding that alters a single pixel of a view: an embedding of yesterday's pixels is then refused, not trusted.
TRANSFORM_VERSION = "2"

SCALES = (8, 4, 2)
"""the fractions 1/8, 1/4, 1/2 at which a JPEG can be decoded for less than the whole costs"""
ADJUSTMENTS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class ViewSettings:
    """One augmentation recipe. Probabilities p; jitter strengths as in torchvision's ColorJitter."""

    size: int = 224
    """side of the view in pixels"""
    scale: tuple[float, float] = (0.2, 1.0)
    """area of the crop, as a share of the image"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """width / height of the crop"""
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """standard deviation of the Gaussian blur, in pixels of a 224 pixel view; scaled with ``size``"""
    solarize_p: float = 0.0
    """probability that values from 128 of 255 on are inverted"""
    flip_p: float = 0.5


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """One view of one image, in the order in which it is made: crop, colour, grey, blur, solarise, flip."""

    box: tuple[int, int, int, int]
    """left, top, width, height of the crop, in pixels of the whole image"""
    size: int
    """side of the view in pixels"""
    colour: tuple[tuple[str, float], ...]
    """(one of ``ADJUSTMENTS``, factor; the hue's is a share of the circle), in order; empty: left as it is"""
    grey: bool
    blur_sigma: float
    """pixels of the view; 0: not blurred"""
    solarise: bool
    flip: bool

    @property
    def coarsest(self) -> int:
        """The largest s of 8, 4, 2, 1 such that the crop has ``size`` pixels on each side in an image 1/s as large."""
        least = min(self.box[2], self.box[3])
        return next((s for s in SCALES if least >= s * self.size), 1)


def view_rng(seed: int, index: int, view: int) -> np.random.Generator:
    """The generator of all random numbers of view ``view`` of image ``index``."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, view, index]))


class ViewGenerator:
    """``view_rng`` again and again: one generator set back to each view's start, in a fifth of the time."""

    def __init__(self, seed: int) -> None:
        self._rng = view_rng(seed, 0, 0)
        self._start = self._rng.bit_generator.state

    def at(self, index: int, view: int) -> np.random.Generator:
        """The numbers of ``view_rng(seed, index, view)``, until the next call."""
        self._start["state"]["counter"] = np.array((0, 0, view, index), dtype=np.uint64)
        self._rng.bit_generator.state = self._start
        return self._rng


def draw_view(settings: ViewSettings, rng: np.random.Generator, width: int, height: int) -> ViewParameters:
    """A view of an image of ``width`` x ``height`` pixels. The order of the draws is part of what a seed means."""
    box = crop_box(width, height, settings, rng)
    colour = _jitter(settings, rng) if rng.random() < settings.jitter_p else ()
    grey = rng.random() < settings.grey_p
    blurred = rng.random() < settings.blur_p
    sigma = _uniform(rng, *settings.blur_sigma) * settings.size / 224 if blurred else 0.0
    # No number is drawn for recipes without.
    solarise = settings.solarize_p > 0 and rng.random() < settings.solarize_p
    return ViewParameters(box, settings.size, colour, grey, sigma, solarise, rng.random() < settings.flip_p)


def crop_box(
    width: int, height: int, settings: ViewSettings, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, width, height), as torchvision's RandomResizedCrop: area uniform in ``scale``, log aspect uniform in
    ``ratio``; after ten misses the largest centred crop whose aspect is within ``ratio``."""
    low, high = math.log(settings.ratio[0]), math.log(settings.ratio[1])
    for _ in range(10):
        area = width * height * _uniform(rng, *settings.scale)
        aspect = math.exp(_uniform(rng, low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    w, h = width, height
    if width / height < settings.ratio[0]:
        h = round(width / settings.ratio[0])
    elif width / height > settings.ratio[1]:
        w = round(height * settings.ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def _jitter(settings: ViewSettings, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """The four colour changes in random order."""
    ranges = [(max(0.0, 1 - s), 1 + s) for s in (settings.brightness, settings.contrast, settings.saturation)]
    ranges.append((-settings.hue, settings.hue))
    shares = rng.random(4).tolist()  # as four draws of `_uniform`
    factors = [low + (high - low) * share for (low, high), share in zip(ranges, shares, strict=True)]
    return tuple((ADJUSTMENTS[i], factors[i]) for i in rng.permutation(4).tolist())


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """The number of ``rng.uniform``, which takes three times as long."""
    return low + (high - low) * rng.random()
