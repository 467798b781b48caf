"""Parquet files: one, several, or a folder of them, with a split in their names or none."""

from __future__ import annotations

import glob
import hashlib
import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seed_hub.data.columns import as_labels, image_column, label_column
from seed_hub.data.splits import SPLIT_NAMES, choose_split, same_split, split_of_file
from seed_hub.errors import SeedHubError

if TYPE_CHECKING:
    from seed_hub.data.hub import MappedRows

IN_MEMORY_LIMIT = 2 * 1024**3  # bytes of encoded images; above it they are memory-mapped from a cache on disk


class ParquetStore:
    """Rows of ``files``, in the order given.

    Parquet has no cheap random access: one image costs its whole row group. So the encoded images are
    held in memory (forked workers share them; a spawned one reads the files again at its first image),
    or, above ``IN_MEMORY_LIMIT``, unpacked once by ``datasets`` into its cache and memory-mapped.
    The fingerprint covers names, sizes and footers (row counts, offsets, statistics), not times.
    """

    ignored = 0

    def __init__(self, files: list[str], image: str | None, label: str | None):
        self.files = [os.path.abspath(file) for file in files]
        footers = [_footer(file) for file in self.files]
        self._ends = list(accumulate(footer.num_rows for footer in footers))
        if not len(self):
            raise SeedHubError(f'"{self.files[0]}" holds no rows.')
        first = footers[0].schema.to_arrow_schema()
        self.column = image_column(first, image, self.files[0])
        label, self.classes = label_column(first, label, self.files[0])
        for file, footer in zip(self.files, footers, strict=True):
            schema = footer.schema.to_arrow_schema()
            image_column(schema, self.column, file)
            if label and label_column(schema, label, file)[1] != self.classes:
                raise SeedHubError(f'"{file}" and "{self.files[0]}" name different classes: open them apart.')
        self.labels = self._read_labels(label) if label else None
        if self.labels is None:
            self.classes = None
        self.fingerprint = _fingerprint(self.files, self.column)
        self.stamp = ",".join(str(os.stat(file).st_mtime_ns) for file in self.files)
        self._large = sum(_image_bytes(footer, self.column) for footer in footers) > IN_MEMORY_LIMIT
        self._rows: _MemoryRows | MappedRows | None = self._open_rows()

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, position: int) -> str:
        file, row = _place(position, self._ends)
        return f"{os.path.basename(self.files[file])} row {row}"

    def read(self, position: int) -> bytes | memoryview | str | None:
        if self._rows is None:
            self._rows = self._open_rows()
        file, _ = _place(position, self._ends)
        return encoded_or_path(self._rows[position], os.path.dirname(self.files[file]))

    def _read_labels(self, column: str) -> np.ndarray | None:
        return as_labels([_read_column(file, column) for file in self.files])

    def _open_rows(self) -> _MemoryRows | MappedRows:
        if self._large:
            from seed_hub.data.hub import mapped_parquet

            return mapped_parquet(self.files, self.column)
        return _MemoryRows(self.files, self.column)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_rows": None}


class _MemoryRows:
    """position -> (bytes, path); the bytes are a view into Arrow memory, not a copy."""

    def __init__(self, files: list[str], column: str):
        chunks = [chunk for file in files for chunk in _read_column(file, column).chunks]
        self._ends = list(accumulate(len(chunk) for chunk in chunks))
        self._parts = [_bytes_and_path(chunk) for chunk in chunks]

    def __getitem__(self, position: int) -> tuple[memoryview | None, str | None]:
        chunk, row = _place(position, self._ends)
        data, path = self._parts[chunk]
        buffer = data[row].as_buffer()
        if buffer is not None:
            return memoryview(buffer), None
        return None, path[row].as_py() if path is not None else None


def _place(position: int, ends: list[int]) -> tuple[int, int]:
    """(part, position inside it), where part p holds the positions before ``ends[p]``."""
    part = bisect_right(ends, position)
    return part, position - (ends[part - 1] if part else 0)


def _bytes_and_path(chunk: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    path = None
    if pa.types.is_struct(chunk.type):
        if chunk.type.get_field_index("path") >= 0:
            path = pc.struct_field(chunk, "path")
        chunk = pc.struct_field(chunk, "bytes")
    return chunk.cast(pa.large_binary()), path


def encoded_or_path(row: tuple, folder: str) -> bytes | memoryview | str | None:
    """The bytes of a row, else the file its path names, relative to ``folder``."""
    data, path = row
    return data if data is not None or not path else os.path.join(folder, path)


def parquet_files(folder: str) -> list[str]:
    """Parquet files in ``folder``, its subfolder ``data``, or subfolders named like splits; sorted."""
    found = []
    for inside in ("", "data", *SPLIT_NAMES):
        found += glob.glob(os.path.join(glob.escape(folder), inside, "[!.]*.parquet"))
    notes = "metadata.parquet"  # what an image folder made for `datasets` may hold beside its images
    return sorted(file for file in found if os.path.basename(file) != notes)


def parquet_splits(files: list[str]) -> dict[str, list[str]]:
    """Split -> its files, by the file's name, else by the name of its folder."""
    splits: dict[str, list[str]] = {}
    for file in files:
        inside = os.path.basename(os.path.dirname(os.path.abspath(file)))
        split = split_of_file(file) or (inside if inside in SPLIT_NAMES else None)
        if split:
            splits.setdefault(split, []).append(file)
    return splits


def open_parquet(
    files: list[str], split: str | None, where: str, *, choose: bool, image: str | None, label: str | None
) -> tuple[ParquetStore, str | None]:
    """The rows of ``files`` of one split; ``choose`` False takes all of them unless a split is asked for."""
    splits = parquet_splits(files)
    if split is not None and same_split(split, list(splits)) is None:
        named = [f for f in files if os.path.basename(f).startswith((f"{split}.", f"{split}-"))]
        splits = {split: named} if named else splits
    found = choose_split(split, list(splits), where) if choose or split is not None else None
    return ParquetStore(splits[found] if found else files, image, label), found


def _footer(file: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error


def _read_column(file: str, column: str) -> pa.ChunkedArray:
    try:
        return pq.read_table(file, columns=[column], partitioning=None, memory_map=True)[column]
    except (OSError, pa.ArrowException) as error:  # a sound footer behind damaged pages
        raise _unreadable(file, error) from error


def _unreadable(file: str, error: Exception) -> SeedHubError:
    return SeedHubError(f'"{file}" is not a readable parquet file: {" ".join(str(error).split())[:120]}')


def _image_bytes(footer: pq.FileMetaData, column: str) -> int:
    """Uncompressed bytes of ``column``."""
    total = 0
    for group in range(footer.num_row_groups):
        for leaf in range(footer.num_columns):
            chunk = footer.row_group(group).column(leaf)
            if chunk.path_in_schema.split(".")[0] == column:
                total += chunk.total_uncompressed_size
    return total


def _fingerprint(files: list[str], column: str) -> str:
    digest = hashlib.sha256(column.encode())
    for file in files:
        size = os.path.getsize(file)
        with open(file, "rb") as stream:  # a file ends with: footer, its length (4 bytes), "PAR1"
            stream.seek(size - 8)
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(size - 8 - length)
            digest.update(b"%s\0%d\0" % (os.fsencode(os.path.basename(file)), size))
            digest.update(stream.read(length))
    return digest.hexdigest()[:16]
