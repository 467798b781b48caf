"""Packed stores: what goes in comes out, a killed pack goes on, and nothing damaged passes for whole."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seed_hub.data import list_splits, open_images, opening, packed, packing
from seed_hub.data.pack_check import find_damage
from seed_hub.data.packed import MANIFEST, UNFINISHED, PackedStore
from seed_hub.data.packing import Packing
from seed_hub.data.shrinking import AHEAD, Recipe, pack_all, shrink
from seed_hub.errors import SeedHubError

RAW = Recipe(side=0, format="raw", quality=None, shard_mb=1)
JPEG = Recipe(side=12, format="jpeg", quality=90, shard_mb=1)


def unchecked(source):
    """Of generated images there is nothing to check."""
    return open_images(source, check=False)


def pack(source, out, recipe=RAW, threads=2):
    packing = Packing(unchecked(source), Path(out), recipe)
    packing.run(threads)
    return PackedStore(str(out))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """11 pictures of about 0.3 MB of pixels: 4 to a shard of 1 MB, 3 shards; of 3 classes and several sizes."""
    root = tmp_path_factory.mktemp("large")
    for i in range(11):
        corners = np.random.default_rng(i).integers(0, 256, (3, 3, 3), dtype=np.uint8)
        file = root / "abc"[i % 3] / f"{i:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(corners).resize((330 + i, 300), Image.Resampling.BILINEAR).save(file)
    return root


@pytest.fixture(scope="module")
def whole(large, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    pack(large, out)
    return out


@pytest.fixture
def store(whole, tmp_path):
    return PackedStore(shutil.copytree(whole, tmp_path / "store"))


def pixels(images):
    return [np.asarray(images.load(i)) for i in range(len(images))]


# ---- what goes in comes out


def test_raw_pixels_names_labels_and_order_survive(large, store, tmp_path):
    source, images = unchecked(large), open_images(tmp_path / "store")
    assert [shard["images"] for shard in store.manifest["shards"]] == [4, 4, 3]
    assert len(images) == 11
    assert [images.name(i) for i in range(11)] == [source.name(i) for i in range(11)]
    assert images.labels.tolist() == source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3
    assert images.classes == ["a", "b", "c"]
    for i, expected in enumerate(pixels(source)):
        found = store.read(i)
        assert np.array_equal(found, expected)
        assert store.size(i) == expected.shape[:2]
        assert not found.flags.writeable
    assert all(map(np.array_equal, pixels(images), pixels(source)))


def test_jpeg_is_shrunk_and_close(large, tmp_path):
    store = pack(large, tmp_path / "store", Recipe(side=100, format="jpeg", quality=95, shard_mb=1))
    for i, original in enumerate(pixels(unchecked(large))):
        found = open_images(tmp_path / "store").load(i)
        assert bytes(store.read(i)[:2]) == b"\xff\xd8"
        assert (found.height, found.width) == store.size(i) == (100, round(original.shape[1] / 3))
        expected = Image.fromarray(original).resize(found.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean() < 2


def test_quality_is_obeyed(tmp_path):
    root = tmp_path / "noise"
    root.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(root / "0.png")
    sizes = [len(pack(root, tmp_path / str(q), Recipe(0, "jpeg", q, 1)).read(0)) for q in (30, 90)]
    assert 2 * sizes[0] < sizes[1]


def test_shrinking_is_antialiased_and_never_enlarges(picture):
    stripes = Image.fromarray(np.tile(np.array([[[0] * 3, [255] * 3]], np.uint8), (64, 32, 1)))
    grey = np.asarray(shrink(stripes, 16), float)
    assert grey.shape == (16, 16, 3)
    assert np.abs(grey[:, 2:-2] - 127.5).max() < 12  # every fourth column alone would be black
    for side in (0, 16, 17, 300):
        assert shrink(picture(0, 24, 16), side).size == (24, 16)
    assert shrink(picture(0, 24, 16), 8).size == (12, 8)
    assert shrink(picture(0, 16, 1600), 8).size == (8, 800)


def test_bad_images_are_left_out_and_listed(folder, tmp_path):
    root = folder({"a/0.png": None, "a/1.png": b"broken", "b/2.png": None})
    images = open_images(root, allow_bad=0.5)
    Packing(images, tmp_path / "store", RAW).run(1)
    store = PackedStore(tmp_path / "store")
    assert [store.name(i) for i in range(len(store))] == [
        os.path.join("a", "0.png"),
        os.path.join("b", "2.png"),
    ]
    assert store.labels.tolist() == [0, 1]
    assert (
        (tmp_path / "store" / packing.BAD).read_text().splitlines()[1].startswith(os.path.join("a", "1.png"))
    )


def test_without_labels_and_with_a_name_that_is_not_unicode(folder, tmp_path):
    root = folder({"ok.png": None})
    shutil.copy(root / "ok.png", root / os.fsdecode(b"caf\xe9.png"))
    store = pack(root, tmp_path / "store")
    assert (store.labels, store.classes) == (None, None)
    assert [store.name(i) for i in range(2)] == [os.fsdecode(b"caf\xe9.png"), "ok.png"]
    assert find_damage(store) == []


def test_a_store_can_be_packed_again(large, store, tmp_path):
    again = pack(tmp_path / "store", tmp_path / "small", Recipe(50, "raw", None, 1))
    assert again.size(0) == (50, 55)
    assert again.name(10) == store.name(10)
    assert again.classes == store.classes


def test_opening_decodes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "find_bad", lambda *a, **k: pytest.fail("every image was decoded"))
    assert len(open_images(tmp_path / "store")) == 11


def test_no_more_images_in_memory_than_it_says(large, monkeypatch):
    images, loaded = unchecked(large), []
    real = type(images).load
    monkeypatch.setattr(type(images), "load", lambda self, i: loaded.append(i) or real(self, i))
    packed = pack_all(images, 0, RAW, threads=1)
    assert next(packed).name == os.path.join("a", "00.png").encode()
    packed.close()  # waits for the one at work
    assert 1 <= len(loaded) <= AHEAD < len(images)


# ---- identity


def test_the_fingerprint_is_of_the_content(large, store, tmp_path):
    same = pack(large, tmp_path / "again", threads=1)
    assert same.fingerprint == store.fingerprint
    assert len(same.fingerprint) == 16
    moved = (tmp_path / "again").rename(tmp_path / "moved")
    assert open_images(moved).fingerprint == store.fingerprint
    other = pack(large, tmp_path / "other", Recipe(299, "raw", None, 1))
    assert other.fingerprint != store.fingerprint
    os.utime(tmp_path / "moved" / "shard-00001.bin", ns=(1, 1))
    assert PackedStore(moved).stamp != store.stamp
    assert PackedStore(moved).fingerprint == store.fingerprint


# ---- processes and threads


def test_it_pickles_cheaply_however_much_was_read(store):
    expected = [np.array(store.read(i)) for i in range(11)]
    sent = pickle.dumps(store)
    assert len(sent) < 5000
    assert all(map(np.array_equal, map(pickle.loads(sent).read, range(11)), expected))


def _sums(store):
    return [int(np.asarray(store.read(i)).sum()) for i in np.random.default_rng(os.getpid()).permutation(11)]


def test_threads_and_forked_processes_read_what_the_parent_reads(store):
    expected = sorted(_sums(store))
    with ThreadPoolExecutor(4) as pool:
        assert [sorted(found) for found in pool.map(_sums, [store] * 8)] == [expected] * 8
    if "fork" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        children = [context.Process(target=lambda: queue.put(_sums(store))) for _ in range(2)]
        for child in children:
            child.start()
        assert [sorted(queue.get()) for _ in children] == [expected] * 2
        for child in children:
            child.join()


def test_a_view_outlives_the_mapping_of_its_shard(large, store, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "OPEN_SHARDS", 1)
    few = PackedStore(tmp_path / "store")
    views = [few.read(i) for i in (0, 10, 5, 1)]  # of three shards, of which one is held
    expected = pixels(unchecked(large))
    assert all(map(np.array_equal, views, (expected[i] for i in (0, 10, 5, 1))))
    assert few._shard.cache_info().currsize == 1


@pytest.mark.parametrize("position", [-1, 11])
def test_there_is_no_image_before_the_first_or_after_the_last(store, position):
    with pytest.raises(IndexError, match=f"image {position} of 11"):
        store.read(position)


# ---- killed, and gone on


def interrupted(large, out, at):
    """A pack that was stopped at its image number ``at``."""

    def stop(done, total):
        if done == at:
            raise KeyboardInterrupt

    packing = Packing(unchecked(large), out, RAW)
    with pytest.raises(KeyboardInterrupt):
        packing.run(2, stop)


@pytest.mark.parametrize(("at", "kept"), [(1, 0), (4, 0), (5, 4), (10, 8), (11, 8)])
def test_a_stopped_pack_goes_on_at_its_first_unfinished_shard(large, store, tmp_path, at, kept):
    out = tmp_path / "stopped"
    interrupted(large, out, at)
    assert not list(out.glob("*.partial"))
    before = {file: file.stat().st_mtime_ns for file in out.glob("shard-*")}
    assert len(before) == kept // 4 * 2
    with pytest.raises(SeedHubError, match="not packed to the end: give the same `seed-hub pack` again"):
        open_images(out)

    # A process that is killed outright leaves what it was writing.
    (out / "shard-00002.bin.partial").write_bytes(b"half")
    (out / "shard-00002.bin").write_bytes(b"not yet in the manifest")
    goes_on, done = Packing(unchecked(large), out, RAW), []
    assert goes_on.done == kept
    goes_on.run(2, lambda number, total: done.append((number, total)))
    assert done == [(number, 11) for number in range(kept + 1, 12)]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert sorted(file.name for file in out.iterdir()) == sorted(
        file.name for file in (tmp_path / "store").iterdir()
    )
    assert (out / MANIFEST).read_bytes() == (tmp_path / "store" / MANIFEST).read_bytes()
    assert find_damage(PackedStore(out)) == []


def test_a_pack_killed_before_its_last_step_only_takes_that(large, store, tmp_path):
    (tmp_path / "store" / MANIFEST).rename(tmp_path / "store" / UNFINISHED)
    (tmp_path / "store" / "labels.npy").unlink()
    packing = Packing(unchecked(large), tmp_path / "store", RAW)
    assert packing.estimate(1) == (0, 0, 0)
    packing.run(1, lambda *_: pytest.fail("an image was packed again"))
    assert PackedStore(tmp_path / "store").fingerprint == store.fingerprint


def test_a_finished_pack_is_left_alone(large, store, tmp_path):
    packing = Packing(unchecked(large), tmp_path / "store", RAW)
    assert packing.finished
    packing.run(1, lambda *_: pytest.fail("an image was packed again"))
    (tmp_path / "store" / "shard-00001.bin").unlink()
    with pytest.raises(SeedHubError, match="shard-00001.bin is missing"):
        Packing(unchecked(large), tmp_path / "store", RAW)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(64, "raw", None, 1), "side 0 instead of 64"),
        (Recipe(0, "jpeg", 90, 1), "format raw instead of jpeg, quality None instead of 90"),
        (Recipe(0, "raw", None, 2), "shard_mb 1 instead of 2"),
    ],
)
def test_another_recipe_in_the_same_folder_is_refused(large, tmp_path, finished, recipe, says):
    out = tmp_path / "out"
    if finished:
        pack(large, out)
    else:
        interrupted(large, out, 5)
    with pytest.raises(SeedHubError, match=f"out was packed with {says}: name another --out"):
        Packing(unchecked(large), out, recipe)


def test_other_images_and_other_libraries_in_the_same_folder(large, store, tmp_path, monkeypatch):
    large = shutil.copytree(large, tmp_path / "large")
    half = tmp_path / "half"
    interrupted(large, half, 5)
    monkeypatch.setattr("PIL.__version__", "0.1")
    with pytest.raises(SeedHubError, match="packed with versions .* instead of .*0.1"):
        Packing(unchecked(large), half, RAW)
    assert Packing(unchecked(large), tmp_path / "store", RAW).finished
    (large / "a" / "00.png").touch()
    with pytest.raises(SeedHubError, match="packed of other images, or they have changed since"):
        Packing(unchecked(large), tmp_path / "store", RAW)


def test_a_full_disk_is_one_sentence_and_nothing_half_named(large, store, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "full", os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:  # manifest; images, index, manifest; images
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    packing = Packing(unchecked(large), out, RAW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SeedHubError) as error:
            packing.run(1)
    assert str(error.value) == (
        f"The disk is full at {out}: free some space and give the same command again; 4 of 11 images are packed and kept."
    )
    assert sorted(file.name for file in out.iterdir()) == [UNFINISHED, "shard-00000.bin", "shard-00000.npy"]
    assert pack(large, out).fingerprint == store.fingerprint


def test_the_estimate_is_what_is_written_and_must_fit(large, tmp_path, monkeypatch):
    packing = Packing(unchecked(large), tmp_path / "new" / "store", RAW)
    images, size, seconds = packing.estimate(1)
    assert images == 11
    assert seconds > 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, size))
    packing.estimate(1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, size - 1))
    with pytest.raises(
        SeedHubError,
        match=r"takes about 0.00332 GB more, and its disk has 0.00332 GB free: .* or --format jpeg\.",
    ):
        packing.estimate(1)
    assert not (tmp_path / "new").exists()
    packing.run(1)
    assert size == pytest.approx(packing.bytes, rel=0.001)  # but for the headers of the indices


# ---- damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda out: (out / "shard-00001.bin").unlink(), "shard-00001.bin is missing"),
        (lambda out: (out / "shard-00002.npy").unlink(), "shard-00002.npy is missing"),
        (lambda out: (out / "labels.npy").unlink(), "labels.npy cannot be read"),
        (lambda out: os.truncate(out / "shard-00000.bin", 99), "shard-00000.bin has 99 bytes instead of 1,204,200"),
        (lambda out: os.truncate(out / "labels.npy", 99), "labels.npy cannot be read"),
        (lambda out: np.save(out / "labels.npy", np.zeros(3)), "labels.npy is not of its 11 images"),
        (lambda out: (out / MANIFEST).write_text("{"), "pack.json is damaged"),
        (lambda out: (out / MANIFEST).write_text('{"name": "of something else"}'), "not of a packed store"),
    ],
)  # fmt: skip
def test_a_missing_or_truncated_part_is_found_at_opening(store, tmp_path, damage, says):
    damage(tmp_path / "store")
    with pytest.raises(SeedHubError, match=says):
        open_images(tmp_path / "store")


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_another_format_version(store, tmp_path, version):
    edit(tmp_path / "store", format_version=version)
    with pytest.raises(SeedHubError, match=f"of format version {version}, and this seed-hub reads version 1"):
        open_images(tmp_path / "store")


def edit(out, **changes):
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def change_byte(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("part", ["shard-00000.bin", "shard-00002.bin", "shard-00001.npy", "labels.npy"])
def test_a_changed_byte_is_found_by_the_check(store, tmp_path, part):
    assert find_damage(store, threads=2) == []
    change_byte(tmp_path / "store" / part, -1)
    seen = []
    damaged = open_images(tmp_path / "store").store  # opening does not look that deep
    assert find_damage(damaged, progress=lambda *count: seen.append(count)) == [f"{part} has changed"]
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_the_check_reads_every_image(folder, tmp_path):
    """Sums that agree with what was written say nothing of what was written."""
    out = tmp_path / "store"
    store = pack(folder(dict.fromkeys(["0.png", "1.png", "2.png"])), out, JPEG)
    shard = store.manifest["shards"][0]
    start, size, *_ = np.load(out / "shard-00000.npy")[1].item()
    content = bytearray((out / "shard-00000.bin").read_bytes())
    content[start : start + size] = bytes(size)
    (out / "shard-00000.bin").write_bytes(content)
    rows = np.load(out / "shard-00000.npy")
    rows["width"][2] += 1
    np.save(out / "shard-00000.npy", rows)
    sums = {
        key: packed.hashlib.sha256((out / part).read_bytes()).hexdigest()
        for key, part in (("sha256", "shard-00000.bin"), ("index_sha256", "shard-00000.npy"))
    }
    edit(out, shards=[{**shard, **sums}])
    assert find_damage(PackedStore(out)) == [
        'image 1 "1.png" cannot be read (not an image that Pillow can read)',
        'image 2 "2.png" is not of the size in the index',
    ]


def test_a_shard_that_shrinks_after_opening(store, tmp_path):
    os.truncate(tmp_path / "store" / "shard-00002.bin", 99)
    assert store.read(0).shape == (300, 330, 3)
    with pytest.raises(SeedHubError, match="shard-00002.bin cannot be read"):
        store.read(10)


# ---- bad input


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ((7, "jpeg", 90, 1), "--side 7 is below 8 px"),
        ((-1, "jpeg", 90, 1), "--side -1 is below 8 px"),
        ((8, "jpg", 90, 1), 'no --format "jpg": .* Did you mean "jpeg"'),
        ((8, "jpeg", 0, 1), "--quality is between 1 and 100, not 0"),
        ((8, "jpeg", 101, 1), "--quality is between 1 and 100, not 101"),
        ((8, "raw", None, 0), "--shard-mb is 1 or more, not 0"),
    ],
)
def test_a_recipe_that_cannot_be(values, says):
    with pytest.raises(SeedHubError, match=says):
        Recipe(*values)


def test_a_folder_with_something_else_in_it_is_refused(large, tmp_path):
    images = unchecked(large)
    (tmp_path / "file").touch()
    with pytest.raises(SeedHubError, match="is a file: name a folder"):
        Packing(images, tmp_path / "file", RAW)
    with pytest.raises(SeedHubError, match="is not empty, and holds no pack"):
        Packing(images, large, RAW)


def test_an_image_that_jpeg_cannot_hold(tmp_path):
    root = tmp_path / "long"
    root.mkdir()
    Image.new("RGB", (66000, 8)).save(root / "0.png")
    with pytest.raises(SeedHubError, match='"0.png" .* 66000 x 8 px, cannot be written as JPEG'):
        pack(root, tmp_path / "store", Recipe(0, "jpeg", 90, 1))


# ---- splits


def test_stores_beside_each_other_are_splits(folder, tmp_path):
    root = folder(
        dict.fromkeys(["train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "val/b/5.png"])
    )
    for split in ("train", "val"):
        Packing(open_images(root, split=split), tmp_path / "stores" / split, RAW).run(1)
    stores = tmp_path / "stores"
    assert list_splits(stores) == ["train", "val"]
    assert [len(open_images(stores, split=split)) for split in (None, "train", "validation")] == [2, 2, 3]
    assert list_splits(stores / "val") == ["val"]
    assert open_images(stores / "val").split == "val"
    with pytest.raises(SeedHubError, match='no split "train": it has "val"'):
        open_images(stores / "val", split="train")
    with pytest.raises(SeedHubError, match="no columns"):
        open_images(stores, image_column="image")


def test_a_store_without_splits(store, tmp_path):
    assert list_splits(tmp_path / "store") == []
    with pytest.raises(SeedHubError, match="it has no splits; leave out --split"):
        open_images(tmp_path / "store", split="train")
