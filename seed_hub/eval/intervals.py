"""How sure is a score? Percentile bootstrap over test images, and over trials where there are several.

What is resampled is which images were right, so two lines about the same test images can be compared image by image: the
interval of a difference is far narrower than the intervals of the two scores suggest.

Legend: T trials, M test images.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def pack(correct: np.ndarray) -> str:
    """Booleans ``[M]`` as text for a line of results."""
    return base64.b85encode(zlib.compress(np.packbits(correct).tobytes(), 9)).decode()


def unpack(text: str, count: int) -> np.ndarray:
    """Booleans ``[M]``, M = ``count``, that :func:`pack` was given."""
    bits = np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype=np.uint8)
    return np.unpackbits(bits, count=count).astype(bool)


def interval(correct: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean score in percent.

    Args:
        correct: T arrays of booleans ``[M]``.
    """
    return _percentiles(_resampled(np.stack(correct).astype(float)))


def difference(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> tuple[float, tuple[float, float]]:
    """(mean difference, its 95 % interval) in percentage points, paired image by image.

    Args:
        ours, theirs: arrays of booleans ``[M]`` about the same test images, one for each trial.
    """
    a, b = (np.stack(each).astype(float) for each in (ours, theirs))
    mean = 100 * float(a.mean() - b.mean())
    if len(a) == len(b) == 1:
        return mean, _percentiles(_resampled(a - b))
    rng = np.random.default_rng(0)
    found = np.empty(RESAMPLES)
    for i in range(RESAMPLES):  # the trials of the two are independent, the images are the same
        images = rng.integers(a.shape[1], size=a.shape[1])
        found[i] = _some(a, rng)[images].mean() - _some(b, rng)[images].mean()
    return mean, _percentiles(found)


def _resampled(scores: np.ndarray) -> np.ndarray:
    """Means of resamples of ``[T, M]``."""
    rng = np.random.default_rng(0)
    trials, count = scores.shape
    if trials > 1:
        return np.array(
            [_some(scores, rng)[rng.integers(count, size=count)].mean() for _ in range(RESAMPLES)]
        )
    # A resample only decides how often each value comes: a draw from a multinomial, whatever M is.
    values, counts = np.unique(scores, return_counts=True)
    return rng.multinomial(count, counts / count, size=RESAMPLES) @ values / count


def _some(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``[T, M]`` -> mean ``[M]`` over trials drawn with replacement."""
    return scores[rng.integers(len(scores), size=len(scores))].mean(axis=0)


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = 100 * np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
