"""MoCo v2: momentum contrast (He et al., CVPR 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

    loss = mean over the batch of  - log( exp(q . k+ / tau) / (exp(q . k+ / tau) + sum_{j=1..K} exp(q . k_j / tau)) )
    theta_k <- m theta_k + (1 - m) theta_q      after each step

q comes from the student and its MLP head on one view, k+ from their moving average on the other view; the K negatives
are earlier k+.

Where we differ:
- The other keys of the batch are negatives too (`batch_negatives`). The queue's keys are old, the positive is fresh: an
  encoder that moves fast tells them apart by age, and the loss falls while nothing is learnt about images. Measured on a
  MobileNetV3-Large: mean cosine to the queue from -0.99 (oldest) to -0.07 (newest), the positive found among its own
  batch's keys at chance. Fresh negatives close that way out.
- Keys are not shuffled between processes: shuffling keeps a query from recognising its key by their batch's statistics
  among keys of other batches; the fresh negatives have the same statistics as the positive.
- The queue starts empty instead of random.

Legend: B batch, D embedding width, K queue.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder
from seed_hub.projection import projection_head
from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.method import Batch, Method, Task, move_average
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather_others
from seed_hub.training.queue_loss import attend, log_partition
from seed_hub.training.views import ViewSettings

PRESETS = {"released-code": {"batch_negatives": False}}


@in_full_precision
def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float = 0.2,
    batch_negatives: bool = False,
    others: Tensor | None = None,
) -> Tensor:
    """- log softmax of the positive among 1 + K candidates, mean over the batch.

    Args:
        query, key: ``[B, D]``, row i of ``key`` is the positive of row i of ``query``; normalised here. The gradient
            reaches both, and a caller that wants momentum contrast passes ``key.detach()``.
        queue: negatives ``[K, D]``, normalised here; may be empty. No gradient reaches them.
        temperature: tau > 0.
        batch_negatives: the other rows of ``key`` are negatives as well: B + K candidates.
        others: ``[M, D]``, negatives of every query besides, normalised here; the gradient reaches them.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.

    Raises:
        SeedHubError: the temperature is not above 0.
    """
    query, key = normalize(query, dim=1), normalize(key, dim=1)
    positive = (query * key).sum(1, keepdim=True)  # [B, 1]
    fresh = query @ key.T if batch_negatives else positive  # [B, B], its diagonal the positives; or [B, 1]
    if others is not None:
        fresh = torch.cat([fresh, query @ normalize(others, dim=1).T], dim=1)  # [B, (1 or B) + M]
    earlier = log_partition(query, attend(query, queue, temperature), temperature)  # [B]
    partition = torch.logaddexp((fresh / temperature).logsumexp(dim=1), earlier)
    return (partition - positive[:, 0] / temperature).mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of MoCo v2."""

    queue_size: int = 65536
    """K, how many earlier keys are negatives"""
    temperature: float = 0.2
    """tau, softmax temperature of the similarities"""
    key_momentum: float = 0.999
    """m, share of the moving average that is kept at each step"""
    embedding_width: int = 128
    """D, width of the embedding that is contrasted"""
    hidden_width: int = 2048
    """width of the head's hidden layer; 0: as wide as the features"""
    batch_negatives: bool = True
    """the other keys of the batch are negatives too; false: only the queue's (the released code)"""


class Moco(Method):
    """A student that learns by itself, and a moving average of it for the keys."""

    Settings = Settings
    needs_teacher = False
    head: nn.Sequential

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        self.head = projection_head(student.width, hidden, settings.embedding_width)
        self.key_student = copy.deepcopy(student).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.queue = FeatureQueue(settings.queue_size, settings.embedding_width)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole, whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        query = self.project(self.student(batch.views[0]).pooled)  # [B, D]
        with torch.no_grad():
            key = self.key_head(self.key_student(batch.views[1]).pooled)  # [B, D]
        loss = info_nce(
            query,
            key,
            self.queue.get(),
            temperature=self.settings.temperature,
            batch_negatives=self.settings.batch_negatives,
            # The fresh keys of all processes.
            others=gather_others(key) if self.settings.batch_negatives else None,
        )
        return {"loss": loss, "enqueue": key}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.queue.push(outputs["enqueue"])
        move_average(self.key_student, self.student, self.settings.key_momentum)
        move_average(self.key_head, self.head, self.settings.key_momentum)
