"""Data sets of the ``datasets`` library: from the Hub, or a folder written by ``save_to_disk``."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

from seed_hub.data.columns import as_labels, image_column, label_column
from seed_hub.data.parquet import encoded_or_path, parquet_splits
from seed_hub.data.remote import is_remote
from seed_hub.data.splits import choose_split, same_split
from seed_hub.data.webdataset import shard_splits
from seed_hub.errors import SeedHubError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")  # org/name or org/name:config


class HubStore:
    """Rows of one ``datasets.Dataset``: memory-mapped by that library, and pickled by it as a path."""

    ignored = 0
    stamp = ""

    def __init__(self, rows: Any, where: str, image: str | None, label: str | None):
        if not len(rows):
            raise SeedHubError(f'"{where}" holds no rows.')
        rows = rows.with_format(None)
        self.rows = rows  # the whole table: boxes are in another column
        schema = rows.features.arrow_schema
        column = image_column(schema, image, where)
        found, self.classes = label_column(schema, label, where)
        self.labels = None
        if found:
            table = rows.select_columns([found]).with_format("arrow")[:]
            self.labels = as_labels([table[found]])
        if self.labels is None:
            self.classes = None
        # datasets computes this from the builder's version and every transform since.
        identity = f"{rows._fingerprint}/{column}/{len(rows)}"
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._rows = MappedRows(rows, column)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, position: int) -> str:
        return f"row {position}"

    def read(self, position: int) -> bytes | memoryview | str | None:
        return encoded_or_path(self._rows[position], "")


class MappedRows:
    """position -> (bytes, path) of one column of a ``datasets.Dataset``."""

    def __init__(self, rows: Any, column: str):
        import datasets

        rows = rows.select_columns([column])
        if isinstance(rows.features[column], datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self._rows = rows
        self._column = column

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: int) -> tuple[bytes | None, str | None]:
        cell = self._rows[position][self._column]
        return (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)


def mapped_parquet(files: list[str], column: str) -> MappedRows:
    """Large parquet files, memory-mapped from the cache of ``datasets``: unpacked once, as large again."""
    import datasets

    try:
        return MappedRows(datasets.Dataset.from_parquet(files, columns=[column]), column)
    except (OSError, datasets.exceptions.DatasetsError) as error:
        raise SeedHubError(
            f'"{files[0]}" is too large for memory and could not be unpacked into '
            f"{datasets.config.HF_DATASETS_CACHE}: {_reason(error)} Make room there or set HF_DATASETS_CACHE."
        ) from error


def looks_like_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None


def is_saved(folder: str) -> bool:
    """Written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``?"""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("state.json", "dataset_dict.json"))


def load_hub(source: str) -> Any:
    """A ``Dataset`` or ``DatasetDict``; all splits, since ``datasets`` prepares them together anyway."""
    import datasets

    name, _, config = source.partition(":")
    try:
        return datasets.load_dataset(name, config or None)
    except Exception as error:  # network, hub, builder: each library has its own types
        raise SeedHubError(
            f'"{source}" is no file or folder here, and could not be loaded as a Hub data set either: '
            f"{_reason(error)} Check the spelling, or the network."
        ) from error


def load_saved(folder: str) -> Any:
    import datasets

    try:
        return datasets.load_from_disk(folder)
    except Exception as error:
        raise SeedHubError(f'Saved data set "{folder}" cannot be opened: {_reason(error)}') from error


def hub_splits(loaded: Any) -> list[str]:
    return sorted(loaded) if isinstance(loaded, dict) else []


def open_hub(
    loaded: Any, split: str | None, where: str, image: str | None, label: str | None
) -> tuple[HubStore, str | None]:
    """(store, split) of what ``load_hub`` or ``load_saved`` gave."""
    if isinstance(loaded, dict):
        split = choose_split(split, list(loaded), where)
        loaded = loaded[split]
    else:
        own = str(loaded.split) if loaded.split is not None else None
        if split is not None and (own is None or same_split(split, [own]) is None):
            choose_split(split, [own] if own else [], where)
        split = own
    return HubStore(loaded, where, image, label), split


def stream_hub(source: str, split: str | None) -> tuple[Any, str | None]:
    """(``IterableDataset``, split) of a Hub data set, of which nothing is fetched before it is read."""
    name, _, config = source.partition(":")
    loaded = _stream(source, path=name, name=config or None)
    found = choose_split(split, list(loaded), source)
    return loaded[found], found


def stream_files(
    files: list[str], split: str | None, where: str, *, tars: bool, choose: bool
) -> tuple[Any, str | None]:
    """(``IterableDataset``, split) of webdataset shards (``tars``) or parquet files; ``choose`` as for them read at random."""
    splits = shard_splits(files) if tars else parquet_splits(files)
    found = choose_split(split, list(splits), where) if choose or split is not None else None
    chosen = splits[found] if found else files
    places = [file if is_remote(file) else os.path.abspath(file) for file in chosen]
    kind = "webdataset" if tars else "parquet"
    return _stream(where, path=kind, data_files={"train": places})["train"], found


def streamed_column(rows: Any, where: str) -> tuple[Any, str]:
    """(``rows`` with the column of encoded images only, its name)."""
    import datasets

    if rows.features is None:
        raise SeedHubError(
            f'"{where}" does not say which columns it has before it is read: convert it to parquet files or a webdataset.'
        )
    column = image_column(rows.features.arrow_schema, None, where)
    rows = rows.select_columns([column])
    if isinstance(rows.features[column], datasets.Image):
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows, column


def _stream(where: str, **what: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(**what, streaming=True)
    except Exception as error:  # network, hub, builder: each library has its own types
        raise SeedHubError(
            f'"{where}" could not be opened to be read in order: {_reason(error)} Check the spelling, or the network.'
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".") + "."
