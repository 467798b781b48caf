"""The centre view, against torchvision; and the data set of such views, through workers."""

import multiprocessing

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from seed_hub.data import open_images
from seed_hub.data.center import CenterViews, center_pixels


@pytest.mark.parametrize("size", [8, 31, 32, 63])
@pytest.mark.parametrize(
    "shape", [(64, 64), (100, 75), (75, 100), (33, 47), (500, 40), (41, 300), (9, 8), (32, 31)]
)
def test_agrees_with_torchvision_resize_and_center_crop(size, shape):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), dtype=np.uint8))
    ours = center_pixels(noise, size)
    theirs = tv.pil_to_tensor(tv.center_crop(tv.resize(noise, [size], antialias=True), [size, size]))
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, size, size)
    assert ours.is_contiguous()
    # Pillow chooses which axis it scales first by what is asked of it, and rounds to 8 bits in between.
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_enlarges_small_images():
    left_dark = Image.fromarray(np.tile(np.repeat([0, 255], 4).astype(np.uint8)[None, :, None], (8, 1, 3)))
    pixels = center_pixels(left_dark, 33)
    assert pixels.shape == (3, 33, 33)
    assert pixels[0, :, 0].max() == 0
    assert pixels[0, :, -1].min() == 255


def test_a_panorama_costs_no_more_than_a_square():
    pixels = center_pixels(
        Image.new("RGB", (200_000, 8), (1, 2, 3)), 224
    )  # 5.6 million px wide if it were scaled whole
    assert pixels.shape == (3, 224, 224)
    assert pixels[2].unique().tolist() == [3]


@pytest.mark.parametrize("start", [None, "fork", "spawn"])
def test_views_through_a_loader(folder, start):
    images = open_images(str(folder({f"{i}.png": None for i in range(6)}))).subset([4, 2, 0])
    context = multiprocessing.get_context(start) if start else None
    loader = torch.utils.data.DataLoader(
        CenterViews(images, 16), batch_size=2, num_workers=1 if start else 0, multiprocessing_context=context
    )
    batches = list(loader)
    assert torch.cat([index for _, index in batches]).tolist() == [0, 1, 2]
    pixels = torch.cat([pixels for pixels, _ in batches])
    assert pixels.shape == (3, 3, 16, 16)
    assert torch.equal(pixels[1], center_pixels(images.load(1), 16))
