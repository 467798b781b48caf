"""Correlation congruence (Peng et al., ICCV 2019, arXiv 1904.01802), as in the CRD paper's benchmark.

    d_i  = | g(f_s,i) - f_t,i |
    loss = mean over i = 1 .. B - 1 of  sum_k d_i,k d_i+1,k

The benchmark's form of it couples each image with the next of the batch. Several teachers: one g for each, the loss averaged
over them, each in its own features' size.

Where we differ from the benchmark: g goes to the width of the teacher's embedding and the teacher's side is not trained
(there: both are embedded in 128 dimensions, and the cross-entropy keeps the student from the trap: without it, two
trained embeddings agree best on a constant). The default needs no labels. The batch is that of all processes.

Legend: B batch, D width, W processes; g the student's head, linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features
from seed_hub.projection import projection_head
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_with_gradient

PRESETS = {"benchmark": {"ce_weight": 1.0}}


@in_full_precision
def cc_loss(feat_s: Tensor, feat_t: Tensor) -> Tensor:
    """sum_k d_i,k d_i+1,k, mean over the B - 1 neighbours in the batch.

    Args:
        feat_s, feat_t: ``[B, D]`` with B of 2 or more, as they are compared. The gradient reaches both: a caller with a
            fixed teacher passes ``feat_t.detach()``.
    """
    d = (feat_s - feat_t).abs()  # [B, D]
    return (d[:-1] * d[1:]).sum(dim=1).mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of correlation congruence."""

    feature_weight: float = 0.02
    """weight of the congruence loss (the benchmark's)"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Cc(LabelledDistillation):
    """The student's distance to the teacher, coupled over neighbours in the batch."""

    Settings = Settings
    takes_teachers = True
    head: nn.Sequential
    more_heads: Any  # a ModuleList, whose items' types torch does not carry

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        heads = [projection_head(student.width, 0, teacher.embedding, layers=1) for teacher in task.teachers]
        self.head = heads[0]
        self.more_heads = nn.ModuleList(heads[1:])

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for head, said in zip((self.head, *self.more_heads), batch.teachers, strict=True):
            f_s = gather_with_gradient(head(student.pooled))  # [W B, D]
            f_t = gather_with_gradient(said[0].embedding)
            losses.append(cc_loss(f_s, f_t))
        return {"feature": torch.stack(losses).mean()}
