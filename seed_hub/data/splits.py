"""Names of splits: which one was asked for, which ones there are."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from seed_hub.errors import SeedHubError, nearest

SPLIT_NAMES = ("train", "validation", "val", "valid", "test")
_VALIDATION = ("validation", "val", "valid")
_SHARD = re.compile(r"(?P<split>.+)-\d+-of-\d+(-[0-9a-f]+)?$")  # train-00000-of-00005, as the Hub names them


def same_split(wanted: str, there: Sequence[str]) -> str | None:
    """``wanted`` itself if it is among ``there``, else another spelling of "validation", else None."""
    if wanted in there:
        return wanted
    if wanted in _VALIDATION:
        return next((name for name in _VALIDATION if name in there), None)
    return None


def choose_split(wanted: str | None, there: Sequence[str], where: str) -> str | None:
    """The split to open. Without a wish: "train", or the only one there is; None where there are none.

    Never all of them together: that would train on the test images.
    """
    there = sorted(there)
    if wanted is None:
        if not there or "train" in there or len(there) == 1:
            return "train" if "train" in there else (there[0] if there else None)
        raise SeedHubError(f'"{where}" holds the splits {listed(there)}: choose one with --split.')
    found = same_split(wanted, there)
    if found is None:
        has = f"it has {listed(there)}" if there else "it has no splits; leave out --split"
        raise SeedHubError(f'"{where}" has no split "{wanted}": {has}.{nearest(wanted, there)}')
    return found


def split_of_file(name: str) -> str | None:
    """The split in a file's name: ``train-00000-of-00005.parquet``, ``test.parquet`` or ``val_3.parquet``."""
    stem = os.path.splitext(os.path.basename(name))[0]
    shard = _SHARD.match(stem)
    if shard:
        return shard["split"]
    word = re.split(r"[-_.]", stem, maxsplit=1)[0]
    return word if word in SPLIT_NAMES else None


def listed(names: Sequence[str], most: int = 8) -> str:
    """``a, b, c`` with at most ``most`` names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f'"{name}"' for name in names[:most]) + more
