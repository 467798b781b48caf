"""BINGO: bags of instances (Xu et al., ICLR 2022, arXiv 2107.01691).

    L_intra = - log( e(z_t) / (e(z_t) + sum_{d in N} e(d)) )
    L_inter = mean over d+ in the bag of  - log( e(d+) / (e(d+) + sum_{d in N} e(d)) ),      e(d) = exp(z_s . d / tau)
    loss    = mean over the batch of  L_intra + w L_inter

z_s is the student's embedding of one view of an image, z_t the teacher's of another view. The bag: the image and the
images that the teacher puts nearest to it. N: the negatives, all other rows of a queue of teacher embeddings.

Where we differ: the paper finds the bags beforehand, over the whole data set, and brings an image of the bag into the
batch, where the student's embedding of it is drawn to the teacher's of the anchor. A method here sees its own batch only.
So the bag is the rows of the queue that are nearest to z_t, and it is the student's embedding of the anchor that is drawn
to the teacher's of the rest of the bag: the same pairs with roles exchanged, without a pass over the data before and a
further image per anchor during training. What that costs: a bag holds the nearest of the last K images, not of all, and
is poor while the queue is short. And: the whole bag counts in each step, not one member drawn from it; its members are
no negatives; neither member nor negative is what the queue holds of the image itself, which a queue longer than the
data set is full of.

Legend: B batch, D embedding width, K queue, P = bag size - 1 neighbours.
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
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather
from seed_hub.training.queue_loss import Excluded, attend, log_partition, nearest_rows
from seed_hub.training.views import ViewSettings


@in_full_precision
def bag_losses(
    z_s: Tensor,
    z_t: Tensor,
    queue: Tensor,
    *,
    bag_size: int = 5,
    temperature: float = 0.2,
    same: Excluded | None = None,
) -> tuple[Tensor, Tensor]:
    """(L_intra, L_inter), each the mean over the batch; L_inter is the mean over an image's neighbours as well.

    Args:
        z_s, z_t: student and teacher embeddings ``[B, D]``, normalised here; the gradient reaches ``z_s`` only.
        queue: earlier teacher embeddings ``[K, D]``, normalised here; may be empty.
        bag_size: the image and its P nearest rows of the queue; fewer where the queue has fewer. 1: no neighbours, L_inter
            is 0 and L_intra is InfoNCE to the teacher.
        temperature: tau > 0.
        same: of n places in the queue ``[B, n]`` bool, the rows that are the image itself, left out on both sides; None:
            none are.

    Returns:
        Two scalars in float32 (float64 for float64 input), also under autocast.
    """
    z_s, z_t = normalize(z_s, dim=1), normalize(z_t.detach(), dim=1)
    cosines, places = nearest_rows(z_t, queue, bag_size - 1, same)  # [B, P]
    own = (z_s * z_t).sum(1, keepdim=True) / temperature  # [B, 1]
    members = normalize(queue.detach()[places], dim=2)  # [B, P, D]
    bag = (members @ z_s[:, :, None])[:, :, 0] / temperature  # [B, P]

    def no_negatives(block: slice) -> Tensor:
        """The bag and the image itself."""
        n = block.stop - block.start
        at = places - block.start
        inside = torch.where((at >= 0) & (at < n), at, n)  # a column besides for those elsewhere
        mask = torch.zeros(len(places), n + 1, dtype=torch.bool, device=places.device)
        mask = mask.scatter_(1, inside, True)[:, :n]
        return mask if same is None else mask | same(block)

    rest = attend(z_s, queue, temperature, excluded=no_negatives)
    negatives = log_partition(z_s, rest, temperature)[:, None]  # [B, 1]; -inf where there are none
    intra = (torch.logaddexp(negatives, own) - own).mean()
    found = cosines.isfinite()  # [B, P]; false where the image's own rows had to fill up
    each = torch.where(found, torch.logaddexp(negatives, bag) - bag, 0.0)  # [B, P]
    inter = each.sum(1) / found.sum(1).clamp(min=1)  # [B]; 0 without a neighbour
    return intra, inter.mean()


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of BINGO."""

    queue_size: int = 65536
    """K, how many earlier teacher embeddings are negatives, and candidates for the bags"""
    bag_size: int = 5
    """the image and its nearest neighbours by the teacher; 1: no neighbours"""
    bag_weight: float = 1.0
    """w, weight of the loss to the neighbours"""
    temperature: float = 0.2
    """tau, softmax temperature of the similarities"""
    hidden_width: int = 2048
    """width of the student head's hidden layer; 0: as wide as the student's features"""
    head_layers: int = 2
    """linear layers in the student's head"""


class Bingo(Method):
    """Student trunk and head against the teacher's bags."""

    Settings = Settings
    images: Tensor
    pushed: Tensor

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        hidden = settings.hidden_width or student.width
        self.head = projection_head(student.width, hidden, task.teacher.embedding, settings.head_layers)
        self.queue = FeatureQueue(settings.queue_size, task.teacher.embedding)
        # Which image each row of the queue is of, in the queue's order.
        self.register_buffer("images", torch.full((settings.queue_size,), -1))
        self.register_buffer("pushed", torch.tensor(0))

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole, whole]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        z_s = self.project(self.student(batch.views[0]).pooled)  # [B, D]
        z_t = batch.teacher[1].embedding  # [B, D], of the other view
        queue = self.queue.get()
        intra, inter = bag_losses(
            z_s,
            z_t,
            queue,
            bag_size=self.settings.bag_size,
            temperature=self.settings.temperature,
            same=lambda rows: batch.index[:, None] == self.images[None, rows],
        )
        loss = intra + self.settings.bag_weight * inter
        return {"loss": loss, "intra": intra, "inter": inter, "enqueue": z_t, "images": batch.index}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.queue.push(outputs["enqueue"])
        images = gather(outputs["images"])[-len(self.images) :]
        places = (self.pushed + torch.arange(len(images), device=images.device)) % len(self.images)
        self.images[places] = images
        self.pushed += len(images)
