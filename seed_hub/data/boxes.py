"""Boxes of an ``Images``, for detection: of a table's column ``objects``, or of the COCO file beside a folder.

- a table (parquet, or a data set of the ``datasets`` library): column ``objects`` with ``bbox`` and ``category``, and
  where there are any ``area`` and ``iscrowd``, as the Hub's detection data sets have them
- a folder of images: ``annotations.json`` in COCO's format, in the folder or beside it
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from seed_hub.data.box_sources import Annotated, annotated
from seed_hub.data.folder import FolderStore
from seed_hub.data.images import Images
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)

FORMATS = ("xywh", "xyxy")
ROUNDING = 0.01  # px: COCO files are written with two decimals; a smaller overhang, or side, is none


@dataclass(frozen=True)
class Boxes:
    """The n boxes of one image, in pixels of the image as ``Images.load`` gives it; none: it is background."""

    xyxy: np.ndarray
    """float32 ``[n, 4]``: left, top, right, bottom, inside the image"""
    labels: np.ndarray
    """int64 ``[n]``: 1, 2, ... without gaps (0 is a detector's background)"""
    names: tuple[str, ...]
    """of the classes, the same for every image: label i is ``names[i - 1]``"""
    area: np.ndarray
    """float32 ``[n]``, px^2: as annotated (COCO: of the object's outline), else the box's; small, medium or large by it"""
    crowd: np.ndarray
    """bool ``[n]``: one box around many; nothing is learnt from it, and nothing found in it is wrong"""
    clipped: int = 0
    """boxes that reached beyond the image"""
    dropped: tuple[str, ...] = ()
    """boxes left out, having no area inside the image or no numbers, as "row 3, box 0: [x, y, w, h]" """

    def __len__(self) -> int:
        return len(self.labels)


def boxes_of(images: Images, *, box_format: str = "xywh") -> list[Boxes]:
    """The boxes of each image, in order.

    Args:
        box_format: xywh (COCO: left, top, width, height) or xyxy (left, top, right, bottom); a COCO file is xywh.

    Raises:
        SeedHubError: no boxes to read, boxes without a category, a category nobody declared, boxes drawn on an image
            of another size.
    """
    return _numbered([images], box_format)[0]


def paired_boxes(train: Images, test: Images, *, box_format: str = "xywh") -> tuple[list[Boxes], list[Boxes]]:
    """:func:`boxes_of` both splits, labels numbered by one list of classes.

    Raises:
        SeedHubError: as :func:`boxes_of`, or the splits declare different classes.
    """
    first, second = _numbered([train, test], box_format)
    return first, second


def _numbered(splits: Sequence[Images], box_format: str) -> list[list[Boxes]]:
    if box_format not in FORMATS:
        raise SeedHubError(f'There is no box format "{box_format}": choose one of {", ".join(FORMATS)}.')
    found = [annotated(images) for images in splits]
    for images, (rows, _) in zip(splits, found, strict=True):
        _check_paired(images, rows)
    number, names = _classes(splits, found)
    cleaned = []
    for images, (rows, _) in zip(splits, found, strict=True):
        form = "xywh" if isinstance(images.store, FolderStore) else box_format
        boxes = [_boxes(images, i, row, number, names, form) for i, row in enumerate(rows)]
        _report(images, boxes, form)
        cleaned.append(boxes)
    return cleaned


def _check_paired(images: Images, rows: list[Annotated]) -> None:
    for i, row in enumerate(rows):
        n = len(row.boxes)
        if any(len(other) != n for other in (row.categories, row.areas, row.crowds)):
            raise SeedHubError(
                f"{images.name(i)} of {images.source} has {n} boxes, {len(row.categories)} categories, "
                f"{len(row.areas)} areas and {len(row.crowds)} crowd marks: give each box one of each."
            )
        if any(not isinstance(box, list) or len(box) != 4 or not _numbers(box) for box in row.boxes):
            raise SeedHubError(f"{images.name(i)} of {images.source} has a box that is not 4 numbers.")
        if not _numbers(row.areas):
            raise SeedHubError(f"{images.name(i)} of {images.source} has an area that is not a number.")
        if any(category is None for category in row.categories):
            raise SeedHubError(f"{images.name(i)} of {images.source} has a box without a category.")


def _numbers(values: Sequence[Any]) -> bool:
    """A missing one is as good as a NaN."""
    return all(value is None or isinstance(value, (int, float)) for value in values)


def _classes(
    splits: Sequence[Images], found: list[tuple[list[Annotated], dict[Any, str] | None]]
) -> tuple[dict[Any, int], tuple[str, ...]]:
    """(label by category, names): the declared classes in the order of their ids, else the categories that occur."""
    declared = [names for _, names in found]
    seen = {category for rows, _ in found for row in rows for category in row.categories}
    if any(names != declared[0] for names in declared):
        raise SeedHubError(
            f"{splits[0].source} and {splits[-1].source} declare different categories: give both the same list."
        )
    if declared[0] is None:
        if not seen:
            raise SeedHubError(f"{splits[0].source} has no box on any of its images: annotate some.")
        order = sorted(seen)
        names = tuple(str(category) for category in order)
    else:
        order = sorted(declared[0])
        names = tuple(declared[0][category] for category in order)
        if unknown := sorted(seen - set(order), key=str):
            raise SeedHubError(
                f"{splits[0].source} has boxes of category {unknown[0]}, which is not among its categories "
                f"{listed([f'{category}: {declared[0][category]}' for category in order])}: declare it."
            )
    return {category: label for label, category in enumerate(order, start=1)}, names


def _boxes(
    images: Images, i: int, row: Annotated, number: dict[Any, int], names: tuple[str, ...], box_format: str
) -> Boxes:
    width, height = size_of(images, i)
    if row.size is not None and tuple(row.size) != (width, height):
        raise SeedHubError(
            f"{images.name(i)} of {images.source} is {width} x {height} px (upright), but its boxes were drawn on "
            f"{row.size[0]} x {row.size[1]} px: give the images that were annotated."
        )
    given = np.array(row.boxes, dtype=np.float64).reshape(-1, 4)
    far = given[:, 2:] + given[:, :2] if box_format == "xywh" else given[:, 2:]
    whole = np.concatenate([given[:, :2], far], axis=1)  # [n, 4]
    inside = np.clip(whole, 0, [width, height, width, height])
    sides = inside[:, 2:] - inside[:, :2]  # [n, 2]
    keep = np.isfinite(given).all(1) & (sides >= ROUNDING).all(1)
    area = np.array([np.nan if a is None else a for a in row.areas], dtype=np.float64)
    return Boxes(
        xyxy=inside[keep].astype(np.float32),
        labels=np.array([number[category] for category in row.categories], dtype=np.int64)[keep],
        names=names,
        area=np.where(np.isnan(area), sides.prod(1), area)[keep].astype(np.float32),
        crowd=np.array(row.crowds, dtype=bool)[keep],
        clipped=int((keep & (np.abs(inside - whole) > ROUNDING).any(1)).sum()),
        dropped=tuple(
            f"{images.name(i)}, box {k}: {[round(v, 2) for v in given[k].tolist()]}"
            for k in np.flatnonzero(~keep)
        ),
    )


def size_of(images: Images, i: int) -> tuple[int, int]:
    """(width, height) as loaded: from the file's head, without decoding, where that is the same."""
    encoded = images.store.read(int(images.original_index[i]))
    if isinstance(encoded, np.ndarray):
        return encoded.shape[1], encoded.shape[0]
    file = encoded if isinstance(encoded, str) else BytesIO(encoded or b"")
    with suppress(Exception), Image.open(file) as image:  # whatever it is, `load` names it
        if image.getexif().get(274, 1) == 1:  # EXIF orientation: upright as it is stored
            return image.size
    return images.load(i).size


def _report(images: Images, boxes: list[Boxes], box_format: str) -> None:
    total = sum(len(b) + len(b.dropped) for b in boxes)
    clipped, dropped = sum(b.clipped for b in boxes), [text for b in boxes for text in b.dropped]
    if clipped:
        _log.warning("%d of %d boxes of %s reach beyond the image: clipped.", clipped, total, images.source)
    if dropped:
        _log.warning(
            "%d of %d boxes of %s have no area inside the image: left out (%s).",
            len(dropped), total, images.source, "; ".join(dropped[:3]) + ("; ..." if len(dropped) > 3 else ""),
        )  # fmt: skip
    if 2 * (clipped + len(dropped)) > total:
        other = FORMATS[box_format == FORMATS[0]]
        _log.warning("Most boxes do not fit their images as %s: are they %s?", box_format, other)
