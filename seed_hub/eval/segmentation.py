"""Segmentation: how much of the class of each pixel can one linear layer read from a frozen network's feature map?

    logits = upsample(W norm(f(x)) + b);  minimise over W, b:  mean over labelled pixels of  -log softmax(logits)[y]
    IoU_c = TP_c / (TP_c + FP_c + FN_c);  mIoU = mean of IoU_c over the classes that truth or prediction shows

TP, FP and FN are counted over all test pixels together, in one confusion matrix. norm is batch norm without weight and
bias; f(x) is the map that the network pools (a ViT's patch tokens behind its last norm), or maps of several stages, side
by side at the resolution of the finest.

The recipe is DINOv2's linear one (Oquab et al. 2023, arXiv 2304.07193, its code): AdamW, 40,000 steps of 16 images,
a linear warm-up, then a linear fall to 0. Where we differ: a view is the centre square, perhaps mirrored (or, if
asked, a random resized crop), instead of a crop of an image at half to twice its size with changed colours; a test image is
its centre square at the input size, scored at that size, instead of all of it in overlapping windows; the norm lacks
the weight and bias that the layer behind it makes redundant. A data set of hundreds of images wants fewer steps.

Image and mask share their geometry: the image is scaled bilinearly, the mask by the nearest pixel. On the CPU the same
seed gives the same weights; on a GPU the gradient of the upsampling is summed in no fixed order.

Legend: N images, B batch, S side in pixels, D channels, h w height and width of the map, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from seed_hub.data import Images
from seed_hub.data.masks import IGNORED, Masks, paired_masks
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import LEARNT, Work
from seed_hub.eval.dense_features import dense_features, dense_width
from seed_hub.eval.features import pick_device
from seed_hub.eval.masked_views import MaskedViews, masked_batches
from seed_hub.eval.training_views import Order
from seed_hub.network_settings import NetworkSettings

HEADLINE = "miou"
NEEDS_LABELS = False
"""of whole images: it reads masks"""
COUNTS = "steps"
"""what ``progress`` counts"""
LOOKS = 100  # steps between two looks at the loss, each of which waits for the GPU


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """How the linear layer is trained and tested."""

    stages: tuple[int, ...] = (-1,)
    """feature maps it reads: 0, 1, ... from the shallowest, or -1, -2, ... from the deepest; several are concatenated"""
    norm: bool = True
    """batch norm, without weight and bias, before the linear layer; false: none"""
    iterations: int = 40_000
    """steps of AdamW"""
    train_batch: int = 16
    """images per step"""
    lr: float = 1e-3
    """learning rate at the end of the warm-up; it falls to 0"""
    warm_up: float = 0.0375
    """share of the steps in which the learning rate rises from 0: DINOv2's 1,500 of 40,000"""
    weight_decay: float = 1e-4
    """of AdamW"""
    flip: bool = True
    """half of the training images are mirrored; false: none"""
    crop_min: float = 1.0
    """smallest area of a training view, a random resized crop, as a share of the image; 1: the centre square"""
    mask_column: str = ""
    """a table's column of masks (default: mask, annotation or label_mask)"""
    ignore: tuple[int, ...] = (255,)
    """ids in masks whose pixels count nowhere; -1: none"""
    seed: int = 0
    """of the layer's weights, and of the order and views of images"""
    trials: int = 1
    """runs of the whole training, with seeds seed, seed + 1, ..."""
    batch_size: int = 32
    """test images per forward pass"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``miou`` and ``pixel_accuracy`` in percent per trial. ``progress`` counts the steps of all trials."""
    _check(settings)
    if train is test or (train.fingerprint, train.split) == (test.fingerprint, test.split):
        raise SeedHubError(
            f"Training and test images are both {train.source}: name another split to test on."
        )
    train_masks, test_masks = paired_masks(train, test, column=settings.mask_column, ignore=settings.ignore)
    network = Frozen(copy.deepcopy(encoder.encoder if isinstance(encoder, Frozen) else encoder))
    network.to(pick_device(settings.device))
    for trial in range(settings.trials):
        seeded = replace(settings, seed=settings.seed + trial, size=settings.size or network.input_size)

        def count(done: int, of: int, trial: int = trial) -> None:
            if progress:
                progress(trial * of + done, settings.trials * of)

        layer = train_layer(network, train_masks, seeded, progress=count)
        confusion = predict(network, layer, test_masks, seeded)
        if not confusion.any():
            raise SeedHubError(
                f"The centre squares of {test.source} show no labelled pixel to score: use masks that are not ignored there."
            )
        yield from scores(confusion).items()


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs: a view in training is a forward pass, a third of what a learnt image takes."""
    views = settings.trials * settings.iterations * settings.train_batch
    return Work(0, settings.trials * len(test), views / LEARNT, {"iterations": settings.iterations})


def train_layer(
    network: Frozen,
    masks: Masks,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """The layer ``[B, D, h, w]`` -> logits ``[B, C, h, w]``, in eval mode on the device of ``settings``.

    Raises:
        SeedHubError: a network without the maps that are asked for, a training that diverges.
    """
    device = pick_device(settings.device)
    width = dense_width(network, settings.size, settings.stages)
    layer = linear_layer(width, len(masks.names), norm=settings.norm, seed=settings.seed)
    optimizer = torch.optim.AdamW(
        layer.to(device).train().parameters(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    views = MaskedViews(
        masks, settings.size, crop_min=settings.crop_min, flip=0.5 * settings.flip, seed=settings.seed
    )
    order = Order(
        len(masks),
        batch_size=settings.train_batch,
        seed=settings.seed,
        epochs=1,
        least_steps=settings.iterations,
    )
    steps = list(islice(order, settings.iterations))
    total = torch.zeros((), device=device)
    for step, (maps, labels) in enumerate(_maps(network, views, steps, settings), start=1):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step - 1, settings)
        loss = pixel_loss(layer(maps), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        if (step % LOOKS == 0 or step == len(steps)) and not torch.isfinite(total):  # CPU-GPU sync
            raise SeedHubError(
                f"The linear layer on {network.name} diverged in the first {step} of {len(steps)} steps (its loss is not "
                "finite): use a lower --lr, or an earlier checkpoint if the network's weights are damaged."
            )
        if progress:
            progress(step, len(steps))
    return layer.eval()


@torch.no_grad()
def predict(network: Frozen, layer: nn.Module, masks: Masks, settings: Settings) -> Tensor:
    """The :func:`confusion_matrix` of the centre views of all images, int64 ``[C, C]`` on the CPU."""
    classes = len(masks.names)
    keys = [(0, i) for i in range(len(masks))]
    steps = [keys[first : first + settings.batch_size] for first in range(0, len(keys), settings.batch_size)]
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for maps, labels in _maps(network, MaskedViews(masks, settings.size), steps, settings):
        predicted = upsampled(layer(maps), labels).argmax(1)  # [B, S, S]
        confusion += confusion_matrix(predicted, labels, classes).cpu()
    return confusion


def linear_layer(width: int, classes: int, *, norm: bool, seed: int) -> nn.Sequential:
    """``[B, width, h, w]`` -> ``[B, classes, h, w]``; weights N(0, 0.01) of ``seed``'s own generator, biases 0."""
    convolution = nn.utils.skip_init(
        nn.Conv2d, width, classes, 1
    )  # its initial values would cost global random numbers
    nn.init.normal_(convolution.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(nn.BatchNorm2d(width, affine=False) if norm else nn.Identity(), convolution)


def upsampled(logits: Tensor, labels: Tensor) -> Tensor:
    """``[B, C, h, w]`` -> ``[B, C, S, S]``, the side of ``labels`` ``[B, S, S]``."""
    return interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the upsampled ``[B, C, h, w]`` against int64 ``[B, S, S]``: mean over the labelled pixels of the
    batch; 0 where none is labelled."""
    total = cross_entropy(upsampled(logits, labels), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def schedule(step: int, settings: Settings) -> float:
    """The learning rate's factor at a step from 0: a linear rise times a linear fall to 0."""
    rise = (step + 1) / (settings.warm_up * settings.iterations + 1)
    return min(1.0, rise) * (1 - step / settings.iterations)


def confusion_matrix(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """int64 ``[C, C]``: pixels of class i (row) that are predicted as j (column); ``IGNORED`` ones are left out."""
    kept = truth != IGNORED
    pairs = truth[kept].long() * classes + predicted[kept].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def scores(confusion: Tensor) -> dict[str, float]:
    """``miou`` and ``pixel_accuracy`` in percent of a :func:`confusion_matrix`; a class that neither truth nor prediction
    shows counts nowhere."""
    counts = confusion.double()
    right = counts.diagonal()  # [C]
    union = counts.sum(0) + counts.sum(1) - right  # [C]
    return {
        "miou": 100 * (right[union > 0] / union[union > 0]).mean().item(),
        "pixel_accuracy": 100 * (right.sum() / counts.sum()).item(),
    }


def _maps(
    network: Frozen, views: MaskedViews, steps: list[list[tuple[int, int]]], settings: Settings
) -> Iterator[tuple[Tensor, Tensor]]:
    """(features float32 ``[B, D, h, w]``, labels int64 ``[B, S, S]``) of each step, on the device."""
    for pixels, labels in masked_batches(views, steps, settings.workers, pick_device(settings.device)):
        yield dense_features(network, pixels, settings.stages, precision=settings.precision), labels


def _check(settings: Settings) -> None:
    if settings.precision not in ("fp32", "bf16"):
        raise SeedHubError(f'There is no precision "{settings.precision}" here: choose "fp32" or "bf16".')
    if settings.iterations < 1 or not settings.lr > 0 or not settings.stages:
        raise SeedHubError("Segmentation needs iterations >= 1, a learning rate > 0 and at least one stage.")
    if not 0 <= settings.warm_up <= 1 or not 0 < settings.crop_min <= 1:
        raise SeedHubError(
            f"Segmentation needs 0 <= warm_up <= 1 and 0 < crop_min <= 1, not {settings.warm_up:g} and "
            f"{settings.crop_min:g}."
        )
