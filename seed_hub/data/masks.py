"""Masks of an ``Images``, for segmentation: the id of a class for each pixel.

- a table (parquet, or a data set of the ``datasets`` library): a column ``mask``, ``annotation`` or ``label_mask`` of
  encoded images
- folders: ``images`` and beside it ``masks`` or ``annotations``, with files of the same names but for the ending; splits
  lie below them (``images/train``, ``masks/train``) or above (``train/images``, ``train/masks``)

A mask has 8 bits: grey values, or indices into a palette, are ids. The classes are named in ``classes.txt``, line i
(from 0) for id i: beside ``images`` or one folder above, or beside a table's file. Without it they are the ids that occur.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seed_hub.data.boxes import size_of
from seed_hub.data.images import Images
from seed_hub.data.mask_sources import NAMES, MaskSource, mask_source
from seed_hub.data.splits import listed
from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)

IGNORED = 255
"""the label of pixels that count nowhere"""


@dataclass(frozen=True)
class Masks:
    """The N masks of a split, as labels 0 ... C - 1 and ``IGNORED``."""

    images: Images
    names: tuple[str, ...]
    """of the C classes, the same for both splits"""
    shown: np.ndarray
    """bool ``[N, C]``: which classes a mask shows; a row without any is ignored entirely"""
    source: MaskSource
    label: np.ndarray
    """uint8 ``[256]``: label by id"""

    def __len__(self) -> int:
        return len(self.images)

    def load(self, i: int) -> np.ndarray:
        """uint8 ``[H, W]``: labels of the pixels of ``images.load(i)``."""
        return self.label[self.source.read(i)]


def paired_masks(
    train: Images, test: Images, *, column: str = "", ignore: Sequence[int] = (255,)
) -> tuple[Masks, Masks]:
    """The masks of both splits, labels numbered by one list of classes. Every mask is read once, to check it.

    Args:
        column: of a table; empty: the first of ``COLUMNS`` that is there.
        ignore: ids that are no class; their pixels count nowhere.

    Raises:
        SeedHubError: no masks, one that is missing, of another size than its image or not of ids, an id beyond the
            named classes, splits that name different ones, training masks of fewer than 2.
    """
    sources = [mask_source(images, column) for images in (train, test)]
    if sources[0].names != sources[1].names:
        raise SeedHubError(
            f"{train.source} and {test.source} name different classes in {NAMES}: give both the same list."
        )
    seen = [_ids_shown(source) for source in sources]  # [N, 256] each
    names, label = _classes(sources, seen, ignore)
    first, second = (
        Masks(source.images, names, _labels_shown(ids, label, len(names)), source, label)
        for source, ids in zip(sources, seen, strict=True)
    )
    _check_shown(first, second, ignore)
    return first, second


def _ids_shown(source: MaskSource) -> np.ndarray:
    """bool ``[N, 256]``: the ids that each mask shows; its size is checked on the way."""
    shown = np.zeros((len(source.images), 256), dtype=bool)
    for i in range(len(source.images)):
        ids, size = source.read(i), size_of(source.images, i)
        if ids.shape[::-1] != size:
            raise SeedHubError(
                f"{source.images.name(i)} of {source.images.source} is {size[0]} x {size[1]} px (upright), and its mask "
                f"{ids.shape[1]} x {ids.shape[0]} px: give a mask drawn on this image."
            )
        shown[i] = np.bincount(ids.ravel(), minlength=256) > 0
    return shown


def _classes(
    sources: Sequence[MaskSource], seen: Sequence[np.ndarray], ignore: Sequence[int]
) -> tuple[tuple[str, ...], np.ndarray]:
    """(names, label by id): the named classes in their order, else the ids that occur in either split."""
    counted = ~np.isin(np.arange(256), ignore)  # [256]
    names = sources[0].names
    if names is None:
        ids = np.flatnonzero(np.concatenate(seen).any(0) & counted)
        names = tuple(map(str, ids))
    else:
        ids = np.arange(min(len(names), 256))
        for source, shown in zip(sources, seen, strict=True):
            beyond = np.argwhere(shown & counted & (np.arange(256) >= len(names)))
            if len(beyond):
                i, found = beyond[0]
                raise SeedHubError(
                    f"The mask of {source.images.name(int(i))} of {source.images.source} shows id {found}, and {NAMES} "
                    f"names the {len(names)} ids from 0 to {len(names) - 1}: name it there, or say --ignore {found}."
                )
    if len(names) > IGNORED:
        raise SeedHubError(
            f"{sources[0].images.source} has {len(names)} classes, and masks of 8 bits tell {IGNORED} from what is ignored."
        )
    label = np.full(256, IGNORED, dtype=np.uint8)
    label[ids] = np.arange(len(ids))
    label[~counted] = IGNORED
    return names, label


def _labels_shown(ids: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """bool ``[N, 256]`` by id -> ``[N, C]`` by label."""
    counted = np.flatnonzero(label != IGNORED)
    shown = np.zeros((len(ids), classes), dtype=bool)
    shown[:, label[counted]] = ids[:, counted]
    return shown


def _check_shown(train: Masks, test: Masks, ignore: Sequence[int]) -> None:
    for masks, least in ((train, 2), (test, 1)):
        source, found = masks.images.source, int(masks.shown.any(0).sum())
        if found < least:
            raise SeedHubError(
                f"The masks of {source} show {found} class(es) besides the ignored ids {', '.join(map(str, ignore))}, and "
                f"{'training' if least > 1 else 'a score'} needs at least {least}: choose what is ignored with --ignore "
                "(-1: nothing)."
            )
        empty = int((~masks.shown.any(1)).sum())
        if empty:
            _log.warning("%d of the %d masks of %s are ignored entirely.", empty, len(masks), source)
    absent = [train.names[c] for c in np.flatnonzero(test.shown.any(0) & ~train.shown.any(0))]
    if absent:
        _log.warning(
            "%d of the test classes have no training pixel (%s): their IoU is 0.", len(absent), listed(absent)
        )
