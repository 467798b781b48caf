"""Held-out images with their nearest neighbours, by the teacher and by the student: what numbers cannot show."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from seed_hub.report.held_out import HeldOut, class_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from seed_hub.data import Images

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


def build_gallery(held_out: HeldOut, seed: int) -> Gallery:
    """Queries drawn at random among the held-out images, and their neighbours among them."""
    import numpy as np

    count = min(QUERIES, len(held_out.images))
    queries = np.random.default_rng(seed).choice(len(held_out.images), count, replace=False)
    return Gallery(
        held_out.images,
        [int(q) for q in queries],
        _nearest(held_out.student, queries),
        None if held_out.teacher is None else _nearest(held_out.teacher, queries),
    )


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
    caption = _class_of(gallery.images, query)
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


def _class_of(images: Images, i: int) -> str:
    return "" if images.labels is None else class_name(images, int(images.labels[i]))


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
    name = _class_of(images, i) or "held-out image"
    coarse = " class=coarse" if side <= 32 else ""
    return f'<img{coarse} alt="{escape(name)}" title="{escape(name)}" src="data:image/{kind};base64,{text}">'
