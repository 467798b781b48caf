"""Features of all images of a data set, once: what every frozen-network protocol starts from.

Legend: N images, B batch, D feature width, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.data.center import CenterViews
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.record import weights_sha256
from seed_hub.machine import loading_processes, resolve_precision
from seed_hub.network_settings import NetworkSettings

KINDS = ("pooled", "projected")
S = TypeVar("S", bound=NetworkSettings)
_remembered: dict[tuple[object, ...], Tensor] | None = None


@contextmanager
def remembered() -> Iterator[None]:
    """Within, the features of the same weights, images and settings are computed once: for several protocols in a row."""
    global _remembered
    before, _remembered = _remembered, {}
    try:
        yield
    finally:
        _remembered = before


def extract(
    encoder: Frozen | Encoder,
    images: Images,
    *,
    size: int = 0,
    batch_size: int = 256,
    workers: int = 0,
    device: str | torch.device = "cpu",
    features: str = "pooled",
    precision: str = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """One centre view of each image through the encoder: float32 ``[N, D]`` on the CPU, row i is image i.

    Args:
        encoder: moved to ``device``, run in eval mode, its modes put back afterwards.
        size: input side in pixels; 0: the encoder's own ``input_size``.
        batch_size: images per forward pass.
        workers: processes that decode; 0: this one does; -1: one less than the cores, at most 8.
        device: a torch device, or "auto" (the accelerator if there is one).
        features: "pooled" (the trunk, what papers probe) or "projected" (behind the projection head).
        precision: "fp32", or "bf16" for autocast (the features are float32 either way).
        progress: called with (images done, images in all).

    Raises:
        SeedHubError: no images, no projection head, or features that are not finite numbers.
    """
    if features not in KINDS:
        raise SeedHubError(f'There are no "{features}" features: choose "pooled" or "projected".')
    if precision not in ("fp32", "bf16"):
        raise SeedHubError(f'There is no precision "{precision}" here: choose "fp32" or "bf16".')
    if len(images) == 0:
        raise SeedHubError(f"{images.source} holds no images to compute features of.")
    device = pick_device(device)
    size = size or encoder.input_size
    key: tuple[object, ...] = ()
    if _remembered is not None:
        key = (weights_sha256(encoder), images.fingerprint, size, device, features, precision)
        if key in _remembered:
            return _remembered[key].clone()
    views = CenterViews(images, size)
    rows, done = torch.empty(0), 0
    with _eval_mode(encoder.to(device)), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
        for pixels, index in _loader(views, batch_size, workers, device):
            found = _forward(
                encoder, pixels.to(device, non_blocking=True), features
            ).cpu()  # [B, D]  CPU-GPU sync
            _check_finite(found, index, encoder, images)
            if not done:
                rows = torch.empty(len(images), found.shape[1])  # [N, D]
            rows[index] = found
            done += len(index)
            if progress:
                progress(done, len(images))
    if _remembered is not None:
        _remembered[key] = rows.clone()
    return rows


def with_precision(settings: S) -> S:
    """``settings`` with fp32 or bf16 for auto: what this machine is fast at, and what a record can say."""
    kind = pick_device(settings.device).type
    return replace(settings, precision=resolve_precision(settings.precision, kind))


def pick_device(device: str | torch.device) -> torch.device:
    """A torch device from its name; "auto" is the accelerator if there is one, else the CPU."""
    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device  # a device that is named right may still not be there
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        *names, last = [f'"{name}"' for name in devices()]
        raise SeedHubError(
            f'There is no device "{device}" here: use {", ".join(names)} or {last}.'
        ) from error


def devices() -> list[str]:
    """The names that :func:`pick_device` takes on this machine: of several accelerators the first has two."""
    if not torch.accelerator.is_available():
        return ["auto", "cpu"]
    kind = torch.accelerator.current_accelerator()
    more = [f"{kind}:{i}" for i in range(1, torch.accelerator.device_count())]
    return ["auto", "cpu", f"{kind}", *more]


def _loader(views: CenterViews, batch_size: int, workers: int, device: torch.device) -> DataLoader:
    return DataLoader(
        views,
        batch_size=batch_size,
        num_workers=loading_processes(workers),
        pin_memory=device.type == "cuda",
        # Its own generator: a loader otherwise draws a seed from the global one, and a training run that
        # measures itself every few epochs would no longer equal one that does not.
        generator=torch.Generator(),
    )


@torch.inference_mode()
def _forward(encoder: Frozen | Encoder, pixels: Tensor, kind: str) -> Tensor:
    """uint8 ``[B, 3, S, S]``, a quarter of the bytes over the bus, -> float32 ``[B, D]``."""
    found = getattr(encoder(pixels.to(memory_format=torch.channels_last).float().div_(255)), kind)
    if found is None:
        raise SeedHubError(f'{encoder.name} has no projection head: ask for its "pooled" features.')
    return found.float()


def _check_finite(found: Tensor, index: Tensor, encoder: Frozen | Encoder, images: Images) -> None:
    bad = ~torch.isfinite(found).all(dim=1)  # [B]
    if bad.any():
        first = int(index[bad][0])
        raise SeedHubError(
            f"{encoder.name} gave features that are not finite numbers for {int(bad.sum())} of {len(index)} images "
            f"(first: image {first} of {images.source}): its weights are damaged or its training diverged, "
            "so take an earlier checkpoint."
        )


@contextmanager
def _eval_mode(encoder: nn.Module) -> Iterator[None]:
    """Eval mode within, each module's own mode afterwards (a student may have frozen parts)."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
