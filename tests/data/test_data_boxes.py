"""Boxes of images: where they are read from, how classes are numbered, and what is refused."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seed_hub.data import open_images
from seed_hub.data.boxes import boxes_of, paired_boxes
from seed_hub.data.hub import HubStore
from seed_hub.data.images import Images
from seed_hub.errors import SeedHubError


@pytest.fixture
def table(tmp_path, picture):
    """table([{"bbox": ..., "category": ...}, ...]): the images of a parquet file, 24 x 16 px each."""

    def make(objects: list, names: list[str] | None = None, name: str = "boxes", column: str = "objects"):
        encoded = []
        for number in range(len(objects)):
            stream = io.BytesIO()
            picture(number).save(stream, "PNG")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        made = pa.table({"image": encoded, column: objects})
        if names:
            label = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
            features = {"image": {"_type": "Image"}, column: {"category": label}}
            made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        file = tmp_path / f"{name}.parquet"
        pq.write_table(made, file, row_group_size=2)
        return open_images(file, check=False)

    return make


THREE = [
    {"bbox": [[2.0, 3.0, 10.0, 5.0], [0.0, 0.0, 24.0, 16.0]], "category": [2, 0]},
    {"bbox": [], "category": []},
    {"bbox": [[1.5, 1.5, 2.25, 2.25]], "category": [2]},
]


def test_boxes_of_a_table(table):
    first, background, last = boxes_of(table(THREE, ["cell", "dust", "worm"]))
    assert first.names == ("cell", "dust", "worm")
    assert first.xyxy.dtype == np.float32 and first.labels.dtype == np.int64
    assert first.xyxy.tolist() == [[2, 3, 12, 8], [0, 0, 24, 16]]
    assert first.labels.tolist() == [3, 1]
    assert first.area.tolist() == [50, 384]
    assert not first.crowd.any()
    assert (len(background), background.xyxy.shape, background.labels.shape) == (0, (0, 4), (0,))
    assert last.xyxy.tolist() == [[1.5, 1.5, 3.75, 3.75]]


def test_boxes_follow_the_images(table):
    images = table(THREE)
    whole, some = boxes_of(images), boxes_of(images.subset([2, 0]))
    assert [b.xyxy.tolist() for b in some] == [whole[2].xyxy.tolist(), whole[0].xyxy.tolist()]


def test_categories_without_names_are_numbered_without_gaps(table):
    train = table([{"bbox": [[0.0, 0, 4, 4]] * 2, "category": [90, 7]}], name="train")
    test = table([{"bbox": [[0.0, 0, 4, 4]] * 2, "category": [90, 13]}], name="test")
    assert boxes_of(train)[0].labels.tolist() == [2, 1]
    a, b = paired_boxes(train, test)  # one list for both
    assert a[0].names == b[0].names == ("7", "13", "90")
    assert (a[0].labels.tolist(), b[0].labels.tolist()) == ([3, 1], [3, 2])


def test_splits_that_declare_other_classes_are_refused(table):
    splits = table(THREE, ["a", "b", "c"], name="train"), table(THREE, ["c", "b", "a"], name="test")
    with pytest.raises(SeedHubError, match="declare different categories"):
        paired_boxes(*splits)


def test_corners_and_objects_row_by_row(table):
    row = [{"bbox": [2.0, 3.0, 12.0, 8.0], "label": 4}, {"bbox": [0.0, 0.0, 1.0, 1.0], "label": 5}]
    found = boxes_of(table([row, []]), box_format="xyxy")
    assert found[0].xyxy.tolist() == [[2, 3, 12, 8], [0, 0, 1, 1]]
    assert found[0].labels.tolist() == [1, 2]
    assert len(found[1]) == 0
    with pytest.raises(SeedHubError, match='no box format "cxcywh"'):
        boxes_of(table([row]), box_format="cxcywh")


def test_what_reaches_beyond_is_clipped_and_what_is_empty_left_out(table, caplog):
    nan = float("nan")
    objects = {
        "bbox": [[20.0, 10, 8, 8], [1.0, 1, 4, 4], [-3.0, 0, 5, 4], [3.0, 3, 0, 5], [nan, 0, 4, 4], [30.0, 0, 4, 4],
                 [5.0, 5, -2, 3], [0.0, 0, 24.005, 16]],
        "category": [0, 1, 0, 0, 0, 0, 0, 1],
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        (found,) = boxes_of(table([objects]))
    assert found.xyxy.tolist() == [[20, 10, 24, 16], [1, 1, 5, 5], [0, 0, 2, 4], [0, 0, 24, 16]]
    assert found.labels.tolist() == [1, 2, 1, 2]
    assert found.clipped == 2  # 0.005 px are rounding
    assert len(found.dropped) == 4
    assert found.dropped[0] == "boxes.parquet row 0, box 3: [3.0, 3.0, 0.0, 5.0]"
    assert "2 of 8 boxes" in caplog.text and "4 of 8 boxes" in caplog.text
    assert "are they xyxy?" in caplog.text


def test_well_made_boxes_are_silent(table, caplog):
    with caplog.at_level(logging.WARNING):
        boxes_of(table(THREE))
    assert not caplog.text


@pytest.mark.parametrize(
    ("objects", "sentence"),
    [
        ({"bbox": [[0.0, 0, 1, 1]], "category": [0, 1]}, "row 0 of .* 1 boxes, 2 categories"),
        ({"bbox": [[0.0, 0, 1]], "category": [0]}, "not 4 numbers"),
        ({"bbox": [[0.0, 0, 1, 1]], "category": [None]}, "without a category"),
        ({"bbox": [[0.0, 0, 1, 1]], "category": [7]}, "category 7, which is not among"),
        ({"bbox": [[0.0, 0, 1, 1]], "category": [0], "area": [1.0, 2.0]}, "1 boxes, 1 categories, 2 areas"),
    ],
)
def test_broken_annotations_are_refused(table, objects, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        boxes_of(table([objects], ["a", "b"]))


def test_no_boxes_at_all_are_refused(table):
    with pytest.raises(SeedHubError, match='no column "objects".*"image", "things"'):
        boxes_of(table(THREE, column="things"))
    with pytest.raises(SeedHubError, match="no box on any of its images"):
        boxes_of(table([{"bbox": pa.scalar([], pa.list_(pa.list_(pa.float32()))).as_py(), "category": []}]))


def test_a_data_set_of_the_datasets_library(picture):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=4)),
                "category": datasets.Sequence(datasets.ClassLabel(names=["cell", "dust", "worm"])),
            },
        }
    )
    rows = datasets.Dataset.from_dict(
        {"image": [picture(i) for i in range(3)], "objects": THREE}, features=features
    )
    store = HubStore(rows, "here", None, None)
    store.rows = rows
    found = boxes_of(Images(store, "here").subset([0, 1]))
    assert found[0].names == ("cell", "dust", "worm")
    assert found[0].labels.tolist() == [3, 1]
    assert len(found[1]) == 0


COCO = {
    "categories": [{"id": 17, "name": "cat"}, {"id": 3, "name": "car"}],
    "images": [
        {"id": 50, "file_name": "b.png", "width": 24, "height": 16},
        {"id": 9, "file_name": "a.png"},
        {"id": 1, "file_name": "c.png"},
    ],
    "annotations": [
        {"image_id": 50, "category_id": 17, "bbox": [1, 2, 3, 4], "area": 7.5, "iscrowd": 1},
        {"image_id": 50, "category_id": 3, "bbox": [0, 0, 5, 5]},
        {"image_id": 9, "category_id": 3, "bbox": [0, 0, 24, 16]},
        {"image_id": 777, "category_id": 3, "bbox": [0, 0, 24, 16]},
    ],
}


def coco(root: Path, content: object = COCO, beside: bool = False) -> Images:
    place = root.parent if beside else root
    (place / "annotations.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return open_images(root, check=False)


@pytest.fixture
def three(folder):
    return folder({"a.png": None, "b.png": None, "c.png": None})


@pytest.mark.parametrize("beside", [False, True])
def test_a_coco_file(three, beside):
    a, b, c = boxes_of(coco(three, beside=beside))
    assert a.names == ("car", "cat")  # in the order of their ids
    assert a.xyxy.tolist() == [[0, 0, 24, 16]]
    assert b.xyxy.tolist() == [[1, 2, 4, 6], [0, 0, 5, 5]]
    assert b.labels.tolist() == [2, 1]
    assert b.area.tolist() == [7.5, 25.0]
    assert b.crowd.tolist() == [True, False]
    assert len(c) == 0


def test_a_coco_file_beside_that_names_the_folder(three):
    images = [{**image, "file_name": f"{three.name}/{image['file_name']}"} for image in COCO["images"]]
    assert [len(boxes) for boxes in boxes_of(coco(three, {**COCO, "images": images}, beside=True))] == [
        1,
        2,
        0,
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": COCO["images"][:2]}, r"1 of the 3 images .* are not listed .*first: c\.png"),
        ({"images": [*COCO["images"], COCO["images"][0]]}, "lists an image twice"),
        (
            {"images": [{**COCO["images"][0], "width": 48}, *COCO["images"][1:]]},
            "24 x 16 px .* drawn on 48 x 16",
        ),
        ({"categories": COCO["categories"][:1]}, "category 3, which is not among"),
        ({"annotations": None}, "not a COCO file"),
    ],
)
def test_a_coco_file_that_does_not_fit_is_refused(three, change, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        boxes_of(coco(three, {**COCO, **change}))


def test_no_coco_file_or_a_damaged_one_is_refused(three):
    with pytest.raises(SeedHubError, match=r'put a COCO file "annotations\.json" into'):
        boxes_of(open_images(three, check=False))
    with pytest.raises(SeedHubError, match="not a COCO file"):
        boxes_of(coco(three, '{"images": ['))


def test_boxes_belong_to_the_upright_image(tmp_path, picture):
    exif = Image.Exif()
    exif[274] = 6  # stored 24 x 16, shown 16 x 24
    root = tmp_path / "turned"
    root.mkdir()
    picture().save(root / "a.jpg", exif=exif)
    entry = {"id": 1, "file_name": "a.jpg", "width": 16, "height": 24}
    boxes = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 16, 24]}]
    (found,) = boxes_of(coco(root, {**COCO, "images": [entry], "annotations": boxes}))
    assert found.xyxy.tolist() == [[0, 0, 16, 24]] and found.clipped == 0


def test_blood_cells(shared_data):
    folder = shared_data / "bccd"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    train, test = (open_images(folder, split=split, check=False) for split in ("train", "test"))
    train_boxes, test_boxes = paired_boxes(train, test)
    assert (len(train_boxes), len(test_boxes)) == (len(train), len(test))
    assert train_boxes[0].names == ("Platelets", "RBC", "WBC")
    assert {int(label) for boxes in train_boxes for label in boxes.labels} == {1, 2, 3}
    assert all((boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all() for boxes in train_boxes + test_boxes)
