"""Encoded bytes -> one RGB image of 8 bits, whatever the file was; or pixels that a store holds decoded already.

Grey, palette, CMYK, YCbCr, LAB: converted. Transparency: composited on white, then dropped. 16-bit and
floating point: scaled to 0..255. Animations: the first frame. EXIF rotation: applied.
"""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

MIN_SIDE = 8  # px; a smaller image holds no view worth learning from, and breaks blur and crop

_Turn = Image.Transpose
# EXIF tag 274: what was done to the picture -> what undoes it. 1 means upright.
_UPRIGHT = {
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


class BadImage(Exception):
    """An image that cannot be used; its text is the reason.

    ``lasting`` is False where the cause lies outside the bytes (a permission, a disk error): such a
    verdict must not be remembered.
    """

    def __init__(self, reason: str, lasting: bool = True):
        super().__init__(reason)
        self.lasting = lasting


def decode(encoded: bytes | memoryview | str | np.ndarray | None, *, draft: bool = False) -> Image.Image:
    """The image in ``encoded``: bytes, the path of a file, or its pixels (uint8 ``[H, W, 3]``).

    ``draft`` lets a JPEG be decoded at an eighth of its size: every byte is still read, so damage is
    found as surely, about three times faster. Raises ``BadImage``.
    """
    if isinstance(encoded, np.ndarray):
        return Image.fromarray(check_raw(encoded))
    try:
        with _QUIET:
            return _decode(_as_bytes(encoded), draft)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image that Pillow can read") from None
    except Image.DecompressionBombError:
        raise BadImage(f"larger than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # decoders raise nearly every type there is on damaged data
        if isinstance(error, OSError) and error.errno is not None:
            raise BadImage(str(error.strerror), lasting=False) from error
        raise BadImage(_one_line(str(error) or type(error).__name__)) from error


def check_raw(pixels: np.ndarray) -> np.ndarray:
    """``pixels`` if they are an image: uint8 ``[H, W, 3]``. Raises ``BadImage``."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BadImage(f"{pixels.dtype} pixels of shape {list(pixels.shape)}, not uint8 [height, width, 3]")
    height, width = pixels.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise BadImage(_too_small(width, height))
    return pixels


def read_encoded(encoded: bytes | memoryview | str | None) -> bytes | memoryview:
    """The bytes themselves, read if ``encoded`` is a path. Raises ``BadImage``."""
    try:
        return _as_bytes(encoded)
    except OSError as error:
        raise BadImage(str(error.strerror), lasting=False) from error


def _as_bytes(encoded: bytes | memoryview | str | None) -> bytes | memoryview:
    if isinstance(encoded, str):
        with open(encoded, "rb") as file:
            encoded = file.read()
    if encoded is None or len(encoded) == 0:
        raise BadImage("empty (0 bytes)")
    return encoded


def _decode(data: bytes | memoryview, draft: bool) -> Image.Image:
    image: Image.Image = Image.open(io.BytesIO(data))
    if min(image.size) < MIN_SIDE:
        raise BadImage(_too_small(*image.size))
    if draft:
        image.draft(None, (1, 1))
    image.load()
    # After load: TIFF rotates itself there, PNG may carry its EXIF behind the pixels.
    turn = _UPRIGHT.get(orientation(image))
    image = _to_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
        image.info = {}  # it still says "rotate me", and is obeyed if asked again
    return image


def _too_small(width: int, height: int) -> str:
    return f"{width} x {height} px, a side is below {MIN_SIDE}"


def orientation(image: Image.Image) -> int:
    """EXIF's number; 1: upright."""
    try:
        return image.getexif().get(274, 1)
    except Exception:  # a picture with broken EXIF is still a picture, upright as far as anyone knows
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = Image.fromarray(_eight_bits(np.asarray(image), image))
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """uint8 = round(255 * values / peak); values [H, W] of any number type.

    peak is 65,535 where the format says so. 32-bit and float TIFF do not say: then it is the smallest of
    1 (float only), 255 and 65,535 that holds the values; any other range is stretched from its own
    minimum and maximum.
    """
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):  # these reach mode I from 16 bits
        low, peak = 0.0, 65535.0
    else:
        values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        fits = [p for p in ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0) if high <= p]
        if low >= 0 and fits:
            low, peak = 0.0, fits[0]
        else:
            peak = max(high - low, 1e-30)
    scaled = (values.astype(np.float64) - low) * (255.0 / peak)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


class _Quiet:
    """Silences Pillow's warnings while at least one thread is inside.

    ``warnings.catch_warnings`` alone restores in the wrong order when threads overlap, and would leave
    the filters changed for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\b|seed_hub\.data\.decode$")
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_QUIET = _Quiet()
