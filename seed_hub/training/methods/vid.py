"""Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835).

    loss = sum over the pairs of maps of
           mean over B, C, H, W of  ( (mu(F_s) - F_t)^2 / sigma_c^2 + log sigma_c^2 ) / 2
    sigma_c^2 = log(1 + exp(a_c)) + 1e-5

mu is a regressor to the teacher's channels (three 1 x 1 convolutions, ReLU between them), a_c a number per channel of the
teacher; both are trained along. The constant log(2 pi) / 2 is left out.

Where we differ from the benchmark: the default needs no labels;
:class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels of the teacher, H W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.method import Task
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}
EPS = 1e-5  # the released code's


@in_full_precision
def vid_loss(
    map_s: Tensor, map_t: Tensor, regressor: Callable[[Tensor], Tensor], log_scale: Tensor
) -> Tensor:
    """((mu(F_s) - F_t)^2 / sigma^2 + log sigma^2) / 2, mean over all B C H W elements.

    Args:
        map_s, map_t: ``[B, C_s, H, W]`` and ``[B, C, H, W]``; the larger is average-pooled to the smaller. The gradient
            reaches the student's, the regressor and ``log_scale``.
        regressor: mu, to the teacher's channels.
        log_scale: a ``[C]``.
    """
    map_s, map_t = pool_alike(map_s, map_t.detach())
    variance = (softplus(log_scale) + EPS).view(1, -1, 1, 1)
    return 0.5 * ((regressor(map_s) - map_t).square() / variance + variance.log()).mean()


def vid_regressor(c_s: int, c_t: int) -> nn.Sequential:
    """mu: ``[B, C_s, H, W]`` -> ``[B, C, H, W]``."""
    return nn.Sequential(
        nn.Conv2d(c_s, c_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(c_t, c_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(c_t, c_t, 1, bias=False),
    )


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of variational information distillation."""

    feature_weight: float = 1.0
    """weight of the likelihood of the teacher's maps (the benchmark's)"""
    maps: int = 3
    """how many of the deepest pairs of maps are compared (the benchmark's networks have three behind the stem)"""
    first_variance: float = 5.0
    """sigma^2 of every channel at the start (the released code's)"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, which trains what lies behind the last map"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Vid(MapDistillation):
    """The teacher's maps under a Gaussian whose mean the student's maps give."""

    Settings = Settings

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        self.regressors = nn.ModuleList(vid_regressor(c_s, c_t) for c_s, c_t in self.channels)
        if settings.first_variance <= EPS:
            raise SeedHubError(f"--first-variance is {settings.first_variance}: it must be above {EPS:g}.")
        start = math.log(math.expm1(settings.first_variance - EPS))  # softplus(start) + eps is the variance
        self.log_scales = nn.ParameterList(torch.full((c_t,), start) for _, c_t in self.channels)

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        every = zip(maps_s, maps_t, self.regressors, self.log_scales, strict=True)
        return {"feature": torch.stack([vid_loss(*each) for each in every]).sum()}
