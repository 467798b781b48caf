"""Masks of images: where they are read from, how classes are numbered, and what is refused."""

from __future__ import annotations

import io
import logging
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seed_hub.data import open_images
from seed_hub.data.hub import HubStore
from seed_hub.data.images import Images
from seed_hub.data.masks import IGNORED, paired_masks
from seed_hub.errors import SeedHubError

WIDTH, HEIGHT = 24, 16


def ids(*shown: int) -> np.ndarray:
    """A mask ``[16, 24]`` of upright stripes, one for each id."""
    return np.repeat(np.array(shown, dtype=np.uint8), WIDTH // len(shown))[None].repeat(HEIGHT, 0)


def encoded(mask: np.ndarray | Image.Image, form: str = "PNG", **how) -> bytes:
    stream = io.BytesIO()
    (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(stream, form, **how)
    return stream.getvalue()


def palette(mask: np.ndarray) -> Image.Image:
    """Indices whose colours say nothing of them."""
    image = Image.fromarray(mask)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image


@pytest.fixture
def table(tmp_path, picture):
    """table(masks, name, column): a parquet file of pictures, 24 x 16 px, and encoded masks (or arrays)."""

    def make(masks: list, name: str = "train", column: str = "mask") -> Images:
        cells = [
            None
            if mask is None
            else {"bytes": mask if isinstance(mask, bytes) else encoded(mask), "path": None}
            for mask in masks
        ]
        pictures = [{"bytes": encoded(picture(k, WIDTH, HEIGHT)), "path": None} for k in range(len(masks))]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        made = pa.table({column: pa.array(cells, kind), "image": pa.array(pictures, kind)})
        file = tmp_path / f"{name}.parquet"
        pq.write_table(made, file, row_group_size=2)
        return open_images(file, check=False)

    return make


@pytest.fixture
def folders(tmp_path, picture):
    """folders(masks by stem, split): ``D/images/SPLIT/STEM.jpg`` and ``D/masks/SPLIT/STEM.png``; a None is not written."""

    def make(masks: dict, split: str = "train", called: str = "masks", ending: str = "png") -> Images:
        for number, (stem, mask) in enumerate(masks.items()):
            image, file = (
                tmp_path / f"images/{split}/{stem}.jpg",
                tmp_path / f"{called}/{split}/{stem}.{ending}",
            )
            for path in (image, file):
                path.parent.mkdir(parents=True, exist_ok=True)
            picture(number, WIDTH, HEIGHT).save(image)
            if mask is not None:
                file.write_bytes(mask if isinstance(mask, bytes) else encoded(mask))
        return open_images(tmp_path / "images", split=split, check=False)

    return make


@pytest.mark.parametrize("column", ["mask", "annotation", "label_mask"])
def test_masks_of_a_table(table, column):
    train = table([ids(0, 7), ids(7, 255), ids(3, 3)], column=column)
    test = table([ids(0, 9)], "test", column=column)
    first, second = paired_masks(train, test)
    assert first.names == second.names == ("0", "3", "7", "9")  # of both splits, without gaps
    assert first.load(0).dtype == np.uint8 and first.load(0).shape == (HEIGHT, WIDTH)
    assert np.array_equal(first.load(0), ids(0, 2))
    assert np.array_equal(first.load(1), ids(2, IGNORED))
    assert np.array_equal(second.load(0), ids(0, 3))
    assert first.shown.tolist() == [[1, 0, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert len(first) == 3


def test_a_column_of_another_name_is_named(table):
    train, test = table([ids(0, 1)], column="ground"), table([ids(0, 1)], "test", column="ground")
    with pytest.raises(SeedHubError, match='no column mask or annotation or label_mask .*"ground", "image"'):
        paired_masks(train, test)
    with pytest.raises(SeedHubError, match='no column "grond".*Did you mean "ground"'):
        paired_masks(train, test, column="grond")
    assert np.array_equal(paired_masks(train, test, column="ground")[0].load(0), ids(0, 1))


def test_masks_follow_the_images_and_survive_pickling(table):
    train, test = table([ids(0, 1), ids(1, 2), ids(2, 0)]), table([ids(0, 1)], "test")
    some, _ = paired_masks(train.subset([2, 0]), test)
    for masks in (some, pickle.loads(pickle.dumps(some))):
        assert np.array_equal(masks.load(0), ids(2, 0))
        assert np.array_equal(masks.load(1), ids(0, 1))


@pytest.mark.parametrize(
    "mask",
    [
        encoded(ids(0, 1, 2, 3)),
        encoded(palette(ids(0, 1, 2, 3))),
        encoded(ids(0, 1, 2, 3), bits=2),  # Pillow alone reads 0, 85, 170, 255
        encoded(ids(0, 1, 2, 3), bits=4),
        encoded(palette(ids(0, 1, 2, 3)), bits=2),
        encoded(ids(0, 1, 2, 3), "BMP"),
    ],
    ids=["grey", "palette", "grey of 2 bits", "grey of 4 bits", "palette of 2 bits", "bmp"],
)
def test_ids_are_what_is_written(table, mask):
    first, _ = paired_masks(table([mask]), table([ids(0, 1)], "test"))
    assert first.names == ("0", "1", "2", "3")
    assert np.array_equal(first.load(0), ids(0, 1, 2, 3))


def test_one_bit_and_nothing_ignored(table):
    bit = encoded(Image.fromarray(ids(0, 255)).convert("1"))
    first, _ = paired_masks(table([bit]), table([ids(0, 1)], "test"))
    assert np.array_equal(first.load(0), ids(0, 1))
    whole = encoded(ids(0, 255))  # how binary masks are drawn
    train, test = table([whole]), table([whole], "test")
    with pytest.raises(SeedHubError, match=r"show 1 class\(es\) besides the ignored ids 255, .*-1: nothing"):
        paired_masks(train, test)
    assert np.array_equal(paired_masks(train, test, ignore=(-1,))[0].load(0), ids(0, 1))


@pytest.mark.parametrize("called", ["masks", "annotations"])
def test_masks_beside_images_splits_below(folders, called):
    train = folders({"b": ids(1, 2), "a": ids(2, 5), "deep/c": ids(5, 5)}, called=called)
    test = folders({"a": ids(5, 1)}, "validation", called=called)
    first, second = paired_masks(train, test)
    assert first.names == ("1", "2", "5")
    assert [train.name(i) for i in range(3)] == ["a.jpg", "b.jpg", "deep/c.jpg"]
    for i, labels in enumerate([ids(1, 2), ids(0, 1), ids(2, 2)]):
        assert np.array_equal(first.load(i), labels)
    assert np.array_equal(second.load(0), ids(2, 0))


def test_masks_beside_images_splits_above(tmp_path, picture):
    for split in ("train", "test"):
        for called in ("images", "masks"):
            (tmp_path / split / called).mkdir(parents=True)
        picture(0, WIDTH, HEIGHT).save(tmp_path / split / "images" / "a.png")
        Image.fromarray(ids(0, 1)).save(tmp_path / split / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("ground\nsky\n")
    train, test = (open_images(tmp_path / split / "images", check=False) for split in ("train", "test"))
    first, second = paired_masks(train, test)
    assert first.names == ("ground", "sky")
    assert np.array_equal(first.load(0), second.load(0))


def test_named_classes_keep_their_ids(folders, tmp_path):
    train, test = folders({"a": ids(0, 2)}), folders({"a": ids(2, 0)}, "test")
    (tmp_path / "classes.txt").write_text("ground\nsky \nwater\n\n")
    first, _ = paired_masks(train, test)
    assert first.names == ("ground", "sky", "water")
    assert np.array_equal(first.load(0), ids(0, 2))
    assert first.shown.tolist() == [[True, False, True]]
    (tmp_path / "classes.txt").write_text("ground\nsky\n")
    with pytest.raises(
        SeedHubError, match=r"a\.jpg .* shows id 2, and classes.txt names the 2 ids from 0 to 1: .*--ignore 2"
    ):
        paired_masks(train, test)


def test_an_ignored_id_with_a_name(table, tmp_path):
    train, test = table([ids(0, 1, 2)]), table([ids(2, 1, 0)], "test")
    (tmp_path / "classes.txt").write_text("other\nsky\nwater\n")  # beside the tables
    first, _ = paired_masks(train, test, ignore=(0, 255))
    assert first.names == ("other", "sky", "water")
    assert np.array_equal(first.load(0), ids(IGNORED, 1, 2))
    assert first.shown.tolist() == [[False, True, True]]


def test_splits_that_name_other_classes_are_refused(tmp_path, folders, picture):
    train = folders({"a": ids(0, 1)})
    other = tmp_path / "other"
    for called in ("images", "masks"):
        (other / called).mkdir(parents=True)
    picture(0, WIDTH, HEIGHT).save(other / "images" / "a.png")
    Image.fromarray(ids(0, 1)).save(other / "masks" / "a.png")
    (other / "classes.txt").write_text("a\nb\n")
    with pytest.raises(SeedHubError, match=r"name different classes in classes.txt"):
        paired_masks(train, open_images(other / "images", check=False))


def test_entirely_ignored_masks_are_counted(table, caplog):
    train, test = table([ids(0, 1), ids(255, 255)]), table([ids(0, 3)], "test")
    with caplog.at_level(logging.WARNING):
        first, _ = paired_masks(train, test)
    assert "1 of the 2 masks" in caplog.text and "ignored entirely" in caplog.text
    assert 'no training pixel ("3")' in caplog.text
    assert (first.load(1) == IGNORED).all()


def test_well_made_masks_are_silent(table, caplog):
    with caplog.at_level(logging.WARNING):
        paired_masks(table([ids(0, 1)]), table([ids(1, 0)], "test"))
    assert not caplog.text


GREY = Image.fromarray(ids(0, 1))


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (None, r"train.parquet row 1 of .* has no mask"),
        (encoded(ids(0, 1)[:, :-1]), r"row 1 of .* is 24 x 16 px \(upright\), and its mask 23 x 16 px"),
        (encoded(GREY.convert("RGB")), r"colours, or of more than 8 bits \(RGB\): give the ids"),
        (encoded(ids(0, 1).astype(np.uint16)), r"more than 8 bits \(I;16\)"),
        (encoded(GREY, "JPEG"), r"is a JPEG, which blurs ids"),
        (b"no picture at all", r'Mask "train.parquet row 1" of .* cannot be read'),
        (encoded(ids(0, 1))[:45], r"cannot be read"),
    ],
    ids=["none", "size", "rgb", "16 bits", "jpeg", "no picture", "cut off"],
)
def test_broken_masks_are_refused(table, mask, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        paired_masks(table([ids(0, 1), mask]), table([ids(0, 1)], "test"))


def test_missing_masks_are_refused(folders, tmp_path):
    test = folders({"a": ids(0, 1)}, "test")
    train = folders({"a": ids(0, 1), "b": None, "c": None})
    with pytest.raises(SeedHubError, match=r"2 of the 3 images of .* have no mask \(first: b.png in .*masks"):
        paired_masks(train, test)
    for stem in "bc":
        (tmp_path / f"masks/train/{stem}.png").write_bytes(encoded(ids(0, 1)))
    paired_masks(train, test)
    (tmp_path / "masks/train/a.bmp").write_bytes(encoded(ids(0, 1), "BMP"))
    with pytest.raises(SeedHubError, match="holds two masks called a:"):
        paired_masks(train, test)
    with pytest.raises(SeedHubError, match="leave --mask-column out"):
        paired_masks(train, test, column="mask")


def test_folders_without_masks_are_refused(folder):
    for name in ("photos", "images"):
        images = open_images(folder({"a.png": None}, name), check=False)
        with pytest.raises(
            SeedHubError, match='has no masks: put them into a folder "masks" or "annotations" beside'
        ):
            paired_masks(images, images)


def test_a_mask_of_the_file_as_stored_does_not_fit_the_upright_image(folders, tmp_path, picture):
    test = folders({"a": ids(0, 1)}, "test")
    train = folders({"a": ids(0, 1)})
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    picture(0, WIDTH, HEIGHT).save(tmp_path / "images/train/a.jpg", exif=exif)
    with pytest.raises(SeedHubError, match=r"16 x 24 px \(upright\), and its mask 24 x 16 px"):
        paired_masks(train, test)


def test_more_classes_than_a_label_can_tell(table):
    every = np.arange(256, dtype=np.uint8).repeat(2)[: WIDTH * HEIGHT]
    halves = [np.resize(part, (HEIGHT, WIDTH)) for part in (every, np.arange(192, 256, dtype=np.uint8))]
    train, test = table(halves), table([ids(0, 1)], "test")
    with pytest.raises(SeedHubError, match="has 256 classes"):
        paired_masks(train, test, ignore=(-1,))
    assert len(paired_masks(train, test)[0].names) == 255


def test_a_data_set_of_the_datasets_library(picture):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})

    def made(masks: list[np.ndarray]) -> Images:
        pictures = [picture(k, WIDTH, HEIGHT) for k in range(len(masks))]
        columns = {"image": pictures, "annotation": [Image.fromarray(mask) for mask in masks]}
        return Images(
            HubStore(datasets.Dataset.from_dict(columns, features=features), "made", None, None), "made"
        )

    train, test = made([ids(0, 1), ids(4, 1)]), made([ids(0, 4)])
    first, second = paired_masks(train.subset([1, 0]), test)
    assert first.names == ("0", "1", "4")
    assert np.array_equal(first.load(0), ids(2, 1))
    assert np.array_equal(second.load(0), ids(0, 2))
