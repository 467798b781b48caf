"""Files of embeddings, written in blocks: npy, safetensors, parquet.

Each writer is made with an open file, takes blocks of rows in order, and is closed. Legend: N images, D width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from seed_hub.data import Images


class Writer(Protocol):
    """Made from an open file, the images and D."""

    def add(self, first: int, rows: np.ndarray) -> None:
        """Rows ``[n, D]`` of the images from number ``first`` on."""

    def close(self) -> None:
        """All rows were added; the file itself stays open."""


@contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """A name to write under; it becomes ``out`` when all went well, and is gone when not."""
    partial = out.with_name(out.name + ".partial")
    try:
        yield partial
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)


class Unfinished:
    """float32 rows ``[n, D]`` beside ``out``, and what they are of: a command that was stopped goes on behind them.

    Args:
        key: rows of another one are thrown away.
    """

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        self._rows, self._about = out.with_name(out.name + ".rows"), out.with_name(out.name + ".rows.json")
        self._key, self.width, self.count = key, 0, 0
        try:
            about = json.loads(self._about.read_text(encoding="utf-8"))
            if about["key"] == key:
                self.width = about["width"]
                self.count = self._rows.stat().st_size // (4 * self.width)
        except (OSError, ValueError, KeyError):
            pass  # none, or half written: from the start

    def add(self, rows: np.ndarray) -> None:
        """``[n, D]`` behind those that are there."""
        if not self.width:
            self.width = rows.shape[1]
            self._rows.unlink(missing_ok=True)
            self._about.write_text(json.dumps({"key": self._key, "width": self.width}), encoding="utf-8")
        with open(self._rows, "ab") as file:
            file.truncate(4 * self.width * self.count)  # half a row of a call that was killed
            file.write(rows.astype("<f4", copy=False).tobytes())
        self.count += len(rows)

    def rows(self, first: int, end: int) -> np.ndarray:
        """Those from number ``first`` to ``end``, or to the last."""
        import numpy as np

        n = min(end, self.count) - first
        found = np.fromfile(self._rows, "<f4", n * self.width, offset=4 * self.width * first)
        return found.reshape(n, self.width)

    def remove(self) -> None:
        """They are in ``out``."""
        for path in (self._rows, self._about):
            path.unlink(missing_ok=True)


def write_names(path: Path, images: Images) -> None:
    with becoming(path) as partial, open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.writelines(images.name(i) + "\n" for i in range(len(images)))


class _Npy:
    """float32 ``[N, D]`` as numpy writes it: a header, then the rows. Written in order rather than through a memory
    map, which ends the process on a full disk instead of raising."""

    def __init__(self, file: IO[bytes], images: Images, width: int) -> None:
        from numpy.lib.format import write_array_header_1_0

        self.file = file
        write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (len(images), width)})

    def add(self, first: int, rows: np.ndarray) -> None:
        self.file.write(rows.astype("<f4", copy=False).tobytes())

    def close(self) -> None:
        """Nothing is left to write."""


class _Safetensors(_Npy):
    """One tensor ``embedding``, float32 ``[N, D]``: the length of a JSON header (8 bytes), the header, the rows."""

    def __init__(self, file: IO[bytes], images: Images, width: int) -> None:
        self.file = file
        entry = {"dtype": "F32", "shape": [len(images), width], "data_offsets": [0, 4 * len(images) * width]}
        header = json.dumps({"__metadata__": {"format": "pt"}, "embedding": entry}).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)


class _Parquet:
    """Columns ``name``, ``label`` (where there are labels) and ``embedding``, a list of D float32."""

    def __init__(self, file: IO[bytes], images: Images, width: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.images = images
        self.embedding = pa.list_(pa.float32(), width)
        fields = [pa.field("name", pa.string()), pa.field("embedding", self.embedding)]
        if images.labels is not None:
            fields.insert(1, pa.field("label", pa.int64()))
        self.schema = pa.schema(fields)
        self.writer = pq.ParquetWriter(file, self.schema, use_dictionary=False)  # no two embeddings are equal

    def add(self, first: int, rows: np.ndarray) -> None:
        """Rows ``[n, D]`` of the images from number ``first`` on."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            "name": [_text(self.images.name(i)) for i in range(first, first + len(rows))],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=self.embedding),
        }
        if self.images.labels is not None:
            columns["label"] = self.images.labels[first : first + len(rows)]
        self.writer.write_table(pa.table({name: columns[name] for name in self.schema.names}, self.schema))

    def close(self) -> None:
        self.writer.close()


def _text(name: str) -> str:
    """A file's name need not be UTF-8; what cannot be said becomes a question mark."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


FORMATS: dict[str, Callable[[IO[bytes], Images, int], Writer]] = {
    ".parquet": _Parquet,
    ".npy": _Npy,
    ".safetensors": _Safetensors,
}
