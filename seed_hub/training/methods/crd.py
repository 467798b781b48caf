"""CRD: contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699).

    h(u, v) = exp(u . v / tau) / Z
    NCE(u; V) = - log( h(u, v_0) / (h(u, v_0) + K / N) ) - sum_{k=1..K} log( (K / N) / (h(u, v_k) + K / N) )
    loss = mean over the batch of  NCE(z_s; V_t) + NCE(z_t; V_s)
    v_i <- normalise(m v_i + (1 - m) z_i)      after each step, for the images of the batch

z_s, z_t are linear embeddings of student's and teacher's features, L2-normalised, both trained. V_t, V_s are rows of two
memories with one embedding per image of the data: v_0 the image's own, as it was when the image was last seen, v_1 ... v_K
other images'. Z is N times the mean exponential of the first batch, one per memory, and stays.

Where we differ from the released code: the default needs no labels, and any other image is a negative; with labels
(`ce_weight` above 0) only images of other classes are, as there, and those of no known class. The negatives of a step are windows of one permutation, each image's
at a place of its own: uniform for each image, not independent between images.

Legend: B batch, D embedding width, N images, K negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from seed_hub.encoder import Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.projection import projection_head
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch, Task
from seed_hub.training.precision import in_full_precision
from seed_hub.training.processes import gather

PRESETS = {"benchmark": {"ce_weight": 1.0}, "benchmark-kd": {"ce_weight": 1.0, "kd_weight": 1.0}}
EPS = 1e-7  # the released code's


def nce(scores: Tensor, n_data: int) -> Tensor:
    """- log(h_0 / (h_0 + K / N)) - sum_k log((K / N) / (h_k + K / N)), mean over the batch.

    Args:
        scores: h ``[B, 1 + K]``, the positive first.
        n_data: N; noise is uniform over the images.
    """
    noise = (scores.shape[1] - 1) / n_data
    positive, negative = scores[:, :1], scores[:, 1:]
    log_positive = (positive / (positive + noise + EPS)).log()
    log_negative = (noise / (negative + noise + EPS)).log()
    return -(log_positive.sum() + log_negative.sum()) / len(scores)


def draw_negatives(
    index: Tensor,
    n_data: int,
    negatives: int,
    *,
    seed: int,
    step: int,
    labels: Tensor | None = None,
) -> Tensor:
    """``[B, K]``: for each image K others, none twice, uniform; a function of (seed, step, image).

    Args:
        index: ``[B]``, the images.
        n_data: N > K.
        labels: ``[N]``, every image's class, -1 where unknown: then none of its own class.

    Raises:
        SeedHubError: there are fewer than K images of other classes.
    """
    # Counter word 1 is 0 for views and 2^63 for the order of an epoch: no random numbers are shared.
    rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**62, step, 0]))
    order = torch.from_numpy(rng.permutation(n_data)).to(index.device)
    start = torch.from_numpy(rng.integers(n_data, size=n_data)).to(index.device)[index]
    window = negatives + 1  # it may hold the image itself
    if labels is not None:
        window += int(torch.bincount(labels + 1, minlength=2)[1:].max())  # and all of its class. CPU-GPU sync
    places = torch.arange(min(window, n_data), device=index.device)
    others = order[(start[:, None] + places) % n_data]  # [B, window]
    allowed = others != index[:, None]
    if labels is not None:
        own = labels[index][:, None]
        allowed &= (labels[others] != own) | (own < 0)
        fewest = int(allowed.sum(dim=1).min())  # CPU-GPU sync
        if fewest < negatives:
            raise SeedHubError(
                f"--negatives is {negatives}, and an image has only {fewest} images of other classes to contrast with: "
                f"pass --negatives {fewest} or less."
            )
    allowed &= allowed.cumsum(dim=1) <= negatives
    return others[allowed].view(len(index), negatives)


class CrdMemory(nn.Module):
    """Two memories of N embeddings each, the student's and the teacher's, and the loss against them.

    Args:
        n_data: N.
        dim: D.
        negatives: K, below N.
        temperature: tau > 0.
        momentum: m, the share of a row that an update keeps.
    """

    rows_s: Tensor
    rows_t: Tensor

    def __init__(
        self, n_data: int, dim: int, negatives: int, temperature: float = 0.07, momentum: float = 0.5
    ) -> None:
        super().__init__()
        if not 1 <= negatives < n_data:
            raise SeedHubError(
                f"--negatives is {negatives} and each of the {n_data} training images has {n_data - 1} others: "
                f"pass --negatives {n_data - 1} or less, and at least 1."
            )
        self.n_data, self.negatives = n_data, negatives
        self.temperature, self.momentum = temperature, momentum
        bound = (3 / dim) ** 0.5  # uniform within it: norm 1 in the mean square
        for name in ("rows_s", "rows_t"):
            self.register_buffer(name, torch.empty(n_data, dim).uniform_(-bound, bound))
        # (Z of the student's scores, of the teacher's); numbers, so that the step waits for no device.
        self.z: tuple[float, float] | None = None
        self._first: tuple[float, float] | None = None  # of the first batch, until `update` keeps it

    def get_extra_state(self) -> dict[str, Any]:
        return {"z": self.z}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.z = state["z"]

    @in_full_precision
    def loss(self, embedding_s: Tensor, embedding_t: Tensor, index: Tensor, contrast_index: Tensor) -> Tensor:
        """NCE(z_s; V_t) + NCE(z_t; V_s), mean over the batch; changes no memory.

        Args:
            embedding_s, embedding_t: z_s, z_t ``[B, D]``, rows of norm 1; the gradient reaches both.
            index: ``[B]``, the images; the rows that :meth:`update` will change.
            contrast_index: ``[B, 1 + K]``, whose rows are v_0 ... v_K: the image's own index first.

        Returns:
            A scalar in float32 (float64 for float64 input). Takes memory of B N: less than the B K D of gathered rows
            unless N is above K D.
        """
        scores_s = self._exponentials(embedding_s, self.rows_t, contrast_index)  # [B, 1 + K]
        scores_t = self._exponentials(embedding_t, self.rows_s, contrast_index)
        if self.z is None and self._first is None:
            means = torch.stack([scores_s.detach().mean(), scores_t.detach().mean()])[None]
            z_s, z_t = (self.n_data * gather(means).mean(dim=0)).tolist()
            self._first = (z_s, z_t)
        z = self.z or self._first
        assert z is not None
        return nce(scores_s / z[0], self.n_data) + nce(scores_t / z[1], self.n_data)

    def _exponentials(self, embedding: Tensor, rows: Tensor, contrast_index: Tensor) -> Tensor:
        """exp(u . v / tau) ``[B, 1 + K]``."""
        # A copy: backward may come after `update` has moved the rows.
        every = embedding @ rows.to(embedding.dtype, copy=True).T  # [B, N]
        return (every.gather(1, contrast_index) / self.temperature).exp()

    @torch.no_grad()
    def update(self, embedding_s: Tensor, embedding_t: Tensor, index: Tensor) -> None:
        """Move the rows ``index`` towards ``[B, D]`` embeddings, those of all processes; Z is kept from the first on."""
        if self.z is None:
            self.z = self._first
        index = gather(index)
        for rows, embedding in ((self.rows_s, embedding_s), (self.rows_t, embedding_t)):
            moved = self.momentum * rows[index] + (1 - self.momentum) * gather(embedding).to(rows.dtype)
            rows[index] = normalize(moved, dim=1)


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of CRD."""

    negatives: int = 16384
    """K, how many other images each image is contrasted with; below the number of images"""
    temperature: float = 0.07
    """tau, of the similarities"""
    memory_momentum: float = 0.5
    """m, share of an image's row in the memory that is kept when it is seen again"""
    embedding_width: int = 128
    """D, width of the embeddings that are contrasted"""
    feature_weight: float = 0.8
    """weight of the contrastive loss (the benchmark's)"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 1)"""
    kd_weight: float = 0.0
    """weight of the teacher's class scores; above 0, the teacher needs a classifier"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""


class Crd(LabelledDistillation):
    """Student and teacher, each against a memory of the other."""

    Settings = Settings
    labels: Tensor | None

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        if not task.images:
            raise SeedHubError(
                'The method "crd" keeps a row of every image, and nobody knows how many a stream has: leave out --stream, '
                "or use --method seed."
            )
        width = settings.embedding_width
        self.head = projection_head(student.width, 0, width, layers=1)
        self.embed_t = nn.Linear(task.teacher.embedding, width)
        self.memory = CrdMemory(
            task.images, width, settings.negatives, settings.temperature, settings.memory_momentum
        )
        self.register_buffer("labels", task.labels, persistent=False)

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        z_s = normalize(self.project(student.pooled).float(), dim=1)  # [B, D]
        z_t = normalize(self.embed_t(batch.teacher[0].embedding).float(), dim=1)  # [B, D]
        others = draw_negatives(
            batch.index,
            self.memory.n_data,
            self.memory.negatives,
            seed=self.task.seed,
            step=self.step,
            labels=self.labels,
        )
        contrast = torch.cat([batch.index[:, None], others], dim=1)  # [B, 1 + K]
        loss = self.memory.loss(z_s, z_t, batch.index, contrast)
        return {"feature": loss, "z_s": z_s, "z_t": z_t, "index": batch.index}

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        self.memory.update(outputs["z_s"], outputs["z_t"], outputs["index"])
