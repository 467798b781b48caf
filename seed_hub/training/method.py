"""What every method is: a loss over a batch, and the state it keeps between steps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder
from seed_hub.training.views import ViewSettings


@dataclass
class Batch:
    """One step's images, already on the device. V views, B images, D teacher width."""

    views: list[Tensor]
    """V tensors ``[B, 3, S, S]``, float in [0, 1]; view v of image i is a pure function of (seed, i, v)."""
    index: Tensor
    """``[B]`` int64: each image's place in the data set."""
    teacher: list[Tensor] | None = None
    """V teacher embeddings ``[B, D]``, float32, one for each view; None for methods without a teacher."""
    labels: Tensor | None = None
    """``[B]`` int64, only for methods that ask for them."""


class Method(nn.Module):
    """Base of all methods. A method owns the student and whatever else it trains; never a teacher.

    Subclasses set ``Settings`` (a frozen dataclass), ``needs_teacher`` and ``view_settings``, and implement
    :meth:`forward`. The file name, lower-case, is the method's registered name.
    """

    Settings: ClassVar[Any]
    """the method's frozen dataclass of hyper-parameters"""
    needs_teacher: ClassVar[bool] = True
    head: nn.Sequential
    """the student's projection head; saved beside the student, never inside it"""

    def __init__(self, student: Encoder, settings: Any, teacher_width: int | None) -> None:
        super().__init__()
        self.student = student
        self.settings = settings
        self.teacher_width = teacher_width

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        """The recipe of each of the V views, made from the run's view of a ``whole`` image."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar, ...}``; computes, and changes no queue, no average, no centre.

        Further scalars are logged; tensors with a batch dimension are handed to :meth:`after_step`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        """Mutate what is kept between steps: queues, moving averages.

        ``outputs`` holds the non-scalar results of :meth:`forward`, detached; under gradient accumulation those of
        all parts of the batch, concatenated, so that one optimiser step is one call whatever the memory allows.
        """

    def project(self, pooled: Tensor) -> Tensor:
        """The student's pooled features ``[B, D]`` -> what is compared with the teacher, or with other views."""
        return self.head(pooled)


def projection_head(width: int, hidden: int, out: int, layers: int = 2) -> nn.Sequential:
    """MLP ``width -> hidden -> ... -> out`` with ReLU between the layers, no batch norm (MoCo v2, SEED)."""
    sizes = [width] + [hidden] * (layers - 1)
    blocks: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        blocks += [nn.Linear(a, b), nn.ReLU(inplace=True)]
    return nn.Sequential(*blocks, nn.Linear(sizes[-1], out))
