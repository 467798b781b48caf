"""SimSiam: two views predict each other, without negatives (Chen & He, CVPR 2021, arXiv 2011.10566).

    loss = mean over the batch of  - 1/2 cos(p1, sg(z2)) - 1/2 cos(p2, sg(z1))        sg: no gradient

z1, z2 are the projector's outputs for the two views of an image, p1, p2 the predictor's of those. The projector has batch
norm after every layer, the last without scale and offset; the predictor has a bottleneck, and no norm at its end. Without
the predictor or the stop-gradient all images collapse onto one embedding: `spread` in the log tells, see :func:`spread`.

Where we differ:
- The predictor's learning rate falls as all others do; the released recipe keeps it constant.
- The optimiser is the run's. The paper's: SGD at 0.05 per 256 images (`--lr 0.05` at `--batch-size 256`), no warm-up.
- Batch norm's statistics are each process's own; the paper's: over all processes.

Legend: B batch, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize

from seed_hub.encoder import Encoder
from seed_hub.projection import projection_head
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.views import ViewSettings


@in_full_precision
def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """- 1/2 cos(p1, z2) - 1/2 cos(p2, z1), mean over the batch: from 1 to -1.

    Args:
        p1, p2: predictions ``[B, D]`` from view 1 and view 2.
        z1, z2: projections ``[B, D]``; the gradient does not reach them.

    Returns:
        A scalar in float32 (float64 for float64 input), also under autocast.
    """
    z1, z2 = z1.detach(), z2.detach()
    return -0.5 * (cosine_similarity(p1, z2) + cosine_similarity(p2, z1)).mean()


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """Standard deviation over the batch of the normalised ``z`` ``[B, D]``, times sqrt(D): 0 collapsed, about 1 evenly spread."""
    return normalize(z.float(), dim=1).std(dim=0).mean() * z.shape[1] ** 0.5


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of SimSiam."""

    head_layers: int = 3
    """linear layers in the projector; 3 is the paper's for ImageNet, 2 for CIFAR-10"""
    hidden_width: int = 2048
    """width of the projector's hidden layers; 0: as wide as the features"""
    embedding_width: int = 2048
    """D, width of projections and predictions"""
    predictor_width: int = 512
    """width of the predictor's hidden layer: a quarter of D makes the bottleneck"""


def simsiam_heads(width: int, settings: Settings) -> tuple[nn.Sequential, nn.Sequential]:
    """(projector, predictor) for features of ``width``."""
    projector = projection_head(
        width,
        settings.hidden_width or width,
        settings.embedding_width,
        settings.head_layers,
        batch_norm=True,
        last_norm=True,
    )
    projector[-1].requires_grad_(False)  # stays 1 and 0: a norm without scale and offset
    predictor = projection_head(
        settings.embedding_width, settings.predictor_width, settings.embedding_width, batch_norm=True
    )
    return projector, predictor


class Simsiam(Method):
    """A student that learns by itself, from predicting one view's embedding from the other's."""

    Settings = Settings
    needs_teacher = False
    head: nn.Sequential

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        self.head, self.predictor = simsiam_heads(student.width, settings)

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole, whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z1, z2 = (self.project(self.student(view).pooled) for view in batch.views)  # [B, D] each
        return {"loss": simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2), "spread": spread(z1)}
