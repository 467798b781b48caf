"""The linear protocol of the SEED paper (He et al. 2020's of MoCo): an augmented view per image and epoch, 100 epochs.

    minimise over W, b:  mean over the batch of  -log softmax(W h(view) + b)[y]

The trunk is frozen, in eval mode; h is its pooled output. W starts at N(0, 0.01), b at 0. Views are random resized
crops of 8 to 100 % of the area, flipped half of the time. SGD with momentum 0.9 and no weight decay, batch 256,
learning rate 30, for EfficientNets and MobileNets 3, times 0.1 after 60 % and 80 % of the epochs; other batches scale it
linearly, as the paper's code does. The score is the last epoch's: the best of all epochs, which the code of MoCo
reports, is chosen on the test images.

Where we differ: test images are centre squares of the short side, not 224 of 256 pixels; and unless told otherwise features
are divided by their mean norm, at which the rate of 30 fits every network (:func:`seed_hub.eval.finetuning.feature_scale`):
as they are, those of one student had a norm of 5 and those of another, of the same architecture, 150.

Legend: D width, C classes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from torch import Tensor

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.eval.finetuning import (
    UNIT_RATE,
    Progress,
    Recipe,
    feature_scale,
    finetune,
    linear_classifier,
    predict,
)
from seed_hub.eval.labels import class_ranks, paired_labels

_log = logging.getLogger(__name__)

EPOCHS = 100
RATE, SMALL_RATE = 30.0, 3.0  # per batch of 256
SMALL = ("efficientnet", "mobilenet")


@dataclass(frozen=True)
class PaperScores:
    """Of the last epoch, in percent."""

    top1: float
    top5: float
    """100 where there are at most 5 classes"""
    correct: Tensor
    """boolean ``[M]``, which test images top-1 counts"""
    lr: float
    """the learning rate that training started with"""
    classes: int


def paper_recipe(
    arch: str,
    *,
    lr: float = 0.0,
    normalize: bool = True,
    epochs: int = EPOCHS,
    train_batch: int = 256,
    seed: int = 0,
    size: int = 0,
    precision: str = "fp32",
    workers: int = 0,
    device: str = "auto",
) -> Recipe:
    """The protocol at the top of this file for a network of architecture ``arch``; ``lr``, for 256 images, 0: the protocol's own.

    Args:
        normalize: the rate is for features of mean norm 1.
    """
    return Recipe(
        epochs=epochs,
        batch_size=train_batch,
        lr=0.0,
        classifier_lr=(lr or (UNIT_RATE if normalize else learning_rate(arch))) * train_batch / 256,
        factor=0.1,
        frozen=True,
        seed=seed,
        size=size,
        precision=precision,
        workers=workers,
        device=device,
    )


def learning_rate(arch: str) -> float:
    """30 per batch of 256; 3 for EfficientNets and MobileNets, by the name of the architecture."""
    return SMALL_RATE if any(family in arch for family in SMALL) else RATE


def linear_sgd(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    recipe: Recipe,
    *,
    batch_size: int = 256,
    normalize: bool = True,
    progress: Progress | None = None,
) -> PaperScores:
    """Train the linear layer on ``train`` as ``recipe`` says (:func:`paper_recipe`), score ``test`` once, at the end.

    Args:
        encoder: unchanged, but for the device.
        batch_size: test images per forward pass.
        normalize: divide the features by their mean norm.
    """
    train_y, test_y = paired_labels(train, test)
    network = encoder.encoder if isinstance(encoder, Frozen) else encoder
    classes = int(max(train_y.max(), test_y.max())) + 1
    classifier = linear_classifier(network.width, classes, recipe.seed)
    if normalize:
        recipe = replace(recipe, scale=feature_scale(network, train, recipe))
    _log.info("%s: learning rate %g of the linear protocol.", network.arch, recipe.classifier_lr)
    finetune(network, classifier, train, train_y, recipe, progress=progress)
    logits = predict(network, classifier, test, replace(recipe, batch_size=batch_size), progress=progress)
    ranks = class_ranks(logits, test_y)
    top1, top5 = (100 * (ranks < k).double().mean().item() for k in (1, 5))
    return PaperScores(top1, top5, ranks < 1, recipe.classifier_lr, classes)
