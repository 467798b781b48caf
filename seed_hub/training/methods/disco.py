"""DisCo: distilled contrastive learning (Gao et al., ECCV 2022, arXiv 2104.09124).

    L_co  = - log( exp(q . k+ / tau) / (exp(q . k+ / tau) + sum_j exp(q . k_j / tau)) )        MoCo v2's, see moco.py
    L_dis = || q - t ||^2 + || q' - t' ||^2
    loss  = mean over the batch of  L_co + w L_dis
    theta_k <- m theta_k + (1 - m) theta_q      after each step

q, q' are the student's embeddings of two views of an image, t, t' the teacher's of the same two, k+ that of the
student's moving average of the second; all are unit vectors. The student thus learns by itself and, for each view, has
to say what the teacher says. Its head is wide inside: a narrow one hands little of the teacher's embedding to the
features below it.

Where we differ: MoCo's part is this package's (the other keys of the batch are negatives too, keys are not shuffled, the
queue starts empty; `batch_negatives` off is the published contrast).

Legend: B batch, D width of the teacher's embedding, K queue.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder
from seed_hub.projection import projection_head
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.method import Batch, Method, Task, move_average
from seed_hub.training.methods.moco import info_nce
from seed_hub.training.methods.simreg import simreg_loss
from seed_hub.training.processes import gather_others
from seed_hub.training.views import ViewSettings


def consistency_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_dis: squared distance of student and teacher, sum over views and coordinates, mean over the batch.

    Args:
        student, teacher: one ``[B, D]`` per view, normalised here; the gradient reaches ``student`` only.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    return torch.stack([simreg_loss(q, t) for q, t in zip(student, teacher, strict=True)]).sum()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of DisCo."""

    queue_size: int = 65536
    """K, how many earlier keys are negatives"""
    temperature: float = 0.2
    """tau, softmax temperature of the similarities"""
    key_momentum: float = 0.999
    """m, share of the moving average that is kept at each step"""
    consistency_weight: float = 1.0
    """w, weight of the distance to the teacher; 0: MoCo"""
    hidden_width: int = 2048
    """width of the head's hidden layer; 0: as wide as the student's features"""
    batch_negatives: bool = True
    """the other keys of the batch are negatives too; false: only the queue's"""


class Disco(Method):
    """A student that learns by itself and from the teacher, and a moving average of it for the keys."""

    Settings = Settings
    head: nn.Sequential

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        self.head = projection_head(student.width, hidden, task.teacher.embedding)
        self.key_student = copy.deepcopy(student).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue = FeatureQueue(settings.queue_size, task.teacher.embedding)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole, whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        # One pass per view, not one for both: batch norm sees what MoCo's does.
        q = [self.project(self.student(view).pooled) for view in batch.views]  # [B, D], [B, D]
        with torch.no_grad():
            key = self.key_head(self.key_student(batch.views[1]).pooled)  # [B, D]
        contrast = info_nce(
            q[0],
            key,
            self.queue.get(),
            temperature=self.settings.temperature,
            batch_negatives=self.settings.batch_negatives,
            # The whole batch's, whoever holds them.
            others=gather_others(key) if self.settings.batch_negatives else None,
        )
        consistency = consistency_loss(q, [said.embedding for said in batch.teacher])
        loss = contrast + self.settings.consistency_weight * consistency
        return {"loss": loss, "contrast": contrast, "consistency": consistency, "enqueue": key}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.queue.push(outputs["enqueue"])
        move_average(self.key_student, self.student, self.settings.key_momentum)
        move_average(self.key_head, self.head, self.settings.key_momentum)
