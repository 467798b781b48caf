"""A store that lives on the device: its views are those of cuts that travel, and no pixel travels."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader

from seed_hub.data import Images, open_images
from seed_hub.data.packed import PackedStore
from seed_hub.data.packing import Packing
from seed_hub.data.shrinking import Recipe
from seed_hub.errors import SeedHubError
from seed_hub.training import engine, resident
from seed_hub.training import progress as progress_module
from seed_hub.training.device_views import CutsDataset, collate_cuts, make_views
from seed_hub.training.job import load_views
from seed_hub.training.resident import (
    ResidentDataset,
    ResidentLoader,
    collate_windows,
    copy_pixels,
    images_that_fit,
)
from seed_hub.training.run import assemble, run
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_loading import on_device
from seed_hub.training.views import MOCO_V2, recipe
from tests.training.test_views import structured

CPU = torch.device("cpu")
RECIPES = [replace(recipe(MOCO_V2, 48), solarize_p=0.3), recipe(MOCO_V2, 24)]
SEED = 3
COUNT = 24
OWN = {"queue_size": 16, "hidden_width": 32, "embedding_width": 16}
KEYS = [[(int(i), epoch) for i in np.arange(start, COUNT, 3)] for epoch, start in enumerate((2, 0, 1))]
"""three batches of 8, all images in all"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Pictures of two classes and as many sizes as pictures; the last is the smallest, so that nothing lies behind it."""
    root = tmp_path_factory.mktemp("source")
    for i in range(COUNT):
        file = root / "ab"[i // 12] / f"{i:02}.png"
        file.parent.mkdir(exist_ok=True)
        structured(330 - 12 * i, 60 + (97 * i) % 180).save(file)
    return root


@pytest.fixture(scope="module")
def store(source, tmp_path_factory) -> Path:
    """Raw, of several shards."""
    out = tmp_path_factory.mktemp("store") / "raw"
    Packing(open_images(str(source), check=False), out, Recipe(0, "raw", None, 1)).run(1)
    assert len(list(out.glob("*.bin"))) > 1
    return out


@pytest.fixture
def images(store) -> Images:
    return open_images(str(store))


def check_same(usual, others) -> None:
    """Batches of two loaders: images, labels and views, bit for bit."""
    for (cuts, *numbers), (views, *others_numbers) in zip(usual, others, strict=True):
        assert all(map(torch.equal, numbers, others_numbers))
        assert len(cuts) == len(views)
        for a, b in zip(cuts, views, strict=True):
            assert len(a) == len(b)
            assert torch.equal(on_device(a, CPU), on_device(b, CPU))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of more workers than cores
@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_those_of_cuts_that_travel(images, workers):
    usual = list(DataLoader(CutsDataset(images, RECIPES, SEED), batch_sampler=KEYS, collate_fn=collate_cuts))
    check_same(usual, ResidentLoader(images, RECIPES, SEED, CPU, batch_sampler=KEYS, num_workers=workers))
    views = [view for cuts, _, _ in usual for view in cuts]
    for step in ("flip", "grey", "solarise"):
        assert 0 < torch.cat([getattr(view, step) for view in views]).sum() < 2 * COUNT
    assert all(len(view.blur_at) and sum(map(len, view.hue_at)) for view in views)
    assert len({tuple(size) for view in views for size in view.extent.T.tolist()}) > COUNT
    assert {label for _, _, labels in usual for label in labels.tolist()} == {0, 1}


def test_of_a_subset(images):
    part = images.subset(np.arange(COUNT) % 3 > 0).subset([15, 0, 7, 2])
    keys = [[(2, 0), (0, 5)], [(1, 1), (3, 1)]]
    usual = DataLoader(CutsDataset(part, RECIPES, SEED), batch_sampler=keys, collate_fn=collate_cuts)
    check_same(usual, ResidentLoader(part, RECIPES, SEED, CPU, batch_sampler=keys))


def test_pixels_lie_where_the_layout_says(images, monkeypatch):
    monkeypatch.setattr(resident, "BLOCK", 1000)  # ends within pixels, and in no shard of its own
    pixels = copy_pixels(images.store, CPU)
    first, height, width = images.store.layout()
    assert len(first) == COUNT and pixels.shape == (sum(height * width), 3)
    for i in range(COUNT):
        found = pixels[first[i] :][: height[i] * width[i]].reshape(height[i], width[i], 3)
        assert np.array_equal(found, images.load(i))


def test_no_pixel_is_read_or_carried_by_what_loads(images, monkeypatch):
    of_cuts = CutsDataset(images, RECIPES, SEED)
    carried = len(pickle.dumps(collate_cuts([of_cuts[key] for key in KEYS[0]])))
    pickled = pickle.dumps(ResidentDataset(images, RECIPES, SEED))
    monkeypatch.setattr(PackedStore, "_map", lambda *_: pytest.fail("a shard was opened"))
    dataset = pickle.loads(pickled)  # as in a loading process that has opened nothing yet
    batch = collate_windows([dataset[key] for key in KEYS[0]])
    assert 50 * len(pickle.dumps(batch)) < carried


@pytest.fixture
def on_the_device(settings, store) -> RunSettings:
    return settings(data=str(store), views_on="device", held_out=2)


def test_what_fits(images, source, on_the_device, tmp_path, monkeypatch):
    size = sum(file.stat().st_size for file in Path(images.store.root).glob("*.bin"))
    assert images_that_fit(images, on_the_device, CPU, 2 * size) is images
    assert images_that_fit(images, on_the_device, CPU, 2 * size - 1) is None
    assert images_that_fit(images, on_the_device, CPU) is None
    assert images_that_fit(images, replace(on_the_device, views_on="cpu"), CPU, 2 * size) is None
    files = open_images(str(source), check=False)
    assert images_that_fit(files, on_the_device, CPU, 2 * size) is None
    Packing(files, tmp_path / "jpeg", Recipe(32, "jpeg", 90, 1)).run(1)
    assert images_that_fit(open_images(str(tmp_path / "jpeg")), on_the_device, CPU, 2 * size) is None
    # Of a GPU, half of what is free counts, not of all there is.
    for free, expected in ((2 * size, images), (2 * size - 1, None)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 100 * size))
        assert images_that_fit(images, on_the_device, torch.device("cuda")) is expected


def test_a_run_of_a_share_sees_the_same_views_whether_its_store_fits_or_not(on_the_device, caplog):
    job = assemble([replace(on_the_device, share=0.6)], OWN)
    assert 8 < len(job.images) < 16
    with caplog.at_level(logging.WARNING):
        usual, fitting = load_views(job, 0, 3, free=1), load_views(job, 0, 3, free=10**9)
    assert isinstance(usual.dataset, CutsDataset) and isinstance(fitting, ResidentLoader)
    assert caplog.messages == [
        f"The store of {fitting.pixels.nbytes / 1e6:.3g} MB lives on the device (cpu): it is not read again."
    ]
    check_same(usual, fitting)


def test_a_run_learns_what_it_would_without(on_the_device, tmp_path, monkeypatch):
    monkeypatch.setattr(progress_module, "REPORT_SECONDS", 0.0)
    made = []
    monkeypatch.setattr(resident, "copy_pixels", lambda *args: made.append(args) or copy_pixels(*args))
    usual = replace(on_the_device, epochs=1.5, accumulate=2)  # three steps
    other = replace(usual, out=str(tmp_path / "resident"))
    run(usual, OWN)
    assert not made
    monkeypatch.setattr(engine, "load_views", partial(load_views, free=10**9))
    run(other, OWN)
    assert len(made) == 1
    assert len(losses(usual)) == 3 and losses(usual) == losses(other)
    before, after = (load_file(Path(each.out) / "last" / "model.safetensors") for each in (usual, other))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def losses(settings: RunSettings) -> list[float]:
    lines = map(json.loads, (Path(settings.out) / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "step"]


@pytest.mark.parametrize(("number", "more"), [("width", -1), ("offset", 1), ("offset", 3 * 10**9)])
def test_an_index_that_its_shard_contradicts_is_refused(store, tmp_path, number, more):
    shutil.copytree(store, tmp_path / "damaged")
    index = tmp_path / "damaged" / "shard-00001.npy"
    rows = np.load(index)
    rows[number][0] += more
    np.save(index, rows)
    images = open_images(str(tmp_path / "damaged"))
    with pytest.raises(SeedHubError, match="shard-00001.npy does not fit shard-00001.bin; copy it again"):
        ResidentLoader(images, RECIPES, SEED, CPU, batch_sampler=KEYS)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch cannot pretend to have a GPU")
def test_cuts_are_taken_where_the_store_lies(images):
    dataset = ResidentDataset(images, RECIPES, SEED)
    (batch, _), _, _ = collate_windows([dataset[key] for key in KEYS[0]])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        pixels = torch.empty(images.store.bytes // 3, 3, dtype=torch.uint8, device="cuda")
        made = make_views(replace(batch._with(mode.from_tensor), pixels=pixels).to("cuda"))
    assert made.device.type == "cuda" and made.shape == (8, 3, 48, 48)
