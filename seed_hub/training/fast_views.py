"""Views on the CPU: the reference's steps on uint8 arrays, with OpenCV.

What differs from the reference, step by step, is bounded in ``tests/training/test_views_fast.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby

import cv2
import numpy as np
from PIL import Image

from seed_hub.training.blur_kernel import blur_kernel
from seed_hub.training.view_parameters import ViewParameters

# The processes that load images are the parallelism; a pool of threads in each would have them fight for the cores.
cv2.setNumThreads(0)

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114  # shares in luma
# Pillow cuts fractions off where OpenCV rounds. A hair less than a half, so that whole numbers stay.
_CUT_OFF = 0.499
# Source pixels per pixel of the view, on one side. Up to the first the filter below changed the difference from the
# reference by under 1 %; beyond the second, its middle would be lower than its ends.
_PLAIN, _MANY = 1.1, 2.7
_SOLARISED = np.array([v if v < 128 else 255 - v for v in range(256)], dtype=np.uint8)


def fast_view(pixels: np.ndarray, parameters: ViewParameters, scale: int = 1) -> np.ndarray:
    """The view of an image: uint8 ``[3, S, S]``.

    Args:
        pixels: uint8 ``[ceil(H / scale), ceil(W / scale), 3]``, RGB.
        parameters: of the image of ``[H, W]`` pixels.
    """
    view = _crop(pixels, parameters, scale)  # [S, S, 3]
    for adjust, steps in groupby(parameters.colour, _adjustment):
        view = adjust(view, [*steps])
    if parameters.grey:
        view = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)  # [S, S] from here on: a third of the work
    if parameters.blur_sigma:
        kernel = blur_kernel(parameters.blur_sigma)
        if len(kernel) > 1:
            view = cv2.sepFilter2D(view, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
    if parameters.solarise:
        view = cv2.LUT(view, _SOLARISED)
    if parameters.flip:
        view = cv2.flip(view, 1)
    channels = np.empty((3, parameters.size, parameters.size), dtype=np.uint8)
    if parameters.grey:
        channels[:] = view
    else:
        cv2.split(view, list(channels))
    return channels


def _crop(pixels: np.ndarray, parameters: ViewParameters, scale: int) -> np.ndarray:
    """Crop and antialiased resize: uint8 ``[S, S, 3]``.

    The reference averages under a triangle as wide as two pixels of the view, of variance r^2 / 6 at r source pixels
    per pixel. Bilinear interpolation is the triangle of r = 1; a short filter before it adds the variance that is
    missing.
    """
    size = parameters.size
    left, top, width, height = (v / scale for v in parameters.box)
    across, down = width / size, height / size
    if max(across, down) > _MANY:
        box = (left, top, left + width, top + height)
        return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR, box=box))
    filtered = max(across, down) > _PLAIN
    x, y, x_end, y_end = int(left), int(top), math.ceil(left + width), math.ceil(top + height)
    if filtered or scale > 1:  # what the filter and the interpolation see beyond the crop
        x, y = max(0, x - _REACH), max(0, y - _REACH)
        x_end, y_end = min(pixels.shape[1], x_end + _REACH), min(pixels.shape[0], y_end + _REACH)
    cut = pixels[y:y_end, x:x_end]
    if filtered:
        cut = cv2.sepFilter2D(cut, -1, _widening(across), _widening(down), borderType=cv2.BORDER_REPLICATE)
    if scale == 1:
        x, y = int(left) - x, int(top) - y
        return cv2.resize(cut[y : y + int(height), x : x + int(width)], (size, size))
    # The corners of the crop lie between the pixels of the smaller image.
    there = np.array(
        [[across, 0, left - x + across / 2 - 0.5], [0, down, top - y + down / 2 - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(cut, there, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _widening(ratio: float) -> np.ndarray:
    """The filter before a bilinear shrinking by ``ratio``: taps [a, 1 - 2 a, a], or two such filters of half the a where
    the middle would be lower than the ends.

    a = (ratio^2 - 1) / 12 gives the variance that is missing, but interpolation between few taps is sharper than its
    variance says: on a picture of noise at four scales, views were 1.9 % sharper than the reference's (mean absolute
    gradient), and 0.8 % with 9.6 for 12.
    """
    a = max(0.0, (ratio**2 - 1) / 9.6)
    if a <= 1 / 3:
        return np.array((a, 1 - 2 * a, a), dtype=np.float32)
    half = (a / 2, 1 - a, a / 2)
    return np.convolve(half, half).astype(np.float32)


_REACH = len(_widening(_MANY)) // 2 + 1


def _blend(view: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    """Brightness, contrast and saturation in a row, as one matrix.

    Each blends a colour x with black, with the mean luma or with its own luma L(x), so any row of them is
    x -> own x + luma L(x) + offset, where L of that is (own + luma) L(x) + offset. Against one at a time, clipping to
    0..255 between them is left out; the fraction cut off at each is not.
    """
    own, luma, offset = 1.0, 0.0, 0.0
    for name, factor in steps:
        if name == "contrast":
            red, green, blue, _ = cv2.mean(view)
            mean = int((own + luma) * (_RED * red + _GREEN * green + _BLUE * blue) + offset + 0.5)
            offset += (1 - factor) * (mean - offset)
        elif name == "brightness":
            offset *= factor
        luma = factor * luma + ((1 - factor) * (own + luma) if name == "saturation" else 0.0)
        own *= factor
        offset -= _CUT_OFF
    red, green, blue = luma * _RED, luma * _GREEN, luma * _BLUE
    rows = (
        (own + red, green, blue, offset),
        (red, own + green, blue, offset),
        (red, green, own + blue, offset),
    )
    return cv2.transform(view, np.array(rows))


def _shift_hue(view: np.ndarray, steps: list[tuple[str, float]]) -> np.ndarray:
    """The hue turned by a share of the circle."""
    ((_, share),) = steps
    hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    rows = hsv.reshape(len(hsv), -1)
    shift = np.zeros(rows.shape[1], dtype=np.uint8)
    shift[::3] = int(share * 255) % 256
    rows += shift  # wraps around, as hues do; five times as fast as adding to every third value
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _adjustment(step: tuple[str, float]) -> Callable[[np.ndarray, list[tuple[str, float]]], np.ndarray]:
    return _shift_hue if step[0] == "hue" else _blend
