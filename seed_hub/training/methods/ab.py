"""Activation boundaries (Heo et al., AAAI 2019, arXiv 1811.03233).

    rho(s, t) = (s + m)^2 [s > -m] where t <= 0;   (s - m)^2 [s <= m] where t > 0
    loss      = 3 / 1000 sum over the pairs of maps i = 1 .. n of  2^(i - n)  sum over C, H, W of rho;  mean over the batch

s is the student's map through a connector (1 x 1 convolution and batch norm) to the teacher's channels, t the teacher's
map, m = 1 the margin. It initialises: alone for the first share of the run, 30 of 240 epochs, then the other terms alone.

Where we differ from the benchmark: t is the stage's output, not what comes before its ReLU (t > 0 says the same of both),
and networks without ReLU have a boundary at 0 too; the first stage is part of the run (there: before it). The default
needs no labels; :class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder
from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.method import Task
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def ab_loss(maps_s: list[Tensor], maps_t: list[Tensor], *, margin: float = 1.0) -> Tensor:
    """3 / 1000 sum_i 2^(i - n) rho(s_i, t_i), sum over C H W elements, mean over the batch; the deepest pair weighs 1.

    Args:
        maps_s, maps_t: n ``[B, C, H, W]`` each, shallow to deep, the student's after its connectors; the larger of a
            pair is average-pooled to the smaller. The gradient reaches the student's only.
        margin: m.
    """
    losses = []
    for i, (map_s, map_t) in enumerate(zip(maps_s, maps_t, strict=True), start=1):
        s, t = pool_alike(map_s, map_t.detach())
        rho = torch.where(t > 0, (margin - s).clamp_min(0), (s + margin).clamp_min(0)).square()
        losses.append(2.0 ** (i - len(maps_s)) * rho.sum() / len(s))
    return 3 / 1000 * torch.stack(losses).sum()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of activation boundaries."""

    feature_weight: float = 1.0
    """weight of the boundary loss in the first stage (the benchmark's)"""
    first_stage: float = 0.125
    """share of the run that the boundary loss has to itself, before the other terms (the benchmark's 30 of 240 epochs)"""
    maps: int = 3
    """how many of the deepest pairs of maps are compared (the benchmark's networks have three behind the stem)"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, after the first stage"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Ab(MapDistillation):
    """First the signs of the teacher's activations, then its embedding or the labels."""

    Settings = Settings
    own_first = True

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        self.connectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_s, c_t, 1, bias=False), nn.BatchNorm2d(c_t))
            for c_s, c_t in self.channels
        )

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        connected = [connect(map_s) for connect, map_s in zip(self.connectors, maps_s, strict=True)]
        return {"feature": ab_loss(connected, maps_t)}
