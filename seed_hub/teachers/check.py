"""Is this teacher worth learning from? A look at its weights and at its embeddings of a few images, in seconds.

    effective rank = exp(-sum p_i log p_i),  p = singular values of the centred embeddings / their sum
                                                                                   (Roy and Vetterli 2007)
    flip agreement = share of pairs (x, y) in which x is nearer to its own mirror image than to y's, by cosine

It finds what loading cannot: a network that was loaded in part, that gives no numbers, that says the same of every image,
or whose neighbours are chance. It does not tell a good teacher from a mediocre one: on 16 photographs of textures at 64 px,
MobileNetV2 with ImageNet's labels has an effective rank of 14.4 and a flip agreement of 1.00, and an untrained ResNet-18 7.9
and 0.91.

Legend: N images, D width, S side in pixels.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError

IMAGES = 16
LEAST_IMAGES = 3
LEAST_RANK = 2.0  # below, the images lie on a line: one number says nearly all that the teacher does
DEVIATIONS = 2.0  # a flip agreement this many standard deviations above chance, 1/2, is none
_BATCH = 8


@dataclass(frozen=True)
class Verdict:
    """What was found of a teacher that passed."""

    images: int
    effective_rank: float
    """at most N - 1, and at most D"""
    flip_agreement: float | None
    """0 to 1; None where flips are not asked for"""

    def __str__(self) -> str:
        flips = "" if self.flip_agreement is None else f", flip agreement {self.flip_agreement:.2f}"
        return f"{self.images} images: finite, effective rank {self.effective_rank:.1f}{flips}"


def check_teacher(teacher: Frozen, pixels: Tensor | None = None, *, flips: bool = True) -> Verdict:
    """Look at ``teacher``, and refuse what nobody should learn from.

    Args:
        pixels: ``[N, 3, S, S]`` in [0, 1], float or uint8 in [0, 255], N >= :data:`LEAST_IMAGES`, as the teacher will see them; None:
            :data:`IMAGES` generated ones of its own size.
        flips: mirrored images mean the same; False for data where they do not (digits, text).

    Raises:
        SeedHubError: weights that are not there, infinite or at their initial values; embeddings that are not finite, of
            effective rank below :data:`LEAST_RANK`, or of a flip agreement that may be chance.
    """
    # Generated images have no left and right: only of a user's own may that be the reason.
    reason = "" if pixels is None else ", or left and right differ in these images (train with --flip 0)"
    if pixels is None:
        pixels = generated_images(IMAGES, teacher.input_size)
    if len(pixels) < LEAST_IMAGES:
        raise SeedHubError(
            f"{len(pixels)} images are too few to look at a teacher with: give {LEAST_IMAGES} or more."
        )
    name = f'The teacher "{teacher.name}"'
    _check_weights(teacher, name)
    embeddings, untrained = _embed(teacher, pixels)  # [N, D]
    if untrained:
        raise SeedHubError(
            f"{name} was loaded in part: {len(untrained)} of its normalisation layers have their initial values "
            f"({', '.join(untrained[:3])}); name weights that are complete."
        )
    if not embeddings.isfinite().all():
        raise SeedHubError(
            f"{name} gives embeddings that are not finite numbers: its weights or its normalisation (mean=, std=) are not right."
        )
    rank = effective_rank(embeddings) if _varies(embeddings) else 1.0
    if rank < LEAST_RANK:
        raise SeedHubError(
            f"{name} says nearly the same of {len(pixels)} images (effective rank {rank:.1f}, at least {LEAST_RANK:g} is needed): "
            "its weights or its pooling are not right."
        )
    agreement = None
    if flips:
        agreement = flip_agreement(embeddings, _embed(teacher, pixels.flip(3))[0])
        # The mean of N shares that are uniform between 0 and 1 by chance.
        needed = 0.5 + DEVIATIONS / (12 * len(pixels)) ** 0.5
        if agreement < needed:
            raise SeedHubError(
                f"{name} does not know {len(pixels)} images again when they are mirrored (flip agreement {agreement:.2f}, chance "
                f"reaches {needed:.2f}): its weights, size or normalisation are not right{reason}."
            )
    return Verdict(len(pixels), rank, agreement)


def effective_rank(x: Tensor) -> float:
    """exp of the entropy of the normalised singular values of the centred ``[N, D]`` (Roy and Vetterli, 2007).

    From 1 (all images on one line: collapse) to min(N - 1, D).
    """
    s = torch.linalg.svdvals((x - x.mean(0)).double())
    p = s / s.sum().clamp_min(1e-12)
    return float(torch.exp(-(p * p.clamp_min(1e-12).log()).sum()))


def _varies(embeddings: Tensor) -> bool:
    """More than by what float32 arithmetic leaves of a constant, whose directions would count as a high rank."""
    z = embeddings.double()
    return bool((z - z.mean(0)).norm() > max(z.shape) * torch.finfo(torch.float32).eps * z.norm())


def flip_agreement(embeddings: Tensor, mirrored: Tensor) -> float:
    """Of ``[N, D]`` and ``[N, D]``, 0 to 1: see the top of this file. Ties count half: all alike is chance."""
    similarity = normalize(embeddings.double(), dim=1) @ normalize(mirrored.double(), dim=1).T  # [N, N]
    own = similarity.diagonal()[:, None]
    others = ~torch.eye(len(similarity), dtype=torch.bool)
    return float(((similarity < own).double() + (similarity == own).double() / 2)[others].mean())


def generated_images(count: int, size: int) -> Tensor:
    """``[count, 3, size, size]`` in [0, 1]: random colours on grids from coarse to fine, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        interpolate(torch.rand(count, 3, side, side, generator=generator), (size, size), mode="bilinear")
        * weight
        for side, weight in ((2, 0.4), (5, 0.3), (11, 0.2), (23, 0.1))
    ]
    return torch.stack(layers).sum(0)


def _check_weights(teacher: Frozen, name: str) -> None:
    for key, value in teacher.encoder.backbone.state_dict().items():
        if value.is_meta:
            raise SeedHubError(f"{name} has no value for {key}: its weights were not loaded.")
        if value.is_floating_point() and not value.isfinite().all():
            raise SeedHubError(
                f"{name} has weights that are not finite numbers ({key}): the file is damaged."
            )


def _embed(teacher: Frozen, pixels: Tensor) -> tuple[Tensor, list[str]]:
    """(embeddings ``[N, D]`` in float32, names of the normalisation layers it ran that have their initial values)."""
    device = teacher.encoder.scale.device
    ran: dict[str, nn.Module] = {}
    rows = []
    with ExitStack() as hooks:
        for key, module in teacher.encoder.backbone.named_modules():
            if _is_norm(module):
                handle = module.register_forward_hook(lambda m, _, __, key=key: ran.__setitem__(key, m))
                hooks.callback(handle.remove)
        for part in pixels.split(_BATCH):
            x = part.to(device)
            rows.append(teacher.embed(x if x.is_floating_point() else x.float() / 255).float())
    return torch.cat(rows).cpu(), [key for key, norm in ran.items() if _never_trained(norm)]


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None


def _never_trained(norm: Any) -> bool:
    """Weight all ones and bias all zeros (and running statistics, if any): one training step moves them. A norm without
    a bias is not judged: in low precision its ones may have stayed."""
    bias = getattr(norm, "bias", None)
    if bias is None:
        return False
    mean = getattr(norm, "running_mean", None)
    return bool((norm.weight == 1).all()) and not bias.any() and (mean is None or not mean.any())
