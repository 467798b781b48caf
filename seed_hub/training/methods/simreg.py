"""SimReg: regression of the teacher's features (Navaneet et al., BMVC 2021, arXiv 2201.05131).

    loss = mean over the batch of  || g(f_s) / |g(f_s)| - z_t / |z_t| ||^2  =  2 - 2 cos(g(f_s), z_t)

f_s are the student's features, g a deep MLP with batch norm that only training needs: the deeper it is, the better the
features below it, and the student that is used is the one without it. Teacher and student see the same weakly augmented
view: a crop and a flip. Of several teachers each has an MLP of its own, and their losses are averaged.

Where we differ: what is regressed is the teacher's embedding, its pooled features unless it carries a projection head;
all hidden layers of the MLP have one width.

Legend: B batch, D width of the teacher's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder
from seed_hub.projection import projection_head
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.views import ViewSettings


@in_full_precision
def simreg_loss(z_s: Tensor, z_t: Tensor) -> Tensor:
    """Squared distance of the directions, sum over the D coordinates, mean over the batch: from 0 to 4.

    Args:
        z_s, z_t: what the student's MLP predicts and what the teacher says ``[B, D]``, normalised here; the gradient
            reaches ``z_s`` only.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    gap = normalize(z_s, dim=1) - normalize(z_t.detach(), dim=1)  # [B, D]
    return gap.square().sum(dim=1).mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of SimReg."""

    head_layers: int = 4
    """linear layers in the student's MLP; 1: a linear map"""
    hidden_width: int = 2048
    """width of its hidden layers; 0: as wide as the student's features"""
    batch_norm: bool = True
    """batch norm after each of its hidden layers"""
    weak_views: bool = True
    """crops and flips only; false: colours and sharpness change too, as in the contrastive methods"""


class Simreg(Method):
    """Student trunk and a deep MLP, straight to the teacher's embedding."""

    Settings = Settings
    takes_teachers = True
    head: nn.Sequential
    more_heads: Any  # a ModuleList, whose items' types torch does not carry

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        heads = [
            projection_head(
                student.width, hidden, teacher.embedding, settings.head_layers, batch_norm=settings.batch_norm
            )
            for teacher in task.teachers
        ]
        self.head = heads[0]
        self.more_heads = nn.ModuleList(heads[1:])

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        weak = replace(whole, jitter_p=0.0, grey_p=0.0, blur_p=0.0)
        return [weak if self.settings.weak_views else whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        pooled = self.student(batch.views[0]).pooled
        losses = [
            simreg_loss(head(pooled), said[0].embedding)
            for head, said in zip((self.head, *self.more_heads), batch.teachers, strict=True)
        ]
        return {"loss": torch.stack(losses).mean()}
