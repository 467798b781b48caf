"""Where in a tar file each sample's image lies: found by one pass over the headers, then remembered.

A sample is what shares a key, the name up to the first dot of its last part: ``dogs/a1.jpg`` and ``dogs/a1.cls`` are one.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np

from seed_hub.data import remote
from seed_hub.data.cache_folder import cache_folder, remember
from seed_hub.data.folder import EXTENSIONS
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

_VERSION = 1  # of what is remembered
_NAME = re.compile(r"(?:\./)?(?P<key>(?:.*/)?[^./]+)\.(?P<kind>[^/]*)")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LOCAL_BUFFER = 4096  # bytes; between two headers lies an image, that nobody needs to read
_REMOTE_BUFFER = 1 << 16  # a sample's small files lie beside each other: one request brings all their headers

Span = tuple[int, int]  # (first byte, bytes)


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar file, N of them, in the order of their first files."""

    names: np.ndarray
    """uint8: the keys one after the other, UTF-8"""
    ends: np.ndarray
    """int64 [N], where each key ends in ``names``"""
    offsets: np.ndarray
    """int64 [N], the first byte of each image"""
    sizes: np.ndarray
    """int64 [N], bytes of each image; -1: the sample has none"""
    labels: np.ndarray
    """int64 [N]; -1: the sample has none"""
    ignored: np.ndarray
    """int64 [1], files without a key or an extension"""


@dataclass
class _Sample:
    files: dict[str, Span] = field(default_factory=dict)  # by extension
    labels: dict[str, int] = field(default_factory=dict)


def index_tar(file: str, size: int, stamp: str, image: str | None, label: str | None) -> TarIndex:
    """The samples of ``file``, a path or URL of ``size`` bytes.

    The index is kept in ``$XDG_CACHE_HOME/seed_hub/tar_index`` for as long as size and stamp stay as they are.

    Args:
        stamp: changes when the file does.
        image: extension of the image, where samples have several.
        label: extension of the label's file, or its key in the ``.json``; None: ``cls``, else ``label``.

    Raises:
        SeedHubError: compressed, cut off, damaged, ambiguous, or holding more than plain files.
    """
    place = file if remote.is_remote(file) else os.path.abspath(file)
    identity = json.dumps([_VERSION, place, size, stamp, image, label])
    kept = cache_folder("tar_index") / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"
    index = _remembered(kept)
    if index is None:
        index = _index(file, size, image, label)
        arrays = {each.name: getattr(index, each.name) for each in fields(index)}
        remember(kept, lambda stream: np.savez(stream, **arrays))
    return index


def open_ranges(file: str, size: int) -> IO[bytes]:
    """``file`` as a seekable stream that reads what it is asked for and little more."""
    if remote.is_remote(file):
        return io.BufferedReader(_Remote(file, size), _REMOTE_BUFFER)
    return open(file, "rb", buffering=_LOCAL_BUFFER)


class _Remote(io.RawIOBase):
    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._place = url, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._place))
        if count:
            buffer[:count] = remote.read_remote(self._url, self._place, count)
        self._place += count
        return count


def _index(file: str, size: int, image: str | None, label: str | None) -> TarIndex:
    samples: dict[str, _Sample] = {}
    ignored = 0
    label_kind = "cls" if label is None else label.lower().lstrip(".")
    with open_ranges(file, size) as stream:
        _refuse_compressed(file, stream)
        for member in _members(file, size, stream):
            named = _NAME.fullmatch(member.name)
            if not named or not named["kind"]:
                ignored += 1
                continue
            sample, kind = samples.setdefault(named["key"], _Sample()), named["kind"].lower()
            if kind in sample.files:
                raise SeedHubError(
                    f'"{file}" holds "{member.name}" twice, and nobody can say which counts: pack it again.'
                )
            sample.files[kind] = (member.offset_data, member.size)
            if kind in ("json", label_kind):  # now, while it is in the buffer
                stream.seek(member.offset_data)
                content = stream.read(member.size)
                from_json = kind == "json"
                sample.labels[kind] = (
                    _from_json(content, label or "label") if from_json else _from_text(content)
                )
    images = [_image(sample, image, f'Sample "{key}" of "{file}"') for key, sample in samples.items()]
    names = [key.encode(errors="surrogateescape") for key in samples]
    labels = [each.labels.get(label_kind, each.labels.get("json", -1)) for each in samples.values()]
    return TarIndex(
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        offsets=np.array([first for first, _ in images], dtype=np.int64),
        sizes=np.array([count for _, count in images], dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        ignored=np.array([ignored], dtype=np.int64),
    )


def _refuse_compressed(file: str, stream: IO[bytes]) -> None:
    start = stream.read(8)
    stream.seek(0)
    for mark, kind in _PACKED.items():
        if start.startswith(mark):
            raise SeedHubError(
                f'"{file}" is compressed ({kind}), so no image of it can be reached without those before it: '
                "unpack it to a plain .tar; images are compressed already."
            )


def _members(file: str, size: int, stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar, if all of it is sound. Long names in either dialect are tarfile's business."""
    tar = None
    try:
        tar = tarfile.open(fileobj=stream, mode="r:", encoding="utf-8")  # noqa: SIM115  the stream is the caller's
        while (member := tar.next()) is not None:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                what = (
                    "sparse"
                    if member.issparse()
                    else "a link"
                    if member.islnk() or member.issym()
                    else "a device"
                )
                raise SeedHubError(
                    f'"{file}" holds "{member.name}", which is {what} and not a plain file: '
                    "pack it again (tar --dereference --hard-dereference, without --sparse)."
                )
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            yield member
            tar.members = []  # type: ignore[attr-defined]  # tarfile remembers all it has seen
    except tarfile.TarError as error:
        if size < tarfile.BLOCKSIZE or "end of data" in str(error):
            raise _cut_off(file, size) from error
        raise _damaged(file, tar.offset if tar else 0, size) from error
    # tarfile takes a damaged header, or the end of the file, for the end of the archive.
    stream.seek(tar.offset)
    rest = stream.read(4 * tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE:
        raise _cut_off(file, size)
    if any(rest[: tarfile.BLOCKSIZE]):
        raise _damaged(file, tar.offset, size)
    if any(rest):
        raise SeedHubError(
            f'"{file}" goes on behind its end mark at byte {tar.offset:,}, as tar files joined by cat do: '
            "give the files that it was made of, or pack it again."
        )


def _cut_off(file: str, size: int) -> SeedHubError:
    return SeedHubError(
        f'"{file}" is cut off: it stops at byte {size:,} without the end mark of a tar; write or download it again.'
    )


def _damaged(file: str, place: int, size: int) -> SeedHubError:
    return SeedHubError(
        f'"{file}" is no tar, or a damaged one: there is no sound header at byte {place:,} of {size:,}.'
    )


def _image(sample: _Sample, wanted: str | None, what: str) -> Span:
    if wanted is not None:
        return sample.files.get(wanted.lower().lstrip("."), (0, -1))
    kinds = [kind for kind in sample.files if "." + kind.rpartition(".")[2] in EXTENSIONS]
    plain = [kind for kind in kinds if "." not in kind]  # beside seg.png
    chosen = plain or kinds
    if len(chosen) > 1:
        raise SeedHubError(f"{what} has several images, {listed(chosen)}: keep one of each sample.")
    return sample.files[chosen[0]] if chosen else (0, -1)


def _from_text(content: bytes) -> int:
    """A whole number from 0 on, or -1."""
    return int(content) if content.strip().isdigit() else -1


def _from_json(content: bytes, key: str) -> int:
    try:
        value = json.loads(content)
    except ValueError:
        return -1
    value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else -1


def _remembered(kept: Path) -> TarIndex | None:
    try:
        with kept.open("rb") as stream, np.load(stream) as arrays:
            return TarIndex(**{each.name: arrays[each.name] for each in fields(TarIndex)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent or damaged: another pass
        return None
