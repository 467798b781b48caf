"""SEED: self-supervised distillation (Fang et al., ICLR 2021, arXiv 2101.04731).

    p_T(j) = exp(z_t . d_j / tau_t) / sum_{d in D+} exp(z_t . d / tau_t)
    p_S(j) = exp(z_s . d_j / tau_s) / sum_{d in D+} exp(z_s . d / tau_s)
    loss   = mean over the batch of  - sum_j p_T(j) log p_S(j)

D+ = [z_t, d_1 ... d_K]: the image's own teacher embedding and a queue of K earlier ones. Teacher and student see the
same view; the student never enters the queue; then z_t is enqueued.

Small patches (the paper's longest runs): besides the whole view, P small crops of each image, which teacher and student
both see and which are compared with a queue of their own, into which one patch of each image goes. The two losses are
added, the patches' averaged over patches. Symmetric: two whole views, the loss averaged over them. Several teachers:
one head and one queue (two, with patches) for each, the loss averaged over teachers.

Where we differ: the teacher temperature is the paper's 0.01 (the released code's 1e-4 makes the target one-hot: preset
``released-code``); the queue starts empty and grows, so that no step contrasts against random rows; the student's head
is 2,048 wide (the paper: as wide as the student's features; 2,048 is worth 2.3 points of ImageNet linear accuracy in an
independent re-run): preset ``paper``. The released small-patch code does not normalise the teacher's embeddings, which
is harmless for its SwAV teachers only; here everything is normalised in one place. A small patch is blurred in proportion to its
side (there: as much as a whole view). Students have no dropout (there EfficientNets and MobileNets keep theirs).

Legend: B batch, D embedding width, K queue; z_s student, z_t teacher.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.projection import projection_head
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.queue_loss import PRECISIONS, attend_each, log_partition
from seed_hub.training.views import ViewSettings

PRESETS = {
    "paper": {"hidden_width": 0},
    "released-code": {"hidden_width": 0, "teacher_temperature": 1e-4},
    "plus": {"symmetric": True},
    "small-patch": {"small_patches": 6},
}


@in_full_precision
def seed_loss(
    z_s: Tensor,
    z_t: Tensor,
    queue: Tensor,
    *,
    student_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
    queue_precision: str = "fp32",
) -> Tensor:
    """- sum_j p_T(j) log p_S(j), mean over the batch; candidate 0 is the image's own teacher embedding.

    Args:
        z_s, z_t: student and teacher embeddings ``[B, D]``, normalised here; the gradient reaches ``z_s`` only.
        queue: earlier teacher embeddings ``[K, D]``, normalised here; may be empty.
        student_temperature, teacher_temperature: tau_s, tau_t > 0.
        queue_precision: of the products with the queue, see :func:`~seed_hub.training.queue_loss.attend_each`.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.

    Raises:
        SeedHubError: a temperature is not above 0, or there is no such precision.
    """
    z_s = normalize(z_s, dim=1)
    z_t = normalize(z_t.detach(), dim=1)
    student, teacher = attend_each(
        (z_s, z_t),
        queue,
        (student_temperature, teacher_temperature),
        precision=queue_precision,
        beside_own=(False, True),
    )
    # p_T's mass on the queue beside the image's own, whose logit is 1 / tau_t exactly: z_t . z_t needs no product.
    earlier = (teacher.log_partition - 1 / teacher_temperature).sigmoid()[:, None]  # [B, 1]
    mean_d = z_t.lerp(teacher.expectation, earlier)  # sum_j p_T(j) d_j, [B, D]
    own = (z_s * z_t).sum(dim=1) / student_temperature  # [B]
    partition = torch.logaddexp(own, log_partition(z_s, student, student_temperature))  # [B]
    # sum_j p_T = 1, hence - sum_j p_T log p_S = log of the partition - z_s . (sum_j p_T d_j) / tau_s.
    return (partition - (z_s * mean_d).sum(dim=1) / student_temperature).mean()


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
    symmetric: bool = False
    """two whole views of each image instead of one"""
    small_patches: int = 0
    """P, small crops of each image besides the whole view; the paper's: 6"""
    small_size: int = 0
    """side of the small crops in pixels; 0: 96 for 224, in proportion for another --size"""
    small_scale: tuple[float, ...] = (0.05, 0.14)
    """share of the image's area that a small crop shows, least and most; the whole view then shows more than that"""
    queue_precision: str = "fp32"
    """fp32 or bf16: products with the queue; bf16 is for batches of hundreds on CPUs with AMX, elsewhere it is fp32"""


class Seed(Method):
    """Student trunk and a head for each teacher, against queues of teacher embeddings."""

    Settings = Settings
    needs_teacher = True
    takes_teachers = True
    head: nn.Sequential
    # ModuleLists, whose items' types torch does not carry.
    more_heads: Any
    queues: Any
    small_queues: Any

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        if settings.queue_precision not in PRECISIONS:
            raise SeedHubError(
                f'Unknown --queue-precision "{settings.queue_precision}": choose {" or ".join(PRECISIONS)}.'
            )
        hidden = settings.hidden_width or student.width
        heads = [
            projection_head(student.width, hidden, teacher.embedding, settings.head_layers)
            for teacher in task.teachers
        ]
        self.head = heads[0]
        self.more_heads = nn.ModuleList(heads[1:])
        self.queues = nn.ModuleList(FeatureQueue(settings.queue_size, t.embedding) for t in task.teachers)
        patched = task.teachers if settings.small_patches else ()
        self.small_queues = nn.ModuleList(FeatureQueue(settings.queue_size, t.embedding) for t in patched)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        own = self.settings
        views = 2 if own.symmetric else 1
        if not own.small_patches:
            return [whole] * views
        least, most = own.small_scale
        side = own.small_size or round(whole.size * 96 / 224)
        small = replace(whole, size=side, scale=(least, most))
        # What a patch shows, the whole view does not: the paper's 0.14 to 1 beside 0.05 to 0.14.
        return [replace(whole, scale=(most, 1.0))] * views + [small] * own.small_patches

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        views = 2 if self.settings.symmetric else 1
        outputs: dict[str, Tensor] = {}
        losses = [self._compare(batch, slice(0, views), self.queues, "queue", outputs)]
        if self.settings.small_patches:
            losses.append(self._compare(batch, slice(views, None), self.small_queues, "small_queue", outputs))
        return {"loss": torch.stack(losses).sum()} | outputs

    def _compare(
        self, batch: Batch, which: slice, queues: Any, name: str, outputs: dict[str, Tensor]
    ) -> Tensor:
        """The loss over some views of one size, averaged over them and over teachers; what is to be enqueued is put
        into ``outputs``: of each image, the first of these views."""
        pooled = self.student(torch.cat(batch.views[which])).pooled  # [V B, D]
        losses = []
        for t, (said, queue) in enumerate(zip(batch.teachers, queues, strict=True)):
            head = self.head if t == 0 else self.more_heads[t - 1]
            losses.append(
                seed_loss(
                    head(pooled),
                    torch.cat([view.embedding for view in said[which]]),  # [V B, P]
                    queue.get(),
                    student_temperature=self.settings.student_temperature,
                    teacher_temperature=self.settings.teacher_temperature,
                    queue_precision=self.settings.queue_precision,
                )
            )
            outputs[f"{name}_{t}"] = said[which][0].embedding
        return torch.stack(losses).mean()

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        for t, queue in enumerate(self.queues):
            queue.push(outputs[f"queue_{t}"])
        for t, queue in enumerate(self.small_queues):
            queue.push(outputs[f"small_queue_{t}"])
