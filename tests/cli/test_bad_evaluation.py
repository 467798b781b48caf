"""Bad input of an evaluation, end to end: one clear sentence, or a skip that is counted and said; nothing lost."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HOW = ["--workers", "0", "--device", "cpu"]
SMALL = ["--size", "32", *HOW]
QUICK = [
    *("--iterations", "1", "--train-batch", "2", "--size", "64", "--train-sizes", "64", "--rois", "8"),
    *("--norm", "frozen", *HOW),
]
NAN = float("nan")


@pytest.fixture
def evaluated(hub: Any, teacher_run: Path, tmp_path: Path) -> Callable[..., Any]:
    """``evaluated("knn", "--data", D)``: the answer, and its line in the results file if it succeeded."""

    def call(protocol: str, *words: object, model: object = teacher_run) -> Any:
        out = tmp_path / "results.jsonl"
        answer = hub("eval", protocol, "--model", model, "--out", out, *words)
        assert "Traceback" not in answer.err
        assert out.exists() == (answer.status == 0)
        return answer

    return call


@pytest.fixture
def refused(evaluated: Any) -> Callable[..., str]:
    """The one sentence on stderr with which an evaluation refuses to start."""

    def call(*words: object, **how: object) -> str:
        answer = evaluated(*words, **how)
        assert answer.status == 2, answer.err
        assert answer.out == ""
        assert answer.err.count("\n") == 1, answer.err
        return str(answer.sentence)

    return call


@pytest.fixture
def rows(draw: Any, tmp_path: Path) -> Callable[..., Path]:
    """``rows(train, test, column)``: a folder of two parquet files of pictures with these cells in a column."""

    def make(train: list[Any], test: list[Any], column: str = "label") -> Path:
        folder = tmp_path / f"rows_{column}"
        folder.mkdir(exist_ok=True)
        for name, cells, first in (("train", train, 0), ("test", test, 500)):
            encoded = []
            for number in range(len(cells)):
                stream = io.BytesIO()
                draw(first + number, number % 3).save(stream, "PNG")
                encoded.append({"bytes": stream.getvalue(), "path": None})
            pq.write_table(pa.table({"image": encoded, column: cells}), folder / f"{name}.parquet")
        return folder

    return make


# Boxes.


def boxed(*boxes: list[float], category: int = 0) -> dict[str, Any]:
    return {"bbox": list(boxes), "category": [category] * len(boxes)}


GOOD = [2.0, 3.0, 20.0, 15.0]


@pytest.fixture
def detection(evaluated: Any) -> Callable[..., Any]:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")
    return lambda data, **how: evaluated("detection", "--data", data, *QUICK, **how)


def test_boxes_that_do_not_fit_are_clipped_or_left_out_counted_and_listed(detection: Any, rows: Any) -> None:
    odd = boxed(
        [30.0, 20.0, 20.0, 20.0],
        [50.0, 1.0, 5.0, 5.0],
        [1.0, 1.0, 0.0, 9.0],
        [NAN, 1.0, 5.0, 5.0],
        GOOD,
        GOOD,
    )
    answer = detection(rows([odd, boxed(), boxed(GOOD)], [boxed(GOOD), boxed()], "objects"))
    assert answer.status == 0, answer.err
    assert "1 of 7 boxes of" in answer.err and "reach beyond the image: clipped" in answer.err
    assert "3 of 7 boxes of" in answer.err and "have no area inside the image: left out (" in answer.err
    for box in ("box 1: [50.0, 1.0, 5.0, 5.0]", "box 2: [1.0, 1.0, 0.0, 9.0]", "box 3: [nan, 1.0, 5.0, 5.0]"):
        assert f"train.parquet row 0, {box}" in answer.err


def test_categories_with_gaps_are_numbered_without(detection: Any, rows: Any) -> None:
    train = [boxed(GOOD, category=7), boxed(GOOD, category=90)]
    answer = detection(rows(train, [boxed(GOOD, category=90), boxed(GOOD, category=7)], "objects"))
    assert answer.status == 0, answer.err


def test_no_boxes_to_learn_from_or_to_find(detection: Any, rows: Any) -> None:
    for train, test, says in (
        ([boxed()] * 3, [boxed(GOOD)], "has no boxes to learn from: annotate some"),
        ([boxed(GOOD)] * 3, [boxed()], "no boxes to find"),
        ([boxed(GOOD)] * 3, [boxed([1.0, 1.0, 0.0, 3.0])], "no boxes to find"),
    ):
        answer = detection(rows(train, test, "objects"))
        assert answer.status == 2
        assert says in answer.sentence


def test_data_without_boxes(refused: Any, photos: Path, rows: Any) -> None:
    assert "put a COCO file" in refused("detection", "--data", photos, *QUICK)
    assert 'has no column "objects"' in refused("detection", "--data", rows([0, 1], [0, 1]), *QUICK)


@pytest.mark.parametrize(
    ("categories", "bbox", "says"),
    [
        ([{"id": 1, "name": "a"}], ["left", 1, 5, 5], "a.png of .* has a box that is not 4 numbers"),
        ([{"id": 1, "name": "a"}], [[1], 1, 5, 5], "a.png of .* has a box that is not 4 numbers"),
        ([{"id": 1, "name": "a"}, {"id": "two", "name": "b"}], GOOD, "is not a COCO file"),
        ([{"id": 2, "name": "a"}], GOOD, "has boxes of category 1, which is not among"),
        ([{"name": "a"}], GOOD, "is not a COCO file"),
    ],
)
def test_a_coco_file_that_makes_no_sense(
    refused: Any, draw: Any, tmp_path: Path, categories: list[Any], bbox: list[Any], says: str
) -> None:
    for number, split in enumerate(("train", "test")):
        folder = tmp_path / "coco" / split
        folder.mkdir(parents=True)
        draw(number).save(folder / "a.png")
        boxes = [{"image_id": 3, "category_id": 1, "bbox": bbox}]
        content = {
            "images": [{"id": 3, "file_name": "a.png"}],
            "annotations": boxes,
            "categories": categories,
        }
        (folder / "annotations.json").write_text(json.dumps(content))
    assert re.search(says, refused("detection", "--data", tmp_path / "coco", *QUICK))


def test_a_network_without_feature_maps(refused: Any, rows: Any) -> None:
    data = rows([boxed(GOOD)] * 3, [boxed(GOOD)], "objects")
    sentence = refused("detection", "--data", data, *QUICK, model="untrained:seed_vit_tiny")
    assert "of stride" in sentence


# Numbers.


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("knn --size -3", "--size is -3: give a side of 1 to 4096 pixels, or leave it out."),
        ("knn --size 100000", "--size is 100000: give a side of 1 to 4096 pixels"),
        ("representation --teacher-size -2", "--teacher-size is -2: give a side of"),
        ("knn --batch-size 0", "--batch-size is 0: it must be 1 or more."),
        ("knn --workers -2", "--workers is -2: it must be -1 or more."),
        ("linear --trials 0", "--trials is 0: it must be 1 or more."),
        ("linear --protocol seed --paper-batch 0", "--paper-batch is 0: it must be 1 or more."),
        ("semi --train-batch 0", "--train-batch is 0: it must be 1 or more."),
        ("semi --seed -1", "--seed is -1: it must be 0 or more."),
        ("all --size -3", "--size is -3: give a side of"),
    ],
)
def test_numbers_that_cannot_be_meant(refused: Any, photos: Path, words: str, says: str) -> None:
    assert refused(*words.split(), "--data", photos).startswith(says)


def test_every_protocol_refuses_them() -> None:
    from seed_hub.errors import SeedHubError
    from seed_hub.eval import protocols
    from seed_hub.network_settings import LEAST, SIZES

    for protocol in protocols():
        settings = import_module(f"seed_hub.eval.{protocol}").Settings
        for name in {*SIZES, *LEAST} & settings.__dataclass_fields__.keys():
            with pytest.raises(SeedHubError, match=f"--{name.replace('_', '-')} is -2"):
                settings(**{name: -2})


# Labels.


def test_a_class_of_one_image(evaluated: Any, rows: Any) -> None:
    data = rows([0] * 12 + [1] * 12 + [2], [0, 1, 2])
    words = ["--share", "0.01", "--trials", "1", "--epochs", "1", "--least-steps", "1", "--mode", "frozen"]
    answer = evaluated("semi", "--data", data, *words, *SMALL)
    assert answer.status == 0, answer.err
    assert "1 of the classes have a single training image (2)" in answer.err


def test_classes_of_the_test_images_that_nothing_was_learnt_of(evaluated: Any, rows: Any) -> None:
    answer = evaluated("knn", "--data", rows([0, 1] * 6, [0, 1, 5, 5, 7]), *SMALL)
    assert answer.status == 0, answer.err
    assert (
        "2 of the test classes have no training image (5, 7): their 3 test images count as wrong"
        in answer.err
    )


def test_labels_that_are_ids(evaluated: Any, rows: Any, tmp_path: Path) -> None:
    """Scored like the same images under 0, 1 and 2: a row of weights up to the largest id would take all memory."""
    semi = "--share 0.5 --trials 1 --epochs 1 --least-steps 1 --mode frozen".split()
    for protocol, words in (("knn", []), ("linear", []), ("retrieval", []), ("transfer", []), ("semi", semi)):
        found = []
        for ids in ([0, 1, 2], [12, 700, 9_000_000_000]):
            answer = evaluated(protocol, "--data", rows(ids * 4, ids * 2), "--json", *words, *SMALL)
            assert answer.status == 0, answer.err
            found.append(answer.json["values"])
        assert found[0] == found[1], protocol


def test_one_image_of_every_class(refused: Any, rows: Any) -> None:
    """More classes than can be learnt of: nothing can be held out to choose by."""
    data = rows(list(range(12)), list(range(12)))
    assert "give a single lr" in refused("linear", "--data", data, *SMALL)
    assert "give a single value as --l2" in refused("transfer", "--data", data, *SMALL)


def test_more_neighbours_than_images(evaluated: Any, rows: Any) -> None:
    data = rows([0, 1] * 6, [0, 1] * 3)
    answer = evaluated("knn", "--data", data, "--k", "1", "200", *SMALL)
    assert answer.status == 0
    assert "There are only 12 neighbours to ask: k = 200 becomes 12" in answer.err
    answer = evaluated("retrieval", "--data", data, "--k", "1", "200", *SMALL)
    assert answer.status == 0
    assert "There are only 12 images to find: k = 200 becomes 12" in answer.err


# Places.


def test_a_split_that_is_not_there(refused: Any, photos: Path) -> None:
    for flag in ("--split", "--split-train"):
        sentence = refused("knn", "--data", photos, flag, "tset", *SMALL)
        assert 'has no split "tset": it has "train", "validation"' in sentence
    sentence = refused("knn", "--data", photos / "train", *SMALL)
    assert "has no split called validation or test to measure on; it has none: name other images" in sentence


def test_a_suite_with_a_data_set_that_is_not_there(refused: Any, photos: Path, tmp_path: Path) -> None:
    """Known before the first of them is measured."""
    entry = {"name": "a", "data": str(photos), "train": "train", "test": "validation", "metric": "top1"}
    suite = tmp_path / "suite.json"
    for change, says in (
        ({"data": "gone"}, '"b" of .* is not there'),
        ({"test": "tset"}, '"b" of .* has no split "tset": it has "train", "validation"'),
    ):
        suite.write_text(json.dumps([entry, {**entry, "name": "b", **change}]))
        assert re.search(says, refused("transfer", "--suite", suite, *SMALL))


# While it runs.


def test_an_interrupted_measurement(
    hub: Any, teacher_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.encoder import Frozen

    out, forward, calls = tmp_path / "results.jsonl", Frozen.forward, iter(range(99))
    words = [
        "eval",
        "knn",
        "--model",
        teacher_run,
        "--data",
        photos,
        "--out",
        out,
        "--batch-size",
        "32",
        *SMALL,
    ]
    assert hub(*words, "--k", "1").status == 0
    before = out.read_bytes()

    def interrupted(self: Frozen, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Frozen, "forward", interrupted)
        answer = hub(*words)
    assert (answer.status, answer.err) == (130, "seed-hub: Interrupted.\n")
    assert out.read_bytes() == before
    assert hub(*words).status == 0
    assert out.read_bytes().startswith(before) and out.read_bytes().count(b"\n") == 2


def test_a_results_file_that_cannot_be_written(
    hub: Any, teacher_run: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    words = ["eval", "knn", "--model", teacher_run, "--data", photos, *SMALL, "--out"]
    for out in (tmp_path / "file" / "results.jsonl", tmp_path):
        answer = hub(*words, out)
        assert answer.status == 2, answer.err
        assert str(out) in answer.sentence
    assert (tmp_path / "file").read_text() == "mine"
