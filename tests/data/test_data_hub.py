"""Data sets of the datasets library: the Hub by name, and folders written by save_to_disk."""

import pickle

import datasets
import numpy as np
import pytest

from seed_hub.data import list_splits, open_images
from seed_hub.errors import SeedHubError


@pytest.fixture(autouse=True)
def _no_progress_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def rows(picture):
    def make(n=5, start=0, split=None) -> datasets.Dataset:
        features = datasets.Features(
            {
                "picture": datasets.Image(),
                "kind": datasets.ClassLabel(names=["x", "y"]),
                "text": datasets.Value("string"),
            }
        )
        content = {
            "picture": [picture(start + i) for i in range(n)],
            "kind": [i % 2 for i in range(n)],
            "text": ["t"] * n,
        }
        return datasets.Dataset.from_dict(content, features=features, split=split)

    return make


def same(image, other) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


def test_a_hub_id_goes_through_load_dataset(rows, picture, monkeypatch):
    asked = []
    both = datasets.DatasetDict({"train": rows(), "validation": rows(3, start=10)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: asked.append(args) or both)
    images = open_images("org/name:config")
    assert asked == [("org/name", "config")]
    assert (len(images), images.split, images.classes, images.labels.tolist()) == (
        5,
        "train",
        ["x", "y"],
        [0, 1, 0, 1, 0],
    )
    assert same(images.load(3), picture(3))
    assert images.name(3) == "row 3"
    validation = open_images("org/name", split="val")
    assert validation.split == "validation"
    assert same(validation.load(2), picture(12))
    assert asked[-1] == ("org/name", None)
    assert list_splits("org/name") == ["train", "validation"]
    assert images.fingerprint != validation.fingerprint
    with pytest.raises(SeedHubError, match='no split "test": it has "train", "validation"'):
        open_images("org/name", split="test")


def test_a_hub_id_that_gives_one_data_set(rows, picture, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows(split="train"))
    assert same(open_images("org/name").load(1), picture(1))
    assert open_images("org/name", split="train").split == "train"
    with pytest.raises(SeedHubError, match='no split "test": it has "train"'):
        open_images("org/name", split="test")


def test_bad_rows_and_columns(rows, monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    content = {"image": [{"bytes": b"junk", "path": None}, None], "text": ["a", "b"]}
    made = datasets.Dataset.from_dict(content, features=features)
    four = datasets.concatenate_datasets([made, made])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: four)
    with pytest.raises(SeedHubError, match="4 of 4 images .*row 1 .empty"):
        open_images("org/name")
    with pytest.raises(SeedHubError, match='has no column "label"'):
        open_images("org/name", label_column="label")
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: made.select([]))
    with pytest.raises(SeedHubError, match="holds no rows"):
        open_images("org/name")


def test_offline_is_one_sentence(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nand much more about it")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(SeedHubError) as error:
        open_images("org/name")
    text = str(error.value)
    assert '"org/name" is no file or folder here' in text
    assert "Couldn't reach" in text
    assert "\n" not in text


def test_a_local_folder_wins_over_a_hub_id(folder, monkeypatch):
    root = folder({"x.png": None}, name="org/name")
    monkeypatch.chdir(root.parents[1])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: pytest.fail("asked the Hub"))
    assert len(open_images("org/name")) == 1


def test_saved_to_disk(rows, picture, tmp_path):
    rows(split="train").save_to_disk(tmp_path / "one")
    images = open_images(str(tmp_path / "one"))
    assert len(images) == 5
    assert images.classes == ["x", "y"]
    assert same(images.load(4), picture(4))
    again = pickle.loads(pickle.dumps(images))
    assert same(again.load(4), picture(4))
    assert open_images(str(tmp_path / "one")).fingerprint == images.fingerprint

    datasets.DatasetDict({"train": rows(), "test": rows(2, start=30)}).save_to_disk(tmp_path / "two")
    assert list_splits(str(tmp_path / "two")) == ["test", "train"]
    assert same(open_images(str(tmp_path / "two"), split="test").load(1), picture(31))
    with pytest.raises(SeedHubError, match='it has "test", "train"'):
        open_images(str(tmp_path / "two"), split="val")
