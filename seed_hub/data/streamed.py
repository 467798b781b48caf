"""Images that are read in order, file by file, and never by number: what neither fits on a disk nor can be looked up.

The ``datasets`` library opens the files. Its own shuffle buffer is lost when a reading is continued, so the order is made
here, as a function of the data and the seed alone. The files are dealt out to L lanes, and each lane is read by itself:
image n of a run is the next of lane n mod L. A lane has no end: after its last file it begins its next epoch, with its
files in another order. Its usable images, in the order in which they are read, make blocks of S, and each block is
shuffled by itself: whoever knows where a block begins needs nothing that was read before.

Legend: L lanes, S images of a block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seed_hub.data.decode import BadImage, decode
from seed_hub.data.images import Images
from seed_hub.data.lazy_image import LazyImage
from seed_hub.data.parquet import encoded_or_path
from seed_hub.data.remote import is_remote, read_if_there
from seed_hub.errors import SeedHubError
from seed_hub.machine import cores

SHUFFLED = 4096  # images in the blocks of all lanes, encoded and in memory: 0.4 GB if they have 100 kB
LANES = 16  # files open at once; more would hold a row group of each in memory
_ROWS = 2**32  # more than any file has: an image's number is its file's, then its row's
_AT_ONCE = 32  # rows asked of the library at once
_LEAST = 1000  # rows seen before the share of damaged ones is judged
Encoded = bytes | memoryview | str | None


class Row(int):
    """The number of an image (2^32 x file + row), with the image itself, which cannot be asked for by number later."""

    encoded: Encoded

    def __new__(cls, number: int, encoded: Encoded = None) -> Row:
        row = super().__new__(cls, number)
        row.encoded = encoded
        return row


@dataclass(frozen=True)
class Place:
    """Where in its lane a row is."""

    epoch: int = 0
    """passes over the lane before"""
    turn: int = 0
    """files of this pass before"""
    row: int = 0
    """rows of the file before"""


class Stream:
    """The training images of ``rows``, after those that are held out.

    - ``files``: how many there are; the first ``first[0]``, and ``first[1]`` rows of the next, are held out
    - ``lanes``: L, a function of the files alone
    - ``bad``: (file and row, reason) of images left out so far, by this process
    - ``fingerprint``: 16 hex digits, of the files' number and the images held out

    Args:
        rows: a ``datasets.IterableDataset`` whose only column, ``column``, holds encoded images.
        allow_bad: largest share of damaged images to go on with.
    """

    labels = None

    def __init__(self, rows: Any, column: str, source: str, split: str | None, allow_bad: float) -> None:
        self._rows, self._column = rows, column
        self.source, self.split, self.allow_bad = source, split, allow_bad
        self.files: int = rows.num_shards
        self.first = (0, 0)
        self.bad: list[tuple[str, str]] = []
        self.seen = 0
        self.fingerprint = ""

    @property
    def lanes(self) -> int:
        """The most, up to ``LANES``, of which none has a quarter more files than another: each begins anew by itself, and
        what lies in a short one comes more often."""
        files = self.files - self.first[0]
        powers = (LANES >> i for i in range(LANES.bit_length()))
        return next(n for n in powers if -(-files // n) <= 1.25 * (files // n))

    def read(self, file: int, row: int) -> Iterator[Row]:
        """The images of one file from ``row`` on.

        Raises:
            SeedHubError: it cannot be read on.
        """
        try:
            rows = self._rows.shard(num_shards=self.files, index=file)
            rows = rows.skip(row) if row else rows
            for some in rows.iter(_AT_ONCE):
                for cell in some[self._column]:
                    yield Row(file * _ROWS + row, _encoded(cell))
                    row += 1
        except SeedHubError:
            raise
        except Exception as error:  # network, hub, formats: each library has its own types
            raise SeedHubError(
                f'"{self.source}" cannot be read on from row {row:,} of file {file + 1:,} of {self.files:,} ({_reason(error)}): '
                "check the network and the file; a run that this stopped continues with --resume."
            ) from error

    @contextmanager
    def open(self, row: Row) -> Iterator[LazyImage]:
        """As :meth:`Images.open`."""
        yield LazyImage(row.encoded)

    def usable(self, rows: list[Row]) -> list[bool]:
        """Which of ``rows`` can be decoded; the others are counted.

        Raises:
            SeedHubError: more than the allowed share cannot.
        """
        with ThreadPoolExecutor(min(8, cores())) as pool:  # Pillow decodes outside the interpreter's lock
            reasons = list(pool.map(_damage, rows))
        damaged = [(_name(row), reason) for row, reason in zip(rows, reasons, strict=True) if reason]
        self.bad += damaged
        self.seen += len(rows)
        most = self.allow_bad * max(self.seen, _LEAST)
        if damaged and (len(self.bad) > most or len(self.bad) == self.seen >= _LEAST):
            examples = ", ".join(f"{name} ({reason})" for name, reason in self.bad[:3])
            usable = "none of them is left"
            if len(self.bad) < self.seen:
                usable = (
                    f"that is more than the allowed {self.allow_bad:.2%}: repair them, or raise --allow-bad"
                )
            raise SeedHubError(
                f'{len(self.bad):,} of the first {self.seen:,} images of "{self.source}" cannot be used: {examples}, ...; {usable}.'
            )
        return [reason is None for reason in reasons]

    def save_bad(self, path: Path) -> None:
        """Begin the list of images left out; training goes on with it."""
        lines = [f"# images of {self.source} left out", *("\t".join(each) for each in self.bad)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Lane:
    """One of the L parts of a stream.

    Args:
        number: 0 to L - 1.
    """

    def __init__(self, stream: Stream, number: int, seed: int) -> None:
        self.stream, self.number, self.seed = stream, number, seed
        self.files = range(stream.first[0], stream.files)[number :: stream.lanes]
        self.block_size = SHUFFLED // stream.lanes

    def blocks(self, number: int, place: Place) -> Iterator[tuple[Place, list[tuple[Row, int]]]]:
        """The blocks from ``number`` on, which begins at ``place``: (its first row's place, S times (image, epoch))."""
        rows = self._rows(place)
        while True:
            first: Place | None = None
            block: list[tuple[Row, int]] = []
            while len(block) < self.block_size:
                some = list(islice(rows, self.block_size - len(block)))
                first = first or some[0][0]
                usable = self.stream.usable([row for _, row in some])
                block += [(row, place.epoch) for (place, row), good in zip(some, usable, strict=True) if good]
            assert first is not None
            yield first, [block[i] for i in self._permutation(1, number, len(block))]
            number += 1

    def _rows(self, place: Place) -> Iterator[tuple[Place, Row]]:
        """Every row from ``place`` on, without end."""
        epoch, first, start = astuple(place)
        while True:
            found = first > 0 or start > 0  # what lies before it was there
            order = self._permutation(2, epoch, len(self.files))
            for turn in range(first, len(order)):
                file = self.files[order[turn]]
                if file == self.stream.first[0]:
                    start = max(start, self.stream.first[1])
                for row, image in enumerate(self.stream.read(file, start), start):
                    yield Place(epoch, turn, row), image
                    found = True
                start = 0
            if not found:
                raise SeedHubError(
                    f'"{self.stream.source}" holds no images in {len(self.files):,} of its {self.stream.files:,} files beyond '
                    "those held out: lower --held-out, or leave the empty files out."
                )
            epoch, first = epoch + 1, 0

    def _permutation(self, purpose: int, number: int, n: int) -> np.ndarray:
        # Counter word 1 of a view is 0, of an epoch's order 2^63: nothing shares random numbers.
        counter = [0, 2**63 + purpose, number, self.number]
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter)).permutation(n)


class _HeldOut:
    """A ``Store`` of images in memory."""

    labels: np.ndarray | None = None
    classes: list[str] | None = None
    ignored = 0
    stamp = ""

    def __init__(self, rows: list[Row], fingerprint: str) -> None:
        self._rows, self.fingerprint = rows, fingerprint

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, position: int) -> Encoded:
        return self._rows[position].encoded

    def name(self, position: int) -> str:
        return _name(self._rows[position])


def split_stream(stream: Stream, n: int) -> tuple[Stream, Images]:
    """(the images to train on, held-out images): the first ``n`` usable ones in the order of the files are held out.

    Raises:
        SeedHubError: nothing comes after them.
    """
    everything = (row for file in range(stream.files) for row in stream.read(file, 0))
    held_out: list[Row] = []
    while len(held_out) < n and (some := list(islice(everything, n - len(held_out)))):
        held_out += [row for row, good in zip(some, stream.usable(some), strict=True) if good]
    after = next(everything, None)
    if after is None:
        raise SeedHubError(
            f'"{stream.source}" ends after {len(held_out):,} usable images and --held-out is {n:,}, which leaves none to train '
            "on: lower --held-out."
        )
    stream.first = divmod(int(after), _ROWS)
    digest = hashlib.sha256(b"%d" % stream.files)
    for row in held_out:
        content = row.encoded if row.encoded is not None else b""
        digest.update(os.fsencode(content) if isinstance(content, str) else content)
    stream.fingerprint = digest.hexdigest()[:16]
    return stream, Images(_HeldOut(held_out, stream.fingerprint), stream.source, stream.split)


def _damage(row: Row) -> str | None:
    """Why an image cannot be used; None: it can. What lies in a file of its own, far away, is fetched."""
    try:
        if isinstance(row.encoded, str) and is_remote(row.encoded):
            row.encoded = read_if_there(row.encoded)
        decode(row.encoded, draft=True)
    except BadImage as bad:
        return str(bad)
    return None


def _encoded(cell: Any) -> Encoded:
    return encoded_or_path((cell.get("bytes"), cell.get("path")), "") if isinstance(cell, dict) else cell


def _name(row: Row) -> str:
    file, number = divmod(int(row), _ROWS)
    return f"file {file} row {number}"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
