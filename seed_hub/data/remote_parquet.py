"""Parquet files behind URLs: fetched once, since one image costs its whole row group; then as any parquet file."""

from __future__ import annotations

import hashlib

from seed_hub.data import remote
from seed_hub.data.cache_folder import cache_folder
from seed_hub.data.parquet import ParquetStore, parquet_splits
from seed_hub.data.splits import choose_split


def open_remote_parquet(
    urls: list[str], split: str | None, where: str, *, choose: bool, image: str | None, label: str | None
) -> tuple[ParquetStore, str | None]:
    """The rows of ``urls`` of one split, of which alone the files are fetched; ``choose`` False takes all of them unless
    a split is asked for. The same files here have the same fingerprint."""
    splits = parquet_splits(urls)
    found = choose_split(split, list(splits), where) if choose or split is not None else None
    return ParquetStore([fetch(url) for url in (splits[found] if found else urls)], image, label), found


def fetch(url: str) -> str:
    """The path of a copy of ``url`` in ``$XDG_CACHE_HOME/seed_hub/fetched``, fetched anew when the file has changed."""
    size, stamp = remote.size_and_stamp(url)
    identity = hashlib.sha256(f"{url}\0{size}\0{stamp}".encode()).hexdigest()[:32]
    copy = cache_folder("fetched") / identity / remote.file_name(url)
    if not copy.is_file():
        remote.copy_file(url, copy, size)
    return str(copy)
