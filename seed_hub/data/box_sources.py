"""Boxes as they are written: in a table's column ``objects``, or in the COCO file beside a folder.

What is read is what is there; :mod:`seed_hub.data.boxes` makes it fit the images.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seed_hub.data.folder import FolderStore
from seed_hub.data.images import Images
from seed_hub.data.parquet import ParquetStore
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

_CATEGORY = ("category", "category_id", "label", "labels")
_CROWD = ("iscrowd", "is_crowd")


@dataclass
class Annotated:
    """Of one image, as written."""

    boxes: list[list[float]]
    categories: list[Any]
    areas: list[float | None]
    crowds: list[Any]
    size: tuple[int, int] | None = None  # (width, height) that the boxes were drawn on, if it is said


def annotated(images: Images) -> tuple[list[Annotated], dict[Any, str] | None]:
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


def _from_tables(images: Images, tables: list[pa.Table]) -> tuple[list[Annotated], dict[Any, str] | None]:
    column = pa.chunked_array([chunk for table in tables for chunk in table["objects"].chunks])
    rows = []
    for cell in column.take(pa.array(images.original_index)).to_pylist():
        if isinstance(cell, list):  # a list of objects instead of an object of lists
            cell = {key: [entry[key] for entry in cell] for key in (cell[0] if cell else ())}
        cell = cell or {}
        boxes = cell.get("bbox") or []
        categories: list[Any] = next((cell[key] for key in _CATEGORY if cell.get(key) is not None), [])
        crowds = next((cell[key] for key in _CROWD if cell.get(key) is not None), [0] * len(boxes))
        rows.append(Annotated(boxes, categories, cell.get("area") or [None] * len(boxes), crowds))
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


def _from_coco(images: Images, root: str) -> tuple[list[Annotated], dict[Any, str]]:
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
        sorted(names)  # numbers or words: a mixture has no order, and is a TypeError
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


def _of_image(entry: dict, annotations: list[dict]) -> Annotated:
    return Annotated(
        [a["bbox"] for a in annotations],
        [a["category_id"] for a in annotations],
        [a.get("area") for a in annotations],
        [a.get("iscrowd", 0) for a in annotations],
        (entry["width"], entry["height"]) if entry.get("width") and entry.get("height") else None,
    )
