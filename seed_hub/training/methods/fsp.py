"""Flow of solution procedure (Yim et al., CVPR 2017).

    G_i  = mean over H W of F_i F_i+1^T      [C_i, C_i+1], the larger of the two maps pooled to the smaller
    loss = sum over neighbouring maps i of  mean over B, C_i, C_i+1 of (G_i(s) - G_i(t))^2

It initialises: alone for the first share of the run, 30 of 240 epochs, then the other terms alone.

Where we differ from the benchmark: where the channels of a pair differ, the student's map goes through a 1 x 1
convolution, trained along (there: such networks cannot be compared); the first stage is part of the run (there: before
it). The default needs no labels; :class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.method import Task
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def fsp_loss(maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """Mean square of G(s) - G(t) over B C_i C_i+1 elements, sum over neighbouring maps.

    Args:
        maps_s, maps_t: two or more ``[B, C_i, H, W]`` each, shallow to deep; channels must agree, sizes need not. The
            gradient reaches the student's only. Takes memory of B C_i C_i+1.
    """
    flows = zip(_flows(maps_s), _flows([map_t.detach() for map_t in maps_t]), strict=True)
    return torch.stack([mse_loss(s, t) for s, t in flows]).sum()


def _flows(maps: list[Tensor]) -> list[Tensor]:
    """G_i ``[B, C_i, C_i+1]`` of each map and the next."""
    flows = []
    for shallow, deep in itertools.pairwise(maps):
        a, b = (x.flatten(2) for x in pool_alike(shallow, deep))  # [B, C, H W]
        flows.append(a @ b.transpose(1, 2) / a.shape[2])
    return flows


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of the flow of solution procedure."""

    feature_weight: float = 50.0
    """weight of the flow loss in the first stage (the benchmark's)"""
    first_stage: float = 0.125
    """share of the run that the flow loss has to itself, before the other terms (the benchmark's 30 of 240 epochs)"""
    maps: int = 4
    """how many of the deepest pairs of maps are compared, 2 or more (the benchmark's networks have four with the stem)"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, after the first stage"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Fsp(MapDistillation):
    """First how the teacher's maps turn into one another, then its embedding or the labels."""

    Settings = Settings
    own_first = True

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        if len(self.pairs) < 2:
            raise SeedHubError(
                f"The method fsp compares neighbouring maps and has {len(self.pairs)}: set --maps to 2 or more, or name "
                "networks with more stages."
            )
        self.regressors = nn.ModuleList(
            nn.Identity() if c_s == c_t else nn.Conv2d(c_s, c_t, 1, bias=False) for c_s, c_t in self.channels
        )

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        regressed = [regress(map_s) for regress, map_s in zip(self.regressors, maps_s, strict=True)]
        return {"feature": fsp_loss(regressed, maps_t)}
