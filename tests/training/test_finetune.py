"""SimCLR v2's stages: start from a run, keep the first layer of its head, teach another with the class scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seed_hub.data import choose_share, open_images
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import CONFIG, load_model_folder, start_from
from seed_hub.teachers import load_teacher
from seed_hub.training.run import run
from seed_hub.weights import find_weight, locate


def test_three_stages(settings, tmp_path):
    first = settings(method="simclr", out=str(tmp_path / "first"), epochs=0.4, optimizer="adamw")
    run(first, {"hidden_width": 32})
    tuned = replace(first, method="finetune", start=first.out, share=0.5, out=str(tmp_path / "tuned"))
    run(replace(tuned, epochs=0.8))
    before, after = (load_model_folder(tmp_path / name / "last") for name in ("first", "tuned"))
    assert before.head is not None and after.head is None
    kept, classifier = after.classifier[:-1], after.classifier[-1]
    assert [type(layer) for layer in kept] == [type(layer) for layer in before.head[: len(kept)]]
    assert classifier.out_features == 2  # stripes and discs
    teacher = load_teacher(f"seed:{tuned.out}?which=last")
    assert teacher(torch.rand(2, 3, 32, 32)).logits.shape == (2, 2)
    taught = replace(first, method="kd", teacher=f"seed:{tuned.out}", out=str(tmp_path / "taught"))
    assert run(taught, {"kd_temperature": 1.0}) is not None


def test_the_terms_of_where_it_started_go_along(settings, teacher_run, tmp_path):
    config = json.loads((teacher_run / "best" / CONFIG).read_text())
    config["pretrained_cfg"]["license"] = "cc-by-nc-4.0"
    start = shutil.copytree(teacher_run / "best", tmp_path / "start")
    (start / CONFIG).write_text(json.dumps(config))
    run(settings(start=str(start)))
    facts = json.loads((tmp_path / "run" / "last" / CONFIG).read_text())["seed_hub"]
    assert facts["start_licence"] == "cc-by-nc-4.0"
    assert load_model_folder(tmp_path / "run" / "last").licence == "cc-by-nc-4.0"


def test_a_student_starts_from_a_released_weight_by_its_name():
    name = "seed_mobilenetv3_small.moco_r18_tin200"
    student = build_student("seed_mobilenetv3_small")
    assert start_from(name, student) is None  # released without a head
    released = load_file(locate(find_weight(name)))
    assert all(torch.equal(value, released[key]) for key, value in student.backbone.state_dict().items())
    with pytest.raises(SeedHubError, match="config.json is missing"):
        start_from(name + "x", student)


def test_what_does_not_fit_is_refused(settings, teacher_run):
    with pytest.raises(SeedHubError, match="--kept-layers is 1, and the student starts with 0 hidden layers"):
        run(settings(method="finetune"))
    with pytest.raises(SeedHubError, match="holds a test_efficientnet, and the student is a resnet18"):
        run(settings(start=str(teacher_run), student="seed_resnet18"))
    with pytest.raises(SeedHubError, match="--share is 0.0: it must be above 0 and at most 1"):
        run(settings(share=0.0))


def test_a_share_is_as_much_of_every_class_and_grows(pictures):
    images = open_images(pictures)
    small, large = (choose_share(images, share, seed=3) for share in (0.1, 0.5))
    assert np.bincount(small.labels).tolist() == [3, 3]
    assert np.bincount(large.labels).tolist() == [15, 15]
    assert set(small.original_index) < set(large.original_index)
    assert list(choose_share(images, 0.1, seed=3).original_index) == list(small.original_index)
    assert list(choose_share(images, 0.1, seed=4).original_index) != list(small.original_index)
    assert np.bincount(choose_share(images, 0.001, seed=0).labels).tolist() == [1, 1]
