"""Transfer: how well do the features serve other data sets, as they are or as a start?

    linear      minimise over W, b:  sum over images of  -log softmax(W x + b)[y]  +  l2 / 2 |W|^2       x is frozen
    finetune    minimise over the network and W, b:  mean over images of  -log softmax(W x + b)[y]

What is to be chosen (l2, or the learning rate) is chosen on a held-out stratified fifth of the training split, by the
data set's own metric; then all of it is used, and the test split is scored once. "linear" follows Kornblith et al. 2019
(arXiv 1805.08974, as SimCLR and BYOL do): L-BFGS, no augmentation, l2 from 1e-6 to 1e5; see :mod:`seed_hub.eval.logistic`.
"finetune" is SGD with momentum and a cosine schedule on crops and flips.

Where we differ from the papers:
- l2 takes 12 values, one a decade, instead of 45 (`--l2-values 45`).
- a held-out fifth of the training split stands for the validation split that only some data sets have; one that has it
  is not trained on it.
- fine-tuning tries three learning rates and one weight decay instead of a grid of 49, without Nesterov's momentum.
- images are scaled bilinearly, not bicubically, and the test view when fine-tuning is the centre square of the short
  side, not 224 of 256 pixels.

A suite (:mod:`seed_hub.eval.suite`) is several data sets, each measured so with its own metric.

Legend: N train, M test, D width, C classes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from torch import Tensor

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import Work
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.finetuning import Recipe, finetune, linear_classifier, predict
from seed_hub.eval.labels import paired_labels
from seed_hub.eval.linear import held_out_fifth
from seed_hub.eval.logistic import METRICS, accuracy, l2_values, logistic_regression
from seed_hub.eval.suite import DataSet
from seed_hub.network_settings import FeatureSettings

_log = logging.getLogger(__name__)

HEADLINE = "top1"
SUITES = True
"""the command line takes a suite in place of one data set"""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Settings(FeatureSettings):
    """How a network is transferred to one data set."""

    mode: str = "linear"
    """linear: logistic regression on frozen features; finetune: the whole network learns"""
    metric: str = "top1"
    """what is highest for the choice made on held-out images: top1, or per_class (mean over classes); a suite says its own"""
    l2_values: int = 12
    """linear: values of l2 to choose from, logarithmically spaced from 1e-6 to 1e5; the papers' number is 45"""
    l2: tuple[float, ...] = ()
    """linear: these values instead (1 / C of scikit-learn)"""
    lr: tuple[float, ...] = (0.001, 0.01, 0.1)
    """finetune: learning rates to choose from, of network and classifier alike"""
    weight_decay: float = 0.0
    """finetune: on everything that learns"""
    steps: int = 5000
    """finetune: at least that many, in whole epochs; cosine schedule to 0"""
    train_batch: int = 64
    """finetune: images per step"""
    seed: int = 0
    """of the held-out fifth and of fine-tuning"""
    trials: int = 1
    """runs of the whole choice and training, with seeds seed, seed + 1, ..."""
    features: str = "pooled"
    """linear: pooled (the trunk's output) or projected (the projection head's); finetune: pooled"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Progress | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``top1``, ``per_class``, ``held_out_top1`` (or ``..._per_class``) and ``l2`` (or ``lr``) per trial."""
    train_y, test_y = paired_labels(train, test)
    _check(settings)
    if settings.mode == "linear":
        yield from _linear(encoder, train, train_y, test, test_y, settings, progress)
    else:
        yield from _finetuned(encoder, train, train_y, test, test_y, settings, progress)


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs."""
    if settings.mode == "linear":
        return Work(len(train), len(test))
    rates = len(set(settings.lr))
    runs = settings.trials * (rates + 1 if rates > 1 else 1)
    looked = settings.trials * (len(test) + (rates * len(train) // 5 if rates > 1 else 0))
    return Work(0, looked, runs * settings.steps * settings.train_batch, {"steps": settings.steps})


def evaluate_suite(
    encoder: Frozen | Encoder,
    suite: Sequence[DataSet],
    settings: Settings = Settings(),
    *,
    allow_bad: float = 0.01,
    progress: Progress | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``NAME_METRIC`` of each data set, once per trial, then ``mean``: of each trial over the data sets.

    Args:
        settings: ``metric`` is taken from each data set.
        allow_bad: largest share of unreadable images to go on with.
    """
    scores = []
    for data_set in suite:
        train, test = data_set.open(allow_bad=allow_bad)
        own = replace(settings, metric=data_set.metric)
        found = evaluate(encoder, train, test, own, progress=progress)
        scores.append([value for name, value in found if name == data_set.metric])
        for value in scores[-1]:
            yield f"{data_set.name}_{data_set.metric}", value
    for trial in zip(*scores, strict=True):
        yield "mean", fmean(trial)


def _linear(
    encoder: Frozen | Encoder,
    train: Images,
    train_y: Tensor,
    test: Images,
    test_y: Tensor,
    settings: Settings,
    progress: Progress | None,
) -> Iterator[tuple[str, float]]:
    l2 = settings.l2 or l2_values(settings.l2_values)
    how = settings.extraction()
    train_x = extract(encoder, train, progress=progress, **how)
    test_x = extract(encoder, test, progress=progress, **how)
    device = pick_device(settings.device)
    if device.type == "cuda":  # Metal has no float64: everything else is solved on the CPU
        train_x = train_x.to(device)
    for trial in range(settings.trials):
        result = logistic_regression(
            train_x, train_y, test_x, test_y, l2=l2, metric=settings.metric, seed=settings.seed + trial
        )
        yield from result.scores.items()
        tried = [score for _, score in result.held_out if score is not None]
        if tried:
            yield f"held_out_{settings.metric}", max(tried)
        yield "l2", result.l2


def _finetuned(
    encoder: Frozen | Encoder,
    train: Images,
    train_y: Tensor,
    test: Images,
    test_y: Tensor,
    settings: Settings,
    progress: Progress | None,
) -> Iterator[tuple[str, float]]:
    source = encoder.encoder if isinstance(encoder, Frozen) else encoder
    classes = int(train_y.max()) + 1

    def trained(on: Images, y: Tensor, scored: Images, lr: float, seed: int) -> Tensor:
        """int64 ``[M]``: the classes a copy of the network, trained on ``on``, sees in ``scored``."""
        network = copy.deepcopy(source)
        network.head = None
        classifier = linear_classifier(network.width, classes, seed)
        recipe = _recipe(settings, lr, seed)
        finetune(network, classifier, on, y, recipe, progress=progress)
        for_test = replace(recipe, batch_size=settings.batch_size)
        return predict(network, classifier, scored, for_test, progress=progress).argmax(1)

    rates = sorted(set(settings.lr))
    for seed in range(settings.seed, settings.seed + settings.trials):
        tried = _tried(trained, train, train_y, rates, seed, settings.metric) if len(rates) > 1 else [0.0]
        best = rates[tried.index(max(tried))]  # the smallest among equals
        yield from accuracy(trained(train, train_y, test, best, seed), test_y).items()
        if len(rates) > 1:
            yield f"held_out_{settings.metric}", max(tried)
        yield "lr", best


def _tried(
    trained: Callable[..., Tensor], train: Images, y: Tensor, rates: list[float], seed: int, metric: str
) -> list[float]:
    """Score on the held-out fifth of each of ``rates``, ascending, up to the first that diverges."""
    held = held_out_fifth(y, seed)
    if not held.any():
        raise SeedHubError(
            "With one training image per class none can be held out to choose the learning rate on: give a single lr."
        )
    rest, left = (train.subset(part.nonzero()[:, 0].numpy()) for part in (~held, held))
    scores: list[float] = []
    for lr in rates:
        try:
            scores.append(accuracy(trained(rest, y[~held], left, lr, seed), y[held])[metric])
        except SeedHubError as error:
            if not scores:  # whatever is wrong, it is not that the rate is too high
                raise
            _log.warning("Learning rates from %g on are out of the choice: %s", lr, error)
            break
    return scores


def _recipe(settings: Settings, lr: float, seed: int) -> Recipe:
    return Recipe(
        epochs=1,
        least_steps=settings.steps,
        batch_size=settings.train_batch,
        lr=lr,
        classifier_lr=lr,
        cosine=True,
        weight_decay=settings.weight_decay,
        seed=seed,
        **{name: getattr(settings, name) for name in ("size", "precision", "workers", "device")},
    )


def _check(settings: Settings) -> None:
    if settings.mode not in ("linear", "finetune"):
        raise SeedHubError(f'There is no mode "{settings.mode}": choose linear or finetune.')
    if settings.metric not in METRICS:
        raise SeedHubError(f'There is no metric "{settings.metric}": choose {" or ".join(METRICS)}.')
    if settings.mode == "finetune" and settings.features != "pooled":
        raise SeedHubError("Fine-tuning starts from the pooled features: leave out --features.")
    if settings.steps < 1 or not settings.lr or min(settings.lr) <= 0:
        raise SeedHubError("Transfer needs at least one step, and learning rates > 0.")
