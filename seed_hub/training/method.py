"""What every method is: a loss over a batch, and the state it keeps between steps."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.training.views import ViewSettings


@dataclass
class Batch:
    """One step's images, already on the device. V views, B images."""

    views: list[Tensor]
    """V tensors ``[B, 3, S_v, S_v]``, float in [0, 1]; view v of image i is a pure function of (seed, i, v)."""
    index: Tensor
    """``[B]`` int64: each image's place in the data set."""
    teachers: list[list[Features]]
    """What each teacher says of each of the V views, float32 and without gradient; empty for methods without one."""
    labels: Tensor
    """``[B]`` int64; -1 where the data has none."""

    @property
    def teacher(self) -> list[Features]:
        """What the only teacher says of each view."""
        (teacher,) = self.teachers
        return teacher


@dataclass(frozen=True)
class Shapes:
    """What an encoder gives for one image of the run's size."""

    pooled: int
    """D"""
    embedding: int
    """P: D, unless the encoder carries a projection head"""
    classes: int
    """of its classifier; 0 without one"""
    stages: tuple[tuple[int, ...], ...]
    """(C_i, H_i, W_i), shallow to deep"""

    @classmethod
    def of(cls, features: Features) -> Shapes:
        """Of what was said of a batch, whatever its size."""
        return cls(
            pooled=features.pooled.shape[1],
            embedding=features.embedding.shape[1],
            classes=0 if features.logits is None else features.logits.shape[1],
            stages=tuple(tuple(stage.shape[1:]) for stage in features.stages),
        )


@dataclass(frozen=True)
class Task:
    """What a method is made for, besides its student and its settings."""

    student: Shapes
    teachers: tuple[Shapes, ...]
    """empty for methods without a teacher"""
    images: int
    """N, images to train on, and ``Batch.index`` is below it; 0 for a stream, whose indices have gaps"""
    classes: int
    """of the labels, for methods that ask for them; 0 without"""
    seed: int
    labels: Tensor | None = None
    """``[N]`` int64, by ``Batch.index``, -1 where there is none; for methods that ask for them"""
    start_head: nn.Sequential | None = None
    """projection head of the run that the student starts from"""

    @property
    def teacher(self) -> Shapes:
        """Of the only teacher."""
        (teacher,) = self.teachers
        return teacher


class Method(nn.Module):
    """Base of all methods. A method owns the student and whatever else it trains; never a teacher.

    Subclasses set ``Settings`` (a frozen dataclass) and what they need, and implement :meth:`view_settings` and
    :meth:`forward`. The file name, lower-case, is the method's registered name.
    """

    Settings: ClassVar[Any]
    """the method's frozen dataclass of hyper-parameters"""
    needs_teacher: ClassVar[bool] = True
    """False: it learns alone, by `pretrain`"""
    takes_teachers: ClassVar[bool] = False
    """several teachers may be given"""
    head: nn.Sequential | None
    """the student's projection head; saved beside the student, never inside it"""
    needs_labels: ClassVar[bool] = False
    """an image without a label teaches it nothing, and is left out"""
    head_gives_classes: ClassVar[bool] = False
    """the head's outputs are class scores: who learns from this student finds them in ``Features.logits``"""
    step: int = 0
    """the step being taken, counted from 0; kept by the engine"""
    steps: int = 1
    """of the whole run"""

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__()
        self.student = student
        self.head = None
        self.settings = settings
        self.task = task

    @classmethod
    def reads(cls, settings: Any) -> frozenset[str]:
        """What more than pixels and embeddings it needs, under these settings: ``"labels"``, ``"logits"`` (a teacher
        with a classifier), ``"stages"`` (feature maps: the teacher's ``Features.stages`` are then filled)."""
        return frozenset()

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        """The recipe of each of the V views, made from the run's view of a ``whole`` image."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss": scalar, ...}``; computes, and changes no queue, no average, no centre.

        Further scalars are logged; tensors with a batch dimension are handed to :meth:`after_step`.
        """
        raise NotImplementedError

    def before_step(self) -> None:
        """Between the gradients and the optimiser's step: the place to drop gradients that should not count yet."""

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        """Mutate what is kept between steps: queues, moving averages.

        ``outputs`` holds the non-scalar results of :meth:`forward`, detached; under gradient accumulation those of
        all parts of the batch, concatenated, so that one optimiser step is one call whatever the memory allows.
        """

    def project(self, pooled: Tensor) -> Tensor:
        """The student's pooled features ``[B, D]`` -> what is compared with the teacher, or with other views."""
        return pooled if self.head is None else self.head(pooled)

    def peers(self) -> dict[str, tuple[Encoder, nn.Sequential | None]]:
        """Further students this method trains, by name, each with its head; each is shipped as the student is."""
        return {}

    @property
    def progress(self) -> float:
        """Share of the run that is done, from 0 to below 1: schedules are functions of it."""
        return self.step / self.steps


@torch.no_grad()
def move_average(average: nn.Module, own: nn.Module, momentum: float) -> None:
    """theta_average <- m theta_average + (1 - m) theta_own, for all parameters at once."""
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in own.parameters()], 1.0 - momentum)


def shapes_of(network: Encoder | Frozen, size: int, what: str, flag: str) -> Shapes:
    """What ``network`` says of an empty image of ``size`` pixels; a network that cannot take one is refused."""
    pixels = torch.zeros(1, 3, size, size)
    try:
        features = network(pixels)
        with suppress(Exception):  # a network without maps: for the method that reads them to say
            features.stages = network(pixels, stages=True).stages
        return Shapes.of(features)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise SeedHubError(
            f"{what} does not take images of {size} px ({reason}): choose another {flag}."
        ) from error
