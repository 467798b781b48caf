"""Result lines: what they say, that they come back, and that a file of them survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval import knn, linear, results_file, semi
from seed_hub.eval.intervals import unpack
from seed_hub.eval.record import result_line, without_folders
from seed_hub.eval.results_file import append_result, find_result, identity, results

KNN = knn.Settings()


@pytest.fixture
def line(flat_encoder, colour_images):
    """``line(settings, values)``"""

    def make(settings=KNN, values=(("top1_k1", 40.0), ("top1_k20", 50.0)), encoder=flat_encoder, **more):
        given = {
            "headline": "top1_k20",
            "spec": "file:/home/me/flat.safetensors?arch=flat",
            "encoder": encoder,
            "train": colour_images(9, 0),
            "test": colour_images(6, 1),
            "settings": settings,
            "seconds": 1.26,
        }
        return result_line("knn", values, **(given | more))

    return make


def test_which_images_were_right_comes_with_the_interval(line):
    right = torch.arange(6) < 3
    found = line(values=[("top1_k20", 50.0), ("correct", right)])
    assert [unpack(text, 6).tolist() for text in found["correct"]] == [right.tolist()]
    low, high = found["interval"]
    assert 0 <= low < 50 < high <= 100
    assert "correct" not in found["values"] and "interval" not in line()


def test_a_line_says_everything(line):
    found = line(facts={"method": "seed", "teacher": "file:/home/me/t.pth?arch=x", "images_seen": 5})
    assert (found["protocol"], found["metric"], found["value"]) == ("knn", "top1_k20", 50.0)
    assert (found["n"], found["mean"], found["std"]) == (1, 50.0, None)
    assert found["values"]["top1_k1"]["value"] == 40.0
    assert found["model"]["spec"] == "file:flat.safetensors?arch=flat"
    assert found["model"]["facts"] == {"method": "seed", "teacher": "file:t.pth?arch=x", "images_seen": 5}
    assert len(found["model"]["sha256"]) == 64
    assert found["data"]["train"] == {
        "source": "colours",
        "split": "split0",
        "images": 9,
        "fingerprint": "0" * 16,
    }
    assert found["settings"]["size"] == 8  # what 0 stands for
    assert found["settings"]["k"] == [1, 10, 20, 200]
    assert found["seconds"] == 1.3
    assert {"cpu", "cores", "threads", "gpu"} == set(found["machine"])
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0]
        or found["versions"]["torch"] == torch.__version__
    )
    assert set(found) >= {"commit", "dirty", "date"}
    assert "/home" not in json.dumps(found)
    assert "/somewhere" not in json.dumps(found)


def test_trials_are_summarised(line):
    found = line(
        values=[("top1", 1.0), ("lr", 3.0), ("top1", 2.0), ("lr", 3.0), ("top1", 6.0), ("lr", 3.0)],
        headline="top1",
    )
    assert (found["n"], found["value"], found["mean"]) == (3, 3.0, 3.0)
    assert found["std"] == pytest.approx(7**0.5)  # of a sample
    assert found["values"]["lr"] == {"value": 3.0, "n": 3, "mean": 3.0, "std": 0.0}
    with pytest.raises(SeedHubError, match="gave no value"):
        line(values=[])


def test_lines_come_back(line, tmp_path):
    path = tmp_path / "new" / "results.jsonl"
    lines = [line(), line(knn.Settings(temperature=float("inf"))), line(facts={"teacher": "größer"})]
    for each in lines:
        append_result(path, each)
    assert results(path) == lines
    assert len(path.read_bytes().splitlines()) == 3
    assert results(tmp_path / "none.jsonl") == []


def test_many_writers_one_file(tmp_path):
    path = tmp_path / "results.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: append_result(path, {"i": i, "text": "x" * 5000}), range(64)))
    assert sorted(found["i"] for found in results(path)) == list(range(64))


def test_a_line_left_open_is_closed_first(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}')
    append_result(path, {"b": 2})
    assert results(path) == [{"a": 1}, {"b": 2}]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.jsonl"
    append_result(path, {"a": 1})
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(results_file.os, "write", lambda handle, data: write(handle, data[:5]))
    with pytest.raises(SeedHubError, match="nothing in it changed"):
        append_result(path, {"b": 2})
    assert path.read_bytes() == before


def test_a_value_that_is_no_number_is_not_recorded(line, tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(SeedHubError, match="not finite"):
        append_result(path, line(values=[("top1_k20", float("nan"))]))
    assert not path.exists()


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"a": 1}\n\n{"b": \n')
    with pytest.raises(SeedHubError, match="Line 3 of"):
        results(path)


def test_the_same_measurement_is_recognised(line, tmp_path, flat_student, colour_images):
    path = tmp_path / "results.jsonl"
    assert find_result(path, line()) is None
    append_result(path, line())
    again = line(
        replace(knn.Settings(), batch_size=3, workers=0, device="cpu"), [("top1_k20", 51.0)], seconds=9.0
    )
    assert find_result(path, again) == results(path)[0]
    others = [
        line(knn.Settings(temperature=0.1)),
        line(knn.Settings(size=9)),
        line(train=colour_images(9, 2)),
        line(test=colour_images(6, 1, split="other")),
        line() | {"protocol": "linear"},
    ]
    assert [find_result(path, other) for other in others] == [None] * 5
    flat_student.backbone.norm.bias.data += 1
    assert find_result(path, line(encoder=Frozen(flat_student))) is None


def test_a_setting_that_was_not_there_yet_had_its_default(line, tmp_path):
    path = tmp_path / "results.jsonl"
    old = line(linear.Settings()) | {"protocol": "linear"}
    old["settings"] = {name: value for name, value in old["settings"].items() if "paper" not in name}
    append_result(path, old)
    assert find_result(path, line(linear.Settings()) | {"protocol": "linear"}) == old
    assert find_result(path, line(linear.Settings(paper_epochs=9)) | {"protocol": "linear"}) is None


def test_the_identity_of_a_line_survives_the_file(line, tmp_path):
    path = tmp_path / "results.jsonl"
    for settings in (knn.Settings(), linear.Settings(), knn.Settings(temperature=float("inf"))):
        append_result(path, line(settings))
        assert identity(results(path)[-1]) == identity(line(settings))


def test_a_head_counts_only_where_it_is_measured(line, flat_student):
    pooled, projected = knn.Settings(), knn.Settings(features="projected")
    bare = [line(s, encoder=Frozen(flat_student))["model"]["sha256"] for s in (pooled, projected)]
    flat_student.head = nn.Linear(3, 2)
    headed = [line(s, encoder=Frozen(flat_student))["model"]["sha256"] for s in (pooled, projected)]
    assert bare[0] == headed[0]
    assert bare[1] != headed[1]


def test_fine_tuning_is_of_the_head_too_where_it_keeps_some(line, flat_student):
    """A linear head has no layer to keep: the run and its published, headless model start from the same weights."""
    finetune = semi.Settings(mode="finetune")

    def of(head):
        flat_student.head = head
        return line(finetune, encoder=Frozen(flat_student))["model"]["sha256"]

    linear, mlp = (
        nn.Sequential(*layers)
        for layers in ([nn.Linear(3, 2)], [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)])
    )
    assert of(None) == of(linear) == line(knn.Settings(), encoder=Frozen(flat_student))["model"]["sha256"]
    assert of(mlp) != of(None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("hf:facebook/dinov2-small", "hf:facebook/dinov2-small"),
        ("hf:/home/me/dino", "hf:dino"),
        ("timm:local-dir:/home/me/student", "timm:local-dir:student"),
        ("torchhub:/home/me/repo/entry", "torchhub:entry"),
        (
            "torchhub:facebookresearch/dino:main/dino_resnet50",
            "torchhub:facebookresearch/dino:main/dino_resnet50",
        ),
        ("torchvision:resnet50/IMAGENET1K_V2", "torchvision:resnet50/IMAGENET1K_V2"),
        ("untrained:seed_resnet18", "untrained:seed_resnet18"),
        ("seed_resnet18.moco_r50_tin200", "seed_resnet18.moco_r50_tin200"),
        ("file:/home/me/a.pth?arch=resnet50", "file:a.pth?arch=resnet50"),
        ("file:weights/a.pth", "file:a.pth"),
        ("seed:/home/me/runs/first?which=last", "seed:first?which=last"),
        ("/home/me/runs/first/best", "first/best"),
        ("~/runs/first/", "first"),
        ("../shared/data/photos", "photos"),
        ("/data/birds/train-00000-of-00005.parquet", "birds/train-00000-of-00005.parquet"),
        ("C:\\Users\\me\\photos", "photos"),
        ("org/name", "org/name"),
    ],
)
def test_no_line_tells_how_a_disk_is_laid_out(name, expected):
    assert without_folders(name) == expected


def test_a_folder_that_exists_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_folders("runs/first") == "first"
    assert without_folders("seed:runs/first") == "seed:first"


def test_reading_results_needs_no_torch():
    code = "import sys, seed_hub.eval.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
