"""The images a run kept aside, seen again by ``best/`` and by the teacher: what neighbours and map are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seed_hub.errors import SeedHubError
from seed_hub.report.record import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

    from seed_hub.data import Images
    from seed_hub.encoder import Frozen


@dataclass(frozen=True)
class HeldOut:
    """N images and what the networks say of them."""

    images: Images
    student: Tensor
    """float32 ``[N, D]``"""
    teacher: Tensor | None
    """float32 ``[N, D']``; None without a teacher, or if it could not be loaded again"""


def embed_held_out(run: RunRecord) -> HeldOut:
    """Embed the held-out images of ``run`` again, by ``best/`` and by the teacher.

    Raises:
        SeedHubError: the images or the student are not there (any more).
    """
    from seed_hub.data import open_images, split_held_out
    from seed_hub.encoder import Frozen
    from seed_hub.model_folder import load_model_folder

    settings = run.settings
    student = Frozen(load_model_folder(run.path / "best", head=False))
    images = open_images(settings.data, split=settings.split or None, allow_bad=settings.allow_bad)
    _, held_out = split_held_out(images, settings.held_out, settings.seed)
    if len(held_out) < 2:
        raise SeedHubError("The run kept no images aside.")
    pixels = stacked(held_out, settings.size)  # uint8 [N, 3, S, S]
    teacher = _teacher(run)
    return HeldOut(
        held_out,
        _embed(student, pixels, 0),
        None if teacher is None else _embed(teacher, pixels, settings.teacher_size),
    )


def class_name(images: Images, label: int) -> str:
    return str(images.classes[label]) if images.classes else str(label)


def stacked(images: Images, size: int) -> Tensor:
    """The centre squares, uint8 ``[N, 3, size, size]``."""
    import torch

    from seed_hub.data.center import center_pixels

    return torch.stack([center_pixels(images.load(i), size) for i in range(len(images))])


def _teacher(run: RunRecord) -> Frozen | None:
    from seed_hub.teachers import load_teacher

    settings = run.settings
    if not settings.teacher:
        return None
    size = settings.teacher_size or settings.size
    try:
        return load_teacher(settings.teacher, allow_random=settings.allow_random_teacher, image_size=size)
    except SeedHubError:
        return None  # said in the page: a report is worth having without it


def _embed(network: Frozen, pixels: Tensor, size: int) -> Tensor:
    """uint8 ``[N, 3, S, S]`` -> float32 ``[N, D]``, enlarged to ``size`` first, as the run does for its teacher."""
    import torch

    from seed_hub.eval.features import pick_device
    from seed_hub.training.monitor import enlarge

    device = pick_device("auto")
    network = network.to(device)
    parts = (part.to(device).float() / 255 for part in pixels.split(64))
    return torch.cat([network.embed(enlarge(part, size)).float().cpu() for part in parts])
