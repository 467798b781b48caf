"""An image that is decoded no further than is asked for: its size first, then its pixels at the scale that will do."""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from seed_hub.data.decode import MIN_SIDE, check_raw, decode, orientation, read_encoded

# Either may say that the picture has to be turned, which the plain way does not.
_MAY_BE_TURNED = (b"Exif\0\0", b"tiff:Orientation")


class LazyImage:
    """One image of a store. Raises ``BadImage``, at once or when pixels are asked for.

    - ``width``, ``height``: of the whole upright image, in pixels
    """

    def __init__(self, encoded: bytes | memoryview | str | np.ndarray | None) -> None:
        self._decoded: dict[int, np.ndarray] = {}  # by scale
        self._scalable = False
        if isinstance(encoded, np.ndarray):
            self._keep(check_raw(encoded))
            return
        self._data = read_encoded(encoded)
        size = _plain_jpeg_size(self._data)
        if size is None:
            self._keep(np.asarray(decode(self._data)))
        else:
            self.width, self.height = size
            self._scalable = True

    def pixels(self, scale: int = 1) -> tuple[np.ndarray, int]:
        """(uint8 ``[ceil(height / s), ceil(width / s), 3]``, s): s is ``scale`` (1, 2, 4 or 8), or 1 for what is no
        plain JPEG, because only they cost less when decoded smaller. Not to be written to."""
        scale = scale if self._scalable else 1
        if scale not in self._decoded:
            try:
                self._decoded[scale] = simplejpeg.decode_jpeg(
                    self._data, min_width=-(-self.width // scale), min_height=-(-self.height // scale)
                )
            except ValueError:  # damaged, or only unusual: the thorough way says which
                self._keep(np.asarray(decode(self._data)))
                scale = 1
        return self._decoded[scale], scale

    def _keep(self, whole: np.ndarray) -> None:
        self._decoded[1], self._scalable = whole, False
        self.height, self.width = whole.shape[:2]


def _plain_jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """(width, height) of a JPEG of the everyday kind, upright, grey or YCbCr; None: leave it to the thorough way."""
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    largest = Image.MAX_IMAGE_PIXELS or float("inf")
    if colours not in ("YCbCr", "Gray") or min(width, height) < MIN_SIDE or width * height > largest:
        return None
    whole = data if isinstance(data, bytes) else bytes(data)
    if any(mark in whole for mark in _MAY_BE_TURNED) and not _upright(whole):
        return None
    return width, height


def _upright(data: bytes) -> bool:
    """Cameras write down how they were held, mostly upright; reading that costs little beside a decoding."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return orientation(image) == 1
    except Exception:  # leave it to the thorough way
        return False
