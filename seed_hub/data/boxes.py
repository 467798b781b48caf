"""Boxes of an ``Images``, for detection: of a table's column ``objects``, or of the COCO file beside a folder.

- a table (parquet, or a data set of the ``datasets`` library): column ``objects`` with ``bbox`` and ``category``, and
  where there are any ``area`` and ``iscrowd``, as the Hub's detection data sets have them
- a folder of images: ``annotations.json`` in COCO's format, in the folder or beside it
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from seed_hub.data.folder import FolderStore
from seed_hub.data.images import Images
from seed_hub.data.parquet import ParquetStore
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)

FORMATS = ("xywh", "xyxy")
ROUNDING = 0.01  # px: COCO files are written with two decimals; a smaller overhang, or side, is none
_CATEGORY = ("category", "category_id", "label", "labels")
_CROWD = ("iscrowd", "is_crowd")


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


@dataclass
class _Annotations:
    """Of one image, as written."""

    boxes: list[list[float]]
    categories: list[Any]
    areas: list[float | None]
    crowds: list[Any]
    size: tuple[int, int] | None = None  # (width, height) that the boxes were drawn on, if it is said


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
    found = [_annotations(images) for images in splits]
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


def _annotations(images: Images) -> tuple[list[_Annotations], dict[Any, str] | None]:
    """(annotations of each image, names by category if they are declared)."""
    store = images.store
    if isinstance(store, FolderStore):
        return _from_coco(images, store.root)
    if isinstance(store, ParquetStore):
        return _from_tables(images, [_objects(pq.ParquetFile(file), images) for file in store.files])
    rows = getattr(store, "rows", None)  # a data set of the `datasets` library, with all its columns
    if rows is None or "objects" not in rows.column_names:
        raise _no_boxes(images, [] if rows is None else rows.column_names)
    return _from_tables(images, [rows.select_columns(["objects"]).with_format("arrow")[:]])


def _objects(file: pq.ParquetFile, images: Images) -> pa.Table:
    with file:
        names = file.schema_arrow.names
        if "objects" not in names:
            raise _no_boxes(images, names)
        return file.read(columns=["objects"])


def _no_boxes(images: Images, columns: list[str]) -> SeedHubError:
    return SeedHubError(
        f'{images.source} has no column "objects" among its columns {listed(columns)}: boxes are read from one that '
        'holds "bbox" and "category" of each image.'
    )


def _from_tables(images: Images, tables: list[pa.Table]) -> tuple[list[_Annotations], dict[Any, str] | None]:
    column = pa.chunked_array([chunk for table in tables for chunk in table["objects"].chunks])
    rows = []
    for cell in column.take(pa.array(images.original_index)).to_pylist():
        if isinstance(cell, list):  # a list of objects instead of an object of lists
            cell = {key: [entry[key] for entry in cell] for key in (cell[0] if cell else ())}
        cell = cell or {}
        boxes = cell.get("bbox") or []
        categories: list[Any] = next((cell[key] for key in _CATEGORY if cell.get(key) is not None), [])
        crowds = next((cell[key] for key in _CROWD if cell.get(key) is not None), [0] * len(boxes))
        rows.append(_Annotations(boxes, categories, cell.get("area") or [None] * len(boxes), crowds))
    notes = json.loads((tables[0].schema.metadata or {}).get(b"huggingface", b"{}"))
    names = _class_names(notes.get("info", {}).get("features", {}).get("objects"))
    return rows, None if names is None else dict(enumerate(names))


def _class_names(note: Any) -> list[str] | None:
    """Of the ClassLabel inside the ``datasets`` library's note on a column, however deep."""
    if not isinstance(note, dict):
        return None
    if note.get("_type") == "ClassLabel":
        return note.get("names")
    return next((names for inner in note.values() if (names := _class_names(inner))), None)


def _from_coco(images: Images, root: str) -> tuple[list[_Annotations], dict[Any, str]]:
    folder = Path(root)
    file = next(
        (f for f in (folder / "annotations.json", folder.parent / "annotations.json") if f.is_file()), None
    )
    if file is None:
        raise SeedHubError(
            f'{root} has no boxes: put a COCO file "annotations.json" into the folder, or beside it.'
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        listed_images = {image["file_name"]: image for image in content["images"]}
        if len(listed_images) < len(content["images"]):
            raise SeedHubError(f"{file} lists an image twice: give every file one entry.")
        by_id: dict[Any, list[dict]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            by_id.get(annotation["image_id"], []).append(annotation)
        entries = [_entry(images.name(i), folder, listed_images) for i in range(len(images))]
        missing = [images.name(i) for i, entry in enumerate(entries) if entry is None]
        if missing:
            raise SeedHubError(
                f"{len(missing)} of the {len(images)} images of {root} are not listed in {file} (first: {missing[0]}): "
                "list them, without boxes if they show none, or take them out of the folder."
            )
        return [_of_image(entry, by_id[entry["id"]]) for entry in entries if entry is not None], names
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SeedHubError(
            f"{file} is not a COCO file ({type(error).__name__}: {error}): it needs images, annotations and categories."
        ) from error


def _entry(name: str, folder: Path, listed_images: dict[str, dict]) -> dict | None:
    """COCO's entry of an image: its file is named from the folder of images, or from the one above."""
    name = name.replace(os.sep, "/")
    return listed_images.get(name, listed_images.get(f"{folder.name}/{name}"))


def _of_image(entry: dict, annotations: list[dict]) -> _Annotations:
    return _Annotations(
        [a["bbox"] for a in annotations],
        [a["category_id"] for a in annotations],
        [a.get("area") for a in annotations],
        [a.get("iscrowd", 0) for a in annotations],
        (entry["width"], entry["height"]) if entry.get("width") and entry.get("height") else None,
    )


def _check_paired(images: Images, rows: list[_Annotations]) -> None:
    for i, row in enumerate(rows):
        n = len(row.boxes)
        if any(len(other) != n for other in (row.categories, row.areas, row.crowds)):
            raise SeedHubError(
                f"{images.name(i)} of {images.source} has {n} boxes, {len(row.categories)} categories, "
                f"{len(row.areas)} areas and {len(row.crowds)} crowd marks: give each box one of each."
            )
        if any(box is None or len(box) != 4 for box in row.boxes):
            raise SeedHubError(f"{images.name(i)} of {images.source} has a box that is not 4 numbers.")
        if any(category is None for category in row.categories):
            raise SeedHubError(f"{images.name(i)} of {images.source} has a box without a category.")


def _classes(
    splits: Sequence[Images], found: list[tuple[list[_Annotations], dict[Any, str] | None]]
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
        if unknown := sorted(seen - set(order)):
            raise SeedHubError(
                f"{splits[0].source} has boxes of category {unknown[0]}, which is not among its categories "
                f"{listed([f'{category}: {declared[0][category]}' for category in order])}: declare it."
            )
    return {category: label for label, category in enumerate(order, start=1)}, names


def _boxes(
    images: Images, i: int, row: _Annotations, number: dict[Any, int], names: tuple[str, ...], box_format: str
) -> Boxes:
    width, height = _size(images, i)
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


def _size(images: Images, i: int) -> tuple[int, int]:
    """(width, height) as loaded: from the file's head, without decoding, where that is the same."""
    encoded = images.store.read(int(images.original_index[i]))
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
