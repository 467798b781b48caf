"""The kernel of the recipes' Gaussian blur: Pillow's, which is three box blurs in a row."""

from __future__ import annotations

import math

import numpy as np

_PASSES = 3
# A tap below this changes no value of 0..255 by half a level.
_NEGLIGIBLE = 1 / 512


def blur_kernel(sigma: float) -> np.ndarray:
    """The taps along one axis: float32 ``[2 R + 1]``, symmetric, of sum 1.

    A box of half-width l has 2 l + 1 equal taps, and one more at each end of the share e (0 <= e < 1) that makes the
    variance sigma^2 / 3; three of them convolved have the variance sigma^2. Ends too small to be seen are cut off.
    """
    variance = sigma**2 / _PASSES
    half = int((math.sqrt(12 * variance + 1) - 1) / 2)
    # variance (2 l + 1 + 2 e) = l (l + 1) (2 l + 1) / 3 + 2 e (l + 1)^2, solved for e
    edge = (2 * half + 1) * (variance - half * (half + 1) / 3) / (2 * ((half + 1) ** 2 - variance))
    box = [edge, *[1.0] * (2 * half + 1), edge]
    kernel = _convolve(_convolve(box, box), box)
    least = _NEGLIGIBLE * sum(kernel)
    cut = next(i for i, tap in enumerate(kernel) if tap >= least)
    kernel = kernel[cut : len(kernel) - cut]
    total = sum(kernel)
    return np.array([tap / total for tap in kernel], dtype=np.float32)


def _convolve(a: list[float], b: list[float]) -> list[float]:
    """As ``np.convolve``, without its overhead: these are a handful of numbers, once for each view."""
    result = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return result
