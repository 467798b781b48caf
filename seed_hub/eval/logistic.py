"""Logistic regression on frozen features, as the transfer literature scores them: solved, not trained.

    minimise over W, b:  sum over images of  -log softmax(W x + b)[y]   +   l2 / 2 * |W|^2

by L-BFGS, in float64. This is scikit-learn's ``LogisticRegression`` with C = 1 / l2: the sum over images, where this
package takes means elsewhere, is what makes an l2 here mean what it means there. The l2 is chosen on a held-out
stratified fifth of the training split among values from 1e-6 to 1e5 (Kornblith et al. 2019), strong to weak, each
starting from the solution before it; then all of the training split is solved, and the test split scored once.

Features enter as they are, and the optimum is that of the equation. It is sought for features that are centred (the
bias takes the mean back) and divided by one number, their root mean square length (l2 is divided by its square):
the same problem, better conditioned.

Legend: N train, M test, D width, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, log10

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from seed_hub.errors import SeedHubError
from seed_hub.eval.linear import held_out_fifth

_log = logging.getLogger(__name__)

METRICS = ("top1", "per_class")
L2_RANGE = (1e-6, 1e5)
MOST_STEPS = 1000
GRADIENT = 1e-7  # largest entry at which the mean loss of features of unit length counts as minimal


@dataclass(frozen=True)
class LogisticResult:
    """Scores in percent, and what was chosen."""

    scores: dict[str, float]
    """of the test split, by the names in ``METRICS``"""
    l2: float
    held_out: tuple[tuple[float, float | None], ...]
    """(l2, score on the held-out fifth), strong to weak; None where there was nothing to choose"""
    predicted: Tensor
    """int64 ``[M]``"""


def l2_values(count: int) -> tuple[float, ...]:
    """``count`` values logarithmically spaced over ``L2_RANGE``, strong to weak; 45 are those of the papers."""
    if count < 2:
        raise SeedHubError(
            f"A sweep has at least 2 values of l2, not {count}: give one value as --l2 instead."
        )
    low, high = (log10(end) for end in L2_RANGE)
    return tuple(10 ** (high - (high - low) * step / (count - 1)) for step in range(count))


def logistic_regression(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    *,
    l2: Sequence[float],
    metric: str = "top1",
    seed: int = 0,
) -> LogisticResult:
    """Choose l2 on a held-out fifth of ``train``, solve for all of it, score ``test`` once.

    Args:
        train_x, train_y: ``[N, D]``, int64 ``[N]``; the sums run on the device of ``train_x``.
        test_x, test_y: ``[M, D]``, int64 ``[M]``; the labels are used for nothing but the scores.
        l2: to choose from, in any order; the strongest among equals is taken.
        metric: what is highest for the chosen l2, one of ``METRICS``.
        seed: of the held-out fifth.
    """
    strengths = sorted(set(l2), reverse=True)
    if not strengths or not all(0 < value < inf for value in strengths):
        raise SeedHubError(f"Logistic regression needs values of l2 > 0, not {tuple(l2)}.")
    if metric not in METRICS:
        raise SeedHubError(f'There is no metric "{metric}": choose {" or ".join(METRICS)}.')
    train_y = train_y.to(train_x.device)
    tried = _held_out_scores(train_x, train_y, strengths, metric, seed)
    best = 0 if tried is None else tried.index(max(tried))
    if tried is not None and (best == len(tried) - 1 or (best == 0 and tried[0] > tried[1])):
        _log.warning(
            "The best l2, %g, is the last of the sweep: a wider one may score higher.", strengths[best]
        )
    ((weight, bias),) = fit(train_x, train_y, [strengths[best]])
    predicted = predict(weight, bias, test_x)
    return LogisticResult(
        scores=accuracy(predicted, test_y),
        l2=strengths[best],
        held_out=tuple(zip(strengths, [None] if tried is None else tried, strict=True)),
        predicted=predicted,
    )


def fit(x: Tensor, y: Tensor, l2: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """For each l2 in turn the optimum: weights ``[C, D]`` and biases ``[C]``, float64, for ``x`` as it is given.

    Each search starts where the one before ended, so strong to weak is the fast order. A class of no image in ``y``
    has weights 0 and the bias -inf, which is its optimum.

    Args:
        x, y: ``[N, D]`` and int64 ``[N]``; C is the largest label plus 1.
    """
    present, own, count = y.unique(return_inverse=True, return_counts=True)
    x = x.double()
    mean = x.mean(0)
    x = x - mean
    scale = float(x.square().sum(1).mean().sqrt())
    if scale <= torch.finfo(torch.float32).eps * float(mean.norm()):  # all the same but for rounding
        x, scale = torch.zeros_like(x), 1.0
    x /= scale
    inner = x.new_zeros(len(present), x.shape[1] + 1)  # [present, D + 1]: weights, then the bias
    # The optimum for weights 0, which those of a strong l2 nearly are.
    inner[:, -1] = (count / len(y)).double().log()
    for strength in l2:
        inner = _minimise(x, own, strength / scale**2 / len(x), inner)
        weight = x.new_zeros(int(present[-1]) + 1, x.shape[1])
        bias = x.new_full((len(weight),), float("-inf"))
        weight[present] = inner[:, :-1] / scale
        bias[present] = inner[:, -1] - weight[present] @ mean
        yield weight, bias


def predict(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """The class of highest logit for each row of ``x`` ``[M, D]``: int64 ``[M]`` on the CPU; the lower of equals."""
    found = [(bias + rows.to(weight) @ weight.T).argmax(1).cpu() for rows in x.split(4096)]
    return torch.cat(found)


def accuracy(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """In percent: ``top1`` over the images, ``per_class`` over those of each class of ``truth``, then over the classes."""
    predicted, truth = predicted.cpu(), truth.cpu()
    right = (predicted == truth).double()  # [M]
    of_class = truth.bincount(weights=right) / truth.bincount()  # [C], 0 / 0 where there is none
    return {"top1": 100 * float(right.mean()), "per_class": 100 * float(of_class.nanmean())}


def _held_out_scores(x: Tensor, y: Tensor, l2: Sequence[float], metric: str, seed: int) -> list[float] | None:
    """Of each l2 on the held-out fifth; None when there is one, so nothing to choose."""
    if len(l2) == 1:
        return None
    held = held_out_fifth(y, seed).to(x.device)
    if not held.any():
        raise SeedHubError(
            "With one training image per class none can be held out to choose l2 on: give a single value as --l2."
        )
    left, left_y = x[held], y[held]
    return [
        accuracy(predict(weight, bias, left), left_y)[metric] for weight, bias in fit(x[~held], y[~held], l2)
    ]


@torch.enable_grad()
def _minimise(x: Tensor, y: Tensor, l2: float, start: Tensor) -> Tensor:
    """The minimum ``[C, D + 1]`` of mean cross-entropy + l2 / 2 |W|^2, from ``start``.

    Searched in W * sqrt(1 + l2): for rows of unit length the curvature is then about 1 whatever the l2.
    """
    unit = torch.ones_like(start[0])  # [D + 1]
    unit[:-1] = (1 + l2) ** -0.5
    both = (start / unit).requires_grad_()
    search = torch.optim.LBFGS(
        [both],
        max_iter=MOST_STEPS,
        tolerance_grad=GRADIENT,
        tolerance_change=1e-15,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        inner = both * unit
        weight, bias = inner[:, :-1], inner[:, -1]
        value = cross_entropy(torch.addmm(bias, x, weight.T), y) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    search.step(loss)
    loss()
    steepest = float(both.grad.abs().max())  # type: ignore[union-attr]
    if not steepest <= 100 * GRADIENT:
        _log.warning(
            "Logistic regression stopped short of its optimum, at a gradient of %.1g instead of %.1g.",
            steepest,
            GRADIENT,
        )
    return (both * unit).detach()
