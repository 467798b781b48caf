"""A suite: the data sets a network is transferred to, as one small JSON file.

    [{"name": "pets", "data": "pets", "train": "train", "test": "test", "metric": "per_class", "licence": "CC BY-SA 4.0"}]

``data`` is a path relative to a folder that is given beside the file, or a Hub data set id. ``metric`` is the data set's
convention: "top1", or "per_class" (the mean over classes, as for Pets, Flowers, Caltech-101 and Aircraft). ``licence``
is a note and may be left out. No file names a place on someone's disk, so a suite can be shared.
"""

from __future__ import annotations

import glob
import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from seed_hub.data import Images, list_splits, open_images
from seed_hub.data.check import Progress
from seed_hub.data.hub import looks_like_hub_id
from seed_hub.data.splits import listed, same_split
from seed_hub.errors import SeedHubError, nearest
from seed_hub.eval.logistic import METRICS


@dataclass(frozen=True)
class DataSet:
    """One entry of a suite."""

    name: str
    """in results: letters, digits, ``-``, ``_`` and ``.``"""
    data: str
    """as :func:`seed_hub.data.open_images` takes it"""
    train: str
    """split to learn from"""
    test: str
    """split to score"""
    metric: str
    """top1 or per_class"""
    licence: str = ""
    """terms of the images"""

    def open(self, *, allow_bad: float = 0.01, progress: Progress | None = None) -> tuple[Images, Images]:
        """(training images, test images)."""
        train, test = (
            open_images(self.data, split=split, allow_bad=allow_bad, progress=progress)
            for split in (self.train, self.test)
        )
        return train, test


def read_suite(path: str | Path, root: str | Path | None = None) -> list[DataSet]:
    """The data sets of the suite in the file ``path``, in its order; their ``data`` resolved, their splits known to exist.

    Args:
        root: the folder that relative paths in it start from; None: the file's own.

    Raises:
        SeedHubError: with one sentence for a file that is no suite, and for a data set or split that is not there.
    """
    path = Path(path).expanduser()
    root = path.parent if root is None else Path(root).expanduser()
    if not root.is_dir():
        raise SeedHubError(f'There is no folder "{root}" to look for the data sets of {path.name} in.')
    entries = _entries(path)
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise SeedHubError(f'{path} has two data sets called "{name}": give each its own name.')
    return [_resolved(entry, path, root) for entry in entries]


def _entries(path: Path) -> list[DataSet]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SeedHubError(
            f"The suite {path} cannot be read ({error.strerror}): name a JSON file."
        ) from error
    except ValueError as error:
        raise SeedHubError(f"The suite {path} is not JSON ({error}): repair it.") from error
    if not isinstance(found, list) or not found:
        raise SeedHubError(f"The suite {path} is not a list of data sets: write [{{...}}, ...].")
    return [_entry(entry, f"Data set {number} of {path}") for number, entry in enumerate(found, start=1)]


def _entry(entry: Any, where: str) -> DataSet:
    known = [field.name for field in fields(DataSet)]
    needed = [field.name for field in fields(DataSet) if field.default is MISSING]
    if not isinstance(entry, dict):
        raise SeedHubError(f"{where} is no object: write {{...}} with {listed(needed)}.")
    for key in entry:
        if key not in known:
            raise SeedHubError(
                f'{where} has an unknown key "{key}": {listed(known)} are known.{nearest(key, known)}'
            )
    for key in known:
        if key in needed and key not in entry:
            raise SeedHubError(f'{where} has no "{key}": write {listed(needed)}.')
        if key in entry and (not isinstance(entry[key], str) or (key in needed and not entry[key].strip())):
            raise SeedHubError(f'{where} needs text as "{key}", not {json.dumps(entry[key])}.')
    made = DataSet(**entry)
    if not made.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise SeedHubError(
            f'{where} is called "{made.name}": a name is made of letters, digits, "-", "_" and ".".'
        )
    if made.metric not in METRICS:
        raise SeedHubError(
            f'{where} ("{made.name}") asks for the metric "{made.metric}": choose {" or ".join(METRICS)}.'
            + nearest(made.metric, METRICS)
        )
    return made


def _resolved(entry: DataSet, path: Path, root: Path) -> DataSet:
    """``entry`` with the place its images are at; its splits are looked for."""
    place = str(root / Path(entry.data).expanduser())
    if not glob.glob(place) and not Path(place).exists():
        if not looks_like_hub_id(entry.data):
            raise SeedHubError(
                f'"{entry.name}" of {path} is not there: "{entry.data}" is no file or folder in "{root}", and no Hub data '
                "set id (org/name)."
            )
        place = entry.data
    there = list_splits(place)
    for split in (entry.train, entry.test):
        if same_split(split, there) is None:
            has = f"it has {listed(there)}" if there else "it has no splits"
            raise SeedHubError(
                f'"{entry.name}" of {path} has no split "{split}": {has}.{nearest(split, there)}'
            )
    if same_split(entry.train, there) == same_split(entry.test, there):
        raise SeedHubError(
            f'"{entry.name}" of {path} would be trained and tested on the same split, "{entry.test}": name two.'
        )
    return DataSet(**{**vars(entry), "data": place})
