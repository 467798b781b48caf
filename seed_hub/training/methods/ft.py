"""Factor transfer (Kim et al., NeurIPS 2018, arXiv 1802.04977).

    q(F) = vec(mean_c F_c^2) / || vec(mean_c F_c^2) ||
    loss = mean over B, H W of | q(translator(F_s)) - q(paraphraser(F_t)) |

on the last pair of maps. The paraphraser, an encoder to half the teacher's channels, is trained first, with a decoder, to
reconstruct F_t (mean square), for the first share of the run, 30 of 240 epochs; then it stays as it is and the translator
is trained with the student.

Where we differ from the benchmark: the first stage is part of the run (there: before it), and the terms that do not need
the paraphraser do not wait for it; the decoder's last layer is linear (the maps of ViTs and MobileNets go below zero).
The default needs no labels; :class:`~seed_hub.training.feature_maps.MapDistillation` says what takes their place.
Encoder and decoder together have about 31.5 C^2 weights: 132 million for a teacher of 2,048 channels.

Legend: B batch, C channels, H W height and width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from seed_hub.encoder import Encoder
from seed_hub.training.feature_maps import MapDistillation, pool_alike
from seed_hub.training.method import Task
from seed_hub.training.methods.at import attention
from seed_hub.training.precision import in_full_precision

PRESETS = {"benchmark": {"ce_weight": 1.0, "embedding_weight": 0.0}}


@in_full_precision
def ft_loss(map_s: Tensor, map_t: Tensor) -> Tensor:
    """Mean of | q(F_s) - q(F_t) | over B and positions.

    Args:
        map_s, map_t: factors ``[B, C, H, W]``; channels may differ, and the larger is average-pooled to the smaller.
            The gradient reaches the student's only.
    """
    map_s, map_t = pool_alike(map_s, map_t.detach())
    return l1_loss(attention(map_s), attention(map_t))


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of factor transfer."""

    feature_weight: float = 200.0
    """weight of the factor loss after the first stage (the benchmark's)"""
    first_stage: float = 0.125
    """share of the run in which the paraphraser is trained (the benchmark's 30 of 240 epochs)"""
    factor: float = 0.5
    """channels of the factors, as a share of the teacher's"""
    embedding_weight: float = 1.0
    """weight of the cosine to the teacher's embedding, which trains what lies behind the last map"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Ft(MapDistillation):
    """The student's translation of its last map, against a paraphrase of the teacher's."""

    Settings = Settings
    needs_positions = True

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        ((c_s, c_t),) = self.channels
        factors = max(1, int(settings.factor * c_t))
        self.paraphraser = _convolutions([c_t, c_t, factors, factors])
        self.decoder = _convolutions([factors, factors, c_t, c_t])[:-1]
        self.translator = _convolutions([c_s, c_s, factors, factors], norm=True)

    def choose(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return pairs[-1:]

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        factor_t = self.paraphraser(maps_t[0])
        return {
            "reconstruction": mse_loss(self.decoder(factor_t).float(), maps_t[0]),
            "feature": ft_loss(self.translator(maps_s[0]), factor_t),
        }

    def weights(self) -> dict[str, float]:
        if self.in_first_stage:
            return super().weights() | {"feature": 0.0, "reconstruction": 1.0}
        return super().weights() | {"reconstruction": 0.0}

    def before_step(self) -> None:
        if (
            not self.in_first_stage
        ):  # their gradients are zeros, but momentum and weight decay would move them
            for parameter in (*self.paraphraser.parameters(), *self.decoder.parameters()):
                parameter.grad = None


def _convolutions(channels: list[int], norm: bool = False) -> nn.Sequential:
    """3 x 3 convolutions from each number of channels to the next, each with leaky ReLU and, if asked, batch norm."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(channels):
        layers += [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
