"""Data behind URLs: the same images as from the disk, by parts of files, whatever the network does."""

import io
import multiprocessing
import pickle
import sys
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from seed_hub.data import list_splits, open_images, remote
from seed_hub.errors import SeedHubError
from tests.data.encoded import png, same


class Unsteady(MemoryFileSystem):
    """A storage that counts what is asked of it, and fails when told to."""

    store: dict = {}  # noqa: RUF012  fsspec's own way
    pseudo_dirs = [""]  # noqa: RUF012
    asked: list = []  # noqa: RUF012  (path, first byte, byte behind the last)
    failures: list = []  # noqa: RUF012  what the next requests come to

    def cat_file(self, path, start=None, end=None, **kwargs):
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return super().cat_file(path, start, end)[:failure]
        self.asked.append((path, start, end))
        return super().cat_file(path, start, end, **kwargs)


@pytest.fixture
def storage(monkeypatch):
    """The file system of ``memory://``, empty; nobody waits between tries."""
    fsspec.register_implementation("memory", Unsteady, clobber=True)
    for kept in (Unsteady.store, Unsteady.asked, Unsteady.failures):
        kept.clear()
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    yield fsspec.filesystem("memory")
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


@pytest.fixture
def shards(tmp_path, storage, picture):
    """The folder of two shards of five samples, which the storage has in ``/bucket`` too."""
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "classes.txt").write_text("ant\nbee\n")
    for part in range(2):
        with tarfile.open(folder / f"train-{part}.tar", "w") as tar:
            for row in range(5):
                image = png(picture(5 * part + row, 600, 400))
                for name, content in ((f"{row}.png", image), (f"{row}.cls", b"%d" % (row % 2))):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    for file in folder.iterdir():
        storage.pipe(f"/bucket/{file.name}", file.read_bytes())
    return folder


def test_the_same_images_as_from_the_disk(shards, picture):
    here, there = open_images(shards), open_images("memory://bucket/train-{0..1}.tar")
    assert there.fingerprint == here.fingerprint
    assert there.labels.tolist() == here.labels.tolist() and there.classes == here.classes == ["ant", "bee"]
    assert [there.name(i) for i in range(10)] == [here.name(i) for i in range(10)]
    for i in (9, 0, 4):
        assert same(there.load(i), picture(i, 600, 400))
    for other in ("memory://bucket/*.tar", "memory://bucket", "memory://bucket/"):
        assert open_images(other).fingerprint == here.fingerprint
    assert list_splits("memory://bucket") == ["train"]


def test_an_image_is_one_request_of_its_own_bytes(shards):
    images = open_images("memory://bucket/*.tar", check=False)
    Unsteady.asked.clear()
    encoded = images.store.read(7)
    ((path, start, end),) = Unsteady.asked
    assert (path, end - start) == ("/bucket/train-1.tar", len(encoded))
    assert (shards / "train-1.tar").read_bytes()[start:end] == encoded


def test_headers_are_asked_for_once_and_no_image_with_them(shards, storage):
    """Large members are skipped over; a second opening asks for no header at all."""
    with tarfile.open(shards / "large.tar", "w") as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = 1 << 20
            tar.addfile(member, io.BytesIO(bytes(1 << 20)))
    storage.pipe("/large/large.tar", (shards / "large.tar").read_bytes())
    open_images("memory://large/large.tar", check=False)
    came = sum(end - start for _, start, end in Unsteady.asked)
    assert came < 400_000, f"{came} bytes for three headers"
    Unsteady.asked.clear()
    open_images("memory://large/large.tar", check=False)
    assert Unsteady.asked == []


def test_what_fails_is_asked_again(shards, storage, picture):
    images = open_images("memory://bucket/train-0.tar")
    Unsteady.failures += [TimeoutError("slow"), ConnectionResetError("gone"), RuntimeError("503"), 10]
    assert same(images.load(2), picture(2, 600, 400))
    assert Unsteady.failures == [], "three errors and a short answer were met"
    Unsteady.failures += [TimeoutError("slow")] * 6
    with pytest.raises(SeedHubError, match=r"could not be read in 6 tries \(slow\).*--resume"):
        images.load(2)
    assert Unsteady.failures == []
    Unsteady.failures += [PermissionError("no key"), TimeoutError("not asked again")]
    with pytest.raises(SeedHubError, match=r"could not be read \(no key\)"):
        images.load(2)
    assert len(Unsteady.failures) == 1


def test_a_network_that_fails_makes_no_image_bad(shards):
    """A verdict of the check is remembered, and left-out images are never seen again."""
    url = "memory://bucket/train-0.tar"
    open_images(url, check=False)  # the headers
    Unsteady.failures += [TimeoutError("slow")] * 60
    with pytest.raises(SeedHubError, match="could not be read in 6 tries"):
        open_images(url, threads=1)
    Unsteady.failures.clear()
    assert open_images(url).bad == []


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_workers_and_pickles_have_clients_of_their_own(shards, picture):
    images = open_images("memory://bucket/*.tar")
    assert same(pickle.loads(pickle.dumps(images)).load(3), picture(3, 600, 400))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for i, image in enumerate(pool.map(images.load, range(10))):
            assert same(image, picture(i, 600, 400))


def test_a_changed_shard_is_read_again(shards, storage):
    before = open_images("memory://bucket/train-0.tar")
    storage.pipe("/bucket/train-0.tar", (shards / "train-1.tar").read_bytes())
    assert open_images("memory://bucket/train-0.tar").fingerprint != before.fingerprint


def test_parquet_is_fetched_once(tmp_path, storage, picture, monkeypatch):
    for split, count in (("train", 4), ("test", 2)):
        table = pa.table({"image": [png(picture(i)) for i in range(count)], "label": list(range(count))})
        pq.write_table(table, tmp_path / f"{split}.parquet")
        storage.pipe(f"/tables/data/{split}.parquet", (tmp_path / f"{split}.parquet").read_bytes())
    images = open_images("memory://tables")
    assert (images.split, len(images), images.labels.tolist()) == ("train", 4, [0, 1, 2, 3])
    assert same(images.load(3), picture(3)) and images.name(3) == "train.parquet row 3"
    assert images.fingerprint == open_images(tmp_path / "train.parquet").fingerprint
    fetched = [path.name for path in (tmp_path / "cache").rglob("*.parquet")]
    assert fetched == ["train.parquet"], "the test split was not asked for"
    monkeypatch.setattr(Unsteady, "get_file", None)  # a second fetch would call it
    assert open_images("memory://tables/data/train.parquet").fingerprint == images.fingerprint
    assert list_splits("memory://tables") == ["test", "train"]


def test_half_a_parquet_file_is_never_kept(tmp_path, storage, picture, monkeypatch):
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [png(picture(0))]}), table)
    storage.pipe("/tables/a.parquet", table.getvalue())
    whole = Unsteady.get_file

    def half(self, path, copy, **kwargs):
        with open(copy, "wb") as file:
            file.write(table.getvalue()[:50])

    monkeypatch.setattr(Unsteady, "get_file", half)
    with pytest.raises(SeedHubError, match=r"in 6 tries \(50 bytes came instead of"):
        open_images("memory://tables/a.parquet")
    monkeypatch.setattr(Unsteady, "get_file", whole)
    assert len(open_images("memory://tables/a.parquet")) == 1


def test_bad_places(shards, storage, monkeypatch):
    with pytest.raises(SeedHubError, match='No file "memory:///bucket/train-7.tar": check the spelling'):
        open_images("memory://bucket/train-7.tar")
    for nothing in ("memory://bucket/x*.tar", "memory://elsewhere"):
        with pytest.raises(SeedHubError, match=f'No file matches "{nothing.replace("*", ".")}"'):
            open_images(nothing)
    with pytest.raises(SeedHubError, match='there is no protocol "memry". Did you mean "memory"'):
        open_images("memry://bucket/train-0.tar")


@pytest.mark.parametrize(
    ("protocol", "command"),
    [("s3", r'"fsspec\[s3\]"'), ("s3a", r'"fsspec\[s3\]"'), ("https", r'"fsspec\[http\]"'), ("oss", "ossfs")],
)
def test_a_missing_client_is_named_with_its_command(protocol, command, monkeypatch):
    for module in ("s3fs", "ossfs", "aiohttp"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    with pytest.raises(SeedHubError, match=f'"{protocol}://" needs a package .* pip install {command}'):
        open_images(f"{protocol}://bucket/train-0.tar")
