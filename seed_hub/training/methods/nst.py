"""Neuron selectivity transfer (Huang and Wang, 2017, arXiv 1707.01219): maximum mean discrepancy with kernel (a . b)^2.

    f_c  = vec(F_c) / || vec(F_c) ||       channel c as a point on the sphere of its H W positions
    loss = sum over the pairs of maps of  mean over the batch of
           mean_cc' (f_c . f_c')^2 of the teacher + the same of the student - 2 mean_cc' (f_s,c . f_t,c')^2

Computed as || A_s - A_t ||^2, A = sum_c f_c f_c^T / C ``[H W, H W]``: the same number, without the cancellation between
the three means and without matrices of C x C'.

Where we differ from the benchmark: the default needs no labels;
:class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def nst_loss(maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """|| A_s - A_t ||^2, sum over the (H W)^2 elements, mean over the batch, sum over the pairs.

    Args:
        maps_s, maps_t: lists of ``[B, C, H, W]``; within a pair channels may differ, and the larger map is
            average-pooled to the smaller. The gradient reaches the student's only. Takes memory of B (H W)^2.
    """
    losses = []
    for map_s, map_t in zip(maps_s, maps_t, strict=True):
        a, b = pool_alike(map_s, map_t.detach())
        losses.append((_selectivity(a) - _selectivity(b)).square().sum(dim=(1, 2)).mean())
    return torch.stack(losses).sum()


def _selectivity(feature_map: Tensor) -> Tensor:
    """A: ``[B, C, H, W]`` -> ``[B, H W, H W]``."""
    f = normalize(feature_map.flatten(2), dim=2)  # [B, C, H W]
    return f.transpose(1, 2) @ f / f.shape[1]


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of neuron selectivity transfer."""

    feature_weight: float = 50.0
    """weight of the discrepancy (the benchmark's)"""
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


class Nst(MapDistillation):
    """Which positions the student's channels select, against which the teacher's do."""

    Settings = Settings
    needs_positions = True

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        return {"feature": nst_loss(maps_s, maps_t)}
