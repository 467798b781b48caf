"""Representation: what features of the test images tell of a network without one label.

    effective_rank = exp(-sum p_i log p_i),  p = singular values of the centred features / their sum
                                                                                  (Roy and Vetterli 2007)
    alignment      = mean over images of |f(view 1) - f(view 2)|^2                  (Wang and Isola 2020)
    uniformity     = log of the mean over pairs of images of exp(-2 |f(x) - f(y)|^2)
    neighbour_agreement = share of an image's k nearest others that are also the teacher's
    cka            = |Y'X|_F^2 / (|X'X|_F |Y'Y|_F),  columns centred             (linear CKA, Kornblith et al. 2019)

For alignment and uniformity f is of length 1: lower is better for both, 0 to 4 and -4 or a little less to 0. The last two need a
teacher and come in percent. Each has a blind spot: a collapsed network is perfectly aligned, an untrained one may be
uniform, and CKA and effective rank grow as images get fewer than dimensions: compare on the same images only.

Views are a random-resized crop and a flip alone (Wang and Isola also change colours), and uniformity is that of the centre
views, so that it is a fact of the features the other protocols see.

Legend: M test images, D and E widths, S side in pixels, X and Y centred features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms import v2

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import Work
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.knn import neighbours
from seed_hub.network_settings import FeatureSettings
from seed_hub.teachers import load_teacher
from seed_hub.teachers.check import effective_rank as effective_rank  # offered with the other scores

HEADLINE = "effective_rank"
NEEDS_LABELS = False
NEEDS_TRAINING = False  # images to learn from
NEIGHBOURS = 10
LEAST_CHECKPOINTS = 3  # two lie on a line, whatever they score
BLOCK = 2**24  # similarities at a time, for uniformity: 64 MB


@dataclass(frozen=True)
class Settings(FeatureSettings):
    """What of a representation is measured."""

    teacher: str = ""
    """a teacher to compare with, such as timm:NAME; none: its two scores are left out"""
    teacher_size: int = 0
    """input side of the teacher in pixels; 0: its own"""
    k: int = 10
    """nearest images whose agreement with the teacher's is counted"""
    crop_min: float = 0.2
    """smallest area of a view, as a share of the image"""
    seed: int = 0
    """of the two views"""


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs: the images and two views of each; of a teacher, whose size is not known yet, nothing."""
    return Work(0, 3 * len(test))


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``effective_rank``, ``alignment``, ``uniformity`` and, with a teacher, ``neighbour_agreement`` and ``cka``.

    ``train`` and all labels are left alone.
    """
    _check(settings, test)
    teacher = (
        load_teacher(settings.teacher, image_size=settings.teacher_size or None) if settings.teacher else None
    )
    ours = settings.extraction() | {"size": settings.size or encoder.input_size}
    x = extract(encoder, test, progress=progress, **ours)  # [M, D]
    views = [
        extract(
            encoder, cast(Images, RandomViews(test, ours["size"], settings, view)), progress=progress, **ours
        )
        for view in (0, 1)
    ]
    device = pick_device(settings.device)
    if device.type != "cuda":  # Metal has no float64
        device = torch.device("cpu")
    x = x.to(device)
    yield "effective_rank", effective_rank(x)
    yield "alignment", alignment(*views)
    yield "uniformity", uniformity(x)
    if teacher is not None:
        # Its embedding: what a student of it is compared with in training.
        kind = "pooled" if teacher.encoder.head is None else "projected"
        theirs = settings.extraction() | {"size": settings.teacher_size, "features": kind}
        y = extract(teacher, test, progress=progress, **theirs).to(device)  # [M, E]
        yield "neighbour_agreement", 100 * neighbour_overlap(x, y, settings.k)
        yield "cka", 100 * linear_cka(x, y)


def _check(settings: Settings, test: Images) -> None:
    if len(test) < 2:
        raise SeedHubError(f"{test.source} shows {len(test)} image(s), and neighbours need at least 2.")
    if settings.k < 1 or not 0 < settings.crop_min <= 1:
        raise SeedHubError(
            f"Representation needs k >= 1 and 0 < crop_min <= 1, not {settings.k} and {settings.crop_min:g}."
        )


class RandomViews:
    """What :func:`extract` asks of ``Images``, with one random view ``[S, S]`` of each image in its place.

    A view is a function of the settings' seed, the image's position and the view's number: the same in any process.
    """

    def __init__(self, images: Images, size: int, settings: Settings, view: int) -> None:
        self.images, self.seed, self.view = images, settings.seed, view
        self.source = images.source
        self.fingerprint = (
            f"{images.fingerprint}, view {view} of seed {settings.seed}, crop {settings.crop_min}"
        )
        self.transform = v2.Compose(
            [v2.RandomResizedCrop(size, scale=(settings.crop_min, 1.0)), v2.RandomHorizontalFlip()]
        )

    def __len__(self) -> int:
        return len(self.images)

    def load(self, i: int) -> Image.Image:
        image = self.images.load(i)
        key = np.random.SeedSequence((self.seed, self.view, i)).generate_state(1, np.uint64)
        with torch.random.fork_rng(
            devices=[]
        ):  # torchvision draws from torch's generator of the CPU, and no other
            torch.default_generator.manual_seed(int(key[0]))
            return self.transform(image)


def alignment(a: Tensor, b: Tensor) -> float:
    """Mean squared distance, on the unit sphere, of row i of ``a`` ``[N, D]`` to row i of ``b``: 0 to 4."""
    return (normalize(a.double(), dim=1) - normalize(b.double(), dim=1)).square().sum(1).mean().item()


def uniformity(x: Tensor) -> float:
    """log of the mean of exp(-2 |x_i - x_j|^2) over pairs i < j of rows of ``x`` ``[N, D]``, on the unit sphere.

    0: all in one point. Points spread over the sphere: about -4. Rows of zeros, a dead network's, are one point too.
    """
    x = normalize(x.float(), dim=1)
    square = x.square().sum(1)  # [N]: 1, or 0 for a row of zeros
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    rows = max(1, BLOCK // len(x))
    for first in range(0, len(x), rows):
        block, rest = x[first : first + rows], x[first:]
        distance = (
            square[first : first + rows, None] + square[first:] - 2 * block @ rest.T
        )  # [r, <= N], squared
        total += (-2 * distance.clamp_(min=0)).exp_().triu_(1).sum(dtype=torch.float64)
    return torch.log(total / (len(x) * (len(x) - 1) / 2)).item()


def neighbour_overlap(a: Tensor, b: Tensor, k: int = NEIGHBOURS) -> float:
    """Mean share of each row's k nearest neighbours (cosine, itself excluded) in ``a`` that are also its in ``b``.

    ``a`` ``[N, D]`` and ``b`` ``[N, E]`` embed the same N images; k is at most N - 1. 1: the same neighbours; by chance
    k / (N - 1).
    """
    near_a, near_b = (neighbours(x, x, k, leave_one_out=True)[1] for x in (a, b))
    return (near_a[:, :, None] == near_b[:, None, :]).any(2).float().mean().item()


def linear_cka(x: Tensor, y: Tensor) -> float:
    """|Y'X|^2 / (|X'X| |Y'Y|), Frobenius norms, of the same N images' centred ``[N, D]`` and ``[N, E]``: 0 to 1.

    1 for equal features up to rotation and scale. Features without variance share nothing: 0.
    """
    x, y = (_centred(features.double()) for features in (x, y))
    shared = (y.T @ x).square().sum()
    scale = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return float(shared / scale) if scale > 0 else 0.0


def _centred(x: Tensor) -> Tensor:
    """``[N, D]`` less its mean; zeros where what is left is no more than the rounding of float32."""
    left = x - x.mean(0)
    return left * (left.norm() > 1e-6 * x.norm())


class Correlation(NamedTuple):
    """Of a score with the accuracy. All but n are None where one of the two is the same for all checkpoints."""

    rho: float | None
    """Spearman's, of the ranks: -1 to 1"""
    n: int
    """checkpoints that have both"""
    rho_p: float | None = None
    """two-sided p-value of rho: how often chance pairs the ranks as well; exact for up to 7 checkpoints"""
    r: float | None = None
    """Pearson's, of the values: -1 to 1"""
    r_p: float | None = None
    """of r, likewise"""


def score_correlations(
    rows: Sequence[Mapping[str, float | None]], *, accuracy: str = "linear"
) -> dict[str, Correlation]:
    """How well each label-free score tells checkpoints by their accuracy, by the score's name.

    Args:
        rows: one mapping a checkpoint: its ``accuracy`` (a linear probe's) and any scores by name; a score that a
            checkpoint lacks, or that is None, leaves that checkpoint out of its correlation.
        accuracy: the name under which the accuracy stands.

    Raises:
        SeedHubError: a score that fewer than 3 checkpoints have together with an accuracy.
    """
    found = {}
    for name in dict.fromkeys(key for row in rows for key in row if key != accuracy):
        both = [(row.get(name), row.get(accuracy)) for row in rows]
        pairs = np.array([pair for pair in both if None not in pair], dtype=np.float64).reshape(-1, 2)
        if len(pairs) < LEAST_CHECKPOINTS:
            raise SeedHubError(
                f"{len(pairs)} checkpoint(s) have both {name} and {accuracy}: a correlation needs at least "
                f"{LEAST_CHECKPOINTS}."
            )
        found[name] = _correlation(*pairs.T)
    return found


def _correlation(score: np.ndarray, reached: np.ndarray) -> Correlation:
    from scipy.stats import PermutationMethod, pearsonr, rankdata

    if np.ptp(score) == 0 or np.ptp(reached) == 0:
        return Correlation(None, len(score))

    def correlated(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
        """(coefficient, p): all pairings for up to 7 checkpoints, else 9,999 by a fixed seed."""
        by_chance = PermutationMethod(9999, None, np.random.default_rng(0))
        result = pearsonr(a, b, method=by_chance)
        return float(result.statistic), float(result.pvalue)

    rho, rho_p = correlated(rankdata(score), rankdata(reached))
    return Correlation(rho, len(score), rho_p, *correlated(score, reached))
