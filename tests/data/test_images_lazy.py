"""Images decoded no further than asked for: the same pixels as Pillow's, and the same sentences about bad ones."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seed_hub.data import open_images
from seed_hub.data.decode import BadImage, decode
from seed_hub.data.images import Images
from seed_hub.data.lazy_image import LazyImage
from seed_hub.errors import SeedHubError


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 101, 3), dtype=np.uint8))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_a_jpeg_at_each_scale_is_pillows(noise, subsampling, wrap):
    data = encoded(noise, subsampling=subsampling)
    for scale in (1, 2, 4, 8):
        image = LazyImage(wrap(data))
        assert (image.width, image.height) == (101, 75)
        pixels, at = image.pixels(scale)
        theirs = Image.open(io.BytesIO(data))
        theirs.draft(None, (101 // scale, 75 // scale))
        assert at == scale and np.array_equal(pixels, np.asarray(theirs))


def test_each_scale_is_decoded_once_and_does_not_depend_on_what_was_asked_before(noise):
    image = LazyImage(encoded(noise))
    first = {scale: image.pixels(scale) for scale in (1, 4, 2)}
    for scale, (pixels, at) in first.items():
        assert at == scale and pixels.shape == (-(-75 // scale), -(-101 // scale), 3)
        assert image.pixels(scale)[0] is pixels


def test_a_grey_jpeg_is_a_plain_one(noise):
    data = encoded(noise.convert("L"))
    pixels, at = LazyImage(data).pixels(2)
    assert at == 2 and pixels.shape == (38, 51, 3)
    assert np.array_equal(LazyImage(data).pixels()[0], np.asarray(decode(data)))


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return encoded(image, exif=exif)


OTHERS = {
    "turned": _turned,
    "xmp": lambda im: encoded(im, xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'),
    "cmyk": lambda im: encoded(im.convert("CMYK")),
    "png": lambda im: encoded(im, "PNG"),
    "png 16": lambda im: encoded(Image.fromarray(np.arange(75 * 101).reshape(75, 101).astype(np.uint16)), "PNG"),
    "alpha": lambda im: encoded(im.convert("RGBA"), "WEBP"),
    "palette": lambda im: encoded(im.convert("P"), "GIF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_plain_jpeg_goes_the_thorough_way(noise, kind):
    data = OTHERS[kind](noise)
    expected = decode(data)
    image = LazyImage(data)
    pixels, at = image.pixels(4)
    assert at == 1 and (image.width, image.height) == expected.size
    assert np.array_equal(pixels, np.asarray(expected))
    assert kind not in ("turned", "xmp") or expected.size == (75, 101)


def test_a_camera_that_was_held_upright_says_so_and_changes_nothing(noise):
    exif = Image.Exif()
    exif[274], exif[271] = 1, "a camera"
    pixels, at = LazyImage(encoded(noise, exif=exif)).pixels(4)
    plain, _ = LazyImage(encoded(noise)).pixels(4)
    assert at == 4 and np.array_equal(pixels, plain)


def test_pixels_that_are_decoded_already(noise):
    raw = np.asarray(noise)
    pixels, at = LazyImage(raw).pixels(2)
    assert at == 1 and pixels is raw and LazyImage(raw).width == 101
    assert np.array_equal(np.asarray(decode(raw)), raw)
    for bad in (raw[:, :, :2], raw[:, :, 0], raw.astype(np.float32)):
        for way in (LazyImage, decode):
            with pytest.raises(BadImage, match=r"not uint8 \[height, width, 3\]"):
                way(bad)
    with pytest.raises(BadImage, match="101 x 7 px"):
        LazyImage(raw[:7])


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


BAD = {
    "empty": lambda im: b"",
    "text": lambda im: b"no image at all",
    "header only": lambda im: encoded(im)[:300],
    "half": lambda im: _half(encoded(im)),
    "half, turned": lambda im: _half(_turned(im)),
    "small": lambda im: encoded(im.crop((0, 0, 7, 50))),
}


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_gets_the_reason_it_always_got(noise, kind, scale):
    data = BAD[kind](noise)
    with pytest.raises(BadImage) as thorough:
        decode(data)
    with pytest.raises(BadImage) as lazy:
        LazyImage(data).pixels(scale)
    assert str(lazy.value) == str(thorough.value) and lazy.value.lasting


def test_bombs_are_refused_before_they_are_decoded(noise, monkeypatch):
    data = encoded(noise)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(BadImage, match="6,000 pixels"):
        LazyImage(data)


def test_a_missing_file_is_bad_for_now_only(tmp_path):
    with pytest.raises(BadImage, match="No such file") as bad:
        LazyImage(str(tmp_path / "gone.jpg"))
    assert not bad.value.lasting


def test_an_image_that_changed_is_named_whichever_way_it_is_read(folder):
    images = open_images(str(folder({"a.jpg": None, "b.jpg": None})))
    path = Path(images.store.read(1))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        SeedHubError, match=r'"b.jpg" of .* cannot be read \(.*truncated.*\): it changed'
    ) as whole:
        images.load(1)
    with pytest.raises(SeedHubError) as lazy, images.open(1) as image:
        image.pixels()
    assert str(lazy.value) == str(whole.value)


def test_a_store_of_pixels(noise):
    class Raw:
        fingerprint, stamp, labels, classes, ignored = "0" * 16, "", None, None, 0

        def __len__(self):
            return 1

        def read(self, position):
            return np.asarray(noise)

        def name(self, position):
            return "row 0"

    images = Images(Raw(), "memory")
    assert np.array_equal(np.asarray(images.load(0)), np.asarray(noise))
    with images.open(0) as image:
        assert np.array_equal(image.pixels()[0], np.asarray(noise))
