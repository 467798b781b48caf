"""Writing a packed store: every image decoded and shrunk once, in order, shard after shard.

The manifest is ``packing.json`` while it grows by one finished shard at a time, and becomes ``pack.json`` with the last: a
killed pack goes on with the shard it was at, and what has a name is whole.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL.features

import seed_hub
from seed_hub.data.check import Progress
from seed_hub.data.images import Images
from seed_hub.data.packed import (
    FORMAT_VERSION,
    LABELS,
    MANIFEST,
    UNFINISHED,
    check_parts,
    index_dtype,
    part_names,
    read_manifest,
)
from seed_hub.data.shrinking import Packed, Recipe, pack_all
from seed_hub.errors import SeedHubError

SAMPLE = 64  # images, spread over all of them, that size and time are told from
BAD = "bad_images.txt"


class Estimate(NamedTuple):
    """What is left to do, told from a sample."""

    images: int
    bytes: int
    seconds: float


class Packing:
    """The pack of ``images`` into the folder ``out`` by ``recipe``: new, begun or finished.

    Raises:
        SeedHubError: ``out`` holds something else, or a pack of other images or by another recipe, or a damaged one.
    """

    def __init__(self, images: Images, out: Path, recipe: Recipe) -> None:
        self.images, self.out, self.recipe = images, out, recipe
        described = _described(images, recipe)
        self.finished = (out / MANIFEST).exists()
        if self.finished or (out / UNFINISHED).exists():
            self.manifest, _ = read_manifest(str(out / (MANIFEST if self.finished else UNFINISHED)))
            _refuse_another(self.manifest, described, out, self.finished)
            check_parts(str(out), self.manifest)
        else:
            _refuse_occupied(out)
            self.manifest = {**described, "shards": []}

    @property
    def done(self) -> int:
        """Images in finished shards."""
        return sum(shard["images"] for shard in self.manifest["shards"])

    @property
    def bytes(self) -> int:
        """Of the finished shards, with their indices."""
        return sum(shard["bytes"] + shard["index_bytes"] for shard in self.manifest["shards"])

    def estimate(self, threads: int) -> Estimate:
        """Packs a sample of what is left into nothing.

        Raises:
            SeedHubError: the disk has less room than that takes.
        """
        left = len(self.images) - self.done
        if not left:
            return Estimate(0, 0, 0.0)
        sample = np.unique(np.linspace(self.done, len(self.images) - 1, SAMPLE).round().astype(int))
        start = time.perf_counter()
        packed = list(pack_all(self.images.subset(sample), 0, self.recipe, threads))
        seconds = (time.perf_counter() - start) * left / len(sample)
        index = index_dtype(max(len(each.name) for each in packed)).itemsize
        size = round(sum(len(each.data) + index for each in packed) * left / len(sample))
        there = next(folder for folder in (self.out, *self.out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if size > free:
            smaller = "--side, or --format jpeg" if self.recipe.format == "raw" else "--side or --quality"
            raise SeedHubError(
                f"{self.out} takes about {size / 1e9:.3g} GB more, and its disk has {free / 1e9:.3g} GB free: free some "
                f"space, name another --out, or take a smaller {smaller}."
            )
        return Estimate(left, size, seconds)

    def run(self, threads: int, progress: Progress | None = None) -> None:
        """Writes what is missing.

        Raises:
            SeedHubError: the disk is full, or an image cannot be read any more; what is finished is kept.
        """
        if self.finished:
            return
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._save_manifest()  # before any shard: a pack that is killed in its first is known again
            if self.images.bad:
                self.images.save_bad(self.out / BAD)
            with closing(pack_all(self.images, self.done, self.recipe, threads)) as packed:
                counted = _counted(packed, self.done, len(self.images), progress)
                while self.done < len(self.images):
                    shard = _write_shard(
                        self.out, len(self.manifest["shards"]), counted, self.recipe.shard_mb
                    )
                    self.manifest["shards"].append(shard)
                    self._save_manifest()
            if self.images.labels is not None:
                with _becoming(self.out / LABELS) as file:
                    file.write(_labels_file(self.images.labels))
            os.replace(self.out / UNFINISHED, self.out / MANIFEST)
            self.finished = True
        except OSError as error:
            if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
                raise
            raise SeedHubError(
                f"The disk is full at {self.out}: free some space and give the same command again; {self.done:,} of "
                f"{len(self.images):,} images are packed and kept."
            ) from error

    def _save_manifest(self) -> None:
        with _becoming(self.out / UNFINISHED) as file:
            file.write(json.dumps(self.manifest, indent=1).encode())


def _counted(packed: Iterator[Packed], done: int, total: int, progress: Progress | None) -> Iterator[Packed]:
    for number, each in enumerate(packed, start=done + 1):
        if progress is not None:
            progress(number, total)
        yield each


def _write_shard(out: Path, number: int, packed: Iterator[Packed], limit_mb: int) -> dict[str, Any]:
    """Takes images until the shard is full or there are none; its line of the manifest."""
    images_file, index_file = (out / part for part in part_names(number))
    digest, rows, offset = hashlib.sha256(), [], 0
    with _becoming(images_file) as file:
        for data, height, width, name in packed:
            file.write(data)
            digest.update(data)
            rows.append((offset, len(data), height, width, name))
            offset += len(data)
            if offset >= limit_mb * 1_000_000:
                break
    index = _npy(np.array(rows, dtype=index_dtype(max(len(row[-1]) for row in rows))))
    with _becoming(index_file) as file:
        file.write(index)
    return {
        "images": len(rows),
        "bytes": offset,
        "sha256": digest.hexdigest(),
        "index_bytes": len(index),
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }


@contextmanager
def _becoming(path: Path) -> Iterator[IO[bytes]]:
    """A file that has its name once it is whole and on the disk; nothing of it is left when that fails."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _described(images: Images, recipe: Recipe) -> dict[str, Any]:
    """What makes two packs the same, as the manifest says it: no time and no place."""
    labels = images.labels
    return {
        "format_version": FORMAT_VERSION,
        "format": recipe.format,
        "side": recipe.side,
        "quality": recipe.quality,
        "shard_mb": recipe.shard_mb,
        "count": len(images),
        "split": images.split,
        "source": images.fingerprint,
        "classes": images.classes,
        "labels": None if labels is None else hashlib.sha256(_labels_file(labels)).hexdigest(),
        "versions": {
            "seed_hub": seed_hub.__version__,
            "pillow": PIL.__version__,
            "libjpeg": PIL.features.version("libjpeg_turbo") or PIL.features.version("jpg"),
        },
    }


def _refuse_another(found: dict[str, Any], wanted: dict[str, Any], out: Path, finished: bool) -> None:
    """A finished pack may be of other versions; one that goes on must not change its pixels half-way."""
    other = [key for key in wanted if found.get(key) != wanted[key] and not (finished and key == "versions")]
    if not other:
        return
    if set(other) & {"source", "count", "classes", "labels"}:
        what = "of other images, or they have changed since"
    else:
        what = "with " + ", ".join(f"{key} {found.get(key)} instead of {wanted[key]}" for key in other)
    raise SeedHubError(f"{out} was packed {what}: name another --out, or remove it.")


def _refuse_occupied(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise SeedHubError(f"--out {out} is a file: name a folder.")
    if out.exists() and any(not path.name.endswith(".partial") for path in out.iterdir()):
        raise SeedHubError(f"--out {out} is not empty, and holds no pack that could go on: name another.")


def _labels_file(labels: np.ndarray) -> bytes:
    return _npy(labels.astype("<i8"))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
