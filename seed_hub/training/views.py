"""Augmented views, as a pure function of (seed, image index, view number): the recipes, and the data set that makes them.

The random numbers of a view are drawn in ``view_parameters``; ``fast_views`` applies them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from seed_hub.data import Images
from seed_hub.training.fast_views import fast_view
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_parameters import (
    TRANSFORM_VERSION,
    ViewGenerator,
    ViewParameters,
    ViewSettings,
    draw_view,
    view_rng,
)

__all__ = [
    "MOCO_V2",
    "TRANSFORM_VERSION",
    "ViewParameters",
    "ViewSettings",
    "ViewsDataset",
    "draw_view",
    "make_view",
    "recipe",
    "view_rng",
    "whole_view",
]

MOCO_V2 = ViewSettings()
"""MoCo v2's recipe: crop 0.2-1, jitter 0.4/0.4/0.4/0.1 at 0.8, grey 0.2, blur at 0.5, flip. The published blur (0.1 to 2
pixels) is for 224 pixels; on a 64 pixel view the same pixels would wipe out three times as much of the picture."""


def recipe(settings: ViewSettings, size: int) -> ViewSettings:
    """``settings`` at another side."""
    return replace(settings, size=size)


def whole_view(settings: RunSettings) -> ViewSettings:
    """The view of a whole image that a run's settings ask for: MoCo v2's recipe unless they say otherwise."""
    return replace(MOCO_V2, size=settings.size, scale=(settings.crop_min, 1.0), flip_p=settings.flip)


def make_view(image: Image.Image, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """One view of an RGB image: uint8 ``[3, S, S]``."""
    return fast_view(np.asarray(image), draw_view(settings, rng, *image.size))


class ViewsDataset(Dataset):
    """``dataset[index, epoch]`` -> (V uint8 views ``[3, S, S]``, index, label or -1).

    View v of epoch e has the view number e * V + v. Each is made from the coarsest decoding that its own crop allows,
    so what one view looks like does not depend on the others of its image.
    """

    def __init__(self, images: Images, views: list[ViewSettings], seed: int) -> None:
        self.images, self.views = images, views
        self._generator = ViewGenerator(seed)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[torch.Tensor], int, int]:
        index, epoch = key
        views = []
        with self.images.open(index) as image:
            for parameters in self.draw(index, epoch, image.width, image.height):
                pixels, scale = image.pixels(parameters.coarsest)
                views.append(torch.from_numpy(fast_view(pixels, parameters, scale)))
        return views, index, self.label(index)

    def draw(self, index: int, epoch: int, width: int, height: int) -> list[ViewParameters]:
        """The V views of an image of ``width`` x ``height`` pixels in one epoch."""
        first = epoch * len(self.views)
        return [
            draw_view(settings, self._generator.at(index, first + v), width, height)
            for v, settings in enumerate(self.views)
        ]

    def label(self, index: int) -> int:
        """-1 where there is none."""
        return -1 if self.images.labels is None else int(self.images.labels[index])
