"""Webdatasets: tar files whose members, image and label, belong together by name. Read in any order.

The headers of each tar are read once and remembered, and every image is then one read of its own bytes: what holds for
a folder, exact resume and any split over processes, holds for a pattern of tar files, here or behind a URL.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np

from seed_hub.data import remote
from seed_hub.data.decode import BadImage
from seed_hub.data.folder import EXTENSIONS
from seed_hub.data.splits import SPLIT_NAMES, choose_split, split_of_file
from seed_hub.data.tar_index import TarIndex, index_tar
from seed_hub.errors import SeedHubError

T = TypeVar("T")
R = TypeVar("R")

_SHARD = re.compile(
    r".+\.(tar|tgz|tar\.(gz|bz2|xz|zst))", re.IGNORECASE
)  # packed ones are refused by name later
_THREADS = 8  # shards looked through at once: most of the time is waiting, for a disk or a network


class WebdatasetStore:
    """The samples of ``shards``, paths or URLs, in the order given.

    The fingerprint covers the names and sizes of the shards and where in them each image lies, not their times.
    No file stays open: a store pickles as arrays, and forked workers and threads share nothing that has a position.
    """

    def __init__(self, shards: list[str], image: str | None, label: str | None):
        self.shards = [shard if remote.is_remote(shard) else os.path.abspath(shard) for shard in shards]
        found = _each(_size_and_stamp, self.shards)
        indices = _each(
            lambda shard: index_tar(shard[0], *shard[1], image, label),
            list(zip(self.shards, found, strict=True)),
        )
        self._shard_ends = list(accumulate(len(index.ends) for index in indices))
        self._names = [index.names.tobytes() for index in indices]
        self._ends = [index.ends for index in indices]
        self._offsets = np.concatenate([index.offsets for index in indices])
        self._sizes = np.concatenate([index.sizes for index in indices])
        self.ignored = sum(int(index.ignored[0]) for index in indices)
        self.stamp = hashlib.sha256(",".join(stamp for _, stamp in found).encode()).hexdigest()[:16]
        self.fingerprint = _fingerprint(self.shards, [size for size, _ in found], indices)
        self._refuse_none(image)
        self.labels = self._labels(np.concatenate([index.labels for index in indices]), label)
        self.classes = None if self.labels is None else _classes(self.shards[0], int(self.labels.max()) + 1)

    def __len__(self) -> int:
        return self._shard_ends[-1]

    def name(self, position: int) -> str:
        shard, row = self._place(position)
        start = self._ends[shard][row - 1] if row else 0
        key = self._names[shard][start : self._ends[shard][row]].decode(errors="surrogateescape")
        return f"{remote.file_name(self.shards[shard])} {key}"

    def read(self, position: int) -> bytes:
        first, size = int(self._offsets[position]), int(self._sizes[position])
        if size < 0:
            raise BadImage("no image among the files of the sample")
        shard = self.shards[self._place(position)[0]]
        if remote.is_remote(shard):
            return remote.read_remote(shard, first, size) if size else b""
        try:
            with open(shard, "rb") as stream:
                stream.seek(first)
                data = stream.read(size)
        except OSError as error:
            raise BadImage(str(error.strerror), lasting=False) from error
        if len(data) < size:
            raise BadImage("the tar file ends inside it: it has become shorter", lasting=False)
        return data

    def _place(self, position: int) -> tuple[int, int]:
        shard = bisect_right(self._shard_ends, position)
        return shard, position - (self._shard_ends[shard - 1] if shard else 0)

    def _refuse_none(self, image: str | None) -> None:
        if not (self._sizes >= 0).any():
            kind = f' with the extension "{image}"' if image else ""
            raise SeedHubError(
                f'"{self.shards[0]}"{_and_more(self.shards)} holds no images{kind} among its {len(self):,} samples: '
                "is it the right pattern?"
            )

    def _labels(self, labels: np.ndarray, wanted: str | None) -> np.ndarray | None:
        """int64 [N], or None unless every sample with an image has one; if they were asked for, an error then."""
        without = np.flatnonzero((self._sizes >= 0) & (labels < 0))
        if len(without) and wanted is not None:
            raise SeedHubError(
                f'{len(without):,} samples have no whole number from 0 on as "{wanted}", such as '
                f'"{self.name(int(without[0]))}": name another extension, or a key of their .json.'
            )
        return None if len(without) else labels


def is_shard(place: str) -> bool:
    """Is this path or URL called like a tar file?"""
    return _SHARD.fullmatch(remote.file_name(place)) is not None


def shards_in(folder: str) -> list[str]:
    """The tar files of ``folder`` or of its subfolders named like splits; none, if it holds images or other folders
    too: those are what it is for, and the tar files were left over."""
    found = []
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            inside = shards_in(entry.path) if entry.name in SPLIT_NAMES else []
            if not inside:
                return []
            found += inside
        elif is_shard(entry.name):
            found.append(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            return []
    return sorted(found)


def shard_splits(shards: list[str]) -> dict[str, list[str]]:
    """Split -> its shards, by a word of the file's name (``imagenet1k-train-0001.tar``), else by its folder's."""
    splits: dict[str, list[str]] = {}
    for shard in shards:
        name = remote.file_name(shard)
        words = [*re.split(r"[-_.]", name), os.path.basename(os.path.dirname(shard))]
        split = split_of_file(name) or next((word for word in words if word in SPLIT_NAMES), None)
        if split:
            splits.setdefault(split, []).append(shard)
    return splits


def open_webdataset(
    shards: list[str], split: str | None, where: str, *, choose: bool, image: str | None, label: str | None
) -> tuple[WebdatasetStore, str | None]:
    """The samples of ``shards`` of one split; ``choose`` False takes all of them unless a split is asked for."""
    splits = shard_splits(shards)
    found = choose_split(split, list(splits), where) if choose or split is not None else None
    return WebdatasetStore(splits[found] if found else shards, image, label), found


def _each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    pool = ThreadPoolExecutor(min(_THREADS, len(items)))
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)  # one bad shard must not wait for the rest


def _size_and_stamp(shard: str) -> tuple[int, str]:
    if remote.is_remote(shard):
        return remote.size_and_stamp(shard)
    try:
        status = os.stat(shard)
    except OSError as error:
        raise SeedHubError(f'"{shard}" cannot be read: {error.strerror}.') from error
    return status.st_size, str(status.st_mtime_ns)


def _fingerprint(shards: list[str], sizes: list[int], indices: list[TarIndex]) -> str:
    digest = hashlib.sha256()
    for shard, size, index in zip(shards, sizes, indices, strict=True):
        digest.update(b"%s\0%d\0" % (os.fsencode(remote.file_name(shard)), size))
        for array in (index.names, index.ends, index.offsets, index.sizes):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def _classes(shard: str, count: int) -> list[str] | None:
    """Names from ``classes.txt`` (a line each) or ``classes.json`` (a list) beside the shards; None without."""
    folder = shard.rpartition("/" if remote.is_remote(shard) else os.sep)[0]
    for kind in ("txt", "json"):
        place = f"{folder}/classes.{kind}"
        content = remote.read_if_there(place) if remote.is_remote(shard) else _content(place)
        if content is None:
            continue
        try:
            names = content.decode().strip().splitlines() if kind == "txt" else json.loads(content)
            names = [name.strip() for name in names]
        except (ValueError, AttributeError, TypeError) as error:
            raise SeedHubError(f'"{place}" is no list of class names: repair or remove it.') from error
        if len(names) < count:
            raise SeedHubError(
                f'"{place}" names {len(names):,} classes, and the labels go up to {count - 1:,}: complete or remove it.'
            )
        return names
    return None


def _content(file: str) -> bytes | None:
    return Path(file).read_bytes() if os.path.isfile(file) else None


def _and_more(shards: list[str]) -> str:
    return f" with {len(shards) - 1:,} more" if len(shards) > 1 else ""
