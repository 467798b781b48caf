"""Similarity-preserving distillation (Tung and Mori, ICCV 2019, arXiv 1907.09682).

    G(F) = F F^T, each row divided by its norm;  F [B, D]
    loss = || G(F_s) - G(F_t) ||^2 / B^2

Where we differ from the benchmark: the method compares pooled embeddings (there: the last maps, flattened; `sp_loss`
takes either), and its default needs no labels. The batch is that of all processes.

Legend: B batch, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from seed_hub.encoder import Features
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_with_gradient

PRESETS = {"benchmark": {"ce_weight": 1.0}}


@in_full_precision
def sp_loss(map_s: Tensor, map_t: Tensor) -> Tensor:
    """Mean square of G(F_s) - G(F_t) over the B x B pairs of images.

    Args:
        map_s, map_t: ``[B, ...]``, flattened here: embeddings or maps, of any shapes. The gradient reaches the
            student's only.
    """
    return mse_loss(_similarity(map_s), _similarity(map_t.detach()))


def _similarity(x: Tensor) -> Tensor:
    """G: ``[B, ...]`` -> ``[B, B]``."""
    flat = x.flatten(1)
    return normalize(flat @ flat.T, dim=1)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of similarity-preserving distillation."""

    feature_weight: float = 3000.0
    """weight of the similarity loss (the benchmark's)"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Sp(LabelledDistillation):
    """How alike the images of a batch are to the student, against how alike they are to the teacher."""

    Settings = Settings

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        f_s = gather_with_gradient(student.pooled)  # [W B, D]
        f_t = gather_with_gradient(batch.teacher[0].embedding)
        return {"feature": sp_loss(f_s, f_t)}
