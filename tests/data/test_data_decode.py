"""decode: every kind of file becomes one upright RGB image of 8 bits, or a reason."""

import io
import os
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from seed_hub.data.decode import BadImage, decode


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey16(values, kind="PNG") -> bytes:
    return encoded(Image.fromarray(np.tile(np.array(values, np.uint16), (8, 8 // len(values)))), kind)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "JPEG"), ("L", "JPEG"),
        ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("LAB", "TIFF"), ("RGBA", "WEBP"),
        ("RGBA", "PNG"), ("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF"), ("RGB", "BMP"),
        ("RGB", "PPM"), ("RGBA", "TIFF"), ("RGBA", "AVIF"), ("RGB", "JPEG2000"), ("RGB", "TGA"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("draft", [False, True])
def test_every_mode_becomes_rgb(mode, kind, draft, picture):
    if mode == "LAB":
        image = Image.frombytes("LAB", (24, 16), os.urandom(24 * 16 * 3))
    elif mode in ("I;16", "I", "F"):
        image = Image.fromarray(
            np.arange(24 * 16).reshape(16, 24).astype({"I;16": "u2", "I": "i4", "F": "f4"}[mode])
        )
        assert image.mode == mode
    else:
        image = picture().convert(mode)
    result = decode(encoded(image, kind), draft=draft)
    assert result.mode == "RGB"
    if not draft:
        assert result.size == (24, 16)
        if mode in ("RGB", "YCbCr", "RGBA"):
            assert np.abs(np.asarray(result, int) - np.asarray(picture(), int)).mean() < 6


def test_sixteen_bit_grey_covers_the_whole_range():
    values = [0, 128, 129, 257, 32768, 65278, 65407, 65535]
    expected = [round(value / 257) for value in values]
    for kind in ("PNG", "TIFF", "PPM"):
        row = np.asarray(decode(grey16(values, kind)))[0, :, 0]
        assert row.tolist() == expected, kind


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, 0.25], [0, 128, 255, 64]),
        ([0.0, 128.0, 255.0, 64.0], [0, 128, 255, 64]),
        ([0.0, 32896.0, 65535.0, 257.0], [0, 128, 255, 1]),
        ([-1.0, 0.0, 1.0, 1.0], [0, 128, 255, 255]),
        ([0.0, np.nan, 1.0, np.inf], [0, 0, 255, 0]),
    ],
)
def test_float_images_take_the_smallest_range_that_holds_them(values, expected):
    image = Image.fromarray(np.tile(np.array(values, np.float32), (8, 2)))
    assert np.asarray(decode(encoded(image, "TIFF")))[0, :4, 0].tolist() == expected


def test_a_constant_float_image_outside_every_range_is_no_error():
    image = Image.fromarray(np.full((8, 8), -3.0, np.float32))
    assert np.asarray(decode(encoded(image, "TIFF"))).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white(mode):
    image = Image.new("RGBA", (16, 8), (0, 0, 0, 0))  # black underneath
    image.paste((10, 10, 10, 255), (8, 0, 16, 8))
    result = np.asarray(decode(encoded(image.convert(mode), "PNG")))
    assert (result[:, :8] == 255).all()
    assert np.abs(result[:, 8:].astype(int) - 10).max() <= 2


def test_half_transparent_is_half_white():
    result = np.asarray(decode(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG")))
    assert set(result.ravel()) == {127}


@pytest.mark.parametrize(("mode", "key"), [("RGB", (0, 0, 0)), ("L", 0), ("P", 0), ("1", 0)])
def test_a_transparent_colour_shows_white(mode, key):
    image = Image.new(mode, (8, 8), key)
    result = decode(encoded(image, "PNG", transparency=key))
    assert np.asarray(result).min() == 255


def test_palette_with_transparency_per_entry_raises_no_warning():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 100, 0])
    assert decode(encoded(image, "PNG", transparency=bytes([0, 255]))).getpixel((0, 0)) == (200, 100, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(kind, orientation):
    upright = Image.new("RGB", (24, 16), "black")
    upright.paste((255, 0, 0), (0, 0, 12, 8))  # red top left: no two orientations look alike
    upright.paste((0, 0, 255), (12, 0, 24, 8))
    turn = Image.Transpose
    turns = [turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE]
    turns += [turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]  # what the camera did: 2, 3, ... 8
    stored = turns[orientation - 2] if orientation > 1 else None
    exif = Image.Exif()
    exif[274] = orientation
    image = upright if stored is None else upright.transpose(stored)
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    result = decode(encoded(image, kind, exif=exif, **options))
    assert result.size == upright.size
    assert np.abs(np.asarray(result, int) - np.asarray(upright, int)).mean() < 3
    assert result.getexif().get(274, 1) == 1 or orientation == 1  # nobody turns it a second time


def test_broken_exif_leaves_the_picture(picture):
    assert decode(encoded(picture(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08garbage")).size == (24, 16)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    result = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert result.getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_bad_with_and_without_draft(kind, part, draft):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    assert decode(data, draft=draft)
    with pytest.raises(BadImage) as bad:
        decode(data[: int(len(data) * part)], draft=draft)
    assert bad.value.lasting


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (None, "empty"), (b"no image at all", "not an image"), (b"\x89PNG\r\n\x1a\n", "[a-z]")],
)
def test_what_is_no_image_says_so(data, reason):
    with pytest.raises(BadImage, match=reason):
        decode(data)


@pytest.mark.parametrize(
    ("size", "fine"), [((1, 1), False), ((7, 100), False), ((100, 7), False), ((8, 8), True)]
)
def test_the_smallest_side(size, fine):
    data = encoded(Image.new("RGB", size), "PNG")
    if fine:
        assert decode(data).size == size
    else:
        with pytest.raises(BadImage, match=f"{size[0]} x {size[1]} px"):
            decode(data)


def test_draft_judges_the_size_of_the_file_not_of_the_draft():
    assert decode(encoded(Image.new("RGB", (20, 20)), "JPEG"), draft=True)


def test_a_missing_file_is_bad_for_now_only(tmp_path):
    with pytest.raises(BadImage, match="No such file") as bad:
        decode(str(tmp_path / "gone.jpg"))
    assert not bad.value.lasting


def test_bombs_are_bad_and_large_images_are_not(picture, monkeypatch):
    data = encoded(picture(0, 100, 100), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)  # 10,000 pixels: over the warning, below the error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).size == (100, 100)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
        with pytest.raises(BadImage, match="8,000 pixels"):
            decode(data)


def test_threads_leave_the_warning_filters_as_they_were(picture):
    data = encoded(picture(), "JPEG")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(data) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
