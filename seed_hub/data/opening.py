"""``open_images``: from the word after ``--data`` to ``Images``."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from seed_hub.data.check import Progress, find_bad, refuse_too_many
from seed_hub.data.folder import folder_splits, open_folder
from seed_hub.data.images import Images, Store
from seed_hub.data.packed import PackedStore, is_packed, open_packed, packed_splits
from seed_hub.data.patterns import expand_braces
from seed_hub.data.remote import is_remote, list_remote
from seed_hub.errors import SeedHubError

if TYPE_CHECKING:
    from seed_hub.data.streamed import Stream

Source = str | os.PathLike | Sequence[str]


def open_images(
    source: Source,
    *,
    split: str | None = None,
    allow_bad: float = 0.01,
    check: bool = True,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Images:
    """The images of ``source``: an image folder, a parquet file, a folder, glob or list of parquet files, the same of
    webdataset shards (.tar), either by a URL or a pattern with ``{000..099}`` too, a folder written by
    ``Dataset.save_to_disk`` or by ``seed-hub pack``, or a Hub data set ``org/name`` or ``org/name:config``.

    - ``split``: exact name, or another spelling of "validation" (val, valid). None: "train" where there
      are splits, else everything. A file, list or glob is taken whole unless a split is asked for.
    - ``check``: decode every image once (remembered, so paid once) and leave the bad ones out; more than
      the fraction ``allow_bad`` of them is an error. A packed store was checked when it was packed.
    - ``image_column``, ``label_column``: for tables whose columns are not found by themselves; of a webdataset,
      extensions, or a key of the samples' .json.
    - ``progress(done, total)``: called during the check; ``threads`` for it (default: the CPUs, at most 8).

    Raises ``SeedHubError`` with one sentence for anything that is not there or not as it should be.
    """
    if not 0 <= allow_bad <= 1:
        raise SeedHubError(f"--allow-bad is a fraction between 0 and 1, not {allow_bad}.")
    where = _where(source)
    store, found = _open(source, where, split, image_column, label_column)
    if not check or isinstance(store, PackedStore):
        return Images(store, where, found)
    bad = find_bad(store, progress=progress, threads=threads)
    refuse_too_many(store, bad, allow_bad, where)
    usable = np.delete(np.arange(len(store)), [position for position, _ in bad]) if bad else None
    return Images(store, where, found, usable, [(store.name(position), reason) for position, reason in bad])


def open_stream(
    source: Source, *, held_out: int, split: str | None = None, allow_bad: float = 0.01
) -> tuple[Stream, Images]:
    """(training images, held-out images) of ``source``, read in order and never looked through: a Hub data set, parquet files
    or webdataset shards, as for :func:`open_images`. The first ``held_out`` images are held out.

    Raises ``SeedHubError`` with one sentence, as :func:`open_images`, and for what has its images in files of their own.
    """
    from seed_hub.data import hub, streamed

    where = _where(source)
    kind, places = _kind(source, where)
    if kind in ("folder", "packed", "saved"):
        raise SeedHubError(f'"{where}" can be read in any order, which shuffles better: leave out --stream.')
    if kind == "hub":
        rows, found = hub.stream_hub(where, split)
    else:
        choose = isinstance(source, (str, os.PathLike)) and _is_folder(where)
        rows, found = hub.stream_files(places, split, where, tars=kind == "webdataset", choose=choose)
    rows, column = hub.streamed_column(rows, where)
    return streamed.split_stream(streamed.Stream(rows, column, where, found, allow_bad), held_out)


def list_splits(source: Source) -> list[str]:
    """Names of the splits of ``source``, sorted; empty where it has none."""
    from seed_hub.data import hub, parquet, webdataset

    kind, places = _kind(source, _where(source))
    if kind in ("parquet", "remote parquet"):
        return sorted(parquet.parquet_splits(places))
    if kind == "webdataset":
        return sorted(webdataset.shard_splits(places))
    if kind == "folder":
        return folder_splits(places[0])
    if kind == "packed":
        return packed_splits(places[0])
    return hub.hub_splits(hub.load_saved(places[0]) if kind == "saved" else hub.load_hub(places[0]))


def _open(
    source: Source, where: str, split: str | None, image: str | None, label: str | None
) -> tuple[Store, str | None]:
    kind, places = _kind(source, where)
    if kind in ("folder", "packed"):
        if image or label:
            raise SeedHubError(f'"{where}" is a folder of images and has no columns; leave the column out.')
        return open_folder(places[0], split) if kind == "folder" else open_packed(places[0], split)
    from seed_hub.data import hub, parquet, remote_parquet, webdataset

    # Files that were named one by one, or by a pattern, were chosen already.
    choose = isinstance(source, (str, os.PathLike)) and _is_folder(where)
    if kind == "parquet":
        return parquet.open_parquet(places, split, where, choose=choose, image=image, label=label)
    if kind == "remote parquet":
        return remote_parquet.open_remote_parquet(
            places, split, where, choose=choose, image=image, label=label
        )
    if kind == "webdataset":
        return webdataset.open_webdataset(places, split, where, choose=choose, image=image, label=label)
    loaded = hub.load_saved(places[0]) if kind == "saved" else hub.load_hub(places[0])
    return hub.open_hub(loaded, split, where, image, label)


def _kind(source: Source, where: str) -> tuple[str, list[str]]:
    """("parquet", files), or "folder", "packed", "saved" or "hub" with one place."""
    from seed_hub.data import hub, parquet, webdataset

    if not isinstance(source, (str, os.PathLike)):
        return _files([os.path.expanduser(os.fspath(file)) for file in source], where)
    if where.startswith("pipe:"):
        raise SeedHubError(
            f'"{where}": a pipe can only be read once, from its start; give the URL that it reads ("s3://..."), or download it.'
        )
    if is_remote(where):
        return _files([file for url in expand_braces(where) for file in list_remote(url, _is_table)], where)
    path = os.path.expanduser(where)
    if os.path.isdir(path):
        if is_packed(path):
            return "packed", [path]
        if hub.is_saved(path):
            return "saved", [path]
        if files := parquet.parquet_files(path):
            return "parquet", files
        if shards := webdataset.shards_in(path):
            return "webdataset", shards
        return "folder", [path]
    if os.path.isfile(path):
        return _files([path], where)
    named = expand_braces(path)
    if len(named) > 1 or glob.has_magic(path):
        matching = [sorted(glob.glob(n, recursive=True)) if glob.has_magic(n) else [n] for n in named]
        return _files([file for files in matching for file in files], where)
    if hub.looks_like_hub_id(where) and not _is_table(path):
        return "hub", [where]
    raise SeedHubError(
        f'No file or folder "{where}": give an image folder, a parquet file or folder, '
        'webdataset shards as "train-{000..099}.tar", or a Hub data set as "org/name".'
    )


def _is_table(place: str) -> bool:
    from seed_hub.data.webdataset import is_shard

    return place.endswith(".parquet") or is_shard(place)


def _is_folder(where: str) -> bool:
    if is_remote(where):
        return "*" not in where and expand_braces(where) == [where] and not _is_table(where)
    return os.path.isdir(os.path.expanduser(where))


def _files(files: list[str], where: str) -> tuple[str, list[str]]:
    """("parquet", "remote parquet" or "webdataset", files): all there, and all of one kind."""
    from seed_hub.data.webdataset import is_shard

    if not files:
        raise SeedHubError(f'No file matches "{where}".')
    missing = [file for file in files if not is_remote(file) and not os.path.isfile(file)]
    if missing:
        more = f" ({len(missing):,} of {len(files):,} are missing)" if len(files) > 1 else ""
        raise SeedHubError(f'No file "{missing[0]}"{more}.')
    for file in files:
        if not _is_table(file):
            raise SeedHubError(
                f'"{file}" is not a parquet file, and not a tar: give the folder that holds the images.'
            )
    shards = [file for file in files if is_shard(file)]
    if shards and len(shards) < len(files):
        raise SeedHubError(f'"{where}" has both parquet files and tars: open them apart.')
    if shards:
        return "webdataset", files
    return "remote parquet" if is_remote(files[0]) else "parquet", files


def _where(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    files = [os.fspath(file) for file in source]
    if not files:
        raise SeedHubError("The list of parquet files is empty.")
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
