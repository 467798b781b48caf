"""Linear probe: how much of a class can one matrix read from frozen features?

    minimise over W, b:  mean over images of  -log softmax(W x + b)[y]

Protocol fast: features are computed once, without augmentation. A sweep of settings is trained at once, the best is
chosen on a held-out fifth of the training split, and trained again on all of it; the test split is scored once, at the
end. Protocol seed, the SEED paper's, is :mod:`seed_hub.eval.linear_sgd`: an augmented view per image and epoch.

The features are L2-normalised, then standardised with the training split's mean and deviation, and divided by
sqrt(D). The first makes one learning rate mean the same for every network; the second is for embeddings that
share one large direction (an untrained ResNet-18: mean cosine 0.96), where SGD on normalised features alone is
still far from the optimum (3.6 % held out instead of 4.4 %); on features of a good network both score the same.

Legend: N train, M test, D width, C classes, B batch, R settings in the sweep.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, cos, pi, sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import LEARNT, Work
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.labels import class_ranks, paired_labels
from seed_hub.eval.linear_sgd import linear_sgd, paper_recipe
from seed_hub.network_settings import FeatureSettings

_log = logging.getLogger(__name__)

HEADLINE = "top1"
PROTOCOLS = ("fast", "seed")
MOMENTUM = 0.9
LEAST_STEPS = 1000  # 600 images make 3 steps an epoch: 20 epochs of that train nothing


@dataclass(frozen=True)
class Settings(FeatureSettings):
    """How the linear probe is trained."""

    protocol: str = "fast"
    """fast: features once, the best of a sweep; seed: the paper's, on augmented views (hours where fast takes minutes)"""
    paper_epochs: int = 100
    """protocol seed: passes over the training images; the learning rate falls to a tenth after 60 % and 80 % of them"""
    paper_lr: float = 0.0
    """protocol seed: learning rate for 256 images per step; 0: 30, or without normalising 3 for EfficientNets and MobileNets"""
    normalize: bool = True
    """protocol seed: features are divided by their mean norm; false: as they are, the paper to the letter"""
    paper_batch: int = 256
    """protocol seed: images per step"""
    lr: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """protocol fast: learning rates to choose from, for features of about unit length"""
    weight_decay: tuple[float, ...] = (0.0,)
    """protocol fast: weight decays to choose from, each with every learning rate"""
    epochs: int = 20
    """protocol fast: passes over the training features, and at least 1,000 steps; cosine schedule to 0"""
    probe_batch: int = 256
    """protocol fast: features per step of SGD"""
    seed: int = 0
    """of the held-out fifth, the order of images, and their views"""
    trials: int = 1
    """runs of the whole choice and training, with seeds seed, seed + 1, ..."""


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs; a step of the fast probe costs next to nothing."""
    if settings.protocol == "fast":
        return Work(len(train), len(test))
    # The trunk is frozen: a view in training costs a forward pass, a third of what a learnt image does.
    views = settings.trials * settings.paper_epochs * len(train)
    return Work(0, settings.trials * len(test), views / LEARNT, {"paper_epochs": settings.paper_epochs})


@dataclass(frozen=True)
class LinearResult:
    """Scores in percent, and what was chosen."""

    top1: float
    top5: float
    """100 where there are at most 5 classes"""
    lr: float
    weight_decay: float
    held_out: tuple[tuple[float, float, float | None], ...]
    """(lr, weight decay, top-1 on the held-out fifth) of each setting; None where there was nothing to choose"""
    weight: Tensor
    """``[C, D]``, on features as :func:`standardised` makes them"""
    bias: Tensor
    """``[C]``"""
    correct: Tensor
    """boolean ``[M]``, which test images top-1 counts"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float | Tensor]]:
    """Yields ``top1``, ``top5`` (with more than 5 classes), ``lr`` and ``correct``, which images are right, per trial; of
    protocol fast also ``held_out_top1`` and ``weight_decay``."""
    if settings.protocol not in PROTOCOLS:
        raise SeedHubError(f'There is no linear protocol "{settings.protocol}": choose "fast" or "seed".')
    if settings.protocol == "seed":
        if settings.features != "pooled":
            raise SeedHubError("The paper's linear protocol reads pooled features: leave --features out.")
        yield from _as_the_paper(encoder, train, test, settings, progress)
        return
    train_y, test_y = paired_labels(train, test)
    how = settings.extraction()
    device = pick_device(settings.device)
    train_x = extract(encoder, train, progress=progress, **how).to(device)
    test_x = extract(encoder, test, progress=progress, **how).to(device)
    for trial in range(settings.trials):
        seeded = replace(settings, seed=settings.seed + trial)
        result = linear_probe(train_x, train_y, test_x, test_y, settings=seeded)
        yield "top1", result.top1
        if len(result.bias) > 5:
            yield "top5", result.top5
        if len(result.held_out) > 1:
            yield "held_out_top1", max(score for *_, score in result.held_out if score is not None)
        yield "lr", result.lr
        yield "weight_decay", result.weight_decay
        yield "correct", result.correct


def _as_the_paper(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[str, float | Tensor]]:
    for trial in range(settings.trials):
        recipe = paper_recipe(
            encoder.encoder.arch if isinstance(encoder, Frozen) else encoder.arch,
            lr=settings.paper_lr,
            normalize=settings.normalize,
            epochs=settings.paper_epochs,
            train_batch=settings.paper_batch,
            seed=settings.seed + trial,
            size=settings.size,
            precision=settings.precision,
            workers=settings.workers,
            device=settings.device,
        )
        found = linear_sgd(
            encoder,
            train,
            test,
            recipe,
            batch_size=settings.batch_size,
            normalize=settings.normalize,
            progress=progress,
        )
        yield "top1", found.top1
        if found.classes > 5:
            yield "top5", found.top5
        yield "lr", found.lr
        yield "correct", found.correct


@torch.no_grad()
def linear_probe(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    settings: Settings = Settings(),
) -> LinearResult:
    """Choose on a held-out fifth of ``train``, train on all of it, score ``test`` once.

    Args:
        train_x, train_y: ``[N, D]``, int64 ``[N]``; the sums run on the device of ``train_x``.
        test_x, test_y: ``[M, D]``, int64 ``[M]``; the labels are used for nothing but the two scores.
    """
    grid = list(product(sorted(settings.lr), sorted(settings.weight_decay)))
    if not grid or min(settings.lr) <= 0 or settings.epochs < 1:
        raise SeedHubError("The linear probe needs learning rates > 0 and epochs >= 1.")
    train_y, test_y = train_y.to(train_x.device), test_y.to(train_x.device)
    train_x, test_x = standardised(train_x, test_x.to(train_x.device))
    scores = _held_out_scores(train_x, train_y, grid, settings)
    best = 0 if scores is None else scores.index(max(scores))  # the smallest learning rate among equals
    if scores is not None and len(settings.lr) > 1 and grid[best][0] in (min(settings.lr), max(settings.lr)):
        _log.warning(
            "The best learning rate, %g, is the last of the sweep: a wider one may score higher.",
            grid[best][0],
        )
    weight, bias = _train(train_x, train_y, int(train_y.max()) + 1, [grid[best]], settings)
    rank = _ranks(weight[0], bias[0], test_x, test_y)
    tried: list[float | None] = [None] if scores is None else [*scores]
    return LinearResult(
        top1=_percent(rank < 1),
        top5=_percent(rank < 5),
        lr=grid[best][0],
        weight_decay=grid[best][1],
        held_out=tuple((lr, decay, score) for (lr, decay), score in zip(grid, tried, strict=True)),
        weight=weight[0],
        bias=bias[0],
        correct=(rank < 1).cpu(),
    )


def standardised(train_x: Tensor, test_x: Tensor) -> tuple[Tensor, Tensor]:
    """Both ``[., D]``: rows to length 1, columns to the training split's mean 0 and deviation 1, over sqrt(D)."""
    train_x, test_x = normalize(train_x.float(), dim=1), normalize(test_x.float(), dim=1)
    mean, deviation = train_x.mean(0), train_x.std(0)  # [D]
    # A dead unit stays 0 instead of becoming its own rounding noise.
    scale = torch.where(deviation > 1e-6 * deviation.max(), 1 / deviation, 0) / sqrt(train_x.shape[1])
    return (train_x - mean) * scale, (test_x - mean) * scale


def held_out_fifth(labels: Tensor, seed: int) -> Tensor:
    """Boolean ``[N]``: a fifth of each class, rounded, at least one image, and never its last one."""
    labels = labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[labels[order].argsort(stable=True)]  # [N], shuffled within each class
    counts = labels.bincount()  # [C]
    quota = torch.where(counts > 1, (counts / 5).round().long().clamp(min=1), 0)
    place = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class[place < quota.repeat_interleave(counts)]] = True
    return held


def _held_out_scores(
    x: Tensor, y: Tensor, grid: list[tuple[float, float]], settings: Settings
) -> list[float] | None:
    """Top-1 of each setting on the held-out fifth; None when there is one setting, so nothing to choose."""
    if len(grid) == 1:
        return None
    held = held_out_fifth(y, settings.seed).to(x.device)
    if not held.any():
        raise SeedHubError(
            "With one training image per class none can be held out to choose the learning rate on: "
            "give a single lr (10 suits most networks)."
        )
    weight, bias = _train(x[~held], y[~held], int(y.max()) + 1, grid, settings)
    return [_percent(_ranks(w, b, x[held], y[held]) < 1) for w, b in zip(weight, bias, strict=True)]


def _train(
    x: Tensor, y: Tensor, classes: int, grid: list[tuple[float, float]], settings: Settings
) -> tuple[Tensor, Tensor]:
    """SGD from zero for all R settings of ``grid`` at once: weights ``[R, C, D]``, biases ``[R, C]``.

    All see the same batches, so the R probes are one product of ``[B, D]`` with ``[D, R * C]``; its gradient is
    (softmax - one-hot) x, in closed form. The problem is convex: a start at zero needs no seed.
    """
    r, (n, d) = len(grid), x.shape
    lr, decay = torch.tensor(grid, device=x.device).T  # [R] each
    weight, bias = x.new_zeros(r * classes, d), x.new_zeros(r * classes)
    speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    rates = lr.repeat_interleave(classes)  # [R * C]
    decays = decay.repeat_interleave(classes)[:, None]
    offsets = torch.arange(r, device=x.device) * classes
    generator = torch.Generator().manual_seed(settings.seed)
    per_epoch = ceil(n / settings.probe_batch)
    epochs = max(settings.epochs, ceil(LEAST_STEPS / per_epoch))
    for epoch in range(epochs):
        order = torch.randperm(n, generator=generator).to(x.device)
        for step, batch in enumerate(order.split(settings.probe_batch)):
            xb = x[batch]  # [B, D]
            error = torch.addmm(bias, xb, weight.T).view(len(batch), r, classes).softmax(2)
            error = error.view(len(batch), r * classes)
            error.scatter_add_(1, y[batch, None] + offsets, error.new_full((len(batch), r), -1))
            error /= len(batch)
            speed.mul_(MOMENTUM).addmm_(error.T, xb).addcmul_(weight, decays)
            bias_speed.mul_(MOMENTUM).add_(error.sum(0))
            fall = -0.5 * (1 + cos(pi * (epoch * per_epoch + step) / (epochs * per_epoch)))
            weight.addcmul_(speed, (rates * fall)[:, None])
            bias.addcmul_(bias_speed, rates * fall)
    return weight.view(r, classes, d), bias.view(r, classes)


def _ranks(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """:func:`class_ranks` of the features ``[B, D]``, a block at a time."""
    blocks = zip(x.split(4096), y.split(4096), strict=True)
    return torch.cat([class_ranks(torch.addmm(bias, xs, weight.T), ys) for xs, ys in blocks])


def _percent(right: Tensor) -> float:
    return 100 * right.double().mean().item()
