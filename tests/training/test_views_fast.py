"""The everyday views against the published arithmetic: step by step, and whole."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFilter import GaussianBlur

from seed_hub.data import open_images
from seed_hub.data.lazy_image import LazyImage
from seed_hub.training.blur_kernel import blur_kernel
from seed_hub.training.fast_views import fast_view
from seed_hub.training.reference_views import reference_view
from seed_hub.training.views import (
    MOCO_V2,
    ViewParameters,
    ViewsDataset,
    draw_view,
    make_view,
    recipe,
    view_rng,
)
from tests.training.test_views import structured


def view_of(box, size, **changes) -> ViewParameters:
    plain = {"colour": (), "grey": False, "blur_sigma": 0.0, "solarise": False, "flip": False}
    return ViewParameters(box, size, **plain | changes)


def difference(image: Image.Image, parameters: ViewParameters) -> float:
    """Mean absolute difference of 0..255."""
    expected = reference_view(image, parameters).astype(int)
    return float(np.abs(fast_view(np.asarray(image), parameters) - expected).mean())


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return structured(340, 256)


@pytest.fixture(scope="module")
def square() -> Image.Image:
    return structured(96, 96)


# (crop, size, most)
@pytest.mark.parametrize(
    ("crop", "size", "most"),
    [((100, 80), 224, 0.3), ((224, 224), 224, 0.0), ((260, 240), 224, 0.8), ((96, 80), 64, 0.8), ((115, 110), 64, 0.8), ((160, 150), 64, 0.8), ((250, 240), 64, 0.01)],
)  # fmt: skip
def test_the_crop_is_antialiased_as_the_references(picture, crop, size, most):
    assert difference(picture, view_of((13, 7, *crop), size)) <= most


STEPS = {
    "brightness": ({"colour": (("brightness", 1.3),)}, 0.02),
    "darkness": ({"colour": (("brightness", 0.7),)}, 0.02),
    "contrast": ({"colour": (("contrast", 1.4),)}, 0.05),
    "saturation": ({"colour": (("saturation", 0.6),)}, 0.3),
    "hue": ({"colour": (("hue", 0.08),)}, 0.8),
    "hue back": ({"colour": (("hue", -0.08),)}, 0.8),
    "three in a row": ({"colour": (("saturation", 1.3), ("contrast", 0.7), ("brightness", 1.2))}, 0.8),
    "grey": ({"grey": True}, 0.01),
    "small blur": ({"blur_sigma": 0.5}, 0.6),  # Pillow rounds each of three passes
    "blur": ({"blur_sigma": 2.0}, 0.4),
    "solarise": ({"solarise": True}, 0.0),
    "flip": ({"flip": True}, 0.0),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_the_references(square, step):
    changes, most = STEPS[step]
    whole = (0, 0, 96, 96)
    assert difference(square, view_of(whole, 96, **changes)) <= most
    undone = fast_view(np.asarray(square), view_of(whole, 96))
    changed = reference_view(square, view_of(whole, 96, **changes)).astype(int)
    assert np.abs(undone - changed).mean() > 1, "leaving the step out would pass"


def test_the_order_of_colour_steps_counts(square):
    there = (("brightness", 1.4), ("contrast", 0.6))
    for steps in (there, there[::-1]):
        assert difference(square, view_of((0, 0, 96, 96), 96, colour=steps)) < 1
        assert difference(square, view_of((0, 0, 96, 96), 96, colour=(("hue", 0.1), *steps))) < 1.5


def test_whole_views_are_the_references(picture):
    for size in (64, 224):
        drawn = [draw_view(recipe(MOCO_V2, size), view_rng(0, i, 0), *picture.size) for i in range(40)]
        apart = [difference(picture, p) for p in drawn]
        assert np.mean(apart) < 1.5, apart
        bias = [fast_view(np.asarray(picture), p).mean() - reference_view(picture, p).mean() for p in drawn]
        assert abs(np.mean(bias)) < 0.5, bias


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.0, 1.5, 2.0, 4.0])
def test_the_blur_is_pillows(sigma):
    kernel = blur_kernel(sigma).astype(float)
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6) and np.array_equal(kernel, kernel[::-1])
    assert (kernel * np.arange(-reach, reach + 1) ** 2).sum() == pytest.approx(sigma**2, rel=0.06, abs=0.02)
    step = np.zeros((64, 64), np.uint8)
    step[:, 32:] = 255
    theirs = np.asarray(Image.fromarray(step).filter(GaussianBlur(sigma)))[32, 20:44]
    ours = np.convolve(np.pad(step[32], reach, "edge").astype(float), kernel, "valid")[20:44]
    assert np.abs(theirs - ours).max() < 2.5


def jpeg(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("crop", "scale", "most"), [((240, 200), 2, 1.5), ((271, 259), 4, 3.0), ((600, 520), 8, 3.0)]
)
def test_a_jpeg_decoded_smaller_gives_the_same_view(crop, scale, most):
    data = jpeg(structured(641, 539))  # no multiple of 8: the smaller images' edges are cut blocks
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    for left, top in ((0, 0), (13, 11), (641 - crop[0], 539 - crop[1])):
        parameters = view_of((left, top, *crop), 64)
        assert parameters.coarsest == scale
        pixels, at = LazyImage(data).pixels(scale)
        assert at == scale
        expected = reference_view(whole, parameters).astype(int)
        assert np.abs(fast_view(pixels, parameters, scale) - expected).mean() < most
        moved = view_of((left + (7 if left == 0 else -7), top, *crop), 64)
        assert np.abs(fast_view(pixels, moved, scale) - expected).mean() > most, "the crop may be elsewhere"


def test_a_view_does_not_depend_on_the_others_of_its_image(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(2):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(jpeg(structured(300, 280)))
    images = open_images(str(tmp_path / "images"))
    small, large = recipe(MOCO_V2, 32), recipe(MOCO_V2, 128)
    for epoch in range(3):
        both, *_ = ViewsDataset(images, [large, small], seed=1)[1, epoch]
        with images.open(1) as image:
            for v, settings in enumerate((large, small)):
                parameters = draw_view(settings, view_rng(1, 1, 2 * epoch + v), image.width, image.height)
                alone = LazyImage(jpeg(structured(300, 280))).pixels(parameters.coarsest)
                assert np.array_equal(both[v].numpy(), fast_view(alone[0], parameters, alone[1]))
        assert np.array_equal(both[0].numpy(), make_view(images.load(1), large, view_rng(1, 1, 2 * epoch)))
