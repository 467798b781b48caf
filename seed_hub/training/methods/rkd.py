"""Relational knowledge distillation (Park et al., CVPR 2019, arXiv 1904.05068).

    d_ij  = || f_i - f_j || / mean of the non-zero || f_i - f_j ||
    a_ijk = cos of the angle at f_i between f_j and f_k
    loss  = 25 mean_ij l(d_s - d_t) + 50 mean_ijk l(a_s - a_t),   l(x) = x^2 / 2 for |x| < 1, else |x| - 1/2

Where we differ from the benchmark: the default needs no labels. The batch is that of all processes.

Legend: B batch, D width, W processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from seed_hub.encoder import Features
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_with_gradient

PRESETS = {"benchmark": {"ce_weight": 1.0}}


@in_full_precision
def rkd_loss(
    feat_s: Tensor, feat_t: Tensor, *, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """25 l(distances) + 50 l(angles), means over all B^2 pairs and B^3 triples; takes memory of B B (B + D).

    Args:
        feat_s, feat_t: ``[B, D]`` and ``[B, D']``; the gradient reaches the student's only.
    """
    feat_t = feat_t.detach()
    distance = smooth_l1_loss(_distances(feat_s), _distances(feat_t))
    angle = smooth_l1_loss(_angles(feat_s), _angles(feat_t))
    return distance_weight * distance + angle_weight * angle


def _distances(x: Tensor) -> Tensor:
    """d: ``[B, D]`` -> ``[B, B]``."""
    # By differences: squared norms minus products cancel for the nearly equal embeddings of an untrained student.
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return d / (d.sum() / (d > 0).sum().clamp_min(1)).clamp_min(1e-12)


def _angles(x: Tensor) -> Tensor:
    """a: ``[B, D]`` -> ``[B, B, B]``; 0 where two of the three are one."""
    e = normalize(x[None] - x[:, None], dim=2)  # [B, B, D]: from i to j
    return e @ e.transpose(1, 2)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of relational distillation."""

    feature_weight: float = 1.0
    """weight of the two relational losses together (the benchmark's)"""
    distances: float = 25.0
    """weight of the distances among them (the paper's)"""
    angles: float = 50.0
    """weight of the angles among them (the paper's)"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Rkd(LabelledDistillation):
    """Distances and angles between the student's embeddings of a batch, against the teacher's."""

    Settings = Settings

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        f_s = gather_with_gradient(student.pooled)  # [W B, D]
        f_t = gather_with_gradient(batch.teacher[0].embedding)
        weights = {"distance_weight": self.settings.distances, "angle_weight": self.settings.angles}
        return {"feature": rkd_loss(f_s, f_t, **weights)}
