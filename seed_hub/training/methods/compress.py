"""CompRess: compressing representations (Koohpayegani et al., NeurIPS 2020, arXiv 2010.14713).

    p_T(j) = exp(z_t . a_j / tau) / sum_k exp(z_t . a_k / tau)
    p_S(j) = exp(z_s . b_j / tau) / sum_k exp(z_s . b_k / tau)
    loss   = mean over the batch of  KL(p_T || p_S) = sum_j p_T(j) (log p_T(j) - log p_S(j))

a_j: what the teacher said of the last K images. One queue ("1q"): b = a, and a linear head takes the student's features
to the teacher's width. Two queues ("2q"): b_j is what the student said of the image of a_j when that image was its
turn; nothing has to be as wide as the teacher, and the student has no head. Both sides share one temperature, and an
image is no anchor of its own: there SEED differs.

Where we differ: the queues start empty instead of random (the first step, without an anchor, has loss 0); the student's
queue is filled by the student itself, with the embeddings its loss was computed from; what is compared on the teacher's
side is its embedding, the pooled features unless it carries a projection head.

Legend: B batch, D, E embedding widths of teacher and student (equal with one queue), K anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.projection import projection_head
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.queue_loss import attend, attend_each, log_partition
from seed_hub.training.views import ViewSettings

PRESETS = {"2q": {"queues": 2}}


@in_full_precision
def compress_loss(
    z_s: Tensor, z_t: Tensor, student_anchors: Tensor, teacher_anchors: Tensor, *, temperature: float = 0.04
) -> Tensor:
    """KL(p_T || p_S) over the anchors, sum over the anchors, mean over the batch.

    Args:
        z_s, z_t: student and teacher embeddings ``[B, E]`` and ``[B, D]``, normalised here; the gradient reaches ``z_s``
            only.
        student_anchors, teacher_anchors: ``[K, E]`` and ``[K, D]``, row j of both from one image, normalised here; may
            be empty, and the loss is then 0.
        temperature: tau > 0, of both sides.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.

    Raises:
        SeedHubError: the temperature is not above 0.
    """
    if not len(teacher_anchors):
        return (0 * z_s).sum()
    z_s, z_t = normalize(z_s, dim=1), normalize(z_t.detach(), dim=1)
    if student_anchors is teacher_anchors:
        student, teacher = attend_each((z_s, z_t), teacher_anchors, (temperature, temperature))
        mean_a = mean_b = teacher.expectation  # under p_T
    else:
        student = attend(z_s, student_anchors, temperature)
        teacher = attend(z_t, teacher_anchors, temperature, values=student_anchors)
        mean_a, mean_b = teacher.expectation.split([z_t.shape[1], z_s.shape[1]], dim=1)
    # sum_j p log p = (the mean logit under p_T) - log of p's partition.
    about_t = (z_t * mean_a).sum(dim=1) / temperature - teacher.log_partition  # [B]
    about_s = (z_s * mean_b).sum(dim=1) / temperature - log_partition(z_s, student, temperature)  # [B]
    return (about_t - about_s).mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of CompRess."""

    queue_size: int = 128000
    """K, how many earlier images are anchors"""
    temperature: float = 0.04
    """tau, softmax temperature of the similarities of both sides"""
    queues: int = 1
    """1: the teacher's anchors for both sides, and a head on the student; 2: each side its own anchors, and no head"""
    head_layers: int = 1
    """linear layers in the student's head, with one queue; 1: a linear head (the paper's)"""
    hidden_width: int = 2048
    """width of the head's hidden layers, if it has any; 0: as wide as the student's features"""


class Compress(Method):
    """Student against the teacher's anchors, or against its own."""

    Settings = Settings

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        if settings.queues not in (1, 2):
            raise SeedHubError(f"--queues is {settings.queues}: CompRess has 1 or 2.")
        self.anchors = FeatureQueue(settings.queue_size, task.teacher.embedding)
        self.own_anchors: FeatureQueue | None = None
        if settings.queues == 2:
            self.own_anchors = FeatureQueue(settings.queue_size, task.student.pooled)
        else:
            hidden = settings.hidden_width or student.width
            self.head = projection_head(student.width, hidden, task.teacher.embedding, settings.head_layers)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z_s = self.project(self.student(batch.views[0]).pooled)  # [B, E]
        z_t = batch.teacher[0].embedding  # [B, D]
        anchors = self.anchors.get()
        own = anchors if self.own_anchors is None else self.own_anchors.get()
        loss = compress_loss(z_s, z_t, own, anchors, temperature=self.settings.temperature)
        return {"loss": loss, "enqueue": z_t, "enqueue_own": z_s}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.anchors.push(outputs["enqueue"])
        if self.own_anchors is not None:
            self.own_anchors.push(outputs["enqueue_own"])
