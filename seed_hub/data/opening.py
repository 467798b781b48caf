"""``open_images``: from the word after ``--data`` to ``Images``."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

import numpy as np

from seed_hub.data.check import Progress, find_bad, refuse_too_many
from seed_hub.data.folder import folder_splits, open_folder
from seed_hub.data.images import Images, Store
from seed_hub.errors import SeedHubError

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
    """The images of ``source``: an image folder, a parquet file, a folder, glob or list of parquet files, a
    folder written by ``Dataset.save_to_disk``, or a Hub data set ``org/name`` or ``org/name:config``.

    - ``split``: exact name, or another spelling of "validation" (val, valid). None: "train" where there
      are splits, else everything. A file, list or glob is taken whole unless a split is asked for.
    - ``check``: decode every image once (remembered, so paid once) and leave the bad ones out; more than
      the fraction ``allow_bad`` of them is an error.
    - ``image_column``, ``label_column``: for tables whose columns are not found by themselves.
    - ``progress(done, total)``: called during the check; ``threads`` for it (default: the CPUs, at most 8).

    Raises ``SeedHubError`` with one sentence for anything that is not there or not as it should be.
    """
    if not 0 <= allow_bad <= 1:
        raise SeedHubError(f"--allow-bad is a fraction between 0 and 1, not {allow_bad}.")
    where = _where(source)
    store, found = _open(source, where, split, image_column, label_column)
    if not check:
        return Images(store, where, found)
    bad = find_bad(store, progress=progress, threads=threads)
    refuse_too_many(store, bad, allow_bad, where)
    usable = np.delete(np.arange(len(store)), [position for position, _ in bad]) if bad else None
    return Images(store, where, found, usable, [(store.name(position), reason) for position, reason in bad])


def list_splits(source: Source) -> list[str]:
    """Names of the splits of ``source``, sorted; empty where it has none."""
    from seed_hub.data import hub, parquet

    kind, places = _kind(source, _where(source))
    if kind == "parquet":
        return sorted(parquet.parquet_splits(places))
    if kind == "folder":
        return folder_splits(places[0])
    return hub.hub_splits(hub.load_saved(places[0]) if kind == "saved" else hub.load_hub(places[0]))


def _open(
    source: Source, where: str, split: str | None, image: str | None, label: str | None
) -> tuple[Store, str | None]:
    kind, places = _kind(source, where)
    if kind == "folder":
        if image or label:
            raise SeedHubError(f'"{where}" is a folder of images and has no columns; leave the column out.')
        return open_folder(places[0], split)
    if kind == "parquet":
        from seed_hub.data.parquet import open_parquet

        # Files that were named one by one, or by a pattern, were chosen already.
        choose = isinstance(source, (str, os.PathLike)) and os.path.isdir(os.path.expanduser(source))
        return open_parquet(places, split, where, choose=choose, image=image, label=label)
    from seed_hub.data import hub

    loaded = hub.load_saved(places[0]) if kind == "saved" else hub.load_hub(places[0])
    return hub.open_hub(loaded, split, where, image, label)


def _kind(source: Source, where: str) -> tuple[str, list[str]]:
    """("parquet", files), or "folder", "saved" or "hub" with one place."""
    from seed_hub.data import hub, parquet

    if not isinstance(source, (str, os.PathLike)):
        return "parquet", _existing([os.path.expanduser(os.fspath(file)) for file in source], where)
    path = os.path.expanduser(where)
    if os.path.isdir(path):
        if hub.is_saved(path):
            return "saved", [path]
        files = parquet.parquet_files(path)
        return ("parquet", files) if files else ("folder", [path])
    if os.path.isfile(path):
        return "parquet", _existing([path], where)
    if glob.has_magic(path):
        return "parquet", _existing(sorted(glob.glob(path, recursive=True)), where)
    if hub.looks_like_hub_id(where) and not path.endswith(".parquet"):
        return "hub", [where]
    raise SeedHubError(
        f'No file or folder "{where}": give an image folder, a parquet file or folder, '
        'or a Hub data set as "org/name".'
    )


def _existing(files: list[str], where: str) -> list[str]:
    if not files:
        raise SeedHubError(f'No file matches "{where}".')
    for file in files:
        if not os.path.isfile(file):
            raise SeedHubError(f'No file "{file}".')
        if not file.endswith(".parquet"):
            raise SeedHubError(f'"{file}" is not a parquet file: give the folder that holds the images.')
    return files


def _where(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    files = [os.fspath(file) for file in source]
    if not files:
        raise SeedHubError("The list of parquet files is empty.")
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
