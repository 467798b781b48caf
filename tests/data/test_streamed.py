"""Streams: every image by its file and row, whatever is read first; blocks from any place; what is left out."""

from __future__ import annotations

import io
import pickle
import tarfile
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_hub.data import open_stream, streamed
from seed_hub.data.streamed import Lane, Place, Row, Stream
from seed_hub.errors import SeedHubError
from tests.data.encoded import png, same

SIZES = (9, 5, 7, 6)  # images of each file


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(streamed, "SHUFFLED", 16)


@pytest.fixture
def pictures(picture):
    """The encoded pictures of each file, in order."""
    numbers = iter(range(1000))
    return [[png(picture(next(numbers))) for _ in range(size)] for size in SIZES]


@pytest.fixture(params=["parquet", "tar"])
def files(request, tmp_path, pictures):
    """(what to open, the encoded pictures of each file)."""
    for number, inside in enumerate(pictures):
        place = tmp_path / f"train-{number:03}.{request.param}"
        if request.param == "parquet":
            rows = [{"bytes": data, "path": None} for data in inside]
            pq.write_table(pa.table({"text": ["t"] * len(rows), "image": rows}), place, row_group_size=4)
            continue
        with tarfile.open(place, "w") as tar:
            for row, data in enumerate(inside):
                for suffix, content in (("cls", b"1"), ("png", data)):
                    member = tarfile.TarInfo(f"{row:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return str(tmp_path / f"train-{{000..003}}.{request.param}"), pictures


def _number(file, row):
    return file * 2**32 + row


def test_a_file_is_read_on_from_any_row(files):
    source, pictures = files
    stream, _ = open_stream(source, held_out=0)
    assert (stream.files, stream.lanes) == (4, 4)
    for file, inside in enumerate(pictures):
        for row in (0, 1, 4, len(inside) - 1, len(inside)):
            read = list(stream.read(file, row))
            assert [int(image) for image in read] == [_number(file, i) for i in range(row, len(inside))]
            assert [image.encoded for image in read] == inside[row:]


def test_the_first_are_held_out_and_never_come(files, picture):
    source, _ = files
    stream, held_out = open_stream(source, held_out=11)
    assert len(held_out) == 11 and same(held_out.load(10), picture(10))
    assert held_out.name(10) == "file 1 row 1"
    assert stream.first == (1, 2)
    assert stream.lanes == 1  # of three files, two lanes would be twice as long as one
    blocks = islice(Lane(stream, 0, seed=0).blocks(0, Place()), 4)
    seen = {int(image) for _, block in blocks for image, _ in block}
    assert seen == {_number(1, i) for i in (2, 3, 4)} | {_number(2, i) for i in range(7)} | {
        _number(3, i) for i in range(6)
    }
    assert open_stream(source, held_out=11)[0].fingerprint == stream.fingerprint
    assert open_stream(source, held_out=12)[0].fingerprint != stream.fingerprint


def test_a_lane_gives_each_image_once_an_epoch_and_its_blocks_begin_anywhere(files):
    source, _ = files
    stream, _ = open_stream(source, held_out=11)
    lane = Lane(stream, 0, seed=3)
    blocks = list(islice(lane.blocks(0, Place()), 6))
    assert [len(block) for _, block in blocks] == [16] * 6
    come = [(int(image), epoch) for _, block in blocks for image, epoch in block]
    assert len(set(come)) == 96, "none twice in an epoch"
    assert [sum(epoch == e for _, epoch in come) for e in range(6)] == [16] * 6  # 16 images are an epoch, too
    orders = [[int(image) for image, _ in block] for _, block in blocks]
    assert len({tuple(order) for order in orders}) == 6, "each block is shuffled by itself"
    for number, (place, _) in enumerate(blocks):
        again = list(islice(Lane(stream, 0, seed=3).blocks(number, place), 2))
        for (where, block), (was_where, was) in zip(again, blocks[number:], strict=False):
            assert (where, block) == (was_where, was)


def test_files_come_in_another_order_in_each_epoch(files):
    stream, _ = open_stream(files[0], held_out=11)
    rows = Lane(stream, 0, seed=0)._rows(Place())
    orders = []
    for _ in range(8):
        epoch = list(islice(rows, 16))
        orders.append(tuple(dict.fromkeys(int(image) >> 32 for _, image in epoch)))
    assert all(sorted(order) == [1, 2, 3] for order in orders) and len(set(orders)) > 1


def test_an_image_travels_with_its_number():
    row = pickle.loads(pickle.dumps(Row(7, b"seven")))
    assert (row, row.encoded, type(row)) == (7, b"seven", Row)


@pytest.mark.parametrize(
    ("count", "lanes"), [(1, 1), (2, 2), (3, 1), (5, 1), (8, 8), (9, 2), (20, 4), (64, 16), (70, 16)]
)
def test_no_lane_has_a_quarter_more_files_than_another(count, lanes):
    rows = SimpleNamespace(num_shards=count)
    stream = Stream(rows, "image", "source", None, 0.01)
    lengths = [len(Lane(stream, lane, 0).files) for lane in range(stream.lanes)]
    assert sum(lengths) == count and max(lengths) <= 1.25 * min(lengths)
    assert stream.lanes == lanes


def _damaged(tmp_path, content):
    rows = [{"bytes": data, "path": None} for data in content]
    pq.write_table(pa.table({"image": rows}), tmp_path / "all.parquet")
    return str(tmp_path / "all.parquet")


def test_damaged_images_are_left_out_and_counted(tmp_path, picture):
    sound = [png(picture(i)) for i in range(40)]
    content = [*sound[:3], sound[3][:60], *sound[4:20], b"", *sound[21:]]
    stream, held_out = open_stream(_damaged(tmp_path, content), held_out=5)
    assert [held_out.name(i) for i in range(5)] == [f"file 0 row {row}" for row in (0, 1, 2, 4, 5)]
    (_, first), (_, second) = islice(Lane(stream, 0, seed=0).blocks(0, Place()), 2)
    assert sorted(int(image) for image, _ in first) == [r for r in range(6, 23) if r != 20]
    assert len(second) == 16
    assert [name for name, _ in stream.bad] == ["file 0 row 3", "file 0 row 20"]
    assert stream.bad[1][1] == "empty (0 bytes)"
    stream.save_bad(tmp_path / "bad.txt")
    assert "file 0 row 20\tempty (0 bytes)" in (tmp_path / "bad.txt").read_text()


def test_too_many_damaged_images_are_refused(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(streamed, "_LEAST", 20)
    sound = [png(picture(i)) for i in range(10)]
    source = _damaged(tmp_path, [*sound, *[b"junk"] * 3, *sound])
    with pytest.raises(SeedHubError, match=r"3 of the first 20 images .*file 0 row 10 .*raise --allow-bad"):
        open_stream(source, held_out=20, allow_bad=0.1)
    assert len(open_stream(source, held_out=17, allow_bad=0.2)[1]) == 17
    with pytest.raises(SeedHubError, match="20 of the first 20 images .* none of them is left"):
        open_stream(_damaged(tmp_path, [b"junk"] * 30), held_out=20, allow_bad=1.0)


def test_what_cannot_be_streamed_is_refused_in_a_sentence(files, folder, tmp_path, monkeypatch):
    source, _ = files
    with pytest.raises(SeedHubError, match="ends after 27 usable images and --held-out is 2,000"):
        open_stream(source, held_out=2000)
    with pytest.raises(SeedHubError, match="can be read in any order.*leave out --stream"):
        open_stream(folder({"a.png": None}), held_out=1)
    with pytest.raises(SeedHubError, match='has no split "test"'):
        open_stream(source, held_out=1, split="test")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(SeedHubError, match="has no column of images"):
        open_stream(tmp_path / "text.parquet", held_out=1)
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(SeedHubError, match="could not be opened to be read in order"):
        open_stream(tmp_path / "junk.parquet", held_out=1)


def test_a_file_that_breaks_off_stops_the_reading(files, tmp_path):
    source, _ = files
    stream, _ = open_stream(source, held_out=2)
    for place in tmp_path.glob("train-003.*"):
        place.write_bytes(place.read_bytes()[:300])
    with pytest.raises(SeedHubError, match=r"cannot be read on from row 0 of file 4 of 4 .*--resume"):
        list(stream.read(3, 0))


def test_a_hub_data_set_is_asked_for_as_a_stream(monkeypatch, picture):
    import datasets

    features = datasets.Features({"picture": datasets.Image(), "text": datasets.Value("string")})
    content = {"picture": [picture(i) for i in range(12)], "text": ["t"] * 12}
    rows = datasets.Dataset.from_dict(content, features=features).to_iterable_dataset(num_shards=3)
    asked = []

    def load(**what):
        asked.append(what)
        return {"train": rows, "test": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    stream, held_out = open_stream("org/name:config", held_out=3)
    assert asked == [{"path": "org/name", "name": "config", "streaming": True}]
    assert stream.split == "train" and stream.files == 3
    assert same(held_out.load(2), picture(2))
    (row,) = stream.read(2, 3)
    with stream.open(row) as image:
        assert np.array_equal(image.pixels()[0], np.asarray(picture(11)))
