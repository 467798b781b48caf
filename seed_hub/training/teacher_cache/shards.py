"""One file of rows per epoch: appended to while it is made, memory-mapped when it is read.

A file is an ordinary ``.npy``. It is written front to back, so what a kill leaves is whole up to its end, and its length
says how far it got; a full disk is an error of the write and not a signal, as it would be of a memory map.

Legend: R rows, N images, V views, D width.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seed_hub.errors import SeedHubError
from seed_hub.training.teacher_cache.manifest import Manifest

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

DTYPES = ("float16", "float32", "int8")


def encode(embeddings: Tensor, dtype: str) -> np.ndarray:
    """float32 ``[R, V, D]`` -> what is stored: ``[R, V, D]``, or ``[R, V]`` records of a scale and D whole numbers.

    int8: x is stored as round(x / s) with s = max_d |x_d| / 127 of its own row.

    Raises:
        SeedHubError: an embedding is not finite, or does not fit into float16.
    """
    values = embeddings.cpu().numpy()
    if not np.isfinite(values).all():
        raise SeedHubError(
            "The teacher's embeddings are not finite numbers: try --precision fp32, or another teacher."
        )
    if dtype != "int8":
        if dtype == "float16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise SeedHubError(
                f"The teacher's embeddings reach {np.abs(values).max():.3g}, beyond float16: use --dtype float32."
            )
        return values.astype(dtype)
    scale = np.abs(values).max(axis=2) / 127  # [R, V]
    rows = np.empty(values.shape[:2], row_type(dtype, values.shape[2]))
    rows["scale"] = scale
    rows["values"] = np.rint(values / np.where(scale > 0, scale, 1)[..., None])
    return rows


def decode(rows: np.ndarray) -> Tensor:
    """What :func:`encode` made -> float32 ``[R, V, D]``."""
    if rows.dtype.names:
        return torch.from_numpy(rows["values"].astype(np.float32) * rows["scale"][..., None])
    return torch.from_numpy(rows).float()


def row_type(dtype: str, width: int) -> np.dtype:
    """Of one view's embedding."""
    if dtype == "int8":
        return np.dtype([("scale", "<f4"), ("values", "i1", (width,))])
    return np.dtype(dtype).newbyteorder("<")


class Shards:
    """The files of a cache.

    Args:
        folder: where they are.
        manifest: what they hold.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.images = folder, manifest.images
        kind = row_type(manifest.dtype, manifest.width)
        record = kind.names is not None
        self.row_bytes = manifest.views * kind.itemsize * (1 if record else manifest.width)
        shape = (manifest.images, manifest.views, *(() if record else (manifest.width,)))
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header,
            {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape},
        )
        self.header = header.getvalue()
        self.shard_bytes = len(self.header) + manifest.images * self.row_bytes

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:05}.npy"

    def partial(self, epoch: int) -> Path:
        return self.path(epoch).with_suffix(".partial")

    def whole(self, epoch: int) -> bool:
        """The file is there and as long as it must be."""
        path = self.path(epoch)
        return path.is_file() and path.stat().st_size == self.shard_bytes

    def rows(self, epoch: int) -> int:
        """Whole rows there are of ``epoch``."""
        if self.whole(epoch):
            return self.images
        partial = self.partial(epoch)
        size = partial.stat().st_size if partial.is_file() else 0
        return min(self.images, max(0, size - len(self.header)) // self.row_bytes)

    def open(self, epoch: int) -> np.ndarray:
        """``[N, V, ...]``, memory-mapped.

        Raises:
            SeedHubError: the file is missing, cut short, or another array.
        """
        path = self.path(epoch)
        if not self.whole(epoch):
            size = f"{path.stat().st_size:,} of" if path.is_file() else "missing; it must have"
            raise SeedHubError(
                f"{path} is {size} {self.shard_bytes:,} bytes: give the `seed-hub cache` command again, which makes what is "
                "not there."
            )
        with open(path, "rb") as file:
            if file.read(len(self.header)) != self.header:
                raise SeedHubError(
                    f"{path} is not the array that cache.json describes: delete it, and give the `seed-hub cache` command "
                    "again."
                )
        return np.asarray(np.load(path, mmap_mode="r"))  # without the subclass, whose indexing is slower

    def remove(self) -> None:
        """All files of any cache in the folder."""
        for path in [*self.folder.glob("epoch_*.npy"), *self.folder.glob("epoch_*.partial")]:
            path.unlink()


class ShardWriter:
    """Appends to the file of ``epoch`` from row ``first`` on; what is beyond is cut off."""

    def __init__(self, shards: Shards, epoch: int, first: int) -> None:
        self.shards, self.epoch, self.done = shards, epoch, first
        self.path = shards.partial(epoch)
        try:
            self.file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: SIM115
            _lock(self.file, self.path)
            self.file.truncate(len(shards.header) + first * shards.row_bytes if first else 0)
            self.file.seek(0, os.SEEK_END)
            if not first:
                self._write(shards.header)
        except OSError as error:
            raise self._failed(error) from error

    def append(self, rows: np.ndarray) -> None:
        """``rows``: what :func:`encode` gives."""
        try:
            self._write(rows.tobytes())
        except OSError as error:
            raise self._failed(error) from error
        self.done += len(rows)

    def finish(self) -> None:
        """All N rows are there: force them to disk and give the file its name."""
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.path, self.shards.path(self.epoch))

    def close(self) -> None:
        self.file.close()

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[self.file.write(rest) :]

    def _failed(self, error: OSError) -> SeedHubError:
        return SeedHubError(
            f"Could not write {self.path} ({error.strerror}); what was written before is kept: free some space, then give "
            "the same command again."
        )


def _lock(file: io.FileIO, path: Path) -> None:
    """Until it is closed nobody else writes to it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise SeedHubError(
            f"{path} is being written by another process: wait for it, or name another --out."
        ) from error
