"""A packed store, as ``seed-hub pack`` writes it: images decoded and shrunk once, read from memory-mapped shards.

A folder of

- ``pack.json``: what it holds, with size and sha256 of every part; ``packing.json`` until it is finished
- ``shard-00000.bin``, ...: the images one after another, as JPEG or as raw pixels
- ``shard-00000.npy``, ...: where each begins, its size, and its name (:func:`index_dtype`)
- ``labels.npy``: int64 ``[N]``, where the source had labels

or of such folders, named like splits.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from seed_hub.data.splits import SPLIT_NAMES, choose_split
from seed_hub.errors import SeedHubError

FORMAT_VERSION = 1
FORMATS = ("jpeg", "raw")
MANIFEST, UNFINISHED = "pack.json", "packing.json"
LABELS = "labels.npy"
OPEN_SHARDS = 128  # mapped at a time: each holds two file descriptors, of 1,024 that a process usually has


class _Shard(NamedTuple):
    images: mmap.mmap
    rows: np.ndarray


class PackedStore:
    """The images of a finished pack. Opening looks for every part and its size, not into it.

    Pickles as its manifest and labels; each process maps a shard when it first reads from it.

    Raises:
        SeedHubError: a manifest that is damaged or of another format version, a part that is missing or of another size.
    """

    ignored = 0

    def __init__(self, root: str):
        self.root = os.path.abspath(root)
        self.manifest, content = read_manifest(os.path.join(self.root, MANIFEST))
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self.stamp = check_parts(self.root, self.manifest)
        self.raw: bool = self.manifest["format"] == "raw"
        self.classes: list[str] | None = self.manifest["classes"]
        self.labels = self._read_labels() if self.manifest["labels"] else None
        self.ends = list(accumulate(shard["images"] for shard in self.manifest["shards"]))
        self._shard = lru_cache(OPEN_SHARDS)(self._map)

    def __len__(self) -> int:
        return self.ends[-1]

    def name(self, position: int) -> str:
        shard, row = self._find(position)
        return shard.rows[row].item()[-1].decode("utf-8", "surrogateescape")

    def read(self, position: int) -> memoryview | np.ndarray:
        """The bytes of a JPEG, or uint8 ``[H, W, 3]``: a read-only view of the mapped file."""
        shard, row = self._find(position)
        offset, size, height, width, _ = shard.rows[row].item()
        if self.raw:
            return np.frombuffer(shard.images, np.uint8, size, offset).reshape(height, width, 3)
        return memoryview(shard.images)[offset : offset + size]

    def size(self, position: int) -> tuple[int, int]:
        """(height, width) in px, without decoding."""
        shard, row = self._find(position)
        return shard.rows[row].item()[2:4]

    @property
    def bytes(self) -> int:
        """Of all images as they are stored."""
        return sum(shard["bytes"] for shard in self.manifest["shards"])

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The shards one after another: uint8 ``[<= size]``, read-only views of the mapped files."""
        for number, written in enumerate(self.manifest["shards"]):
            for start in range(0, written["bytes"], size):
                count = min(size, written["bytes"] - start)
                yield np.frombuffer(self._shard(number).images, np.uint8, count, start)

    def layout(self) -> np.ndarray:
        """int64 ``[3, N]`` of a raw store: each image's first pixel, counted through all shards, its height and its width.

        Raises:
            SeedHubError: an index that its shard contradicts.
        """
        parts, before = [], 0
        for number, written in enumerate(self.manifest["shards"]):
            rows = self._shard(number).rows
            offset, size, height, width = (
                rows[name].astype(np.int64) for name in ("offset", "size", "height", "width")
            )
            inside = (offset >= 0) & (offset + size <= written["bytes"])
            aligned = (offset % 3 == 0) & (written["bytes"] % 3 == 0)
            filled = (np.minimum(height, width) > 0) & (size == 3 * height * width)
            if not (inside & aligned & filled).all():
                raise _broken(self.root, f"{part_names(number)[1]} does not fit {part_names(number)[0]}")
            parts.append(np.stack([(before + offset) // 3, height, width]))
            before += written["bytes"]
        return np.concatenate(parts, axis=1)

    def _find(self, position: int) -> tuple[_Shard, int]:
        if not 0 <= position < len(self):
            raise IndexError(f"image {position} of {len(self)}")
        number = bisect_right(self.ends, position)
        return self._shard(number), position - (self.ends[number - 1] if number else 0)

    def _map(self, number: int) -> _Shard:
        written = self.manifest["shards"][number]
        images, index = (os.path.join(self.root, part) for part in part_names(number))
        try:
            with open(images, "rb") as file:
                mapped = mmap.mmap(file.fileno(), written["bytes"], access=mmap.ACCESS_READ)
            rows = np.load(index, mmap_mode="r").view(np.ndarray)  # np.memmap itself is slow by the row
            if len(rows) != written["images"]:
                raise ValueError(f"{len(rows)} rows for {written['images']} images")
        except (OSError, ValueError) as error:
            raise _broken(self.root, f"{part_names(number)[0]} cannot be read ({error})") from error
        return _Shard(mapped, rows)

    def _read_labels(self) -> np.ndarray:
        try:
            labels = np.load(os.path.join(self.root, LABELS))
        except (OSError, ValueError) as error:
            raise _broken(self.root, f"{LABELS} cannot be read ({error})") from error
        if labels.shape != (self.manifest["count"],):
            raise _broken(self.root, f"{LABELS} is not of its {self.manifest['count']:,} images")
        return labels

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_shard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shard = lru_cache(OPEN_SHARDS)(self._map)


def index_dtype(longest_name: int) -> np.dtype:
    """Of one row per image: its bytes are [offset, offset + size) of the shard; height and width in px; the name it had
    in the source, UTF-8, of at most ``longest_name`` bytes."""
    numbers = [("offset", "<i8"), ("size", "<i8"), ("height", "<i4"), ("width", "<i4")]
    return np.dtype([*numbers, ("name", f"S{max(1, longest_name)}")])


def part_names(number: int) -> tuple[str, str]:
    """(images, index) of a shard."""
    return f"shard-{number:05}.bin", f"shard-{number:05}.npy"


def read_manifest(file: str) -> tuple[dict[str, Any], bytes]:
    """(what a manifest says, its bytes), finished or not.

    Raises:
        SeedHubError: it is damaged, or of a format version that is not this one's.
    """
    with open(file, "rb") as stream:
        content = stream.read()
    try:
        manifest = json.loads(content)
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            _check_whole(manifest, finished=os.path.basename(file) == MANIFEST)
    except (ValueError, KeyError, TypeError) as error:
        raise SeedHubError(
            f"{file} is damaged, or not of a packed store ({type(error).__name__}: {error}): pack the images again, into "
            "another folder."
        ) from error
    if version != FORMAT_VERSION:
        raise SeedHubError(
            f"{file} is of format version {version}, and this seed-hub reads version {FORMAT_VERSION}: pack the images "
            "again, or read it with the seed-hub that packed them."
        )
    return manifest, content


def _check_whole(manifest: dict[str, Any], *, finished: bool) -> None:
    if manifest["format"] not in FORMATS:
        raise ValueError(f"format {manifest['format']}")
    for key in ("classes", "labels", "split"):
        manifest[key]
    images = sum(shard["images"] for shard in manifest["shards"])
    sum(shard["bytes"] + shard["index_bytes"] for shard in manifest["shards"])
    if finished and not 0 < images == manifest["count"]:
        raise ValueError(f"{images} of {manifest['count']} images")


def check_parts(root: str, manifest: dict[str, Any]) -> str:
    """Looks for every shard and its size; their times of change, as one word.

    Raises:
        SeedHubError: a part is missing, or not as long as it was written.
    """
    times = hashlib.sha256()
    for number, shard in enumerate(manifest["shards"]):
        for part, size in zip(part_names(number), (shard["bytes"], shard["index_bytes"]), strict=True):
            try:
                found = os.stat(os.path.join(root, part))
            except OSError as error:
                raise _broken(root, f"{part} is missing ({error.strerror})") from error
            if found.st_size != size:
                raise _broken(root, f"{part} has {found.st_size:,} bytes instead of {size:,}")
            times.update(b"%d\n" % found.st_mtime_ns)
    return times.hexdigest()[:16]


def _broken(root: str, what: str) -> SeedHubError:
    return SeedHubError(
        f'Packed store "{root}": {what}; copy it again from where it is whole, or pack the images again into another folder.'
    )


def is_packed(folder: str) -> bool:
    """A packed store, finished or not, or a folder of them?"""
    return os.path.isfile(os.path.join(folder, UNFINISHED)) or bool(_stores(folder))


def packed_splits(folder: str) -> list[str]:
    """Names of the splits, sorted; empty where the packed images had none."""
    return sorted(name for name in _stores(folder) if name)


def open_packed(folder: str, split: str | None) -> tuple[PackedStore, str | None]:
    """(store, its split) of the packed store ``folder``, or of one of those in it."""
    if os.path.isfile(os.path.join(folder, UNFINISHED)):
        raise SeedHubError(
            f'"{folder}" is not packed to the end: give the same `seed-hub pack` again, it goes on where it stopped.'
        )
    stores = _stores(folder)
    if not stores:
        raise SeedHubError(
            f'There is no packed store in "{folder}": name the folder that `seed-hub pack` wrote.'
        )
    names = [name for name in stores if name]
    found = choose_split(split, names, folder)
    return PackedStore(stores[found or ""]), found


def _stores(folder: str) -> dict[str, str]:
    """Folder of each split, "" for no split."""
    manifest = os.path.join(folder, MANIFEST)
    if os.path.isfile(manifest):
        return {read_manifest(manifest)[0]["split"] or "": folder}
    inside = {name: os.path.join(folder, name) for name in SPLIT_NAMES}
    return {name: path for name, path in inside.items() if os.path.isfile(os.path.join(path, MANIFEST))}
