"""``seed-hub pack``: what it says, what it refuses, and that what it writes is data like any other."""

import json
import shutil
from pathlib import Path

import pytest

from seed_hub.cli import main
from seed_hub.data import open_images


@pytest.fixture(scope="module")
def store(photos, tmp_path_factory):
    """The training pictures; no test changes it."""
    out = tmp_path_factory.mktemp("packed") / "train"
    assert main(["pack", "--data", str(photos), "--out", str(out), "--side", "32", "--workers", "1"]) == 0
    return out


@pytest.fixture
def words(photos, tmp_path):
    return ["pack", "--data", photos, "--out", tmp_path / "store", "--workers", "1"]


def test_it_says_how_large_and_how_long_before_it_starts(hub, words, tmp_path):
    answer = hub(*words, "--format", "raw", "--side", "0", "--check", "--json")
    assert answer.status == 0
    # 130 pictures of 40 x 36 px, and 24 bytes and a name of 10 for each in the index
    assert f"packing 130 of 130 images: about {130 * (40 * 36 * 3 + 34) / 1e9:.3g} GB and " in answer.err
    assert "130 images in 1 shards" in answer.out and "every byte as it was packed" in answer.out
    facts = answer.json
    assert (facts["images"], facts["shards"], facts["left_out"], facts["split"]) == (130, 1, 0, "train")
    assert (facts["format"], facts["quality"], facts["checked"]) == ("raw", None, True)
    assert facts["fingerprint"] == open_images(tmp_path / "store").fingerprint


def test_other_commands_take_it(hub, store, tmp_path):
    out = tmp_path / "embeddings.npy"
    answer = hub("embed", "--model", "untrained:seed_mobilenetv3_small", "--data", store, "--out", out, "--size", "32",
                 "--workers", "0", "--device", "cpu")  # fmt: skip
    assert answer.status == 0, answer.err
    assert out.with_suffix(".names.txt").read_text().splitlines()[0] == str(Path("a", "0000.png"))


def test_given_again_it_says_so_and_writes_nothing(hub, store, photos):
    before = {file: file.stat().st_mtime_ns for file in store.iterdir()}
    answer = hub("pack", "--data", photos, "--out", store, "--side", "32")
    assert answer.status == 0
    assert answer.err == f"seed-hub: {store} is finished already\n"
    assert {file: file.stat().st_mtime_ns for file in store.iterdir()} == before
    assert "was packed with side 32 instead of 256" in hub("pack", "--data", photos, "--out", store).sentence


def test_stopped_it_says_how_to_go_on(hub, words, tmp_path, monkeypatch):
    from seed_hub.data import packing

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_write_shard", stop)
        answer = hub(*words)
    assert answer.status == 130
    assert (
        answer.sentence == "Interrupted: 0 of 130 images are packed; the same command goes on with the rest."
    )
    assert "not packed to the end" in hub("pack", "--out", tmp_path / "store", "--check").sentence
    assert hub(*words).status == 0


def test_bad_images_are_counted(hub, words, photos, tmp_path):
    mixed = shutil.copytree(photos / "train", tmp_path / "mixed")
    (mixed / "a" / "broken.png").write_bytes(b"no image")
    (mixed / "a" / "photo.HEIC").write_bytes(b"not known by its ending")
    answer = hub(*words, "--data", mixed, "--json")
    assert (answer.json["left_out"], answer.json["ignored"]) == (1, 1)
    assert "1 file is no image by its ending and is left out" in answer.err
    assert "1 images cannot be read and are left out, see bad_images.txt" in answer.err


def test_check_finds_what_changed(hub, store, tmp_path):
    copy = shutil.copytree(store, tmp_path / "copy")
    assert hub("pack", "--out", copy, "--check").status == 0
    content = bytearray((copy / "shard-00000.bin").read_bytes())
    content[1000] ^= 1
    (copy / "shard-00000.bin").write_bytes(content)
    answer = hub("pack", "--out", copy, "--check", "--json")
    assert answer.status == 2
    assert "is not as it was packed: shard-00000.bin has changed; copy it again" in answer.sentence
    assert json.loads(answer.out)["status"] == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--side", "7"], "--side 7 is below 8 px"),
        (["--format", "png"], 'There is no --format "png": choose one of jpeg, raw.'),
        (["--format", "raw", "--quality", "90"], "--quality is of JPEG: leave it out"),
        (["--quality", "0"], "--quality is between 1 and 100"),
        (["--shard-mb", "0"], "--shard-mb is 1 or more"),
        (["--workers", "0"], "--workers is 1 or more, or -1"),
        (["--split", "test"], 'no split "test"'),
        (["--data", "/nowhere/at/all"], 'No file or folder "/nowhere/at/all"'),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(hub, words, tmp_path, more, says):
    answer = hub(*words, *more)
    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert says in answer.sentence
    assert not (tmp_path / "store").exists()


def test_what_is_missing(hub, photos, tmp_path):
    assert hub("pack", "--data", photos).sentence.startswith("--out is missing")
    assert hub("pack", "--out", tmp_path / "store").sentence.startswith("--data is missing")
    assert "no packed store" in hub("pack", "--out", tmp_path / "store", "--check").sentence


def test_a_disk_without_the_room(hub, words, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    answer = hub(*words, "--format", "raw")
    assert answer.status == 2
    assert "takes about 0.000566 GB more, and its disk has 1e-08 GB free" in answer.sentence
    assert not (tmp_path / "store").exists()
