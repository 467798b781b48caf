"""A measurement within a given time: what is left out, in a stated order, and written into its line.

    seconds = (images looked at) x f  +  (images learnt from) x t          f, t: timed on a few images, here and now

A protocol says what it costs (:class:`Work`). What fits is left alone. Of what does not, a protocol that only looks keeps
the same share of training and test images, of every class alike; in one that learns, looking
gets half of the time or what learning leaves, and epochs or steps are scaled to the rest. A shortened number is an answer to whether something works, not a
result: it is marked wherever it is shown, and never taken for the whole one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import floor, log10
from typing import Any

import numpy as np

from seed_hub.data import Images
from seed_hub.data.images import choose_share
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import extract

LEARNT = 3.0  # of the time of a forward pass: forward, and backward to weights and activations
TIMED = 64  # images that are timed
LEAST_TEST = 50  # images; fewer say nothing


@dataclass(frozen=True)
class Work:
    """What a measurement costs: images through the network."""

    train: int = 0
    """training images looked at"""
    test: int = 0
    """test images looked at"""
    learnt: float = 0
    """images in training steps, in units of a training image's forward and backward pass"""
    scaled: Mapping[str, int] = field(default_factory=dict)
    """settings that ``learnt`` is proportional to, with their values (what 0 stands for included)"""


@dataclass(frozen=True)
class Cut:
    """The shares that fit: of the images looked at, and of the training."""

    images: float = 1.0
    learning: float = 1.0

    def __bool__(self) -> bool:
        return min(self.images, self.learning) < 1

    def both(self, other: Cut) -> Cut:
        """What fits for two models: they must be measured on the same images."""
        return Cut(min(self.images, other.images), min(self.learning, other.learning))


def work_of(protocol: Any, settings: Any, train: Images, test: Images) -> Work:
    """What ``protocol`` costs; one that does not say looks at every image once."""
    own = getattr(protocol, "work", None)
    return own(settings, train, test) if own else Work(len(train), len(test))


def fitting(work: Work, seconds: float, *, looking: float, learning: float) -> Cut:
    """What of ``work`` fits into ``seconds``, at that many seconds per image looked at, and learnt from."""
    looked, learnt = (work.train + work.test) * looking, work.learnt * learning
    if looked + learnt <= seconds:
        return Cut()
    if not learnt:
        return Cut(_two_digits(seconds / looked))
    images = min(1.0, _two_digits(max(seconds / 2, seconds - learnt) / looked)) if looked else 1.0
    return Cut(images, min(1.0, _two_digits((seconds - images * looked) / learnt)))


def fit(
    protocol: Any, encoder: Frozen | Encoder, train: Images, test: Images, settings: Any, minutes: float
) -> Cut:
    """The cut that a measurement of ``encoder`` needs to take no longer than about ``minutes``.

    Raises:
        SeedHubError: no time at all.
    """
    if not minutes > 0:
        raise SeedHubError(f"A budget of {minutes:g} minutes leaves no time to measure in: give more than 0.")
    work = work_of(protocol, settings, train, test)
    own: Callable[..., float] | None = getattr(protocol, "seconds_per_image", None)
    looking = own(encoder, train, settings) if own else _seconds_per_image(encoder, train, settings)
    return fitting(work, 60 * minutes, looking=looking, learning=LEARNT * looking)


def shortened(
    protocol: Any, cut: Cut, train: Images, test: Images, settings: Any, minutes: float
) -> tuple[Images, Images, Any, dict[str, Any]]:
    """(training images, test images, settings, what a line says of it); all as they were where everything fits."""
    if not cut:
        return train, test, settings, {}
    work = work_of(protocol, settings, train, test)
    used = {name: max(1, floor(value * cut.learning)) for name, value in work.scaled.items()}
    note: dict[str, Any] = {"minutes": minutes}
    note |= {name: [value, used[name]] for name, value in work.scaled.items() if used[name] < value}
    parts = {"train": train, "test": test}
    for name, there in (("train", work.train), ("test", work.test)):
        images = parts[name]
        if there and cut.images < 1:
            share = max(cut.images, min(1.0, LEAST_TEST / len(images)))
            parts[name] = choose_share(images, share, seed=0)
            note[f"{name} images"] = [len(images), len(parts[name])]
    return parts["train"], parts["test"], replace(settings, **used), note


def in_words(note: Mapping[str, Any]) -> str:
    """``shortened to fit 5 minutes: test images 1,250 of 10,000, epochs 3 of 100``; empty for a whole measurement."""
    if not note:
        return ""
    parts = [
        f"{name.replace('_', ' ')} {value[1]:,} of {value[0]:,}"
        for name, value in note.items()
        if isinstance(value, list)
    ]
    return f"shortened to fit {note['minutes']:g} minutes: {', '.join(parts)}"


def _seconds_per_image(encoder: Frozen | Encoder, images: Images, settings: Any) -> float:
    """Of a forward pass, decoding included; the first images, which meet a cold machine, do not count."""
    names = ("size", "precision", "batch_size", "workers", "device")
    how = {name: getattr(settings, name) for name in names} | {"batch_size": min(settings.batch_size, TIMED)}
    some = images.subset(np.arange(min(TIMED, len(images))))
    extract(encoder, some.subset(np.arange(min(8, len(some)))), **how)
    start = time.perf_counter()
    extract(encoder, some, **how)
    return (time.perf_counter() - start) / len(some)


def _two_digits(share: float) -> float:
    """Rounded down: a share to be read, and not one of the clock's noise."""
    unit = 10.0 ** (floor(log10(share)) - 1)
    return floor(share / unit) * unit
