"""SimCLR: contrast within the batch (v1: Chen et al., ICML 2020, arXiv 2002.05709; v2: NeurIPS 2020, arXiv 2006.10029).

    loss = mean over the 2B anchors i of  - log( exp(z_i . z_i' / tau) / sum_{j != i} exp(z_i . z_j / tau) )

z_i, z_i' are the head's outputs for the two views of an image; j runs over the other 2B - 1 embeddings of the batch, over
all processes. The head is an MLP with batch norm after every layer, the last without an offset: three layers (v2) or two
(v1). v2's memory, `memory`, appends to the sum the last K embeddings that a moving average of student and head gave.
This is v2's first stage; the others are methods of their own (fine-tuning from the head's first layer, then `kd`).

Where we differ:
- The mean over anchors; the TensorFlow code sums the two directions, twice this.
- The crop's smallest share and the blur are the run's (`--crop-min`; the papers': 0.08). The jitter is the papers'.
- Batch norm's statistics are each process's own, over both views; the papers': over all processes.
- The papers describe the memory in a sentence and no code of it was released: here its embeddings are negatives only,
  one per image, the average's of the first view. It starts empty.
- The head is 2,048 wide for every student, as in `seed` and `moco` (the papers': as wide as the features): presets.
- The optimiser is the run's. The papers': `--optimizer lars --batch-size 4096`, v2 with `--lr 6.4`, 800 epochs.

With --accumulate each part contrasts within itself: fewer negatives, not the same loss.

Legend: B batch, D embedding width, K memory, W processes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
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

PRESETS = {
    "v1": {"head_layers": 2, "hidden_width": 0},
    "v2": {"hidden_width": 0, "memory": 65536},
    "released-code": {"hidden_width": 0},
}


@in_full_precision
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float = 0.1,
    negatives: Tensor | None = None,
    memory: Tensor | None = None,
) -> Tensor:
    """- log softmax of the positive among the 2B - 1 + M + K others, mean over the 2B anchors.

    Args:
        z1, z2: ``[B, D]``, row i of each is a view of image i; normalised here. The gradient reaches both.
        temperature: tau > 0.
        negatives: ``[M, D]``, further negatives of every anchor, normalised here; the gradient reaches them too.
        memory: ``[K, D]``, as ``negatives``, but without gradient; may be long, and empty.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    z1, z2 = normalize(z1, dim=1), normalize(z2, dim=1)
    z = torch.cat([z1, z2])  # [2B, D]
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / temperature).masked_fill(itself, float("-inf"))  # [2B, 2B]
    if negatives is not None:
        further = normalize(negatives, dim=1)
        logits = torch.cat([logits, z @ further.T / temperature], dim=1)  # [2B, 2B + M]
    partition = logits.logsumexp(dim=1)  # [2B]
    if memory is not None:
        earlier = log_partition(z, attend(z, memory, temperature), temperature)
        partition = torch.logaddexp(partition, earlier)
    positive = (z1 * z2).sum(1).repeat(2) / temperature  # [2B]
    return (partition - positive).mean()


def contrast(z1: Tensor, z2: Tensor, *, temperature: float, memory: Tensor | None = None) -> Tensor:
    """:func:`nt_xent` of this process's anchors, where the batch is that of all processes.

    Args:
        memory: ``[K, D]``, negatives besides the batch.
    """
    others = gather_others(torch.cat([z1, z2], dim=1))  # [(W - 1) B, 2D]: one exchange for both views
    negatives = torch.cat(others.chunk(2, dim=1))
    return nt_xent(z1, z2, temperature=temperature, negatives=negatives, memory=memory)


def embed_both(encoder: Encoder, head: nn.Module, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """z1, z2 ``[B, D]`` of two views, in one pass: batch norm's statistics are those of both."""
    z1, z2 = head(encoder(torch.cat(list(views))).pooled).chunk(2)
    return z1, z2


def simclr_view(whole: ViewSettings, strength: float = 1.0) -> ViewSettings:
    """``whole`` with SimCLR's jitter, 0.8/0.8/0.8/0.2 at ``strength`` 1."""
    return replace(
        whole,
        brightness=0.8 * strength,
        contrast=0.8 * strength,
        saturation=0.8 * strength,
        hue=0.2 * strength,
    )


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of SimCLR."""

    temperature: float = 0.1
    """tau, softmax temperature of the similarities; 0.1 is the papers' for ImageNet, 0.5 for CIFAR-10"""
    head_layers: int = 3
    """linear layers in the head: 3 (v2) or 2 (v1)"""
    hidden_width: int = 2048
    """width of the head's hidden layers; 0: as wide as the features (the papers')"""
    embedding_width: int = 128
    """D, width of the embedding that is contrasted"""
    jitter: float = 1.0
    """strength of the colour jitter; 1 is the papers' for ImageNet, 0.5 for CIFAR-10 and as in moco"""
    memory: int = 0
    """K, earlier embeddings of a moving average that are negatives too; 0: none (v2: 65536)"""
    memory_momentum: float = 0.999
    """m, share of that moving average that is kept at each step"""


class Simclr(Method):
    """A student that learns by itself, from telling the images of a batch apart."""

    Settings = Settings
    needs_teacher = False
    head: nn.Sequential

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        self.head = projection_head(
            student.width,
            hidden,
            settings.embedding_width,
            settings.head_layers,
            batch_norm=True,
            last_norm=True,
        )
        self.head[-1].get_parameter("bias").requires_grad_(False)  # stays 0: a norm without an offset
        if settings.memory:
            self.slow_student = copy.deepcopy(student).requires_grad_(False)
            self.slow_head = copy.deepcopy(self.head).requires_grad_(False)
            self.queue = FeatureQueue(settings.memory, settings.embedding_width)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [simclr_view(whole, self.settings.jitter)] * 2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z1, z2 = embed_both(self.student, self.head, batch.views)  # [B, D] each
        if not self.settings.memory:
            return {"loss": contrast(z1, z2, temperature=self.settings.temperature)}
        with torch.no_grad():
            slow = self.slow_head(self.slow_student(batch.views[0]).pooled)  # [B, D]
        loss = contrast(z1, z2, temperature=self.settings.temperature, memory=self.queue.get())
        return {"loss": loss, "enqueue": slow}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        if self.settings.memory:
            self.queue.push(outputs["enqueue"])
            move_average(self.slow_student, self.student, self.settings.memory_momentum)
            move_average(self.slow_head, self.head, self.settings.memory_momentum)
