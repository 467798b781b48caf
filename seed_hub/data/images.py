"""``Images``: what every command sees of a data set, wherever it is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from seed_hub.data.decode import BadImage, decode
from seed_hub.data.lazy_image import LazyImage
from seed_hub.errors import SeedHubError


class Store(Protocol):
    """Encoded images by position: one class per kind of storage. Pickles cheaply."""

    fingerprint: str  # 16 hex digits: identity of the listing
    stamp: str  # what must also be unchanged for a remembered check to hold
    labels: np.ndarray | None  # int64 [len]
    classes: list[str] | None
    ignored: int  # files that are not images

    def __len__(self) -> int: ...

    def read(self, position: int) -> bytes | memoryview | str | np.ndarray | None:
        """The encoded bytes, the path of the file that holds them, or pixels: uint8 ``[H, W, 3]``."""

    def name(self, position: int) -> str:
        """What a person calls this image: a file, or a row of one."""


class Images:
    """An ordered set of images, N of them, with or without labels.

    - ``labels``: int64 [N], or None; ``classes``: their names, or None
    - ``original_index``: int64 [N], each image's position in the whole listing of the source (bad ones
      included); it survives every ``subset``
    - ``fingerprint``: 16 hex digits, a function of the listing and of ``original_index`` alone
    - ``bad``: (file or row, reason) of images left out at opening, never part of ``len``
    - ``ignored``: how many files were passed over because they are not images
    """

    def __init__(
        self,
        store: Store,
        source: str,
        split: str | None = None,
        original_index: np.ndarray | None = None,
        bad: Sequence[tuple[str, str]] = (),
    ):
        whole = original_index is None
        self.store = store
        self.source = source
        self.split = split
        self.original_index = np.arange(len(store)) if whole else np.asarray(original_index, dtype=np.int64)
        self.bad = list(bad)
        self.ignored = store.ignored
        self.classes = store.classes
        self.labels = None if store.labels is None else store.labels[self.original_index]
        self.fingerprint = _fingerprint(store, self.original_index)

    def __len__(self) -> int:
        return len(self.original_index)

    @property
    def passed_over(self) -> str:
        """``ignored`` in words, for whoever misses a photo; empty if it is 0."""
        if not self.ignored:
            return ""
        if self.ignored == 1:
            return "1 file is no image by its ending and is left out"
        return f"{self.ignored:,} files are no images by their ending and are left out"

    def load(self, i: int) -> Image.Image:
        """Image ``i``: RGB, 8 bit, upright."""
        with self._read(i) as encoded:
            return decode(encoded)

    def __getitem__(self, i: int) -> Image.Image:
        """As :meth:`load`; a loop over the images ends, as over a list, at the last one."""
        return self.load(i)

    @contextmanager
    def open(self, i: int) -> Iterator[LazyImage]:
        """Image ``i``, decoded no further than what is done inside the ``with`` asks for."""
        with self._read(i) as encoded:
            yield LazyImage(encoded)

    @contextmanager
    def _read(self, i: int) -> Iterator[bytes | memoryview | str | np.ndarray | None]:
        """What the store holds; a ``BadImage`` raised while it is used becomes the sentence that names it."""
        position = int(self.original_index[i])
        try:
            yield self.store.read(position)
        except BadImage as bad:
            raise SeedHubError(
                f'Image "{self.store.name(position)}" of {self.source} cannot be read ({bad}): '
                "it changed since it was checked, or was never checked; repair or remove it."
            ) from bad

    def name(self, i: int) -> str:
        """File (relative to the source) or row of image ``i``."""
        return self.store.name(int(self.original_index[i]))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Images:
        """The images at ``indices`` (or under a boolean mask [N]), in that order; subsets compose."""
        indices = np.asarray(indices, dtype=None if len(indices) else np.int64)
        part = Images(self.store, self.source, self.split, self.original_index[indices], self.bad)
        if self.labels is not None:
            part.labels = self.labels[indices]  # hidden ones stay hidden
        return part

    def save_bad(self, path: str | Path) -> None:
        """A text file: the count, then one ``name <tab> reason`` per image left out."""
        lines = [f"# {len(self.bad)} images of {self.source} left out"]
        lines += [f"{name}\t{reason}" for name, reason in self.bad]
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")

    def __repr__(self) -> str:
        split = f", split={self.split!r}" if self.split else ""
        classes = f", {len(np.unique(self.labels))} classes" if self.labels is not None else ""
        return f"Images({self.source!r}{split}: {len(self):,} images{classes}, {len(self.bad)} bad)"


def split_held_out(images: Images, n: int, seed: int) -> tuple[Images, Images]:
    """(train, held_out): disjoint, held_out of min(n, len // 10) images.

    Which positions are held out depends on ``seed`` and the number of images only. Both keep the order
    of ``images``.
    """
    count = max(0, min(n, len(images) // 10))
    order = np.random.default_rng(seed).permutation(len(images))
    return images.subset(np.sort(order[count:])), images.subset(np.sort(order[:count]))


def choose_share(images: Images, share: float, seed: int) -> Images:
    """``share`` of the images, of every class alike where there are labels (one of each at least), chosen by ``seed``.

    A larger share with the same seed contains the smaller one.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    kinds = np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels
    chosen = []
    for kind in np.unique(kinds):
        members = order[kinds[order] == kind]
        chosen.append(members[: max(1, round(share * len(members)))])
    return images.subset(np.sort(np.concatenate(chosen)))


def hide_labels(images: Images, share: float, seed: int) -> Images:
    """The same images; those that :func:`choose_share` does not choose have the label -1."""
    seen = images.subset(np.arange(len(images)))
    if images.labels is not None:
        chosen = choose_share(images, share, seed).original_index
        seen.labels = np.where(np.isin(images.original_index, chosen), images.labels, -1)
    return seen


def _fingerprint(store: Store, original_index: np.ndarray) -> str:
    if len(original_index) == len(store) and np.array_equal(original_index, np.arange(len(store))):
        return store.fingerprint
    digest = hashlib.sha256(store.fingerprint.encode())
    digest.update(original_index.astype("<i8").tobytes())
    return digest.hexdigest()[:16]
