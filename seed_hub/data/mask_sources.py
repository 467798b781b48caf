"""Masks as they are written: in a table's column of images, or in a folder beside that of the images.

What is read is ids; :mod:`seed_hub.data.masks` makes them labels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from seed_hub.data.folder import FolderStore
from seed_hub.data.hub import HubStore
from seed_hub.data.images import Images, Store
from seed_hub.data.parquet import ParquetStore
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

COLUMNS = ("mask", "annotation", "label_mask")
IMAGES, FOLDERS, NAMES = "images", ("masks", "annotations"), "classes.txt"
# Grey PNGs of 2 and 4 bits: Pillow spreads their values over 0..255, and an id of 3 would be the 255 that is ignored.
_SPREAD = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class MaskSource:
    """Where the masks of N images lie."""

    images: Images
    store: Store
    """of the masks"""
    positions: np.ndarray
    """int64 ``[N]``, of each image's mask in ``store``"""
    names: tuple[str, ...] | None
    """of ``classes.txt``, if there is one"""

    def read(self, i: int) -> np.ndarray:
        """uint8 ``[H, W]``: the mask of image ``i`` as ids."""
        position = int(self.positions[i])
        encoded = self.store.read(position)
        if encoded is None or isinstance(encoded, np.ndarray) or len(encoded) == 0:
            raise SeedHubError(
                f"{self.images.name(i)} of {self.images.source} has no mask: give each image one, or leave it out."
            )
        return _ids(encoded, f'Mask "{self.store.name(position)}" of {self.images.source}')


def mask_source(images: Images, column: str = "") -> MaskSource:
    """The masks of ``images``; ``column`` is that of a table (empty: the first of ``COLUMNS`` that is there)."""
    store = images.store
    if isinstance(store, FolderStore):
        if column:
            raise SeedHubError(
                f"{images.source} is a folder of images and has no columns: leave --mask-column out."
            )
        return _beside(images, Path(store.root))
    if isinstance(store, ParquetStore):
        found = _column(images, pq.read_schema(store.files[0]).names, column)
        names = _names(Path(store.files[0]).parent)
        return MaskSource(images, ParquetStore(store.files, found, None), images.original_index, names)
    rows = getattr(store, "rows", None)  # a data set of the `datasets` library, with all its columns
    if rows is None:
        raise _no_column(images, [])
    found = _column(images, rows.column_names, column)
    return MaskSource(images, HubStore(rows, images.source, found, None), images.original_index, None)


def _column(images: Images, there: list[str], wanted: str) -> str:
    found = wanted or next((name for name in COLUMNS if name in there), None)
    if found is None:
        raise _no_column(images, there)
    return found


def _no_column(images: Images, there: list[str]) -> SeedHubError:
    return SeedHubError(
        f"{images.source} has no column {' or '.join(COLUMNS)} among its columns {listed(there)}: masks are read from one "
        "of these, or from the one that --mask-column names."
    )


def _beside(images: Images, root: Path) -> MaskSource:
    """The masks lie where ``root`` is, with ``masks`` in place of its last folder called ``images``."""
    parts = root.parts
    at = len(parts) - 1 - parts[::-1].index(IMAGES) if IMAGES in parts else 0
    places = [Path(*parts[:at], name, *parts[at + 1 :]) for name in FOLDERS if at]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise SeedHubError(
            f'{root} has no masks: put them into a folder "{FOLDERS[0]}" or "{FOLDERS[1]}" beside a folder "{IMAGES}", '
            "under the names of their images, and give the latter."
        )
    store = FolderStore(str(folder))
    position: dict[str, int] = {}
    for k in range(len(store)):
        stem = os.path.splitext(store.name(k))[0]
        if position.setdefault(stem, k) != k:
            raise SeedHubError(
                f"{folder} holds two masks called {stem}: keep the one that belongs to the image."
            )
    stems = [os.path.splitext(images.name(i))[0] for i in range(len(images))]
    missing = [stem for stem in stems if stem not in position]
    if missing:
        raise SeedHubError(
            f"{len(missing)} of the {len(images)} images of {root} have no mask (first: {missing[0]}.png in {folder}): "
            "add the masks, or take the images out."
        )
    where = np.array([position[stem] for stem in stems], dtype=np.int64)
    above = Path(*parts[:at])
    return MaskSource(images, store, where, _names(above, above.parent))


def _names(*folders: Path) -> tuple[str, ...] | None:
    """The lines of the first ``classes.txt`` there is."""
    for folder in folders:
        if (folder / NAMES).is_file():
            lines = (folder / NAMES).read_text(encoding="utf-8").rstrip().splitlines()
            return tuple(line.strip() for line in lines)
    return None


def _ids(encoded: bytes | memoryview | str, what: str) -> np.ndarray:
    """uint8 ``[H, W]``."""
    try:
        with Image.open(encoded if isinstance(encoded, str) else BytesIO(encoded)) as image:
            kind, mode = image.format, image.mode
            spread = _SPREAD.get(str(image.tile[0][3]), 1) if kind == "PNG" and image.tile else 1
            ids = np.asarray(image) if mode in ("1", "L", "P") else None  # "P": indices, whatever the palette
    except Exception as error:  # decoders raise nearly every type there is on damaged data
        raise SeedHubError(f"{what} cannot be read ({error}): repair or replace it.") from error
    if ids is None:
        raise SeedHubError(
            f"{what} is a picture of colours, or of more than 8 bits ({mode}): give the ids of classes, as 8-bit grey "
            "values or as indices into a palette."
        )
    if kind in ("JPEG", "MPO"):
        raise SeedHubError(f"{what} is a JPEG, which blurs ids into others: save it as PNG.")
    return ids.astype(np.uint8) // spread
