"""Where a run's views are made: by the processes that load images, or on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from seed_hub.data import Images
from seed_hub.data.streamed import Stream
from seed_hub.errors import SeedHubError
from seed_hub.training.device_views import (
    DEVICE_TRANSFORM_VERSION,
    CutsDataset,
    ViewBatch,
    collate_cuts,
    make_views,
)
from seed_hub.training.settings import RunSettings
from seed_hub.training.views import TRANSFORM_VERSION, ViewsDataset, ViewSettings

PLACES = ("auto", "cpu", "device")


def made_on_device(settings: RunSettings, device: torch.device) -> bool:
    """Views are made where the networks are: as asked, else on a GPU.

    Raises:
        SeedHubError: the settings name no such place.
    """
    if settings.views_on not in PLACES:
        raise SeedHubError(f'Unknown --views-on "{settings.views_on}": choose {", ".join(PLACES)}.')
    return settings.views_on == "device" or (settings.views_on == "auto" and device.type == "cuda")


def transform_version(settings: RunSettings, device: torch.device) -> str:
    """Of the arithmetic that makes the views: an embedding belongs to one only."""
    return DEVICE_TRANSFORM_VERSION if made_on_device(settings, device) else TRANSFORM_VERSION


def views_dataset(
    images: Images | Stream, views: list[ViewSettings], settings: RunSettings, device: torch.device
) -> tuple[ViewsDataset, Callable[[list[Any]], Any] | None]:
    """What a loader reads, and how it makes batches of it (None: its own way)."""
    opened = cast(Images, images)  # they only open images and ask for labels, which a stream can
    if made_on_device(settings, device):
        return CutsDataset(opened, views, settings.seed), collate_cuts
    return ViewsDataset(opened, views, settings.seed), None


def in_parts(
    views: list[Tensor] | list[ViewBatch], parts: list[slice], device: torch.device
) -> Iterator[list[Tensor]]:
    """The views of each part of a batch, as :func:`on_device` gives them."""
    made = [on_device(view, device) if isinstance(view, ViewBatch) else view for view in views]
    for own in parts:
        yield [view[own] if view.is_floating_point() else on_device(view[own], device) for view in made]


def on_device(view: Tensor | ViewBatch, device: torch.device) -> Tensor:
    """A view of B images as the loader gives it -> ``[B, 3, S, S]``, float in [0, 1], on ``device``."""
    if isinstance(view, ViewBatch):
        return make_views(view.to(device, non_blocking=True)).to(memory_format=torch.channels_last)
    # uint8 travels, a quarter of float32; normalisation is the encoders' business.
    return view.to(device, non_blocking=True).to(memory_format=torch.channels_last).float().div_(255)
