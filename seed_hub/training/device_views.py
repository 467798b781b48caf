"""Views of a whole batch at once, in float32 on whatever device it lies on: the reference's steps without its rounding.

Workers decode, draw and cut; everything after is batched tensor arithmetic with parameters of each image's own. Which
images a step applies to is known before the batch travels, so nothing on the way waits for the device.

Legend: B images, S side of the view, H x W the largest cut, K images that a step applies to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seed_hub.training.blur_kernel import blur_kernel
from seed_hub.training.view_parameters import ADJUSTMENTS, TRANSFORM_VERSION, ViewParameters
from seed_hub.training.views import ViewsDataset

# What is not rounded to 8 bits is not what `fast_views` makes: an embedding belongs to one of the two.
DEVICE_TRANSFORM_VERSION = f"{TRANSFORM_VERSION}-device"

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Window:
    """The part of a decoded image that one view depends on, in pixels."""

    left: int
    top: int
    width: int
    height: int
    start: tuple[float, float]
    """left and top of the crop, within the window"""
    ratio: tuple[float, float]
    """pixels of the image per pixel of the view, across and down"""
    parameters: ViewParameters


def window_of(parameters: ViewParameters, width: int, height: int, scale: int = 1) -> Window:
    """The crop and what the resize sees around it.

    Args:
        width, height: of the decoded image, a ``scale``-th of the one that was drawn for.
    """
    left, top, across, down = (v / scale for v in parameters.box)
    ratio = across / parameters.size, down / parameters.size
    beyond_x, beyond_y = (math.ceil(max(r, 1.0)) for r in ratio)
    x, y = max(0, math.floor(left) - beyond_x), max(0, math.floor(top) - beyond_y)
    right = min(width, math.ceil(left + across) + beyond_x)
    bottom = min(height, math.ceil(top + down) + beyond_y)
    return Window(x, y, right - x, bottom - y, (left - x, top - y), ratio, parameters)


@dataclass(frozen=True)
class Cut:
    """A window and its pixels: uint8 ``[h, w, 3]``."""

    pixels: np.ndarray
    window: Window


def cut_out(pixels: np.ndarray, parameters: ViewParameters, scale: int = 1) -> Cut:
    """What a view depends on.

    Args:
        pixels: uint8 ``[ceil(H / scale), ceil(W / scale), 3]`` of the image of ``[H, W]`` that was drawn for.
    """
    height, width, _ = pixels.shape
    w = window_of(parameters, width, height, scale)
    return Cut(pixels[w.top : w.top + w.height, w.left : w.left + w.width], w)


@dataclass(frozen=True)
class ViewBatch:
    """B views yet to be made. A few bytes each beside the pixels."""

    pixels: Tensor
    """uint8 ``[B, H, W, 3]``, each cut in the upper left corner"""
    extent: Tensor
    """``[2, B]``: width and height of the cut"""
    start: Tensor
    """``[2, B]``, as ``Window.start``"""
    ratio: Tensor
    """``[2, B]``, as ``Window.ratio``"""
    flip: Tensor
    """bool ``[B]``"""
    blend: Tensor
    """``[4, B, 3]``: of each colour step, the share of the image itself, of its mean luma, and of each pixel's luma"""
    hue_at: tuple[Tensor, ...]
    """four times int64 ``[K]``: the images whose hue is shifted in this step"""
    hue: Tensor
    """``[B]``: share of the circle"""
    grey: Tensor
    """bool ``[B]``"""
    blur_at: Tensor
    """int64 ``[K]``"""
    blur: Tensor
    """``[K, 2 R + 1]``: kernels, padded with zeros"""
    solarise: Tensor
    """bool ``[B]``"""
    size: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ViewBatch:
        return self._with(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ViewBatch:
        """What a ``DataLoader`` asks of its batches."""
        return self._with(Tensor.pin_memory)

    def __len__(self) -> int:
        return len(self.flip)

    def _with(self, change: Callable[[Tensor], Tensor]) -> ViewBatch:
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: change(x) for name, x in held.items() if isinstance(x, Tensor)}
        return replace(self, **changed, hue_at=tuple(change(x) for x in self.hue_at))


def gather(cuts: Sequence[Cut]) -> ViewBatch:
    """One batch of ``cuts`` of one size of view."""
    windows = [cut.window for cut in cuts]
    height, width = max(w.height for w in windows), max(w.width for w in windows)
    pixels = torch.zeros(len(cuts), height, width, 3, dtype=torch.uint8)
    for place, cut in zip(pixels.numpy(), cuts, strict=True):
        place[: cut.window.height, : cut.window.width] = cut.pixels
    return ViewBatch(pixels, **numbers_of(windows))


def numbers_of(windows: Sequence[Window]) -> dict[str, Any]:
    """All that a ``ViewBatch`` of ``windows`` holds beside the pixels."""
    drawn = [window.parameters for window in windows]
    (size,) = {p.size for p in drawn}
    kernels = {i: blur_kernel(p.blur_sigma) for i, p in enumerate(drawn) if p.blur_sigma}
    longest = max(map(len, kernels.values()), default=1)
    blur = [np.pad(kernel, (longest - len(kernel)) // 2) for kernel in kernels.values()]
    steps = range(len(ADJUSTMENTS))
    return {
        "extent": torch.tensor([(float(w.width), float(w.height)) for w in windows]).T.contiguous(),
        "start": torch.tensor([w.start for w in windows]).T.contiguous(),
        "ratio": torch.tensor([w.ratio for w in windows]).T.contiguous(),
        "flip": torch.tensor([p.flip for p in drawn]),
        "blend": torch.tensor([[_blend_shares(p, step) for p in drawn] for step in steps]),
        "hue_at": tuple(_indices([_name(p, step) == "hue" for p in drawn]) for step in steps),
        "hue": torch.tensor([dict(p.colour).get("hue", 0.0) for p in drawn]),
        "grey": torch.tensor([p.grey for p in drawn]),
        "blur_at": torch.tensor(list(kernels), dtype=torch.int64),
        "blur": torch.from_numpy(np.array(blur, dtype=np.float32).reshape(-1, longest)),
        "solarise": torch.tensor([p.solarise for p in drawn]),
        "size": size,
    }


def _name(parameters: ViewParameters, step: int) -> str:
    return parameters.colour[step][0] if step < len(parameters.colour) else ""


def _blend_shares(parameters: ViewParameters, step: int) -> tuple[float, float, float]:
    name = _name(parameters, step)
    if name in ("", "hue"):
        return 1.0, 0.0, 0.0
    factor = parameters.colour[step][1]
    rest = 1 - factor  # what is blended in: black, the mean luma, or the pixel's own
    return factor, rest if name == "contrast" else 0.0, rest if name == "saturation" else 0.0


def _indices(which: list[bool]) -> Tensor:
    return torch.tensor([i for i, true in enumerate(which) if true], dtype=torch.int64)


@torch.no_grad()
def make_views(batch: ViewBatch) -> Tensor:
    """The views: float32 in [0, 1], ``[B, 3, S, S]``, on the batch's device."""
    x = _crop(batch)
    for shares, hue_at in zip(batch.blend, batch.hue_at, strict=True):
        own, mean, each = shares.T[:, :, None, None, None]  # [B, 1, 1, 1] each
        luma = _luma(x)
        x = (own * x + mean * luma.mean((2, 3), keepdim=True) + each * luma).clamp_(0, 1)
        if len(hue_at):
            x.index_copy_(0, hue_at, _shift_hue(x[hue_at], batch.hue[hue_at]))
    x = torch.where(batch.grey[:, None, None, None], _luma(x), x)
    if len(batch.blur_at):
        band = _bands(batch.blur, batch.size)[:, None]  # [K, 1, S, S]
        x.index_copy_(0, batch.blur_at, band @ x[batch.blur_at] @ band.mT)
    # 128 of 255 on: in numbers that are not rounded, from 127.5.
    return torch.where(batch.solarise[:, None, None, None] & (x >= 0.5), 1 - x, x)


def _crop(batch: ViewBatch) -> Tensor:
    """Crop, antialiased resize and flip, as two products with a matrix for each image: ``[B, 3, S, S]``."""
    b, h, w, _ = batch.pixels.shape
    wide = _resize_weights(batch, 0, w)  # [B, S, W]
    wide = torch.where(batch.flip[:, None, None], wide.flip(1), wide)  # mirrored here, a flip costs nothing
    high = _resize_weights(batch, 1, h)  # [B, S, H]
    pixels = batch.pixels.float().div_(255)
    rows = (high @ pixels.reshape(b, h, w * 3)).reshape(b, batch.size, w, 3)
    return rows.permute(0, 3, 1, 2) @ wide.mT[:, None]


def _resize_weights(batch: ViewBatch, axis: int, length: int) -> Tensor:
    """``[B, S, length]``: the share of each source pixel in each pixel of the view, a triangle as wide as two of them
    (of two source pixels where the view is larger), cut off at the image's edge."""
    device = batch.pixels.device
    start, ratio, extent = (v[axis, :, None, None] for v in (batch.start, batch.ratio, batch.extent))
    centre = start + (torch.arange(batch.size, device=device)[:, None] + 0.5) * ratio
    source = torch.arange(length, device=device)
    weights = (1 - (source + 0.5 - centre).abs() / ratio.clamp(min=1)).clamp_(min=0) * (source < extent)
    return weights / weights.sum(2, keepdim=True)


def _luma(x: Tensor) -> Tensor:
    """``[B, 1, S, S]``"""
    red, green, blue = x.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _shift_hue(x: Tensor, share: Tensor) -> Tensor:
    """The hue of ``[K, 3, S, S]`` turned by ``share`` ``[K]`` of the circle; the largest and the smallest channel's
    values stay.

    With V the largest, C = largest - smallest and h the hue in sixths, channel n of (5, 3, 1) is
    V - C max(0, min(1, k, 4 - k)), k = (n + h) mod 6.
    """
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    safe = chroma.clamp(min=1e-12)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * share[:, None, None]
    n = (
        5 - 2 * torch.arange(3, device=x.device)[:, None, None]
    )  # made there: numbers that travel are waited for
    k = torch.remainder(hue[:, None] + n, 6)  # [K, 3, S, S]
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def _bands(kernels: Tensor, size: int) -> Tensor:
    """``[K, 2 R + 1]`` -> ``[K, S, S]``: a blur along one axis as a matrix; the edge's value goes on beyond it."""
    reach = kernels.shape[1] // 2
    place = torch.arange(size, device=kernels.device)
    offset = place - place[:, None]  # [S, S]
    band = kernels[:, (offset + reach).clamp(0, 2 * reach)] * (offset.abs() <= reach)
    tails = kernels.cumsum(1)  # of the taps up to each; all that lie beyond an edge are added to it
    beyond = torch.where(place < reach, tails[:, (reach - 1 - place).clamp(min=0)], 0.0)  # [K, S]
    band[:, :, 0] += beyond
    band[:, :, -1] += beyond.flip(1)
    return band


class CutsDataset(ViewsDataset):
    """``dataset[index, epoch]`` -> (V cuts, index, label or -1): what ``ViewsDataset`` makes views of."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[list[Cut], int, int]:  # type: ignore[override]
        index, epoch = key
        with self.images.open(index) as image:
            drawn = self.draw(index, epoch, image.width, image.height)
            cuts = []
            for parameters in drawn:
                pixels, scale = image.pixels(parameters.coarsest)
                cuts.append(cut_out(pixels, parameters, scale))
        return cuts, index, self.label(index)


def collate_cuts(items: list[tuple[list[Cut], int, int]]) -> tuple[list[ViewBatch], Tensor, Tensor]:
    """Of a ``DataLoader`` over ``CutsDataset``: (V batches, indices ``[B]``, labels ``[B]``)."""
    cuts, index, labels = zip(*items, strict=True)
    return [gather(of_view) for of_view in zip(*cuts, strict=True)], torch.tensor(index), torch.tensor(labels)
