"""Feature maps of two networks, side by side: what the distillation losses on maps share.

Legend: B batch, C channels, H W height and width, D pooled width, P teacher's embedding width.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from seed_hub.encoder import Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.projection import projection_head
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch, Task

Stages = tuple[tuple[int, ...], ...]


def pair_stages(student: Stages, teacher: Stages) -> list[tuple[int, int]]:
    """Which student stage is compared with which of the teacher's: (i, j), shallow to deep, none of them twice.

    Each stage of the network that has fewer finds, from the deepest up, the other's stage of the nearest resolution,
    counted in halvings that are left until that network's own last map: the two may see images of different sizes.
    Among equals (a ViT's maps all are) the nearest relative depth, (i + 1) of all stages, decides.

    Args:
        student, teacher: (C, H, W) of each stage, shallow to deep.
    """
    if len(student) > len(teacher):
        return [(i, j) for j, i in pair_stages(teacher, student)]
    left_s, left_t = _halvings_left(student), _halvings_left(teacher)
    pairs: list[tuple[int, int]] = []
    end = len(teacher)
    for i in reversed(range(len(student))):

        def distance(j: int, i: int = i) -> tuple[int, int]:
            return abs(left_s[i] - left_t[j]), abs((i + 1) * len(teacher) - (j + 1) * len(student))

        end = min(range(i, end), key=distance)  # from i on: one is left for each shallower stage
        pairs.append((i, end))
    return pairs[::-1]


def _halvings_left(stages: Stages) -> list[int]:
    """How often each map's side is halved until the last one."""
    _, h, w = stages[-1]
    return [round(math.log2(height * width / (h * w)) / 2) for _, height, width in stages]


def pool_alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, C, H, W]`` and ``[B, C', H', W']``, average-pooled to the smaller height and the smaller width of the two."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    first, second = (x if x.shape[2:] == size else adaptive_avg_pool2d(x, size) for x in (a, b))
    return first, second


class MapDistillation(LabelledDistillation):
    """Base of the methods on feature maps; a subclass brings its own term in :meth:`compare_maps`.

    The maps say nothing of the layers behind the last one (MobileNets have most of their weights there), nor of the
    pooled embedding that ships; in the benchmark the cross-entropy trains both. Its stand-in without labels:

        embedding = mean over the batch of 1 - cos(g(f_s), z_t)

    f_s student's pooled features, g the head, linear, z_t the teacher's embedding; weighed by ``embedding_weight``.
    """

    compares = frozenset({"stages"})
    needs_positions: ClassVar[bool] = False
    """it compares where a map is active: a map of one position tells it nothing, and is passed over"""
    own_first: ClassVar[bool] = False
    """its own term initialises: alone in the first share ``first_stage`` of the run, absent afterwards"""

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        first = getattr(settings, "first_stage", 0.0)
        if not 0 <= first <= 1:
            raise SeedHubError(f"--first-stage is {first}: it is a share of the run, from 0 to 1.")
        if getattr(settings, "maps", 1) < 1:
            raise SeedHubError(f"--maps is {settings.maps}: it must be at least 1.")
        self.pairs = self.choose(self._paired(task))
        if settings.embedding_weight:
            self.head = projection_head(student.width, 0, task.teacher.embedding, layers=1)

    def _paired(self, task: Task) -> list[tuple[int, int]]:
        """All stages that can be compared."""
        pairs = pair_stages(task.student.stages, task.teacher.stages)
        if not self.needs_positions:
            return pairs
        sizes = [(task.student.stages[i][1:], task.teacher.stages[j][1:]) for i, j in pairs]
        wide = [
            pair for pair, (s, t) in zip(pairs, sizes, strict=True) if min(s[0], t[0]) * min(s[1], t[1]) > 1
        ]
        if not wide:
            raise SeedHubError(
                "The method compares where feature maps are active, and at this size every pair of student's and "
                "teacher's maps has but one position in common: raise --size, or --teacher-size."
            )
        return wide

    def choose(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of all paired stages that are compared: the ``maps`` deepest."""
        return pairs[-self.settings.maps :]

    @property
    def channels(self) -> list[tuple[int, int]]:
        """(student's, teacher's) of each compared pair."""
        return [(self.task.student.stages[i][0], self.task.teacher.stages[j][0]) for i, j in self.pairs]

    @property
    def in_first_stage(self) -> bool:
        return self.progress < self.settings.first_stage

    def compare_maps(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> dict[str, Tensor]:
        """The method's own terms by name, from the compared maps, shallow to deep."""
        raise NotImplementedError

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        said = batch.teacher[0]
        terms = self.compare_maps(
            [student.stages[i] for i, _ in self.pairs], [said.stages[j] for _, j in self.pairs]
        )
        if self.head is not None:
            embedded = self.project(student.pooled).float()  # [B, P]
            terms["embedding"] = 1 - cosine_similarity(embedded, said.embedding, dim=1).mean()
        return terms

    def weights(self) -> dict[str, float]:
        weights = super().weights()
        if not self.own_first:
            return weights
        others = any(value for name, value in weights.items() if name != "feature")
        own = self.in_first_stage or not others  # with nothing to follow, the first stage is the whole run
        return {name: value if (name == "feature") == own else 0.0 for name, value in weights.items()}
