"""Image folders: listing, labels, splits, the check, and what Images promises whatever the storage."""

import json
import os
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from seed_hub.data import Images, check, list_splits, open_images, split_held_out
from seed_hub.errors import SeedHubError


def names(images: Images) -> list[str]:
    return [images.name(i) for i in range(len(images))]


def test_nested_folder_with_mixed_files(folder):
    root = folder({"b/x.jpg": None, "a/deep/er/y.PNG": None, "a/z.webp": None, "a/notes.txt": b"hello",
                   ".hidden/h.png": None, "a/.hidden.jpg": None, "a/Thumbs.db": b"x"})  # fmt: skip
    images = open_images(str(root))
    assert names(images) == [
        os.path.join("a", "deep", "er", "y.PNG"),
        os.path.join("a", "z.webp"),
        os.path.join("b", "x.jpg"),
    ]
    assert (images.classes, images.labels.tolist()) == (["a", "b"], [0, 0, 1])
    assert images.labels.dtype == np.int64
    assert (images.ignored, images.bad, images.split) == (2, [], None)
    assert images.load(0).mode == "RGB"


@pytest.mark.parametrize(
    "files", [["x.jpg", "a/y.jpg", "b/z.jpg"], ["a/x.jpg", "a/b/y.jpg"], ["x.jpg", "y.jpg"]]
)
def test_no_labels_unless_every_image_lies_in_one_of_two_folders(folder, files):
    images = open_images(folder(dict.fromkeys(files)))
    assert images.labels is None
    assert images.classes is None


def test_splits_are_subfolders(folder):
    root = folder(
        dict.fromkeys(["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "val/b/5.png"])
    )
    assert list_splits(str(root)) == ["train", "val"]
    assert [(s, open_images(str(root), split=s).split) for s in ("train", "val", "valid", "validation")] == [
        ("train", "train"), ("val", "val"), ("valid", "val"), ("validation", "val")
    ]  # fmt: skip
    images = open_images(str(root), split="validation")
    assert len(images) == 3
    assert images.classes == ["a", "b"]
    whole = open_images(str(root))  # never the test images as well
    assert whole.split == "train"
    assert len(whole) == 2
    with pytest.raises(SeedHubError, match='no split "test": it has "train", "val"'):
        open_images(str(root), split="test")


def test_a_class_named_train_is_a_class(folder):
    root = folder(dict.fromkeys(["train/1.png", "bus/2.png", "car/3.png"]))
    images = open_images(str(root))
    assert images.classes == ["bus", "car", "train"]
    assert images.split is None
    assert list_splits(str(root)) == []
    assert len(open_images(str(root), split="train")) == 1


def test_splits_without_train_must_be_chosen(folder):
    root = folder(dict.fromkeys(["test/1.png", "val/2.png"]))
    with pytest.raises(SeedHubError, match="--split"):
        open_images(str(root))


def test_links_are_followed_but_not_for_ever(folder, tmp_path):
    root = folder(dict.fromkeys(["a/1.png", "b/2.png"]))
    elsewhere = folder({"3.png": None}, name="elsewhere")
    (root / "c").symlink_to(elsewhere)
    (root / "a" / "loop").symlink_to(root)
    (root / "b" / "4.png").symlink_to(root / "a" / "1.png")
    found = [name.replace(os.sep, "/") for name in names(open_images(str(root)))]
    assert found == ["a/1.png", "b/2.png", "b/4.png", "c/3.png"]


def test_a_dangling_link_is_bad_not_fatal_and_not_remembered(folder):
    root = folder(dict.fromkeys([f"{i}.png" for i in range(9)]))
    (root / "gone.png").symlink_to(root / "nowhere.png")
    assert [name for name, _ in open_images(str(root), allow_bad=0.2).bad] == ["gone.png"]
    (root / "nowhere.png").write_bytes((root / "0.png").read_bytes())
    (root / "gone.png").unlink()
    (root / "gone.png").symlink_to(root / "nowhere.png")
    assert open_images(str(root)).bad == []


def test_a_loop_over_images_loads_each(folder):
    images = open_images(str(folder({"a.png": None, "b.jpg": None})))
    assert np.array_equal(np.asarray(images[1]), np.asarray(images.load(1)))
    assert [image.tobytes() for image in images] == [images.load(i).tobytes() for i in range(2)]


def test_a_name_that_is_not_unicode(folder):
    root = folder({"ok.png": None})
    (root / os.fsdecode(b"caf\xe9.png")).write_bytes((root / "ok.png").read_bytes())
    images = open_images(str(root))
    assert len(images) == 2
    assert [images.load(i).size for i in range(2)] == [(24, 16)] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no images .it is empty"),
        ({"a/readme.txt": b"x"}, "none among its 1 files, such as a/readme.txt"),
        ({".hidden.png": None}, "holds no images"),
    ],
)
def test_a_folder_without_images(folder, tmp_path, files, message):
    (tmp_path / "images").mkdir()
    with pytest.raises(SeedHubError, match=message):
        open_images(str(folder(files)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/at/all", "No file or folder"),
        ("nowhere", 'Hub data set as "org/name"'),
        ("./nowhere/else", "No file or folder"),
        ("*.parquet", "No file matches"),
    ],
)
def test_what_is_not_there(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SeedHubError, match=message):
        open_images(source)


def test_a_single_image_is_not_a_data_set(folder):
    with pytest.raises(SeedHubError, match="folder that holds the images"):
        open_images(str(folder({"x.jpg": None}) / "x.jpg"))


def test_columns_do_not_exist_in_a_folder(folder):
    with pytest.raises(SeedHubError, match="no columns"):
        open_images(str(folder({"x.jpg": None})), label_column="label")


# ---- bad images

BROKEN = {
    "bad/empty.jpg": b"",
    "bad/text.png": b"this is no image",
    "bad/header.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
}


def test_bad_images_are_left_out_counted_and_listed(folder, tmp_path):
    root = folder({**{f"good/{i}.png": None for i in range(7)}, **BROKEN})
    images = open_images(str(root), allow_bad=0.3)
    assert len(images) == 7
    assert [name for name, _ in images.bad] == sorted(os.path.join(*name.split("/")) for name in BROKEN)
    assert images.labels.tolist() == [1] * 7
    assert images.classes == ["bad", "good"]
    assert images.original_index.tolist() == list(range(3, 10))
    images.save_bad(tmp_path / "bad.txt")
    lines = (tmp_path / "bad.txt").read_text().splitlines()
    assert lines[0].startswith("# 3 images")
    assert lines[1].split("\t") == [
        os.path.join("bad", "empty.jpg"),
        "empty (0 bytes)",
    ]


def test_too_many_bad_images_are_an_error_that_names_the_way_out(folder):
    root = folder({**{f"good/{i}.png": None for i in range(7)}, **BROKEN})
    with pytest.raises(SeedHubError) as error:
        open_images(str(root))
    text = str(error.value)
    assert "3 of 10 images" in text
    assert "empty.jpg (empty (0 bytes))" in text
    assert "--allow-bad 0.31" in text
    assert len(open_images(str(root), allow_bad=0.31)) == 7
    with pytest.raises(SeedHubError):
        open_images(str(root), allow_bad=0.29)


def test_nothing_usable_is_an_error_at_any_allowance(folder):
    with pytest.raises(SeedHubError, match="none is left"):
        open_images(str(folder(BROKEN)), allow_bad=1.0)


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_the_allowance_is_a_fraction(folder, fraction):
    with pytest.raises(SeedHubError, match="between 0 and 1"):
        open_images(str(folder({"x.png": None})), allow_bad=fraction)


def test_without_check_a_bad_image_shows_at_load(folder):
    images = open_images(str(folder({"a/0.png": None, **BROKEN})), check=False)
    assert len(images) == 4
    assert images.bad == []
    with pytest.raises(SeedHubError, match="empty.jpg"):
        images.load(1)


def test_the_check_is_paid_once_and_again_after_a_change(folder, monkeypatch):
    root = folder({**{f"{i}.png": None for i in range(9)}, "x.png": b"broken"})
    seen = []
    first = open_images(str(root), allow_bad=0.2, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    calls = []
    real = check.decode
    monkeypatch.setattr(check, "decode", lambda *a, **k: calls.append(1) or real(*a, **k))
    again = open_images(str(root), allow_bad=0.2)
    assert calls == []
    assert again.bad == first.bad
    assert again.fingerprint == first.fingerprint
    (root / "3.png").write_bytes(b"broken")
    assert len(open_images(str(root), allow_bad=0.2).bad) == 2
    assert len(calls) == 10


def test_a_damaged_or_unwritable_cache_only_costs_time(folder, tmp_path, monkeypatch):
    root = folder({"0.png": None})
    open_images(str(root))
    (file,) = (tmp_path / "cache" / "seed_hub" / "checked").glob("*.json")
    assert json.loads(file.read_text())["bad"] == []
    for damage in ("{", "[]", '{"bad": 3}'):
        file.write_text(damage)
        assert len(open_images(str(root))) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "0.png"))  # a file: no folder can be made there
    assert len(open_images(str(root))) == 1


def test_permission_is_not_remembered_as_damage(folder, monkeypatch):
    root = folder({"0.png": None, "1.png": None})
    real = open

    def refuse(file, *args, **kwargs):
        if str(file).endswith("0.png"):
            raise PermissionError(13, "Permission denied")
        return real(file, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", refuse)
        assert open_images(str(root), allow_bad=0.5).bad == [("0.png", "Permission denied")]
    assert open_images(str(root)).bad == []


# ---- Images


def test_the_fingerprint_follows_content_not_place(folder, tmp_path):
    root = folder(dict.fromkeys(["a/0.png", "b/1.png"]))
    before = open_images(str(root)).fingerprint
    moved = root.rename(tmp_path / "moved")
    assert open_images(str(moved)).fingerprint == before
    assert len(before) == 16
    time.sleep(0.02)
    (moved / "a" / "0.png").write_bytes((moved / "b" / "1.png").read_bytes())
    assert open_images(str(moved)).fingerprint != before


def test_subsets_compose_and_keep_the_original_index(folder):
    images = open_images(str(folder({f"{'ab'[i % 2]}/{i}.png": None for i in range(10)})))
    half = images.subset([9, 7, 5, 3, 1])
    two = half.subset(np.array([3, 0]))
    assert two.original_index.tolist() == [3, 9]
    assert names(two) == [images.name(3), images.name(9)]
    assert two.labels.tolist() == images.labels[[3, 9]].tolist()
    assert two.fingerprint == images.subset([3, 9]).fingerprint != images.subset([9, 3]).fingerprint
    assert images.subset(range(10)).fingerprint == images.fingerprint
    assert len(images.subset([])) == 0
    assert len(images.subset(images.labels == 1)) == 5
    assert np.array_equal(np.asarray(two.load(0)), np.asarray(images.load(3)))
    with pytest.raises(IndexError):
        images.subset([10])


def test_held_out_images(folder):
    images = open_images(str(folder({f"{i}.png": None for i in range(45)})))
    train, held_out = split_held_out(images, 2000, seed=1)
    assert (len(train), len(held_out)) == (41, 4)
    assert sorted([*train.original_index, *held_out.original_index]) == list(range(45))
    assert len(split_held_out(images, 2, seed=1)[1]) == 2
    assert split_held_out(images, 4, seed=1)[1].original_index.tolist() == held_out.original_index.tolist()
    assert split_held_out(images, 4, seed=2)[1].original_index.tolist() != held_out.original_index.tolist()
    small = images.subset(range(5))
    assert [len(part) for part in split_held_out(small, 2000, seed=1)] == [5, 0]


def test_images_pickle_small(folder):
    images = open_images(str(folder({f"some/longer/folder/{i:05}.png": None for i in range(200)})))
    data = pickle.dumps(images)
    assert len(data) < 200 * 100
    again = pickle.loads(data)
    assert np.array_equal(np.asarray(again.load(150)), np.asarray(images.load(150)))


def test_images_open_relative_to_where_they_were_opened(folder, tmp_path, monkeypatch):
    root = folder({"0.png": None})
    monkeypatch.chdir(root.parent)
    images = open_images(root.name)
    monkeypatch.chdir("/")
    assert isinstance(images.load(0), Image.Image)
