"""A folder of image files, nested as its owner likes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np

from seed_hub.data.splits import SPLIT_NAMES, choose_split, same_split
from seed_hub.errors import SeedHubError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)


class FolderStore:
    """Image files below ``root``, sorted by relative path.

    The label is the first folder below the root, if every image lies in one and there are two or more.
    The fingerprint covers relative paths, sizes and times of change: moving the folder keeps it.
    """

    stamp = ""  # times of change are in the fingerprint

    def __init__(self, root: str):
        found, self.ignored, example = _walk(root)
        if not found:
            has = f"none among its {self.ignored} files, such as {example}" if self.ignored else "it is empty"
            raise SeedHubError(
                f'Folder "{root}" holds no images ({has}): give a folder with '
                "JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF files, or with parquet files."
            )
        found.sort()
        self.root = os.path.abspath(root)
        digest = hashlib.sha256()
        encoded = []
        for path, size, changed in found:
            encoded.append(os.fsencode(path))
            digest.update(b"%s\0%d\0%d\n" % (encoded[-1], size, changed))
        self.fingerprint = digest.hexdigest()[:16]
        # One block of bytes instead of a million str: pickles at once, and forked workers do not copy
        # it by counting references.
        self._names = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded])
        self.labels, self.classes = _labels([path for path, _, _ in found])

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        return os.fsdecode(self._names[start : self._ends[position]])

    def read(self, position: int) -> str:
        return os.path.join(self.root, self.name(position))


def folder_splits(root: str) -> list[str]:
    """The first-level folders, if all of them are named like splits (a class may be called "train")."""
    below = _subfolders(_beside_masks(root))
    return below if all(name in SPLIT_NAMES for name in below) else []


def open_folder(root: str, split: str | None) -> tuple[FolderStore, str | None]:
    """The images of ``root``, or of its subfolder for ``split``; where masks lie beside ``images``, of that folder."""
    root = _beside_masks(root)
    if split is None:
        found = choose_split(None, folder_splits(root), root)
    else:
        below = _subfolders(root)
        found = same_split(split, below) or choose_split(split, folder_splits(root) or below, root)
    return FolderStore(_beside_masks(os.path.join(root, found)) if found else root), found


def _beside_masks(root: str) -> str:
    """``root/images`` where ``masks`` or ``annotations`` stand beside it, which are images too; else ``root``."""
    below = _subfolders(root)
    segmented = "images" in below and ("masks" in below or "annotations" in below)
    return os.path.join(root, "images") if segmented else root


def _subfolders(root: str) -> list[str]:
    with _scan(root) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _scan(folder: str) -> AbstractContextManager[Iterator[os.DirEntry]]:
    try:
        return os.scandir(folder)
    except OSError as error:
        raise SeedHubError(f'Folder "{folder}" cannot be read: {error.strerror}.') from error


def _walk(root: str) -> tuple[list[tuple[str, int, int]], int, str]:
    """((relative path, bytes, ns of change) of every image, other files counted, one of them named)."""
    found, ignored, example = [], 0, ""
    waiting: list[tuple[str, tuple]] = [
        ("", (_identity(root),))
    ]  # (folder relative to root, identities of it and its parents)
    while waiting:
        folder, parents = waiting.pop()
        with _scan(os.path.join(root, folder)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = os.path.join(folder, entry.name)
                if entry.is_dir():
                    identity = _identity(entry.path)
                    if identity not in parents:  # a link to a folder above it would never end
                        waiting.append((path, (*parents, identity)))
                elif not _is_image(entry):
                    ignored, example = ignored + 1, min(example or path, path)
                else:
                    found.append((path, *_size_and_change(entry)))
    return found, ignored, example


def _is_image(entry: os.DirEntry) -> bool:
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:
        return False
    # A pipe or a socket would block; a dangling link is listed, and found bad.
    return entry.is_file() or entry.is_symlink()


def _size_and_change(entry: os.DirEntry) -> tuple[int, int]:
    try:
        status = entry.stat()
    except OSError:  # a dangling link: listed, found bad by the check
        return -1, 0
    return status.st_size, status.st_mtime_ns


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _labels(paths: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    first = [path.split(os.sep, 1) for path in paths]
    if any(len(parts) == 1 for parts in first):
        return None, None
    classes = sorted({parts[0] for parts in first})
    if len(classes) < 2:
        return None, None
    number = {name: label for label, name in enumerate(classes)}
    return np.array([number[parts[0]] for parts in first], dtype=np.int64), classes
