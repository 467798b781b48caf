"""Semi-supervised: how far does the network get with 1 % and 10 % of the labels?

    labelled images = share of each class, one of each at least, drawn by a seed (or the lists in a folder)
    minimise over the network and W, b:  mean over labelled images of  -log softmax(W h + b)[y];  score h on the test split

h is the pooled output or, where the encoder carries a projection head with a hidden layer, the output of that layer
(SimCLR v2, Chen et al. 2020, arXiv 2006.10029). Mode "frozen" trains W and b alone on the pooled output, which is what
DisCo and BINGO report. The recipe is SwAV's (Caron et al. 2020, arXiv 2006.09882, its code): SGD with momentum 0.9,
batch 256, 20 epochs, x0.2 after 12 and 16 of them, learning rates of network and classifier 0.02 and 5 (1 %), 0.01 and
0.2 (10 %), no weight decay, crop and flip.

Where we differ, for data sets smaller than ImageNet:
- epochs are added until there are `least_steps` steps: 1 % of ImageNet makes 1,000 steps, 1 % of 1,500 images makes 20.
- with fewer labelled images than a batch holds, both learning rates shrink in proportion (the linear scaling rule), as
  they do for a smaller batch.
- features are divided by their mean norm, and the classifier's rate is 30: the published ones belong to the sizes that
  features of their networks have (`feature_scale` in finetuning.py; `--no-normalize`: as published).
- `--optimizer adamw` trains networks from scratch, too, at one rate for all with batch norm and a tenth of it for others: the
  competitor in "do labels alone give as much?". By SGD at these rates untrained MobileNetV3 and EfficientNets diverge.
- test images are centre squares of the short side, not 224 of 256 pixels.

Legend: N labelled images, M test images, D width, C classes.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import LEARNT, Work
from seed_hub.eval.finetuning import (
    UNIT_RATE,
    Progress,
    Recipe,
    feature_scale,
    finetune,
    linear_classifier,
    predict,
    top_scores,
)
from seed_hub.eval.label_lists import labelled_images
from seed_hub.eval.labels import paired_labels
from seed_hub.network_settings import NetworkSettings
from seed_hub.projection import hidden_layers

_log = logging.getLogger(__name__)

HEADLINE = "top1_1pct"
# (network, classifier). 0.05: between the two shares the recipes were made for, 1 % and 10 %.
FEW, FEW_RATES, RATES, FROZEN_RATES = 0.05, (0.02, 5.0), (0.01, 0.2), (0.0, 3.0)
# AdamW's rate of the network, with batch norm, after which the size of weights does not count, and without (ViTs).
ADAMW_RATE, ADAMW_RATE_UNNORMED = 1e-3, 1e-4
OPTIMIZERS = ("sgd", "adamw")


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """How much is labelled, and how the network learns from it."""

    share: tuple[float, ...] = (0.01, 0.1)
    """shares of the training images whose label is used"""
    trials: int = 3
    """runs per share, with seeds seed, seed + 1, ...: each draws its own images"""
    seed: int = 0
    """of the lists and of the training"""
    mode: str = "finetune"
    """finetune: the whole network learns; frozen: only a linear classifier does (DisCo's and BINGO's)"""
    head_layer: str = "auto"
    """auto: fine-tune from behind the first layer of the projection head, if there is one; none: from the pooled output"""
    lists: str = ""
    """folder of lists of labelled images, such as 1percent.txt; those that are not there are written (default: none)"""
    epochs: int = 0
    """passes over the labelled images; 0: 20 (finetune), 100 (frozen)"""
    least_steps: int = 200
    """epochs are added until there are that many steps"""
    normalize: bool = True
    """features are divided by their mean norm, and the classifier's rate is 30; false: as they are, at the papers' rates"""
    optimizer: str = "sgd"
    """sgd (the papers'), or adamw, which trains networks from scratch, too: for comparing with them"""
    lr: tuple[float, ...] = ()
    """of the network, one for each share or one for all (default: 0.02 below a share of 0.05, else 0.01, times batch / 256; adamw: 0.001, without batch norm 0.0001)"""
    classifier_lr: tuple[float, ...] = ()
    """of the classifier, likewise (default: 30; without normalising 5 below a share of 0.05, else 0.2, frozen 3; times batch / 256; adamw: 0.001)"""
    weight_decay: float = 0.0
    """on everything that learns"""
    train_batch: int = 256
    """images per step of training"""
    crop_least: float = 0.08
    """smallest share of an image's area that a training view shows"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Progress | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``top1_1pct``, ``top5_1pct`` (with more than 5 classes), ``top1_10pct``, ... once per trial."""
    _check(settings)
    train_y, test_y = paired_labels(train, test)
    _say_single_images(train)
    number = dict(zip(np.asarray(train.labels).tolist(), train_y.tolist(), strict=True))
    source = encoder.encoder if isinstance(encoder, Frozen) else encoder
    kept = kept_layers(source) if (settings.mode, settings.head_layer) == ("finetune", "auto") else None
    for place, share in enumerate(settings.share):
        for trial in range(settings.trials):
            seed = settings.seed + trial
            chosen = labelled_images(train, share, seed, settings.lists)
            recipe = recipe_for(
                settings,
                place,
                seed,
                images=len(chosen),
                projected=kept is not None,
                batch_norm=any(isinstance(layer, _BatchNorm) for layer in source.modules()),
            )
            network = copy.deepcopy(source)
            network.head = copy.deepcopy(kept)
            width = network.width if kept is None else _width(kept)
            classifier = linear_classifier(width, int(max(train_y.max(), test_y.max())) + 1, seed)
            if settings.normalize:
                recipe = replace(recipe, scale=feature_scale(network, train, recipe))
            labels = torch.tensor([number[label] for label in np.asarray(chosen.labels).tolist()])
            finetune(network, classifier, chosen, labels, recipe, progress=progress)
            for_test = replace(recipe, batch_size=settings.batch_size)
            top1, top5 = top_scores(predict(network, classifier, test, for_test, progress=progress), test_y)
            yield f"top1_{100 * share:g}pct", top1
            if classifier.out_features > 5:
                yield f"top5_{100 * share:g}pct", top5


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs."""
    epochs, learnt = settings.epochs or (100 if settings.mode == "frozen" else 20), 0
    for share in settings.share:
        images = max(1, round(share * len(train)))
        learnt += max(epochs * images, settings.least_steps * min(images, settings.train_batch))
    runs = settings.trials * len(settings.share)
    scaled = {"epochs": epochs, "least_steps": settings.least_steps}
    return Work(
        0, runs * len(test), settings.trials * learnt / (LEARNT if settings.mode == "frozen" else 1), scaled
    )


def recipe_for(
    settings: Settings,
    place: int,
    seed: int,
    *,
    images: int,
    projected: bool = False,
    batch_norm: bool = True,
) -> Recipe:
    """The training on ``images`` images, the settings' share number ``place``; see the top of this file.

    Args:
        projected: from behind layers of the projection head.
        batch_norm: the network has some.
    """
    few, frozen = settings.share[place] < FEW, settings.mode == "frozen"
    scale = min(images, settings.train_batch) / 256
    own_rate, classifier_rate = FROZEN_RATES if frozen else FEW_RATES if few else RATES
    rates = [scale * own_rate, scale * (UNIT_RATE if settings.normalize else classifier_rate)]
    if settings.optimizer == "adamw":
        rates = [ADAMW_RATE if batch_norm else ADAMW_RATE_UNNORMED, ADAMW_RATE]
    given = settings.lr, settings.classifier_lr
    lr, classifier_lr = (
        own[place % len(own)] if own else rate for own, rate in zip(given, rates, strict=True)
    )
    return Recipe(
        epochs=settings.epochs or (100 if frozen else 20),
        least_steps=settings.least_steps,
        batch_size=settings.train_batch,
        lr=lr,
        classifier_lr=classifier_lr,
        factor=0.1 if frozen else 0.2,
        optimizer=settings.optimizer,
        weight_decay=settings.weight_decay,
        frozen=frozen,
        features="projected" if projected else "pooled",
        crop=(settings.crop_least, 1.0),
        seed=seed,
        **{name: getattr(settings, name) for name in ("size", "precision", "workers", "device")},
    )


def kept_layers(encoder: Encoder) -> nn.Sequential | None:
    """The first linear layer of the encoder's projection head and what follows it up to the next (norm, activation).

    None without a head, or where the head has no hidden layer.
    """
    hidden = hidden_layers(encoder.head)
    return nn.Sequential(*hidden[0]) if hidden else None


def _width(kept: nn.Sequential) -> int:
    return next(layer.out_features for layer in kept if isinstance(layer, nn.Linear))


def _say_single_images(train: Images) -> None:
    kinds, counts = np.unique(np.asarray(train.labels), return_counts=True)
    single = [str(kind) if train.classes is None else train.classes[kind] for kind in kinds[counts == 1]]
    if single:
        _log.warning(
            "%d of the classes have a single training image (%s%s): every list holds it, whatever its share and seed.",
            len(single),
            ", ".join(single[:5]),
            ", ..." if len(single) > 5 else "",
        )


def _check(settings: Settings) -> None:
    if settings.mode not in ("finetune", "frozen") or settings.head_layer not in ("auto", "none"):
        raise SeedHubError(
            f'There is no mode "{settings.mode}" with head layer "{settings.head_layer}": choose finetune or frozen, '
            "and auto or none."
        )
    if settings.optimizer not in OPTIMIZERS:
        raise SeedHubError(
            f'There is no optimizer "{settings.optimizer}" here: choose {" or ".join(OPTIMIZERS)}.'
        )
    if not settings.share or not all(0 < share <= 1 for share in settings.share):
        raise SeedHubError(f"Shares of the labels lie above 0 and up to 1, not {settings.share}.")
    for name, rates in (("lr", settings.lr), ("classifier_lr", settings.classifier_lr)):
        if len(rates) not in (0, 1, len(settings.share)):
            raise SeedHubError(
                f"{name} has {len(rates)} values for {len(settings.share)} shares: give one for each, or one for all."
            )
