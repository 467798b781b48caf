"""Which images have a label in a semi-supervised measurement: drawn by a seed, or read from the lists of a folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from seed_hub.data import Images, choose_share
from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)


def labelled_images(train: Images, share: float, seed: int, folder: str = "") -> Images:
    """``share`` of ``train``, of every class alike and one of each at least; the same for the same seed.

    Args:
        folder: where lists lie, one name per line. ``1percent_seed0.txt`` or, for all seeds, ``1percent.txt`` (as
            SimCLR's are called) is taken; without either the images are drawn, and the first is written.
    """
    if not folder:
        return choose_share(train, share, seed)
    for_all = Path(folder).expanduser() / f"{100 * share:g}percent.txt"
    own = for_all.with_name(f"{100 * share:g}percent_seed{seed}.txt")
    for path in (own, for_all):
        if path.exists():
            return read_list(path, train)
    chosen = choose_share(train, share, seed)
    names = [_listed(chosen, i) for i in range(len(chosen))]
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text("\n".join(names) + "\n", encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SeedHubError(f"The list {own} cannot be written: {error.strerror}.") from error
    return chosen


def read_list(path: Path, train: Images) -> Images:
    """The images of ``train`` that the file names, in the order of ``train``.

    A line is the name of an image as ``Images.name`` gives it, or its last part, as in SimCLR's lists of ImageNet.

    Raises:
        SeedHubError: a name that no image has, or two have; a list that shows fewer than 2 classes.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise SeedHubError(f"The list {path} cannot be read: {error.strerror}.") from error
    whole: dict[str, int] = {}
    last: dict[str, list[int]] = {}
    for i in range(len(train)):
        name = _listed(train, i)
        whole[name] = i
        last.setdefault(name.rpartition("/")[2], []).append(i)
    chosen = set()
    for line in filter(None, (line.rstrip("\r") for line in lines)):
        found = [whole[line]] if line in whole else last.get(line, [])
        if len(found) != 1:
            raise SeedHubError(
                f'"{line}" of the list {path} names {len(found) or "none"} of the {len(train)} images of {train.source}: '
                + (
                    "write the folder with it."
                    if found
                    else "use the list made for these images, or remove the line."
                )
            )
        chosen.add(found[0])
    subset = train.subset(np.array(sorted(chosen), dtype=np.int64))
    shown, there = (0 if part.labels is None else len(np.unique(part.labels)) for part in (subset, train))
    if shown < 2:
        raise SeedHubError(f"The list {path} shows {shown} class(es), and training needs at least 2.")
    if shown < there:
        _log.warning("The list %s shows %d of %d classes: the others cannot be learnt.", path, shown, there)
    return subset


def _listed(images: Images, i: int) -> str:
    """The name of image ``i`` as lists have it on every system."""
    return images.name(i).replace(os.sep, "/")
