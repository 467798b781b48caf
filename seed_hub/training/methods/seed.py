"""SEED: self-supervised distillation (Fang et al., ICLR 2021, arXiv 2101.04731).

    p_T(j) = exp(z_t . d_j / tau_t) / sum_{d in D+} exp(z_t . d / tau_t)
    p_S(j) = exp(z_s . d_j / tau_s) / sum_{d in D+} exp(z_s . d / tau_s)
    loss   = mean over the batch of  - sum_j p_T(j) log p_S(j)

D+ = [z_t, d_1 ... d_K]: the image's own teacher embedding and a queue of K earlier ones. Teacher and student see the
same view; the student never enters the queue; then z_t is enqueued.

Where we differ: the teacher temperature is the paper's 0.01 (the released code's 1e-4 makes the target one-hot: preset
``released-code``); the queue starts empty instead of random; the student's head is 2,048 wide (the paper: as wide as
the student's features; 2,048 is worth 2.3 points of ImageNet linear accuracy in an independent re-run): preset ``paper``.

Legend: B batch, D embedding width, K queue; z_s student, z_t teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder
from seed_hub.projection import projection_head
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.views import ViewSettings

PRESETS = {
    "paper": {"hidden_width": 0},
    "released-code": {"hidden_width": 0, "teacher_temperature": 1e-4},
}


def seed_loss(
    z_s: Tensor,
    z_t: Tensor,
    queue: Tensor,
    *,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
) -> Tensor:
    """- sum_j p_T(j) log p_S(j), mean over the batch; candidate 0 is the image's own teacher embedding.

    Args:
        z_s, z_t: student and teacher embeddings ``[B, D]``, normalised here; the gradient reaches ``z_s`` only.
        queue: earlier teacher embeddings ``[K, D]``, normalised here; may be empty.
        student_temperature, teacher_temperature: tau_s, tau_t > 0.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    with torch.autocast(z_s.device.type, enabled=False):
        exact = torch.float64 if z_s.dtype == torch.float64 else torch.float32
        z_s = normalize(z_s.to(exact), dim=1)
        z_t = normalize(z_t.detach().to(exact), dim=1)
        queue = normalize(queue.detach().to(exact), dim=1)
        own = (z_s * z_t).sum(1, keepdim=True)  # [B, 1]
        s = torch.cat([own, z_s @ queue.T], dim=1) / student_temperature  # [B, 1 + K]
        # z_t . z_t = 1 exactly: the teacher's own logit needs no product.
        t = torch.cat([torch.ones_like(own), z_t @ queue.T], dim=1) / teacher_temperature  # [B, 1 + K]
        p_t = t.softmax(dim=1)
        # sum_j p_T = 1, hence - sum_j p_T log p_S = logsumexp(s) - sum_j p_T s.
        return (s.logsumexp(dim=1) - (p_t * s).sum(dim=1)).mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of SEED."""

    queue_size: int = 65536
    """K, how many earlier teacher embeddings each image is compared with"""
    student_temperature: float = 0.2
    """tau_s, softmax temperature of the student's similarities"""
    teacher_temperature: float = 0.01
    """tau_t, softmax temperature of the teacher's similarities"""
    hidden_width: int = 2048
    """width of the student head's hidden layer; 0: as wide as the student's features (the paper's)"""
    head_layers: int = 2
    """linear layers in the student's head"""


class Seed(Method):
    """Student trunk and head against a queue of teacher embeddings."""

    Settings = Settings
    needs_teacher = True

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        self.head = projection_head(student.width, hidden, task.teacher.embedding, settings.head_layers)
        self.queue = FeatureQueue(settings.queue_size, task.teacher.embedding)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z_s = self.project(self.student(batch.views[0]).pooled)  # [B, D]
        z_t = batch.teacher[0].embedding  # [B, D]
        loss = seed_loss(
            z_s,
            z_t,
            self.queue.get(),
            student_temperature=self.settings.student_temperature,
            teacher_temperature=self.settings.teacher_temperature,
        )
        return {"loss": loss, "enqueue": z_t}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.queue.push(outputs["enqueue"])
