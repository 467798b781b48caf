"""Labels a protocol may use: checked before anything is computed."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from seed_hub.data import Images
from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)


def paired_labels(train: Images, test: Images, *, same_images: bool = False) -> tuple[Tensor, Tensor]:
    """Labels of both splits, int64 ``[N]`` and ``[M]``, on one list of classes; without names they are numbered 0, 1, ...

    A class without a training image is allowed (few-shot subsets have them) and said: its test images are wrong.

    Args:
        same_images: both are meant to be the same images (leave one out).

    Raises:
        SeedHubError: a split without labels, class lists that differ, fewer than 2 classes, or a test split that
            is the training split.
    """
    train_y, test_y = _labels(train), _labels(test)
    _check_classes(train, test)
    if same_images != _same(train, test):
        raise SeedHubError(
            f"Leaving one out takes one split as both, not {_where(train)} and {_where(test)}."
            if same_images
            else f"Training and test images are both {_where(train)}: name another split to test on."
        )
    present = np.unique(train_y)
    if len(present) < 2:
        raise SeedHubError(f"{_where(train)} shows {len(present)} class, and a score needs at least 2.")
    absent = np.setdiff1d(test_y, present)
    if len(absent):
        names = [str(c) if test.classes is None else test.classes[c] for c in absent[:5]]
        _log.warning(
            "%d of the test classes have no training image (%s%s): their %d test images count as wrong.",
            len(absent),
            ", ".join(names),
            ", ..." if len(absent) > 5 else "",
            int(np.isin(test_y, absent).sum()),
        )
    # They may be anyone's ids, and a protocol keeps a row for each number up to the largest.
    if train.classes is None:
        known = np.unique(np.concatenate([train_y, test_y]))
        train_y, test_y = np.searchsorted(known, train_y), np.searchsorted(known, test_y)
    return torch.from_numpy(train_y), torch.from_numpy(test_y)


def _labels(images: Images) -> np.ndarray:
    if len(images) == 0:
        raise SeedHubError(f"{_where(images)} holds no images.")
    # -1 is how the `datasets` library marks a test split whose labels were kept back.
    unlabelled = len(images) if images.labels is None else int((np.asarray(images.labels) < 0).sum())
    if unlabelled:
        raise SeedHubError(
            f"{unlabelled} of the {len(images)} images of {_where(images)} have no label, and this protocol "
            "needs one for each: use labelled images to evaluate on."
        )
    return np.array(images.labels, dtype=np.int64)  # a copy: torch warns about read-only memory


def _check_classes(train: Images, test: Images) -> None:
    if train.classes == test.classes:
        return
    ours, theirs = train.classes or [], test.classes or []
    only = [f'"{name}" only in {_where(split)}' for split, name in _one_sided(train, test)]
    why = "; ".join(only) if only else "the same names in another order"
    raise SeedHubError(
        f"{_where(train)} and {_where(test)} number different classes ({len(ours)} and {len(theirs)}: {why}): "
        "give both splits the same list of classes."
    )


def _one_sided(train: Images, test: Images) -> list[tuple[Images, str]]:
    """At most one class name of each split that the other lacks."""
    ours, theirs = train.classes or [], test.classes or []
    left = [(train, name) for name in ours if name not in set(theirs)][:1]
    return left + [(test, name) for name in theirs if name not in set(ours)][:1]


def _same(train: Images, test: Images) -> bool:
    return train is test or (
        train.fingerprint == test.fingerprint and train.split == test.split and len(train) == len(test)
    )


def _where(images: Images) -> str:
    return f"{images.source}{f' ({images.split})' if images.split else ''}"


def class_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Place ``[M]`` of each image's own class (int64 ``[M]``) among its logits ``[M, C]``, 0 the best.

    Equal logits go to the lower class; a label beyond C comes last, behind any top-5.
    """
    classes = logits.shape[1]
    own = labels.clamp(max=classes - 1)[:, None]  # [M, 1]
    mine = logits.gather(1, own)
    after = torch.arange(classes, device=logits.device) >= own
    # Counted from those it beats, not those that beat it: a logit that is no number beats none.
    rank = classes - ((logits < mine) | ((logits == mine) & after)).sum(1)
    return torch.where(labels < classes, rank, classes + 5)
