"""Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, arXiv 1803.10837).

    k_ij = (cos(f_i, f_j) + 1) / 2;   p_ij = k_ij / sum_j k_ij
    loss = mean over the B x B pairs of  p_t,ij log( (p_t,ij + eps) / (p_s,ij + eps) )

Where we differ from the benchmark: the default needs no labels. The batch is that of all processes.

Legend: B batch, D width, W processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.encoder import Features
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_with_gradient

PRESETS = {"benchmark": {"ce_weight": 1.0}}
EPS = 1e-7  # the released code's


@in_full_precision
def pkt_loss(feat_s: Tensor, feat_t: Tensor) -> Tensor:
    """p_t log((p_t + eps) / (p_s + eps)), mean over the B x B pairs: KL summed over a row's candidates, divided by B^2.

    Args:
        feat_s, feat_t: ``[B, D]`` and ``[B, D']``; the gradient reaches the student's only.
    """
    p_s, p_t = _affinity(feat_s), _affinity(feat_t.detach())
    return (p_t * ((p_t + EPS) / (p_s + EPS)).log()).mean()


def _affinity(x: Tensor) -> Tensor:
    """p: ``[B, D]`` -> ``[B, B]``, rows that sum to 1."""
    x = normalize(x, dim=1, eps=EPS)
    k = (x @ x.T + 1) / 2
    return k / k.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of probabilistic knowledge transfer."""

    feature_weight: float = 30000.0
    """weight of the divergence (the benchmark's, for a mean over B x B pairs)"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Pkt(LabelledDistillation):
    """The neighbourhoods of a batch as the student sees them, against the teacher's."""

    Settings = Settings

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        f_s = gather_with_gradient(student.pooled)  # [W B, D]
        f_t = gather_with_gradient(batch.teacher[0].embedding)
        return {"feature": pkt_loss(f_s, f_t)}
