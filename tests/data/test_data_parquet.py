"""Parquet files: which rows, which columns, the bytes by either way of holding them."""

import multiprocessing
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seed_hub.data import list_splits, open_images, parquet
from seed_hub.errors import SeedHubError
from tests.data.encoded import png, same


@pytest.fixture
def table(tmp_path, picture):
    """table(name, rows, **more columns): a parquet file with picture number ``start + row`` in each row."""

    def make(name, rows=6, start=0, image=None, metadata=None, **columns):
        if image is None:
            image = [{"bytes": png(picture(start + row)), "path": None} for row in range(rows)]
        columns = {"image": pa.array(image, _IMAGE) if isinstance(image, list) else image, **columns}
        made = pa.table(columns)
        if metadata:
            made = made.replace_schema_metadata({"huggingface": metadata})
        file = tmp_path / "tables" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(made, file, row_group_size=4, compression="none")  # bytes can be found and damaged
        return file

    return make


_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = (
    '{"info": {"features": {"image": {"_type": "Image"}, '
    '"kind": {"_type": "ClassLabel", "names": ["x", "y"]}}}}'
)


def test_rows_of_several_files_in_order(table, picture):
    table("train-00000-of-00002.parquet", 6, label=[0, 1, 2, 3, 4, 5])
    table("train-00001-of-00002.parquet", 5, start=6, label=[6, 7, 8, 9, 10])
    table("validation.parquet", 2, start=20, label=[0, 1])
    root = str(table("validation.parquet", 2, start=20, label=[0, 1]).parent)
    assert list_splits(root) == ["train", "validation"]
    images = open_images(root)
    assert (images.split, len(images), images.labels.tolist()) == ("train", 11, list(range(11)))
    assert images.classes is None
    assert images.labels.dtype == np.int64
    for i in (0, 5, 6, 10):
        assert same(images.load(i), picture(i))
    assert images.name(7) == "train-00001-of-00002.parquet row 1"
    assert open_images(root, split="val").split == "validation"
    with pytest.raises(SeedHubError, match='no split "test": it has "train", "validation"'):
        open_images(root, split="test")


def test_one_file_a_list_and_a_glob_are_taken_whole(table):
    one, two = table("train.parquet", 3), table("test.parquet", 4)
    assert len(open_images(str(one))) == len(open_images(one)) == 3
    both = open_images([str(one), str(two)])
    assert len(both) == 7
    assert both.split is None
    assert len(open_images(str(one.parent / "t*.parquet"))) == 7
    assert len(open_images(str(one.parent / "t*.parquet"), split="test")) == 4
    with pytest.raises(SeedHubError, match='no split "test": it has "train"'):
        open_images(str(one), split="test")
    with pytest.raises(SeedHubError, match="leave out --split"):
        open_images(str(table("things.parquet")), split="test")


@pytest.mark.parametrize("inside", ["data/train-0.parquet", "train/0000.parquet", "valid/x.parquet"])
def test_files_one_level_down(table, inside):
    file = table(inside)
    split = "valid" if "valid" in inside else "train"
    assert open_images(str(file.parents[1])).split == split


def test_files_without_split_names_belong_together(table):
    table("shard_0.parquet", 2)
    root = table("shard_1.parquet", 3).parent
    assert len(open_images(str(root))) == 5
    assert list_splits(str(root)) == []
    assert len(open_images(str(root), split="shard_1")) == 3


def test_class_names_and_columns_by_the_notes(table):
    file = table("a.parquet", 3, metadata=CLASSES, kind=[1, 0, 1], label=[7, 8, 9])
    images = open_images(str(file))
    assert (images.classes, images.labels.tolist()) == (["x", "y"], [1, 0, 1])
    assert open_images(str(file), label_column="label").labels.tolist() == [7, 8, 9]


def test_columns_by_type(table, picture):
    raw = pa.array([png(picture(row)) for row in range(4)], pa.large_binary())
    file = table("a.parquet", image=raw, fine_label=pa.array([3, 2, 1, 0], pa.int8()), score=[0.1] * 4)
    images = open_images(str(file), image_column="image")
    assert images.labels.tolist() == [3, 2, 1, 0]
    assert same(images.load(2), picture(2))
    assert same(open_images(str(file)).load(2), picture(2))


@pytest.mark.parametrize("labels", [[0, None, 1], [0, -1, 1], [-1, -1, -1]])
def test_missing_labels_are_no_labels(table, labels):
    images = open_images(str(table("a.parquet", 3, label=labels)))
    assert images.labels is None
    assert images.classes is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_column": "imag"},
            'no column "imag": its columns are "image", "label". Did you mean "image"',
        ),
        ({"image_column": "label"}, "not encoded images"),
        ({"label_column": "kind"}, 'no column "kind"'),
        ({"label_column": "image"}, "not integer labels"),
    ],
)
def test_wrong_columns(table, options, message):
    with pytest.raises(SeedHubError, match=message):
        open_images(str(table("a.parquet", 2, label=[0, 1])), **options)


def test_a_table_without_images(table):
    with pytest.raises(SeedHubError, match='no column of images .* among its columns "image", "text"'):
        open_images(str(table("a.parquet", image=pa.array([1, 2]), text=["a", "b"])))


def test_bad_rows(table, picture):
    rows = [{"bytes": png(picture(row)), "path": None} for row in range(6)]
    rows[1], rows[3], rows[4] = None, {"bytes": None, "path": None}, {"bytes": b"junk", "path": "x.png"}
    images = open_images(str(table("a.parquet", image=rows, label=list(range(6)))), allow_bad=0.5)
    assert [name for name, _ in images.bad] == [f"a.parquet row {row}" for row in (1, 3, 4)]
    assert images.labels.tolist() == [0, 2, 5]
    assert same(images.load(2), picture(5))


def test_rows_that_hold_paths(table, picture):
    file = table("a.parquet", image=[{"bytes": None, "path": f"{row}.png"} for row in range(3)])
    for row in range(3):
        picture(row).save(file.parent / f"{row}.png")
    images = open_images(str(file))
    assert images.bad == []
    assert same(images.load(2), picture(2))


def test_damaged_and_empty_files(table, tmp_path):
    good = table("a.parquet")
    (tmp_path / "text.parquet").write_text("no parquet at all")
    (tmp_path / "cut.parquet").write_bytes(good.read_bytes()[:-20])
    (tmp_path / "zero.parquet").write_bytes(b"")
    for name in ("text", "cut", "zero"):
        with pytest.raises(SeedHubError, match="not a readable parquet file"):
            open_images(str(tmp_path / f"{name}.parquet"))
    with pytest.raises(SeedHubError, match="holds no rows"):
        open_images(str(table("none.parquet", 0)))
    with pytest.raises(SeedHubError, match="is not a parquet file"):
        open_images([str(good), __file__])
    with pytest.raises(SeedHubError, match="list of parquet files is empty"):
        open_images([])


def test_files_that_name_other_classes(table):
    one = table("a.parquet", 2, metadata=CLASSES, kind=[0, 1])
    two = table("b.parquet", 2, metadata=CLASSES.replace('"y"', '"z"'), kind=[0, 1])
    with pytest.raises(SeedHubError, match="different classes"):
        open_images([str(one), str(two)])


def test_the_fingerprint_survives_a_copy_and_the_check_does_not_survive_a_change(table, tmp_path):
    file = table("a.parquet")
    first = open_images(str(file))
    copy = tmp_path / "elsewhere" / "a.parquet"
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert open_images(str(copy)).fingerprint == first.fingerprint
    data = file.read_bytes()
    place = data.index(b"IHDR")
    file.write_bytes(data[:place] + b"XXXX" + data[place + 4 :])  # same size, same footer
    assert len(open_images(str(file), allow_bad=0.5).bad) == 1


def _loaded(images, i):
    return np.asarray(images.load(i))


def test_memory_mapped_rows_are_the_same_rows(table, picture, monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    files = [str(table("a.parquet", label=[0] * 6)), str(table("b.parquet", start=6, label=[1] * 6))]
    held = open_images(files)
    monkeypatch.setattr(parquet, "IN_MEMORY_LIMIT", 10)
    mapped = open_images(files)
    assert type(mapped.store._rows) is not type(held.store._rows)
    assert mapped.fingerprint == held.fingerprint
    assert mapped.labels.tolist() == held.labels.tolist()
    for i in (0, 5, 6, 11):
        assert same(mapped.load(i), held.load(i))
        assert same(held.load(i), picture(i))
    assert same(pickle.loads(pickle.dumps(mapped)).load(7), picture(7))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_rows(table, picture, start):
    images = open_images(str(table("a.parquet"))).subset([5, 1])
    assert b"IHDR" not in pickle.dumps(images)  # the list of files travels, not the images
    with multiprocessing.get_context(start).Pool(1) as pool:
        assert same(pool.apply(_loaded, (images, 0)), picture(5))


def test_real_data_sets_open(shared_data):
    images = open_images(str(shared_data / "dtd10"), split="test")
    assert len(images) == 600
    assert len(images.classes) == 10
    assert images.bad == []
    assert min(images.load(17).size) == 128
    assert open_images(str(shared_data / "bccd")).labels is None


def test_a_large_real_data_set_is_cheap_to_open_without_check(shared_data):
    images = open_images(str(shared_data / "tiny-imagenet-200"), check=False)
    assert len(images) == 100_000
    assert images.split == "train"
    assert np.bincount(images.labels).tolist() == [500] * 200
    assert images.load(99_999).size == images.load(0).size == (64, 64)
