"""The reference step: SEED as its paper words it, in plain PyTorch, without any of our means to be fast.

Pillow and torchvision make the views, both networks run eagerly in float32 with channels first, the loss materialises the
similarities to a cloned queue, and SGD takes the step. The baseline of every "times faster" that ``bench`` prints.

Legend: B batch, D embedding width, K queue, S side of a view in pixels.
"""

from __future__ import annotations

import torch
from PIL import ImageFilter
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, softmax
from torch.utils.data import Dataset
from torchvision import transforms

from seed_hub.data import Images
from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD
from seed_hub.projection import projection_head

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.2, 0.01


class ReferenceSeed(nn.Module):
    """Teacher, student and queue.

    Args:
        teacher, student: ``[B, 3, S, S]``, normalised -> ``[B, width]``.
        teacher_width, student_width: of what they give.
        queue_size: K; the queue is full of random rows from the start.
    """

    queue: Tensor

    def __init__(
        self, teacher: nn.Module, student: nn.Module, teacher_width: int, student_width: int, queue_size: int
    ) -> None:
        super().__init__()
        self.teacher, self.student = teacher.eval().requires_grad_(False), student.train()
        self.head = projection_head(student_width, 2048, teacher_width, 2)
        self.register_buffer("queue", normalize(torch.randn(queue_size, teacher_width), dim=1))
        self.place = 0

    def forward(self, view: Tensor) -> Tensor:
        """``[B, 3, S, S]`` -> the loss; the teacher's embeddings enter the queue."""
        z_s = normalize(self.head(self.student(view)), dim=1)  # [B, D]
        with torch.no_grad():
            z_t = normalize(self.teacher(view), dim=1)
        loss = reference_loss(z_s, z_t, self.queue)
        with torch.no_grad():
            places = (self.place + torch.arange(len(z_t), device=z_t.device)) % len(self.queue)
            self.queue[places] = z_t
            self.place = (self.place + len(z_t)) % len(self.queue)
        return loss


def reference_loss(z_s: Tensor, z_t: Tensor, queue: Tensor) -> Tensor:
    """- sum_j p_T(j) log p_S(j), mean over the batch, of normalised ``[B, D]``, ``[B, D]`` and ``[K, D]``."""
    rows = queue.clone().detach()
    own = torch.einsum("bd,bd->b", z_s, z_t).unsqueeze(1)
    s = torch.cat([own, torch.einsum("bd,kd->bk", z_s, rows)], dim=1) / STUDENT_TEMPERATURE
    own = torch.einsum("bd,bd->b", z_t, z_t).unsqueeze(1)
    t = torch.cat([own, torch.einsum("bd,kd->bk", z_t, rows)], dim=1) / TEACHER_TEMPERATURE
    return -(softmax(t, dim=1) * log_softmax(s, dim=1)).sum(dim=1).mean()


def reference_views(size: int) -> transforms.Compose:
    """MoCo v2's recipe as torchvision transforms of Pillow images: -> ``[3, S, S]``, normalised."""
    jitter = transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([jitter], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([_Blur(size)], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


class _Blur:
    """Pillow's Gaussian blur, sigma uniform in 0.1 to 2 pixels of a 224 pixel view."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: object) -> object:
        sigma = float(torch.empty(()).uniform_(0.1, 2.0)) * self.size / 224
        return image.filter(ImageFilter.GaussianBlur(sigma))  # type: ignore[attr-defined]


class ReferenceViews(Dataset):
    """``dataset[i]`` -> a view of image i ``[3, S, S]``, normalised."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.view = images, reference_views(size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.view(self.images.load(i))
