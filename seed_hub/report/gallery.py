"""Held-out images with their nearest neighbours, by the teacher and by the student: what numbers cannot show."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from seed_hub.errors import SeedHubError
from seed_hub.report.record import RunRecord

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from seed_hub.data import Images
    from seed_hub.encoder import Frozen

QUERIES, NEIGHBOURS = 8, 10
THUMBNAIL = 112  # pixels: sharp at the 80 or so they are shown at, small enough for 200 of them in a page


@dataclass(frozen=True)
class Gallery:
    """Q queries out of ``images`` and their k neighbours, nearest first."""

    images: Images
    queries: list[int]
    student: list[list[int]]
    teacher: list[list[int]] | None
    """None without a teacher, or if it could not be loaded again"""


def build_gallery(run: RunRecord) -> Gallery:
    """Embed the held-out images of ``run`` again, by ``best/`` and by the teacher.

    Raises:
        SeedHubError: the images or the student are not there (any more).
    """
    import numpy as np

    from seed_hub.data import open_images, split_held_out
    from seed_hub.encoder import Frozen
    from seed_hub.model_folder import load_model_folder

    settings = run.settings
    student = Frozen(load_model_folder(run.path / "best", head=False))
    images = open_images(settings.data, split=settings.split or None, allow_bad=settings.allow_bad)
    _, held_out = split_held_out(images, settings.held_out, settings.seed)
    if len(held_out) < 2:
        raise SeedHubError("The run kept no images aside.")
    pixels = _pixels(held_out, settings.size)  # uint8 [N, 3, S, S]
    count = min(QUERIES, len(held_out))
    queries = np.random.default_rng(settings.seed).choice(len(held_out), count, replace=False)
    teacher = _teacher(run)
    return Gallery(
        held_out,
        [int(q) for q in queries],
        _nearest(_embed(student, pixels, 0), queries),
        None if teacher is None else _nearest(_embed(teacher, pixels, settings.teacher_size), queries),
    )


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


def _pixels(images: Images, size: int) -> Tensor:
    import torch

    from seed_hub.data.center import center_pixels

    return torch.stack([center_pixels(images.load(i), size) for i in range(len(images))])


def _embed(network: Frozen, pixels: Tensor, size: int) -> Tensor:
    """uint8 ``[N, 3, S, S]`` -> float32 ``[N, D]``, enlarged to ``size`` first, as the run does for its teacher."""
    import torch

    from seed_hub.eval.features import pick_device
    from seed_hub.training.monitor import enlarge

    device = pick_device("auto")
    network = network.to(device)
    parts = (part.to(device).float() / 255 for part in pixels.split(64))
    return torch.cat([network.embed(enlarge(part, size)).float().cpu() for part in parts])


def _nearest(x: Tensor, queries: np.ndarray) -> list[list[int]]:
    """Rows of ``x`` ``[N, D]`` nearest to each of ``queries`` by cosine, itself excluded: ``[Q][k]``."""
    from seed_hub.eval.knn import neighbours

    _, index = neighbours(x, x, NEIGHBOURS, leave_one_out=True)  # [N, k]
    return index[queries].tolist()


def draw_gallery(gallery: Gallery) -> str:
    """One ``<article>`` per query."""
    return "".join(_article(gallery, row) for row in range(len(gallery.queries)))


def _article(gallery: Gallery, row: int) -> str:
    query, student = gallery.queries[row], gallery.student[row]
    teacher = None if gallery.teacher is None else gallery.teacher[row]
    shared = set(student) & set(teacher or [])
    rows = _list("Student", gallery.images, student, shared)
    caption = class_name(gallery.images, query)
    if teacher is not None:
        rows = _list("Teacher", gallery.images, teacher, shared) + rows
        count = f"<span>{len(shared)} of {len(student)} shared</span>"
    else:
        count = ""
    return (
        f"<article class=query><figure class=asked>{_thumbnail(gallery.images, query)}"
        f"<figcaption>{f'<b>{escape(caption)}</b>' if caption else ''}{count}</figcaption></figure>"
        f"<div class=lists>{rows}</div></article>"
    )


def _list(title: str, images: Images, found: list[int], shared: set[int]) -> str:
    items = "".join(
        f"<li{' class=shared' if i in shared else ''}>{_thumbnail(images, i)}</li>" for i in found
    )
    return f"<div class=list><h3>{title}</h3><ol>{items}</ol></div>"


def class_name(images: Images, i: int) -> str:
    if images.labels is None:
        return ""
    label = int(images.labels[i])
    return str(images.classes[label]) if images.classes else str(label)


def _thumbnail(images: Images, i: int) -> str:
    """An ``<img>`` that holds its own pixels: the centre square, as both networks see it."""
    from PIL import Image

    from seed_hub.data.center import center_pixels

    image = images.load(i)
    side = min(THUMBNAIL, *image.size)
    square = Image.fromarray(center_pixels(image, side).permute(1, 2, 0).numpy())
    file, kind = io.BytesIO(), "png" if side <= 32 else "jpeg"
    square.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 82}))
    text = base64.b64encode(file.getvalue()).decode()
    name = class_name(images, i) or "held-out image"
    coarse = " class=coarse" if side <= 32 else ""
    return f'<img{coarse} alt="{escape(name)}" title="{escape(name)}" src="data:image/{kind};base64,{text}">'
