"""Is it working? Asked of held-out images during a run, without labels.

Legend: N images, D width, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from seed_hub.data import Images
from seed_hub.data.center import center_pixels
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.knn import knn_accuracy, neighbours
from seed_hub.eval.representation import NEIGHBOURS, effective_rank, neighbour_overlap
from seed_hub.training.method import Method
from seed_hub.training.settings import RunSettings, before_training
from seed_hub.training.views import make_view, view_rng, whole_view

# View numbers no run of training reaches: the held-out views never coincide with a training view.
_WATCH_VIEW = 2**48
LEAST_HELD_OUT = 3 * NEIGHBOURS  # of fewer images, a third and more are neighbours of each other by chance


def view_retrieval(a: Tensor, b: Tensor) -> float:
    """Share of rows of ``a`` ``[N, D]`` whose nearest row of ``b`` is the other view of the same image."""
    _, near = neighbours(b, a, 1)
    return (near[:, 0] == torch.arange(len(a), device=near.device)).float().mean().item()


@dataclass(frozen=True)
class Look:
    """One look at the held-out images."""

    score: float
    """what ``best/`` follows: agreement if there is a teacher, else view retrieval; of a classifier that is trained on
    labels the share of the run, so that its last look is the best: held-out labels choose nothing"""
    agreement: float | None
    """top-10 neighbour overlap of the student's pooled features with the teacher's embedding"""
    cosine: float | None
    """mean cosine of the student's projected embedding to the teacher's, where they are as wide"""
    view_retrieval: float
    """share of images found again among all from another view of them, by the pooled features"""
    effective_rank: float
    """of the pooled features"""
    knn: float | None
    """leave-one-out k-NN accuracy in percent (k = 10), where labels exist; shown, never used"""
    accuracy: float | None = None
    """share of images whose class its own class scores name, where it gives them and labels exist; shown, never used"""


class Monitor:
    """Holds the held-out pixels and the teacher's embeddings of them.

    Args:
        images: the held-out images.
        teachers: what the first one says is agreed with; none, if the method learns alone.
        settings: sides in pixels and seed, as in training.
        device, autocast: where and in what precision the networks run.
    """

    def __init__(
        self,
        images: Images,
        teachers: list[Frozen],
        method: Method,
        settings: RunSettings,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.device, self.labels, self.autocast = device, images.labels, autocast
        size, seed = settings.size, settings.seed
        pictures = [images.load(i) for i in range(len(images))]
        self.pixels = torch.stack([center_pixels(p, size) for p in pictures])  # uint8 [N, 3, S, S]
        first = method.view_settings(whole_view(settings))[0]
        views = [make_view(p, first, view_rng(seed, i, _WATCH_VIEW)) for i, p in enumerate(pictures)]
        self.views = torch.stack([torch.from_numpy(v) for v in views])
        self.teacher: Tensor | None = None  # [N, D]
        if teachers:
            self.teacher = self._run(
                lambda x: teachers[0].embed(enlarge(x, settings.teacher_size)), self.pixels
            )

    def _run(self, embed: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        """``embed`` over all ``pixels`` in the run's precision; float32 on the CPU."""
        with self.autocast():
            return torch.cat([embed(self._on_device(p)).float().cpu() for p in pixels.split(128)])

    def _on_device(self, pixels: Tensor) -> Tensor:
        """uint8 ``[B, 3, S, S]`` -> float in [0, 1] where the networks are."""
        return pixels.to(self.device).to(memory_format=torch.channels_last).float() / 255

    @torch.no_grad()
    def look(self, method: Method) -> Look:
        """Measure ``method`` as it is now; its state is not changed."""
        training = method.training
        method.eval()
        try:
            # A look is seconds; compiling the student once more, for evaluation, would be minutes.
            with torch.compiler.set_stance("force_eager"):
                both = self._run(lambda x: _pooled_and_embedding(method, x), self.pixels)
                other = self._run(lambda x: method.student(x).pooled, self.views)
            pooled, embedding = both.split(
                [method.student.width, both.shape[1] - method.student.width], dim=1
            )
        finally:
            method.train(training)
        if not (both.isfinite().all() and other.isfinite().all()):
            raise SeedHubError(
                "The student's features are not finite numbers: lower --lr, or add --clip 1, and start again."
            )
        agreement = cosine = knn = accuracy = None
        if self.teacher is not None:
            agreement = neighbour_overlap(pooled, self.teacher)
            if embedding.shape == self.teacher.shape and not method.head_gives_classes:
                cosine = cosine_similarity(embedding, self.teacher).mean().item()
        if self.labels is not None:
            labels = torch.as_tensor(self.labels)
            knn = _leave_one_out(pooled, labels)
            if method.head_gives_classes:
                accuracy = (embedding.argmax(dim=1) == labels).float().mean().item()
        found = view_retrieval(other, pooled)
        alone = method.progress if method.head_gives_classes else found
        return Look(
            score=alone if agreement is None else agreement,
            agreement=agreement,
            cosine=cosine,
            view_retrieval=found,
            effective_rank=effective_rank(pooled),
            knn=knn,
            accuracy=accuracy,
        )


def _pooled_and_embedding(method: Method, x: Tensor) -> Tensor:
    """``[B, D + P]``: what ships and what is trained against the teacher, from one pass of the student."""
    pooled = method.student(x).pooled
    return torch.cat([pooled.float(), method.project(pooled).float()], dim=1)


def _leave_one_out(x: Tensor, labels: Tensor) -> float:
    return knn_accuracy(x, labels, x, labels, k=(10,), leave_one_out=True)[10]


def enlarge(pixels: Tensor, size: int) -> Tensor:
    """``[B, 3, S, S]`` -> ``[B, 3, size, size]``, bilinear; unchanged for size 0."""
    if not size or pixels.shape[-1] == size:
        return pixels
    return interpolate(pixels, size=(size, size), mode="bilinear", antialias=size < pixels.shape[-1])


def verdict(first: Look, best: Look, n: int, start: str = "") -> str:
    """One sentence: did it work, against the untrained student?

    Args:
        start: where the student's weights came from; with others than random ones it need not have gained much on them.
    """
    rank = f"effective rank {first.effective_rank:.0f} -> {best.effective_rank:.0f}"
    known = f", chance {1 / n:.1%}"
    if best.agreement is not None and first.agreement is not None:
        before, now = first.agreement, best.agreement
        what = f"of the teacher's {NEIGHBOURS} nearest neighbours are also the student's"
        known = f", chance {min(1.0, NEIGHBOURS / (n - 1)):.1%}"
    elif best.accuracy is not None and first.accuracy is not None:
        before, now, what, known = first.accuracy, best.accuracy, "of held-out images get their class", ""
    else:
        before, now = first.view_retrieval, best.view_retrieval
        what = "of held-out images are found again from another view"
    gain = now - before
    enough = now > 1.5 * before and gain > 0.05
    numbers = f"{now:.1%} {what} ({before_training(start)} {before:.1%}{known}), {rank}"
    if best.agreement is not None and best.accuracy is not None:
        numbers += f", {best.accuracy:.1%} of held-out images get their class"
    if best.agreement is not None and n < LEAST_HELD_OUT:
        return f"Too few to tell: {n} images are held out, and {numbers}. Give it more images, or a larger --held-out."
    if best.effective_rank < 0.3 * first.effective_rank and best.effective_rank < 8:
        return f"COLLAPSED: {numbers}. The embedding lost its dimensions: lower the learning rate or use more negatives."
    if enough:
        return f"It worked: {numbers}."
    of_classes = best.agreement is None and best.accuracy is not None  # by a classifier that is always new
    if start and not of_classes and gain > -0.01:
        did = "gained on" if gain > 0.01 else "kept"
        return f"It {did} what it started with ({100 * gain:+.1f} points): {numbers}."
    if gain > 0.01:
        return f"Barely: {numbers}. Train longer, or look at the report's neighbours before you use it."
    suspects = "learning rate, the teacher" if best.agreement is not None else "learning rate"
    return f"It did not work: {numbers}. Check the {suspects} and the images in the report."
