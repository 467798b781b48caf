"""Which column of a table holds the image, which one the label.

Works on an Arrow schema with or without the ``datasets`` library's notes (``huggingface`` metadata), so
parquet files and data sets of the Hub are read by the same rule.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError, nearest

_IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "pixels", "jpg", "png", "webp", "bytes")
_LABEL_NAMES = ("label", "labels", "fine_label", "target", "targets", "class", "class_id", "category_id")


def image_column(schema: pa.Schema, wanted: str | None, where: str) -> str:
    """The column of kind Image; else a struct with binary ``bytes``; else a binary column."""
    if wanted is not None:
        _require(schema, wanted, where)
        if not (_is_encoded(schema.field(wanted).type) or _is_binary(schema.field(wanted).type)):
            raise SeedHubError(
                f'Column "{wanted}" of "{where}" is {schema.field(wanted).type}, not encoded images.'
            )
        return wanted
    noted = [name for name, note in _features(schema).items() if note.get("_type") == "Image"]
    for there in (
        [name for name in noted if name in schema.names],
        [f.name for f in schema if _is_encoded(f.type)],
        [f.name for f in schema if _is_binary(f.type)],
    ):
        if there:
            return _preferred(there, _IMAGE_NAMES)
    raise SeedHubError(
        f'"{where}" has no column of images (encoded bytes) among its columns {listed(schema.names)}: '
        "is it the right file?"
    )


def label_column(schema: pa.Schema, wanted: str | None, where: str) -> tuple[str | None, list[str] | None]:
    """(column, class names): a ClassLabel, else an integer column with a usual name, else (None, None)."""
    names = {
        name: note.get("names")
        for name, note in _features(schema).items()
        if note.get("_type") == "ClassLabel" and name in schema.names
    }
    if wanted is not None:
        _require(schema, wanted, where)
        if not pa.types.is_integer(schema.field(wanted).type):
            raise SeedHubError(
                f'Column "{wanted}" of "{where}" is {schema.field(wanted).type}, not integer labels.'
            )
        return wanted, names.get(wanted)
    if names:
        found = _preferred(list(names), _LABEL_NAMES)
        return found, names[found]
    integers = [name for name in _LABEL_NAMES if name in schema.names]
    integers = [name for name in integers if pa.types.is_integer(schema.field(name).type)]
    return (integers[0], None) if integers else (None, None)


def as_labels(columns: list[pa.ChunkedArray]) -> np.ndarray | None:
    """int64 [N], or None where a label is missing (null, or -1: how the Hub marks a hidden test label)."""
    if any(column.null_count for column in columns):
        return None
    labels = np.concatenate([column.to_numpy() for column in columns]).astype(np.int64)
    return None if labels.size and labels.min() < 0 else labels


def _require(schema: pa.Schema, wanted: str, where: str) -> None:
    if wanted not in schema.names:
        hint = nearest(wanted, schema.names)
        raise SeedHubError(
            f'"{where}" has no column "{wanted}": its columns are {listed(schema.names)}.{hint}'
        )


def _features(schema: pa.Schema) -> dict[str, dict]:
    notes = (schema.metadata or {}).get(b"huggingface")
    if not notes:
        return {}
    features = json.loads(notes).get("info", {}).get("features") or {}
    return {name: note for name, note in features.items() if isinstance(note, dict)}


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_encoded(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    return _is_binary(kind.field("bytes").type)


def _preferred(there: list[str], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in there), there[0])
