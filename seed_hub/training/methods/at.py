"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).

    Q(F) = vec(mean_c F_c^2) / || vec(mean_c F_c^2) ||
    loss = sum over the pairs of maps of  mean over B, H W of (Q(F_s) - Q(F_t))^2

Where we differ from the benchmark: the default needs no labels;
:class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def at_loss(maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """Mean square of Q(F_s) - Q(F_t) over B and positions, sum over the pairs.

    Args:
        maps_s, maps_t: lists of ``[B, C, H, W]``; within a pair channels may differ, and the larger map is
            average-pooled to the smaller. The gradient reaches the student's only.
    """
    losses = []
    for map_s, map_t in zip(maps_s, maps_t, strict=True):
        a, b = pool_alike(map_s, map_t.detach())
        losses.append(mse_loss(attention(a), attention(b)))
    return torch.stack(losses).sum()


def attention(feature_map: Tensor) -> Tensor:
    """Q: ``[B, C, H, W]`` -> ``[B, H W]``, rows of norm 1."""
    return normalize(feature_map.square().mean(dim=1).flatten(1), dim=1)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of attention transfer."""

    feature_weight: float = 1000.0
    """weight of the attention loss (the benchmark's)"""
    maps: int = 3
    """how many of the deepest pairs of maps are compared (the benchmark's networks have three behind the stem)"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, which trains what lies behind the last map"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class At(MapDistillation):
    """Where the student's maps are active, against where the teacher's are."""

    Settings = Settings
    needs_positions = True

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        return {"feature": at_loss(maps_s, maps_t)}
