"""Supervised training for evaluation: the loop that fine-tuning, transfer and the paper's linear protocol share.

    loss = mean over the batch of  -log softmax(classifier(s encoder(view)))[y]          SGD with momentum, or AdamW

The encoder is trained too, with a learning rate of its own, or frozen (eval mode, no gradient). A view is torchvision's
random resized crop and flip, seeded by (seed, epoch, image) alone: the number of worker processes changes nothing. The
number s, 1 unless asked for, brings the features of every network to one size, at which one learning rate fits them all.

Legend: N training images, M test images, B batch, S side in pixels, D width of the features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seed_hub.cpu_kernels import prepare_for_cpu
from seed_hub.data import Images
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import KINDS, extract, pick_device
from seed_hub.eval.labels import class_ranks
from seed_hub.eval.training_views import Order, TrainingViews, training_loader

Progress = Callable[[int, int], None]
UNIT_RATE = 30.0
"""learning rate of a linear classifier, per 256 images, for features of mean norm 1: MoCo's, and measured (feature_scale)"""


@dataclass(frozen=True)
class Recipe:
    """How an encoder and its classifier are trained."""

    epochs: int = 20
    """passes over the training images"""
    least_steps: int = 1
    """epochs are added until there are that many steps: few images make few steps an epoch"""
    batch_size: int = 256
    """images per step; in :func:`predict` per forward pass"""
    lr: float = 0.01
    """of the encoder"""
    classifier_lr: float = 0.2
    """of the classifier"""
    milestones: tuple[float, ...] = (0.6, 0.8)
    """shares of the run after which both learning rates are multiplied by ``factor``"""
    factor: float = 0.2
    """at each milestone"""
    cosine: bool = False
    """a half cosine to 0, step by step, instead of milestones"""
    optimizer: str = "sgd"
    """sgd, or adamw, whose steps are of one size whatever that of the features"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 0.0
    """on everything that is trained"""
    frozen: bool = False
    """the encoder stays as it is: eval mode, no gradient; only the classifier is trained"""
    features: str = "pooled"
    """what the classifier sees: pooled (the trunk's output) or projected (behind the encoder's head, trained with it)"""
    scale: float = 1.0
    """what they are multiplied by before it (:func:`feature_scale`)"""
    crop: tuple[float, float] = (0.08, 1.0)
    """least and greatest share of the image's area that a training view shows"""
    flip: float = 0.5
    """probability that a training view is mirrored"""
    size: int = 0
    """input side in pixels; 0: the encoder's own"""
    seed: int = 0
    """of the order of images, their views, and what is random in the network (dropout)"""
    precision: str = "fp32"
    """of the encoder: fp32 or bf16; classifier and loss are float32 either way"""
    workers: int = 0
    """processes that load images; -1: one less than the cores, at most 8"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""

    def rate(self, progress: float) -> float:
        """What the learning rates are multiplied by when the share ``progress`` of the steps, in [0, 1), is done."""
        if self.cosine:
            return 0.5 * (1 + cos(pi * progress))
        # 1e-9: 60 of 100 epochs are 0.6 of the run, whatever the last bit of the quotient.
        return self.factor ** sum(progress >= milestone - 1e-9 for milestone in self.milestones)


def finetune(
    encoder: Encoder,
    classifier: nn.Module,
    images: Images,
    labels: Tensor,
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> None:
    """Train ``classifier`` and, unless it is frozen, ``encoder`` in place; modes and ``requires_grad`` are put back.

    Reproducible to the bit on one CPU; on a GPU as far as its kernels are. Global random numbers are left alone.

    Args:
        encoder: moved to the recipe's device; under ``frozen`` its weights and statistics do not change.
        classifier: ``[B, D]`` -> logits ``[B, C]``; moved likewise.
        labels: int64 ``[N]``, each in [0, C).
        progress: called with (views trained on, views in all).

    Raises:
        SeedHubError: a recipe that makes no sense, too few images for batch norm, or a loss that is not finite.
    """
    _check(encoder, classifier, images, labels, recipe)
    device = pick_device(recipe.device)
    encoder.to(device)
    classifier.to(device)
    if device.type == "cpu" and not recipe.frozen:
        prepare_for_cpu(encoder, recipe.precision)
    order = Order(
        len(images),
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        epochs=recipe.epochs,
        least_steps=recipe.least_steps,
    )
    views = TrainingViews(
        images, recipe.size or encoder.input_size, crop=recipe.crop, flip=recipe.flip, seed=recipe.seed
    )
    labels, total, step = labels.to(device), torch.zeros((), device=device), 0
    with _training(encoder, classifier, recipe.frozen), _own_random_numbers(recipe.seed, device):
        optimizer = _optimizer(encoder, classifier, recipe)
        for pixels, index in training_loader(views, order, recipe.workers, device):
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * recipe.rate(step / len(order))
            x = pixels.to(device, non_blocking=True).to(memory_format=torch.channels_last).float().div_(255)
            with (
                torch.set_grad_enabled(not recipe.frozen),
                torch.autocast(device.type, torch.bfloat16, recipe.precision == "bf16"),
            ):
                features = getattr(encoder(x), recipe.features)  # [B, D]
            loss = cross_entropy(classifier(recipe.scale * features.float()), labels[index.to(device)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total, step = total + loss.detach(), step + 1
            if step % order.per_epoch == 0 and not torch.isfinite(total):  # CPU-GPU sync, once an epoch
                raise SeedHubError(
                    f"Training {encoder.name} on {len(images)} labelled images diverged in epoch "
                    f"{step // order.per_epoch} of {order.epochs} (the loss is not finite): lower the learning rates "
                    f"{recipe.lr:g} (network) and {recipe.classifier_lr:g} (classifier)."
                )
            if progress:
                progress(order.images_after(step), order.epochs * len(images))


def predict(
    encoder: Encoder,
    classifier: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Logits, float32 ``[M, C]`` on the CPU, of the centre view of each image; row i is image i. Both in eval mode."""
    found = recipe.scale * extract(encoder, images, progress=progress, **_extraction(recipe))
    device = pick_device(recipe.device)
    classifier.to(device)
    with _restored(classifier), torch.inference_mode():
        classifier.eval()
        return torch.cat([classifier(block.to(device)).float().cpu() for block in found.split(4096)])


def feature_scale(encoder: Encoder, images: Images, recipe: Recipe) -> float:
    """1 / the mean norm of the features of ``images`` (the first 1,024).

    A learning rate belongs to a size of features, and networks differ: mean norms from 0.04 (an untrained MobileNetV3) to
    150 were measured. Divided by it, features of every network so far were best learnt at a rate of :data:`UNIT_RATE`.

    Raises:
        SeedHubError: all features are 0.
    """
    some = images.subset(np.arange(min(1024, len(images))))
    norm = extract(encoder, some, **_extraction(recipe)).norm(dim=1).mean().item()
    if norm == 0:
        raise SeedHubError(f"{encoder.name} gives features that are all 0: nothing can be learnt from them.")
    return 1 / norm


def _extraction(recipe: Recipe) -> dict[str, Any]:
    names = ("size", "batch_size", "workers", "device", "features", "precision")
    return {name: getattr(recipe, name) for name in names}


def linear_classifier(width: int, classes: int, seed: int) -> nn.Linear:
    """``[., width] -> [., classes]``: weights N(0, 0.01) of ``seed``'s own generator, biases 0 (MoCo's and SEED's)."""
    layer = nn.utils.skip_init(
        nn.Linear, width, classes
    )  # its initial values would cost global random numbers
    nn.init.normal_(layer.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(layer.bias)
    return layer


def top_scores(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """(top-1, top-5) in percent of ``[M, C]`` and int64 ``[M]``; equal logits go to the lower class.

    A label beyond C and a logit that is no number are never right; with at most 5 classes top-5 says nothing.
    """
    ranks = class_ranks(logits, labels)
    return 100 * int((ranks < 1).sum()) / len(labels), 100 * int((ranks < 5).sum()) / len(labels)


def _optimizer(encoder: Encoder, classifier: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [{"params": list(classifier.parameters()), "peak": recipe.classifier_lr}]
    if not recipe.frozen:
        groups.append({"params": list(encoder.parameters()), "peak": recipe.lr})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


@contextmanager
def _restored(*modules: nn.Module) -> Iterator[None]:
    """Each module's own mode and each weight's ``requires_grad`` afterwards."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    trained = [(weight, weight.requires_grad) for module in modules for weight in module.parameters()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for weight, wanted in trained:
            weight.requires_grad_(wanted)


@contextmanager
def _training(encoder: Encoder, classifier: nn.Module, frozen: bool) -> Iterator[None]:
    with _restored(encoder, classifier):
        encoder.train(not frozen).requires_grad_(not frozen)
        classifier.train().requires_grad_(True)
        try:
            yield
        finally:
            for weight in (*encoder.parameters(), *classifier.parameters()):
                weight.grad = None


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from ``seed`` within; the generators are afterwards as they were."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _check(encoder: Encoder, classifier: nn.Module, images: Images, labels: Tensor, recipe: Recipe) -> None:
    if not isinstance(encoder, Encoder):  # a Frozen would be read, and nothing but the classifier trained
        raise TypeError(
            f"finetune trains an Encoder, not a {type(encoder).__name__}: give a copy of its encoder"
        )
    if len(labels) != len(images):
        raise ValueError(f"{len(images)} images and {len(labels)} labels")
    if recipe.features not in KINDS or (recipe.features == "projected" and encoder.head is None):
        raise SeedHubError(f'{encoder.name} has no "{recipe.features}" features to train on.')
    if recipe.precision not in ("fp32", "bf16"):
        raise SeedHubError(f'There is no precision "{recipe.precision}" here: choose "fp32" or "bf16".')
    if (
        min(recipe.epochs, recipe.batch_size) < 1
        or min(recipe.lr, recipe.classifier_lr) < 0
        or recipe.seed < 0
    ):
        raise SeedHubError(
            "Training on labels needs at least one epoch, a batch of at least one image, and no learning rate or seed "
            f"below 0, not {recipe.epochs}, {recipe.batch_size}, {recipe.lr:g}, {recipe.classifier_lr:g}, {recipe.seed}."
        )
    parts = [*classifier.modules(), *(() if recipe.frozen else encoder.modules())]
    normed = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in parts)
    if not len(images) or (normed and min(len(images), recipe.batch_size) < 2):
        raise SeedHubError(
            f"{encoder.name} cannot be trained on {len(images)} image(s) of {images.source} in batches of "
            f"{recipe.batch_size}: at least one is needed, and two in each batch under batch norm."
        )
