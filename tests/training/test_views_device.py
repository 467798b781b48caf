"""Views of a batch as tensor arithmetic: against the published arithmetic, and against torch's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from seed_hub.data import open_images
from seed_hub.training.device_views import CutsDataset, collate_cuts, cut_out, gather, make_views
from seed_hub.training.reference_views import reference_view
from seed_hub.training.views import MOCO_V2, ViewsDataset, draw_view, recipe, view_rng
from tests.training.test_views import structured
from tests.training.test_views_fast import STEPS, view_of

SIZES = [(340, 256), (160, 120), (96, 96), (64, 200)]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.asarray(structured(*size)) for size in SIZES]


def made(pairs) -> torch.Tensor:
    return make_views(gather([cut_out(pixels, parameters) for pixels, parameters in pairs]))


def planes(pixels: np.ndarray) -> torch.Tensor:
    """``[1, 3, H, W]`` in [0, 1]"""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("size", [32, 64, 224])
def test_the_resize_is_torchs_antialiased_one(pictures, size):
    views = made([(p, view_of((0, 0, p.shape[1], p.shape[0]), size)) for p in pictures])
    for view, pixels in zip(views, pictures, strict=True):
        expected = interpolate(planes(pixels), (size, size), mode="bilinear", antialias=True)[0]
        torch.testing.assert_close(view, expected, rtol=0, atol=2e-5)


def test_a_crop_sees_what_the_references_sees_beyond_its_edge(pictures):
    boxes = [(31, 17, 200, 190), (0, 0, 100, 120), (1, 2, 90, 80), (3, 60, 61, 70)]
    parameters = [view_of(box, 64) for box in boxes]
    views = made(list(zip(pictures, parameters, strict=True)))
    for view, pixels, p in zip(views, pictures, parameters, strict=True):
        expected = torch.from_numpy(reference_view(Image.fromarray(pixels), p)).float()
        assert (255 * view - expected).abs().max() < 1.01  # rounded twice there, not at all here


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_the_references_up_to_its_rounding(pictures, step):
    changes, _ = STEPS[step]
    pixels = pictures[2]
    plain, parameters = view_of((0, 0, 96, 96), 96), view_of((0, 0, 96, 96), 96, **changes)
    # One neighbour on each side that the step does not apply to.
    views = 255 * made([(pixels, plain), (pixels, parameters), (pixels, plain)])
    expected = torch.from_numpy(reference_view(Image.fromarray(pixels), parameters)).float()
    # The reference cuts off half a level at each of at most three blends, on average.
    assert (views[1] - expected).abs().mean() < 1.6
    assert torch.equal(views[0], views[2]) and (views[0] - expected).abs().mean() > 1


def test_colour_steps_are_torchvisions_float_ones_in_each_images_own_order(pictures):
    orders = [
        (("brightness", 1.4), ("contrast", 0.6), ("saturation", 1.4), ("hue", 0.1)),
        (("hue", -0.1), ("saturation", 0.6), ("contrast", 1.4), ("brightness", 0.6)),
        (("contrast", 1.3), ("hue", 0.5), ("brightness", 1.3), ("saturation", 0.7)),
        (),
    ]
    whole = [
        (p, view_of((0, 0, *p.shape[1::-1]), 48, colour=o)) for p, o in zip(pictures, orders, strict=True)
    ]
    for view, (pixels, p) in zip(made(whole), whole, strict=True):
        expected = interpolate(planes(pixels), (48, 48), mode="bilinear", antialias=True)
        for name, factor in p.colour:
            expected = getattr(F, f"adjust_{name}")(expected, factor)
        # torchvision's grey weighs 0.2989, 0.587, 0.114.
        torch.testing.assert_close(view, expected[0], rtol=0, atol=1e-3)


def test_whole_batches_are_the_references(pictures):
    settings = replace(recipe(MOCO_V2, 64), solarize_p=0.2)
    pairs = [(pictures[i % 4], draw_view(settings, view_rng(0, i, 0), *SIZES[i % 4])) for i in range(48)]
    views = made(pairs)
    assert views.shape == (48, 3, 64, 64) and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1
    expected = np.stack([reference_view(Image.fromarray(pixels), p) for pixels, p in pairs])
    apart = 255 * views.numpy() - expected
    assert np.abs(apart).mean() < 1.5 and abs(apart.mean()) < 1.3


def test_a_view_does_not_depend_on_its_batch(pictures):
    pairs = [
        (p, draw_view(recipe(MOCO_V2, 32), view_rng(2, i, 0), *SIZES[i])) for i, p in enumerate(pictures)
    ]
    together = made(pairs)
    for view, pair in zip(together, pairs, strict=True):
        torch.testing.assert_close(view, made([pair])[0], rtol=0, atol=2e-6)


def test_nothing_is_left_behind_when_a_batch_travels(pictures):
    batch = gather(
        [cut_out(p, draw_view(MOCO_V2, view_rng(0, i, 0), *SIZES[i])) for i, p in enumerate(pictures)]
    )
    moved = batch.to("meta")
    tensors = [x for x in vars(moved).values() if isinstance(x, torch.Tensor)] + list(moved.hue_at)
    assert len(tensors) == 15 and all(x.is_meta for x in tensors)
    assert len(batch) == 4 and not batch.pixels.is_meta


def test_a_loader_delivers_the_cuts_of_the_views_that_the_cpu_would_make(pictures, tmp_path):
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    images = open_images(str(tmp_path))
    recipes = [recipe(MOCO_V2, 32), recipe(MOCO_V2, 24)]
    keys = [[(0, 1), (3, 1)], [(2, 1), (1, 1)]]
    loader = DataLoader(CutsDataset(images, recipes, 7), batch_sampler=keys, collate_fn=collate_cuts)
    whole = ViewsDataset(images, recipes, 7)
    for batch, wanted in zip(loader, keys, strict=True):
        cuts, index, labels = batch
        assert index.tolist() == [i for i, _ in wanted] and labels.tolist() == [-1, -1]
        for v, of_view in enumerate(cuts):
            ours = 255 * make_views(of_view)
            theirs = torch.stack([whole[key][0][v] for key in wanted]).float()
            assert (ours - theirs).abs().mean() < 2.5
