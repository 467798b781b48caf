"""Views: a pure function of (seed, index, view), distributed as torchvision's own transforms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision import transforms as T

from seed_hub.data import open_images
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_parameters import ViewGenerator, ViewParameters, crop_box
from seed_hub.training.views import (
    MOCO_V2,
    ViewsDataset,
    draw_view,
    make_view,
    recipe,
    view_rng,
    whole_view,
)


def structured(width: int, height: int) -> Image.Image:
    """A coloured picture with structure at every scale."""
    rng = np.random.default_rng(0)
    pixels = sum(
        np.asarray(
            Image.fromarray(rng.integers(0, 255, (n, n, 3), dtype=np.uint8)).resize((width, height)),
            dtype=float,
        )
        for n in (2, 5, 20, 120)
    )
    return Image.fromarray((pixels / 4).astype(np.uint8))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return structured(160, 120)


# Recorded when each number was still drawn on the way, from the code that applied it at once.
RECORDED = [
    (
        MOCO_V2, (3, 5, 7), (160, 120),
        ViewParameters(
            (26, 29, 114, 86), 224,
            (("brightness", 1.1617324484188325), ("saturation", 1.0894505325999138), ("hue", -0.09101883922273864), ("contrast", 0.7791010347497722)),
            True, 1.7542249521961348, False, True,
        ),
    ),
    (
        MOCO_V2, (0, 0, 0), (1000, 8),  # ten misses
        ViewParameters(
            (494, 0, 11, 8), 224,
            (("hue", 0.03515387792314992), ("saturation", 1.384132914820628), ("brightness", 0.6405277206962223), ("contrast", 0.9768883374573953)),
            False, 1.957450762282375, False, True,
        ),
    ),
    (
        replace(MOCO_V2, size=64, solarize_p=0.5), (1, 2, 3), (90, 200),
        ViewParameters(
            (0, 19, 83, 105), 64,
            (("hue", 0.03870015072825095), ("saturation", 0.6667091090866181), ("contrast", 1.2322335353217229), ("brightness", 1.030117881688834)),
            False, 0.4224168245169414, False, False,
        ),
    ),
    (
        replace(MOCO_V2, size=64, solarize_p=0.5), (7, 11, 13), (500, 375),
        ViewParameters((241, 138, 176, 221), 64, (), False, 0.35405572921769, True, True),
    ),
    (
        replace(MOCO_V2, size=64, blur_p=1.0), (0, 9, 4), (160, 120),
        ViewParameters(
            (94, 29, 59, 75), 64,
            (("hue", -0.0873839988613812), ("brightness", 0.8271672140280036), ("contrast", 0.8765319335710793), ("saturation", 1.2860238039260563)),
            False, 0.4959222619907458, False, False,
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "key", "size", "expected"), RECORDED)
def test_a_seed_means_the_views_it_always_meant(settings, key, size, expected):
    assert draw_view(settings, view_rng(*key), *size) == expected


def test_one_generator_set_back_draws_what_fresh_ones_draw():
    views = ViewGenerator(9)
    for index, view in ((3, 1), (0, 0), (3, 1), (2**40, 2**48)):
        # An odd number of 32-bit draws leaves half a number behind, which must not reach the next view.
        drawn = views.at(index, view).integers(0, 100, 3, dtype=np.uint32).tolist()
        assert drawn == view_rng(9, index, view).integers(0, 100, 3, dtype=np.uint32).tolist()


@pytest.mark.parametrize(
    ("crop", "coarsest"), [((64, 90), 1), ((127, 300), 1), ((128, 300), 2), ((300, 255), 2), ((256, 256), 4), ((4000, 512), 8)]
)  # fmt: skip
def test_the_coarsest_decoding_still_has_a_pixel_for_each_of_the_views(crop, coarsest):
    assert ViewParameters((0, 0, *crop), 64, (), False, 0.0, False, False).coarsest == coarsest


def test_a_view_depends_on_seed_index_and_view_only(picture):
    settings = recipe(MOCO_V2, 32)
    first = make_view(picture, settings, view_rng(3, 5, 7))
    make_view(picture, settings, view_rng(3, 5, 8))
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, make_view(picture, settings, view_rng(3, 5, 7)))
    for other in ((4, 5, 7), (3, 6, 7), (3, 5, 8), (3, 7, 5)):
        assert not np.array_equal(first, make_view(picture, settings, view_rng(*other)))
    assert first.shape == (3, 32, 32) and first.dtype == np.uint8


def _torchvision(size: int) -> T.Compose:
    """The published recipe from torchvision's own parts, its blur scaled to the size like ours."""
    sigma = (MOCO_V2.blur_sigma[0] * size / 224, MOCO_V2.blur_sigma[1] * size / 224)
    return T.Compose(
        [
            T.RandomResizedCrop(size, scale=(0.2, 1.0), antialias=True),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(p=0.2),
            T.RandomApply([T.GaussianBlur(9, sigma=sigma)], p=0.5),
            T.RandomHorizontalFlip(),
            T.PILToTensor(),
        ]
    )


STATISTICS = {
    "brightness": lambda x: x.mean(),
    "contrast": lambda x: x.std(),
    "red": lambda x: x[0].mean() - x[1].mean(),
    "blue": lambda x: x[2].mean() - x[1].mean(),
    "colourfulness": lambda x: (x.max(0) - x.min(0)).mean(),
    "sharpness": lambda x: np.abs(np.diff(x, axis=2)).mean() / (x.std() + 1),
    "left to right": lambda x: x[:, :, :16].mean() - x[:, :, -16:].mean(),
    "corner": lambda x: x[1, 0, 0],
}


def test_the_distribution_is_torchvisions(picture):
    n, size = 700, 96
    torch.manual_seed(0)
    theirs_of = _torchvision(size)
    theirs = [theirs_of(picture).numpy().astype(float) for _ in range(n)]
    ours = [make_view(picture, recipe(MOCO_V2, size), view_rng(0, i, 0)).astype(float) for i in range(n)]
    for name, statistic in STATISTICS.items():
        p = ks_2samp([statistic(x) for x in ours], [statistic(x) for x in theirs]).pvalue
        assert p > 1e-3, f"{name}: p {p:.1e}"


def test_that_test_notices_another_recipe(picture):
    n, size = 700, 96
    plain = [make_view(picture, recipe(MOCO_V2, size), view_rng(0, i, 0)).astype(float) for i in range(n)]
    changes = {
        "colourfulness": {"grey_p": 0.4},
        "red": {"hue": 0.5},
        "sharpness": {"blur_p": 0.0},
        "contrast": {"scale": (0.05, 0.5)},
        "brightness": {"brightness": 0.0},
    }
    for name, change in changes.items():
        changed = replace(recipe(MOCO_V2, size), **change)
        other = [make_view(picture, changed, view_rng(1, i, 0)).astype(float) for i in range(n)]
        p = ks_2samp([STATISTICS[name](x) for x in plain], [STATISTICS[name](x) for x in other]).pvalue
        assert p < 1e-3, f"{name}: p {p:.1e}"


def test_crop_boxes_are_torchvisions():
    torch.manual_seed(0)
    image = torch.empty(3, 90, 200)
    params = [T.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    boxes = [crop_box(200, 90, MOCO_V2, view_rng(0, i, 0)) for i in range(3000)]
    theirs = {
        "left": [p[1] for p in params],
        "top": [p[0] for p in params],
        "w": [p[3] for p in params],
        "h": [p[2] for p in params],
    }
    for i, key in enumerate(("left", "top", "w", "h")):
        assert ks_2samp([b[i] for b in boxes], theirs[key]).pvalue > 1e-3, key
    assert all(left + w <= 200 and top + h <= 90 for left, top, w, h in boxes)


def test_extreme_shapes_fall_back_to_a_centred_crop():
    left, top, w, h = crop_box(1000, 8, MOCO_V2, view_rng(0, 0, 0))
    assert h == 8 and w / h <= 4 / 3 + 0.1 and abs(left - (1000 - w) / 2) <= 1 and top == 0


def test_the_data_set_numbers_views_through_the_epochs(pictures):
    images = open_images(str(pictures))
    two = ViewsDataset(images, [recipe(MOCO_V2, 16)] * 2, seed=5)
    (a, b), index, _ = two[3, 2]
    assert index == 3
    for v, pixels in enumerate((a, b)):
        expected = make_view(images.load(3), recipe(MOCO_V2, 16), view_rng(5, 3, 4 + v))
        assert np.array_equal(pixels.numpy(), expected)


def test_a_run_chooses_its_smallest_crop_and_its_flips():
    asked = whole_view(RunSettings(size=40, crop_min=0.5, flip=0.0))
    assert asked == replace(MOCO_V2, size=40, scale=(0.5, 1.0), flip_p=0.0)
    assert whole_view(RunSettings()) == MOCO_V2


def test_solarised_views_are_inverted_where_bright_and_others_are_as_before(picture):
    plain = replace(MOCO_V2, size=32, blur_p=0.0, jitter_p=0.0)
    settings = replace(plain, solarize_p=1.0, flip_p=0.0)
    before, after = (make_view(picture, s, view_rng(0, 0, 0)) for s in (replace(plain, flip_p=0.0), settings))
    assert (before >= 128).any()
    assert np.array_equal(after, np.where(before >= 128, 255 - before, before))
