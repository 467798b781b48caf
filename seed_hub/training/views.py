"""Augmented views, as a pure function of (seed, image index, view number).

That is what makes an interrupted run continue exactly, and a cached teacher embedding belong to one crop only: every
random number of a view comes from a counter-based generator (Philox) whose key is the seed and whose counter starts at
(index, view), so it depends on nothing else, in any order, on any process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision.transforms import functional as F

from seed_hub.data import Images
from seed_hub.training.settings import RunSettings


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


MOCO_V2 = ViewSettings()
"""MoCo v2's recipe: crop 0.2-1, jitter 0.4/0.4/0.4/0.1 at 0.8, grey 0.2, blur at 0.5, flip. The published blur (0.1 to 2
pixels) is for 224 pixels; on a 64 pixel view the same pixels would wipe out three times as much of the picture."""


def recipe(settings: ViewSettings, size: int) -> ViewSettings:
    """``settings`` at another side."""
    return replace(settings, size=size)


def whole_view(settings: RunSettings) -> ViewSettings:
    """The view of a whole image that a run's settings ask for: MoCo v2's recipe unless they say otherwise."""
    return replace(MOCO_V2, size=settings.size, scale=(settings.crop_min, 1.0), flip_p=settings.flip)


def view_rng(seed: int, index: int, view: int) -> np.random.Generator:
    """The generator of all random numbers of view ``view`` of image ``index``."""
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, view, index]))


def make_view(image: Image.Image, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """One view of an RGB image: uint8 ``[3, S, S]``.

    Order and arithmetic are those of the published recipes on PIL images (crop, jitter, grey, blur, solarise, flip).
    """
    view = _random_resized_crop(image, settings, rng)
    if rng.random() < settings.jitter_p:
        for adjust, factor in _jitter(settings, rng):
            view = adjust(view, factor)
    if rng.random() < settings.grey_p:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if rng.random() < settings.blur_p:
        sigma = rng.uniform(*settings.blur_sigma) * settings.size / 224
        view = view.filter(ImageFilter.GaussianBlur(sigma))
    if settings.solarize_p and rng.random() < settings.solarize_p:  # no number is drawn for recipes without
        view = F.solarize(view, 128)
    pixels = np.asarray(view).transpose(2, 0, 1)
    if rng.random() < settings.flip_p:
        pixels = pixels[:, :, ::-1]
    return np.ascontiguousarray(pixels)


def _random_resized_crop(image: Image.Image, settings: ViewSettings, rng: np.random.Generator) -> Image.Image:
    """The crop of torchvision's RandomResizedCrop, cut and resized in one antialiased step."""
    left, top, width, height = _crop_box(*image.size, settings, rng)
    box = (left, top, left + width, top + height)
    return image.resize((settings.size, settings.size), Image.Resampling.BILINEAR, box=box)


def _crop_box(
    width: int, height: int, settings: ViewSettings, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, width, height): area uniform in ``scale``, log aspect uniform in ``ratio``; after ten misses the
    largest centred crop whose aspect is within ``ratio``."""
    low, high = math.log(settings.ratio[0]), math.log(settings.ratio[1])
    for _ in range(10):
        area = width * height * rng.uniform(*settings.scale)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h
    w, h = width, height
    if width / height < settings.ratio[0]:
        h = round(width / settings.ratio[0])
    elif width / height > settings.ratio[1]:
        w = round(height * settings.ratio[1])
    return (width - w) // 2, (height - h) // 2, w, h


def _jitter(settings: ViewSettings, rng: np.random.Generator) -> Iterator[tuple]:
    """(function, factor) for each of the four colour changes, in random order."""
    strengths = (settings.brightness, settings.contrast, settings.saturation)
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths] + [
        rng.uniform(-settings.hue, settings.hue)
    ]
    adjusts = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for i in rng.permutation(4):
        yield adjusts[i], factors[i]


class ViewsDataset(Dataset):
    """``dataset[index, epoch]`` -> (V uint8 views ``[3, S, S]``, index, label or -1).

    View v of epoch e has the view number e * V + v.
    """

    def __init__(self, images: Images, views: list[ViewSettings], seed: int) -> None:
        self.images, self.views, self.seed = images, views, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[torch.Tensor], int, int]:
        index, epoch = key
        image = self.images.load(index)
        first = epoch * len(self.views)
        views = [
            torch.from_numpy(make_view(image, settings, view_rng(self.seed, index, first + v)))
            for v, settings in enumerate(self.views)
        ]
        return views, index, -1 if self.images.labels is None else int(self.images.labels[index])
