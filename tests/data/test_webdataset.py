"""Webdatasets: which sample, which label, the bytes by their place; what no tar of samples may be."""

import io
import multiprocessing
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from seed_hub.data import list_splits, open_images, tar_index
from seed_hub.data.patterns import expand_braces
from seed_hub.errors import SeedHubError
from tests.data.encoded import png, same


@pytest.fixture
def shard(tmp_path, picture):
    """shard(name, {"a.png": 3, "a.cls": b"1"}): a tar; a number stands for the picture of that number."""

    def make(name, files, dialect=tarfile.PAX_FORMAT):
        path = tmp_path / "shards" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", format=dialect) as tar:
            for inside, content in files.items():
                content = png(picture(content)) if isinstance(content, int) else content
                member = tarfile.TarInfo(inside)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return path

    return make


@pytest.fixture
def ten(shard):
    """The folder of two shards of five labelled samples."""
    for part in range(2):
        files = {}
        for row in range(5):
            files |= {f"{row:05}.cls": b"%d\n" % (row % 3), f"{row:05}.png": 5 * part + row}
        path = shard(f"train-{part:06}.tar", files)
    return path.parent


def test_every_sample_by_its_place(ten, picture):
    (ten / "classes.txt").write_text("ant\nbee\ncat\n")
    images = open_images(ten / "train-{000000..000001}.tar")
    assert len(images) == 10 and images.split is None and images.bad == [] and images.ignored == 0
    assert images.labels.tolist() == [0, 1, 2, 0, 1] * 2 and images.labels.dtype == np.int64
    assert images.classes == ["ant", "bee", "cat"]
    for i in (7, 0, 9, 4, 5):
        assert same(images.load(i), picture(i))
    assert images.name(6) == "train-000001.tar 00001"
    for other in (ten, ten / "*.tar", sorted(map(str, ten.glob("*.tar")))):
        assert open_images(other).fingerprint == images.fingerprint
    (ten / "classes.json").write_text('["ant"]')
    (ten / "classes.txt").unlink()
    with pytest.raises(SeedHubError, match="names 1 classes, and the labels go up to 2"):
        open_images(ten)


def test_splits_are_told_by_names(shard):
    shard("imagenet1k-train-0000.tar", {"a.png": 0, "b.png": 1})
    folder = shard("imagenet1k-validation-0000.tar", {"c.png": 2}).parent
    assert list_splits(folder) == ["train", "validation"]
    assert (open_images(folder).split, len(open_images(folder))) == ("train", 2)
    assert len(open_images(folder, split="val")) == 1
    assert len(open_images(folder / "*.tar")) == 3
    with pytest.raises(SeedHubError, match='no split "test": it has "train", "validation"'):
        open_images(folder, split="test")


def test_images_beside_a_tar_are_what_the_folder_is_for(folder, shard):
    root = folder({"cat/a.png": None, "dog/b.png": None}, name="shards")
    shard("all.tar", {"c.png": 0})
    images = open_images(root)
    assert (len(images), images.ignored, images.classes) == (2, 1, ["cat", "dog"])


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_names_folders_and_dots(shard, picture, dialect):
    deep = "./v1.5/" + "é" * 90 + "/" + "b" * 120
    files = {
        f"{deep}.png": 1,
        f"{deep}.cls": b"4",
        "v1.5/x.seg.png": 2,
        "v1.5/x.png": 3,
        "v1.5/x.cls": b"0",
        "._x.png": b"what an archiver of macOS adds",
        "README": b"no sample",
    }
    images = open_images(shard("a.tar", files, dialect))
    assert [images.name(i) for i in range(len(images))] == [f"a.tar {deep[2:]}", "a.tar v1.5/x"]
    assert images.labels.tolist() == [4, 0] and images.ignored == 2
    assert same(images.load(0), picture(1)) and same(images.load(1), picture(3))


def test_labels_of_json(shard):
    files = {
        "a.png": 0,
        "a.json": b'{"label": 7, "age": 3}',
        "b.json": b'{"label": 8, "age": "old"}',
        "b.png": 1,
    }
    path = shard("a.tar", files)
    assert open_images(path).labels.tolist() == [7, 8]
    with pytest.raises(
        SeedHubError, match='1 samples have no whole number from 0 on as "age", such as "a.tar b"'
    ):
        open_images(path, label_column="age")
    assert open_images(shard("b.tar", {"a.png": 0, "a.cls": b"2", "b.png": 1})).labels is None
    assert open_images(shard("c.tar", {"a.png": 0, "a.cls": b"cat"})).labels is None


def test_a_sample_without_an_image_is_left_out_and_listed(shard, picture):
    path = shard("a.tar", {"a.png": 0, "a.cls": b"0", "b.cls": b"1", "c.png": 2, "c.cls": b"1"})
    with pytest.raises(
        SeedHubError, match=r"1 of 3 images .*a.tar b \(no image among the files of the sample\)"
    ):
        open_images(path)
    images = open_images(path, allow_bad=0.5)
    assert images.bad == [("a.tar b", "no image among the files of the sample")]
    assert images.labels.tolist() == [0, 1] and same(images.load(1), picture(2))
    with pytest.raises(SeedHubError, match='no images with the extension "jpg" among its 3 samples'):
        open_images(path, image_column="jpg")


def test_headers_are_read_once(ten, monkeypatch):
    before = open_images(ten)
    monkeypatch.setattr(tar_index, "_index", None)  # a second pass would call it
    again = open_images(ten)
    assert again.fingerprint == before.fingerprint and again.labels.tolist() == before.labels.tolist()


def test_a_changed_shard_is_read_again(ten, shard):
    before = open_images(ten)
    shard("train-000001.tar", {"x.png": 20, "x.cls": b"1"})
    after = open_images(ten)
    assert (
        len(after) == 6 and after.name(5) == "train-000001.tar x" and after.fingerprint != before.fingerprint
    )


def test_a_damaged_memory_costs_another_pass(ten, tmp_path):
    before = open_images(ten).fingerprint
    kept = list((tmp_path / "cache" / "seed_hub" / "tar_index").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(b"PK\x03\x04 no more")
    kept[1].write_bytes(b"")
    assert open_images(ten).fingerprint == before


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_forks_and_pickles_read_at_their_own_places(ten, picture):
    images = open_images(ten)
    assert same(pickle.loads(pickle.dumps(images)).load(3), picture(3))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for i, image in enumerate(pool.map(images.load, range(10))):
            assert same(image, picture(i))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    "size", [0, 100, 512 + 20, 512 + 512 + 512 + 100], ids=["empty", "header", "data", "second"]
)
def test_cut_off(shard, size):
    path = shard("a.tar", {"a.cls": b"1", "a.png": 0})
    cut(path, size)
    with pytest.raises(
        SeedHubError, match=f'a.tar" is cut off: it stops at byte {size:,} without the end mark'
    ):
        open_images(path)


def test_cut_off_between_two_files(shard):
    """tarfile takes this for a sound end: half of the samples would be missing, and nobody would know."""
    path = shard("a.tar", {"a.png": b"x" * 512, "b.png": b"y" * 512})
    cut(path, 1024)
    with pytest.raises(SeedHubError, match="it stops at byte 1,024 without the end mark"):
        open_images(path)


def test_cut_off_inside_a_long_name(shard):
    path = shard("a.tar", {"a" * 200 + ".png": 0}, tarfile.GNU_FORMAT)
    cut(path, 512 + 512)
    with pytest.raises(SeedHubError, match="no sound header at byte 0 of 1,024"):
        open_images(path)


def test_damaged_header(shard):
    path = shard("a.tar", {"a.png": b"x" * 512, "b.png": b"y" * 512})
    data = bytearray(path.read_bytes())
    data[1024:1034] = b"##########"  # the second file's name: its checksum is wrong now
    path.write_bytes(data)
    with pytest.raises(SeedHubError, match="no sound header at byte 1,024 of 10,240"):
        open_images(path)
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(SeedHubError, match="no tar, or a damaged one: there is no sound header at byte 0"):
        open_images(path)


def test_joined_tars(shard):
    one, two = shard("a.tar", {"a.png": 0}), shard("b.tar", {"b.png": 1})
    one.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(SeedHubError, match="goes on behind its end mark at byte"):
        open_images(one)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_compressed(shard, tmp_path, kind):
    path = shard("a.tar", {"a.png": 0})
    with tarfile.open(tmp_path / f"b.tar.{kind}", f"w:{kind}") as tar:
        tar.add(path)
    (tmp_path / "hidden.tar").write_bytes((tmp_path / f"b.tar.{kind}").read_bytes())
    for name in (f"b.tar.{kind}", "hidden.tar"):
        with pytest.raises(SeedHubError, match=r"is compressed \((gzip|bzip2|xz)\).*unpack it"):
            open_images(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "what"),
    [(tarfile.LNKTYPE, "a link"), (tarfile.SYMTYPE, "a link"), (tarfile.FIFOTYPE, "a device")],
)
def test_links_and_devices(shard, kind, what):
    path = shard("a.tar", {"a.png": 0})
    member = tarfile.TarInfo("b.png")
    member.type, member.linkname = kind, "a.png"
    with tarfile.open(path, "a") as tar:
        tar.addfile(member)
    with pytest.raises(SeedHubError, match=f'"b.png", which is {what} and not a plain file'):
        open_images(path)


def test_sparse(tmp_path):
    """As GNU tar writes them: the bytes in the archive are not those of the file."""
    (tmp_path / "in").mkdir()
    with open(tmp_path / "in" / "a.png", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    subprocess.run(["tar", "--sparse", "-cf", tmp_path / "a.tar", "-C", tmp_path / "in", "a.png"], check=True)
    if (tmp_path / "a.tar").stat().st_size > 1 << 20:
        pytest.skip("this file system keeps no holes")
    with pytest.raises(SeedHubError, match='"a.png", which is sparse and not a plain file'):
        open_images(tmp_path / "a.tar")


def test_one_name_twice(shard):
    path = shard("a.tar", {"a.png": 0})
    with tarfile.open(path, "a") as tar:
        tar.addfile(tarfile.TarInfo("./a.PNG"))
    with pytest.raises(SeedHubError, match='holds "./a.PNG" twice'):
        open_images(path)


def test_several_images(shard, picture):
    path = shard("a.tar", {"a.jpg": 0, "a.png": 1})
    with pytest.raises(SeedHubError, match='Sample "a" of .* has several images, "jpg", "png"'):
        open_images(path)
    assert same(open_images(path, image_column="png").load(0), picture(1))


def test_bad_places(shard, tmp_path):
    path = shard("train-0.tar", {"a.cls": b"1"})
    with pytest.raises(SeedHubError, match="holds no images among its 1 samples"):
        open_images(path)
    with pytest.raises(SeedHubError, match=r'No file ".*train-1.tar" \(1 of 2 are missing\)'):
        open_images(path.parent / "train-{0..1}.tar")
    with pytest.raises(SeedHubError, match="a pipe can only be read once"):
        open_images("pipe:cat x.tar")
    (tmp_path / "shards" / "x.parquet").write_bytes(b"")
    with pytest.raises(SeedHubError, match="has both parquet files and tars"):
        open_images(path.parent / "*")
    with tarfile.open(path, "w"):
        pass
    with pytest.raises(SeedHubError, match="holds no images among its 0 samples"):
        open_images(path)


def test_a_shard_that_has_become_shorter(ten):
    images = open_images(ten)
    cut(ten / "train-000001.tar", 2048)
    with pytest.raises(SeedHubError, match="train-000001.tar 00004.*the tar file ends inside it"):
        images.load(9)


@pytest.mark.parametrize(
    "pattern",
    [
        "a-{000..011}.tar",
        "{8..11}",
        "{08..11}",
        "{3..1}",
        "{a,b}-{0..1}",
        "x{a,b{1,2}}",
        "{one}",
        "{0..0}",
        "a",
    ],
)
def test_braces_as_the_shell(pattern):
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == shell.stdout.split()
