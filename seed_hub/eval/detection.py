"""Detection: how good are the boxes after fine-tuning Faster R-CNN from these weights?

    1. Faster R-CNN (detector.py) on a copy of the network, all of it trained by SGD for a number of iterations
    2. AP of the test split's boxes, as COCO counts it, and precision over recall of each class (detection_scores.py)

The defaults are the VOC 07+12 protocol of MoCo, which SEED's follow-ups (DisCo, BINGO, CoSS) run too: 24,000 iterations
of 16 images, short side 480 to 800 px, batch norm trained. A data set of hundreds of images wants fewer iterations.
Where we differ: torchvision's Faster R-CNN instead of detectron2's (RoIAlign without the half-pixel shift, 2,000
regions before suppression instead of 12,000), batch norm over one process's images instead of all GPUs', and every
image in turn, also those that show nothing.

On the CPU the same seed gives the same weights; on a GPU RoIAlign's gradient is summed in no fixed order.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite

import torch
from torch import nn
from torchvision.models.detection import FasterRCNN

from seed_hub.cpu_kernels import prepare_for_cpu
from seed_hub.data import Images
from seed_hub.data.boxes import Boxes, paired_boxes
from seed_hub.data.splits import listed
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.budget import Work
from seed_hub.eval.detection_pictures import picture_folder, write_pictures
from seed_hub.eval.detection_scores import compare, curves_of, mean_curves, require_pycocotools, scores_of
from seed_hub.eval.detector import HEADS, NORMS, batches_of, build_detector, predict
from seed_hub.eval.features import pick_device
from seed_hub.eval.record import weights_sha256
from seed_hub.network_settings import NetworkSettings

_log = logging.getLogger(__name__)

HEADLINE = "AP"
NEEDS_LABELS = False
"""of whole images: it reads boxes"""
COUNTS = "steps"
"""what ``progress`` counts"""
LEAST_SIZE = 64  # px; below it the map of stride 32 is one cell


@dataclass(frozen=True)
class Settings(NetworkSettings):
    """How the detector is fine-tuned and tested."""

    iterations: int = 24_000
    """steps of SGD"""
    train_batch: int = 16
    """images per step"""
    lr: float = 0.02
    """learning rate, for 16 images per step: with fewer, less in proportion"""
    warm_up: int = 100
    """steps in which the learning rate rises from 0"""
    milestones: tuple[float, ...] = (0.75, 0.917)
    """shares of the iterations after which the learning rate falls to a tenth"""
    momentum: float = 0.9
    """of SGD"""
    weight_decay: float = 1e-4
    """of SGD, on all weights"""
    size: int = 800
    """short side of test images in pixels"""
    train_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """short sides of training images in pixels, one drawn for each"""
    longest: int = 1333
    """bound of the long side in pixels, which comes first"""
    flip: bool = True
    """half of the training images are mirrored; false: none"""
    head: str = "fpn"
    """fpn: feature pyramid, any network with stages; c4: as MoCo and SEED, ResNets only"""
    norm: str = "train"
    """batch norm of the trunk: train, or frozen (for few images per step)"""
    rois: int = 512
    """regions per training image that the box head learns from"""
    box_format: str = "xywh"
    """of a table's boxes: xywh (COCO) or xyxy"""
    seed: int = 0
    """of the head's weights, the order, mirroring and sizes of images, and the regions drawn"""
    trials: int = 1
    """runs of the whole training, with seeds seed, seed + 1, ..."""
    pictures: str = ""
    """folder for pictures of test images with their true boxes and the first trial's (default: none)"""
    pictures_count: int = 12
    """how many, drawn at random"""
    batch_size: int = 8
    """test images per forward pass"""
    device: str = "auto"
    """auto, cpu, cuda"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float | dict[str, list[float]]]]:
    """Yields ``AP``, ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl`` in percent per trial; and ``curves``, of each class the
    precision at recall 0, 0.01, ..., 1 and IoU 0.5, mean over trials, in three digits.

    A size or class of which the test split has no object has none. ``progress`` counts the steps of all trials.
    """
    _check(settings)
    require_pycocotools()  # before hours of training
    if train is test or (train.fingerprint, train.split) == (test.fingerprint, test.split):
        raise SeedHubError(
            f"Training and test images are both {train.source}: name another split to test on."
        )
    train_boxes, test_boxes = paired_boxes(train, test, box_format=settings.box_format)
    if not any((~each.crowd).any() for each in test_boxes):  # before hours of training
        raise SeedHubError(f"{test.source} has no boxes to find: score on annotated ones.")
    _warn_untrained(train_boxes, test_boxes)
    folder = picture_folder(settings.pictures) if settings.pictures else None
    curves = []
    for trial in range(settings.trials):
        seeded = replace(settings, seed=settings.seed + trial)

        def count(done: int, of: int, trial: int = trial) -> None:
            if progress:
                progress(trial * of + done, settings.trials * of)

        detector = fine_tune(encoder, train, train_boxes, seeded, progress=count)
        found = predict(
            detector, test, batch_size=settings.batch_size, workers=settings.workers, device=settings.device
        )
        if folder is not None and trial == 0:
            own = encoder.encoder if isinstance(encoder, Frozen) else encoder
            weights = weights_sha256(own.backbone)  # as the line of results names them
            how = {"count": settings.pictures_count, "seed": settings.seed}
            write_pictures(folder, test, test_boxes, found, weights=weights, **how)
        scorer = compare(found, test_boxes)
        curves.append(curves_of(scorer, test_boxes[0].names))
        yield from scores_of(scorer).items()
    yield "curves", mean_curves(curves)


def work(settings: Settings, train: Images, test: Images) -> Work:
    """What a measurement costs."""
    steps = settings.trials * settings.iterations
    return Work(
        0, settings.trials * len(test), steps * settings.train_batch, {"iterations": settings.iterations}
    )


def seconds_per_image(encoder: Frozen | Encoder, images: Images, settings: Settings) -> float:
    """Of a detector with an untrained head; the first image, which meets a cold machine, does not count."""
    with _seeded(settings.seed):
        detector = _detector(encoder, 1, settings).to(pick_device(settings.device)).eval()
    predict(detector, images.subset([0]), workers=0, device=settings.device)
    some = images.subset(range(min(4, len(images))))
    start = time.perf_counter()
    predict(detector, some, batch_size=2, workers=0, device=settings.device)
    return (time.perf_counter() - start) / len(some)


def fine_tune(
    encoder: Frozen | Encoder,
    images: Images,
    boxes: Sequence[Boxes],
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """A torchvision detector trained on ``images``, in eval mode on the device of ``settings``; ``encoder`` stays as it is.

    Args:
        boxes: of each image, from :func:`seed_hub.data.boxes.boxes_of`.
        progress: called with (steps done, steps in all).

    Raises:
        SeedHubError: a network without the stages it needs, images without boxes, a training that diverges.
    """
    _check(settings)
    if not any((~each.crowd).any() for each in boxes):
        raise SeedHubError(f"{images.source} has no boxes to learn from: annotate some.")
    device = pick_device(settings.device)
    with _seeded(settings.seed):
        detector = _detector(encoder, len(boxes[0].names), settings).to(device)
        if device.type == "cpu":
            prepare_for_cpu(detector, settings.precision)
        detector.transform.min_size = settings.train_sizes  # one is drawn for each image
        _train(detector.train(), images, boxes, settings, device, progress)
        detector.transform.min_size = (settings.size,)
    return detector.eval()


def _detector(encoder: Frozen | Encoder, classes: int, settings: Settings) -> FasterRCNN:
    """Around a copy of ``encoder``."""
    own = copy.deepcopy(encoder.encoder if isinstance(encoder, Frozen) else encoder).requires_grad_(True)
    names = ("size", "longest", "head", "norm", "rois", "precision")
    return build_detector(own, classes, **{name: getattr(settings, name) for name in names})


def _train(
    detector: nn.Module,
    images: Images,
    boxes: Sequence[Boxes],
    settings: Settings,
    device: torch.device,
    progress: Callable[[int, int], None] | None,
) -> None:
    optimizer = torch.optim.SGD(
        [parameter for parameter in detector.parameters() if parameter.requires_grad],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    batches = batches_of(
        images, draws(len(images), settings), boxes=boxes, workers=settings.workers, device=device
    )
    for step, (pixels, targets) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule(step, settings)
        loss = sum(detector(pixels, targets).values())
        value = loss.item()  # CPU-GPU sync, as the choice of regions is in every step anyway
        if not isfinite(value):
            raise SeedHubError(
                f"The detector diverged at step {step + 1} of {settings.iterations} (its loss is {value}): "
                "use a lower --lr or a longer --warm-up."
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if progress:
            progress(step + 1, settings.iterations)


def schedule(step: int, settings: Settings) -> float:
    """The learning rate's factor at a step from 0: a linear rise, then a tenth from each milestone on."""
    rise = min(1.0, (step + 1) / (settings.warm_up + 1))
    return rise * 0.1 ** sum(step >= share * settings.iterations for share in settings.milestones)


def draws(n: int, settings: Settings) -> list[list[tuple[int, bool]]]:
    """(image, mirrored) of every batch: all n images in a new order, again and again; a function of the seed alone."""
    generator = torch.Generator().manual_seed(settings.seed)
    needed = settings.iterations * settings.train_batch
    order = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-needed // n))])[:needed]
    mirrored = (torch.rand(needed, generator=generator) < 0.5) & settings.flip
    pairs = list(zip(order.tolist(), mirrored.tolist(), strict=True))
    return [pairs[first : first + settings.train_batch] for first in range(0, needed, settings.train_batch)]


def _check(settings: Settings) -> None:
    for name, known in (("head", HEADS), ("norm", NORMS), ("precision", ("fp32", "bf16"))):
        if getattr(settings, name) not in known:
            raise SeedHubError(
                f'There is no {name} "{getattr(settings, name)}": choose {" or ".join(known)}.'
            )
    counts = ("iterations", "rois", "pictures_count")
    if min(getattr(settings, name) for name in counts) < 1 or settings.warm_up < 0 or not settings.lr > 0:
        raise SeedHubError(
            f"Detection needs {', '.join(counts)} >= 1, a warm-up >= 0 and a learning rate > 0."
        )
    if min(settings.size, settings.longest, *(settings.train_sizes or (0,))) < LEAST_SIZE:
        raise SeedHubError(f"Detection needs sizes of at least {LEAST_SIZE} px, and one to train at.")


def _warn_untrained(train: Sequence[Boxes], test: Sequence[Boxes]) -> None:
    learnt, asked = ({int(label) for boxes in split for label in boxes.labels} for split in (train, test))
    if absent := [test[0].names[label - 1] for label in sorted(asked - learnt)]:
        _log.warning(
            "%d of the test classes have no training box (%s): their AP is 0.", len(absent), listed(absent)
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generators start at ``seed`` within (torchvision draws from them), and are as they were afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
