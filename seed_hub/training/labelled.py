"""What CRD and the classic distillation losses share: the objective of the CRD paper's benchmark
(Tian et al., ICLR 2020, arXiv 1910.10699).

    loss = ce_weight CE(y, p_s) + kd_weight T^2 KL(p_t || p_s) + feature_weight own(student, teacher)

p_s are the class scores of a linear classifier on the student's pooled features. It lives here, in the method: the
student that ships has none. Without labels and without scores (both weights 0) the method's own term is all there is.

Legend: B batch, C classes, D width.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from seed_hub.encoder import Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.views import ViewSettings


@in_full_precision
def kd_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 4.0) -> Tensor:
    """T^2 sum_c p_t(c) log(p_t(c) / p_s(c)), p = softmax(logits / T); mean over the batch.

    Args:
        student_logits, teacher_logits: ``[B, C]``; the gradient reaches the student's only.
        temperature: T > 0. The factor T^2 keeps the gradient's size as T varies (Hinton et al. 2015, arXiv 1503.02531).
    """
    log_s = (student_logits / temperature).log_softmax(dim=1)
    log_t = (teacher_logits.detach() / temperature).log_softmax(dim=1)
    return temperature**2 * kl_div(log_s, log_t, reduction="batchmean", log_target=True)


class LabelledDistillation(Method):
    """Base of the methods with up to three terms; a subclass brings its own in :meth:`compare`.

    A field of the settings named ``x_weight`` weighs the term ``x``.
    """

    compares: ClassVar[frozenset[str]] = frozenset()
    """what its own term reads besides embeddings, as in :meth:`Method.reads`"""

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        for name, value in (weights := LabelledDistillation.weights(self)).items():
            if value < 0:
                raise SeedHubError(f"--{name}-weight is {value}: it must be 0 or more.")
        if not any(weights.values()):
            raise SeedHubError(
                f"There is nothing to learn from: one of {', '.join(f'--{name}-weight' for name in weights)} "
                "must be above 0."
            )
        self.classifier: nn.Linear | None = None
        if settings.ce_weight or settings.kd_weight:
            self.classifier = nn.Linear(student.width, _classes(settings, task))

    @classmethod
    def reads(cls, settings: Any) -> frozenset[str]:
        asked = {"labels": settings.ce_weight, "logits": settings.kd_weight}
        return cls.compares | {what for what, weight in asked.items() if weight}

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        return [whole]

    def weights(self) -> dict[str, float]:
        """What each term weighs at this step."""
        return {
            name.removesuffix("_weight"): value
            for name, value in asdict(self.settings).items()
            if name.endswith("_weight")
        }

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        """The method's own terms by name, scalars; and, with a batch dimension, what its ``after_step`` is to have."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        student = self.student(batch.views[0], stages="stages" in self.compares)
        found = self.compare(student, batch) | self._of_classes(student.pooled, batch)
        weights = self.weights()
        # A term that weighs nothing now stays in the sum: data-parallel training expects a gradient, if of zeros, for
        # every weight.
        loss = torch.stack([weights[name] * term for name, term in found.items() if not term.ndim]).sum()
        return {"loss": loss, **found}

    def _of_classes(self, pooled: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms of the class scores that these settings ask for."""
        terms: dict[str, Tensor] = {}
        if self.classifier is None:
            return terms
        logits = self.classifier(pooled)  # [B, C]
        if self.settings.ce_weight:
            # A sum over those with a label, as SimCLR v2's: an image without one adds nothing.
            known = cross_entropy(logits.float(), batch.labels, ignore_index=-1, reduction="sum")
            terms["ce"] = known / len(logits)
        if self.settings.kd_weight:
            scores = batch.teacher[0].logits
            assert scores is not None, (
                "a run refuses a teacher without class scores where `reads` asks for them"
            )
            terms["kd"] = kd_loss(logits, scores, temperature=self.settings.kd_temperature)
        return terms


def _classes(settings: Any, task: Task) -> int:
    """C of the student's classifier: the labels', the teacher's, or both."""
    if settings.kd_weight and len(task.teachers) > 1:
        raise SeedHubError(
            f"Class scores are learnt from one teacher, and {len(task.teachers)} are named: name one, or set --kd-weight 0."
        )
    labels, scored = task.classes, task.teachers[0].classes
    if settings.ce_weight and settings.kd_weight and labels != scored:
        raise SeedHubError(
            f"The labels name {labels} classes and the teacher scores {scored}: name a teacher that was trained on these "
            "classes, or set --kd-weight 0."
        )
    return labels if settings.ce_weight else scored
