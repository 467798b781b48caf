"""A small data set that lives whole on the GPU: a raw packed store, copied there once.

Loading processes draw a view's numbers and read no pixel; the cuts that ``device_views.gather`` would carry are taken on
the device instead, and come out the same bit for bit.

Legend: B images of a batch, H x W its largest cut, N images in all, P pixels of the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.data.packed import PackedStore
from seed_hub.data.streamed import Stream
from seed_hub.training.device_views import ViewBatch, Window, numbers_of, window_of
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_loading import made_on_device
from seed_hub.training.views import ViewsDataset, ViewSettings

BLOCK = 2**26  # bytes that are copied at a time


def images_that_fit(
    images: Images | Stream, settings: RunSettings, device: torch.device, free: int | None = None
) -> Images | None:
    """``images`` if they can live on ``device``: of a raw packed store, with views made there, that takes at most half of
    what is free, since the rest is for training; else None.

    Args:
        free: bytes; None: as the device says.
    """
    if not (isinstance(images, Images) and isinstance(images.store, PackedStore) and images.store.raw):
        return None
    if not made_on_device(settings, device):
        return None
    free = _free_memory(device) if free is None else free
    return images if 2 * images.store.bytes <= free else None


def _free_memory(device: torch.device) -> int:
    """Bytes; 0 for what is no memory of its own, or does not say."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def copy_pixels(store: PackedStore, device: torch.device) -> Tensor:
    """All of a raw store: uint8 ``[P, 3]`` on ``device``."""
    pixels = torch.empty(store.bytes, dtype=torch.uint8, device=device)
    start = 0
    for block in store.blocks(BLOCK):
        writable = torch.from_numpy(block.copy())  # torch warns of what it may not write to
        pixels[start : start + len(block)] = writable
        start += len(block)
    return pixels.view(-1, 3)


@dataclass(frozen=True)
class ResidentBatch(ViewBatch):
    """A ``ViewBatch`` whose ``pixels`` are those of the whole store, ``[P, 3]``; none on the way out of a loading process."""

    first: Tensor
    """int64 ``[B]``: the pixel of the store in the upper left corner of each cut"""
    stride: Tensor
    """int64 ``[B]``: width of the image that it is cut from"""
    height: int
    """H"""
    width: int
    """W; both are known before the batch travels, so nothing waits for the device"""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ViewBatch:
        """With the cuts alone."""
        moved = cast(ResidentBatch, super().to(device, non_blocking))
        numbers = {f.name: getattr(moved, f.name) for f in fields(ViewBatch) if f.name != "pixels"}
        return ViewBatch(moved._cuts(), **numbers)

    def _cuts(self) -> Tensor:
        """uint8 ``[B, H, W, 3]``; beyond a cut its last row and column go on, which has no weight in any view."""
        width, height = self.extent.long()[:, :, None]  # [B, 1] each
        row = torch.arange(self.height, device=height.device).minimum(height - 1)  # [B, H]
        column = torch.arange(self.width, device=width.device).minimum(width - 1)  # [B, W]
        begin = self.first[:, None] + row * self.stride[:, None]
        return self.pixels[begin[:, :, None] + column[:, None]]


class ResidentDataset(ViewsDataset):
    """``dataset[index, epoch]`` -> (V windows, (first pixel, width) of the image, index, label or -1)."""

    def __init__(self, images: Images, views: list[ViewSettings], seed: int) -> None:
        super().__init__(images, views, seed)
        layout = cast(PackedStore, images.store).layout()
        self.layout = layout[:, images.original_index]  # [3, N], of a subset as of all

    def __getitem__(  # type: ignore[override]
        self, key: tuple[int, int]
    ) -> tuple[list[Window], tuple[int, int], int, int]:
        index, epoch = key
        first, height, width = self.layout[:, index].tolist()
        windows = [window_of(drawn, width, height) for drawn in self.draw(index, epoch, width, height)]
        return windows, (first, width), index, self.label(index)


def collate_windows(
    items: list[tuple[list[Window], tuple[int, int], int, int]],
) -> tuple[list[ResidentBatch], Tensor, Tensor]:
    """Of a ``DataLoader`` over ``ResidentDataset``: (V batches without pixels, indices ``[B]``, labels ``[B]``)."""
    windows, places, index, labels = zip(*items, strict=True)
    views = [_batch(of_view, places) for of_view in zip(*windows, strict=True)]
    return views, torch.tensor(index), torch.tensor(labels)


def _batch(windows: Sequence[Window], places: Sequence[tuple[int, int]]) -> ResidentBatch:
    corners = [first + w.top * width + w.left for w, (first, width) in zip(windows, places, strict=True)]
    return ResidentBatch(
        pixels=torch.empty(0, 3, dtype=torch.uint8),
        **numbers_of(windows),
        first=torch.tensor(corners),
        stride=torch.tensor([width for _, width in places]),
        height=max(w.height for w in windows),
        width=max(w.width for w in windows),
    )


class ResidentLoader(DataLoader):
    """What a ``DataLoader`` over ``CutsDataset`` gives, of pixels that are on ``device`` already.

    Args:
        images: of a raw packed store, which is copied at once.
        options: of a ``DataLoader``.
    """

    def __init__(
        self, images: Images, views: list[ViewSettings], seed: int, device: torch.device, **options: Any
    ) -> None:
        super().__init__(ResidentDataset(images, views, seed), collate_fn=collate_windows, **options)
        self.pixels = copy_pixels(cast(PackedStore, images.store), device)

    def __iter__(self) -> Iterator[tuple[list[ViewBatch], Tensor, Tensor]]:  # type: ignore[override]
        for views, index, labels in super().__iter__():
            yield [replace(view, pixels=self.pixels) for view in views], index, labels
