"""FitNets: hints from an intermediate map (Romero et al., ICLR 2015, arXiv 1412.6550).

    loss = mean over B, C, H, W of (r(F_s) - F_t)^2

F_s, F_t are the second-deepest of the paired stages (of three in the benchmark's networks the middle one), r a
regressor to the teacher's channels, trained along.

Where we differ from the benchmark: r is a 1 x 1 convolution and batch norm, and the larger map is average-pooled (there:
a convolution whose kernel and stride make the sizes fit, then ReLU; the maps of ViTs and MobileNets go below zero). The
default needs no labels: :class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from seed_hub.encoder import Encoder
from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.method import Task
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def fitnet_loss(map_s: Tensor, map_t: Tensor) -> Tensor:
    """Mean square of F_s - F_t over all B C H W elements.

    Args:
        map_s, map_t: ``[B, C, H, W]``, the student's after its regressor; the larger is average-pooled to the smaller.
            The gradient reaches the student's only.
    """
    map_s, map_t = pool_alike(map_s, map_t.detach())
    return mse_loss(map_s, map_t)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of FitNets."""

    feature_weight: float = 100.0
    """weight of the hint loss (the benchmark's)"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, which trains what lies behind the last map"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Fitnet(MapDistillation):
    """The student's middle map, through a regressor, against the teacher's."""

    Settings = Settings

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        ((c_s, c_t),) = self.channels
        self.regressor = nn.Sequential(nn.Conv2d(c_s, c_t, 1, bias=False), nn.BatchNorm2d(c_t))

    def choose(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return pairs[-2:][:1]

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        return {"feature": fitnet_loss(self.regressor(maps_s[0]), maps_t[0])}
