"""Transfer: one data set in both modes, a suite of them, and what a suite's file may say."""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from seed_hub.errors import SeedHubError
from seed_hub.eval import transfer
from seed_hub.eval.features import extract
from seed_hub.eval.logistic import logistic_regression
from seed_hub.eval.suite import DataSet, read_suite
from seed_hub.eval.transfer import Settings, evaluate, evaluate_suite

LINEAR = Settings(size=8, workers=0, device="cpu", l2=(1.0, 1e-2, 1e-4))
FINETUNE = Settings(
    mode="finetune", size=8, workers=0, device="cpu", lr=(0.5,), steps=30, train_batch=20, batch_size=16
)
ENTRY = {"name": "colours", "data": "colours", "train": "train", "test": "test", "metric": "top1"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def suite_file(tmp_path):
    """``suite_file(text or entries)``: a suite beside two data sets of coloured squares."""
    for name, seed in (("colours", 0), ("tints", 1)):
        noise = np.random.default_rng(seed)
        for split, n in (("train", 8), ("test", 4)):
            for place, kind in enumerate(("red", "green", "blue")):
                folder = tmp_path / name / split / kind
                folder.mkdir(parents=True)
                for i in range(n):
                    pixels = noise.integers(0, 40, (10, 12, 3)) + 200 * np.eye(3, dtype=int)[place]
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")

    def write(content: object) -> Path:
        path = tmp_path / "suite.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def state(encoder):
    return copy.deepcopy(
        (
            encoder.state_dict(),
            [weight.requires_grad for weight in encoder.parameters()],
            [module.training for module in encoder.modules()],
        )
    )


def test_linear_is_logistic_regression_on_features(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    test.labels[:6] = (test.labels[:6] + 1) % 3
    found = list(evaluate(flat_encoder, train, test, replace(LINEAR, trials=2)))
    assert [name for name, _ in found] == ["top1", "per_class", "held_out_top1", "l2"] * 2
    features = [extract(flat_encoder, images, size=8) for images in (train, test)]
    labels = [torch.from_numpy(images.labels) for images in (train, test)]
    alone = logistic_regression(features[0], labels[0], features[1], labels[1], l2=LINEAR.l2)
    assert dict(found[:2]) == alone.scores
    assert dict(found)["top1"] == pytest.approx(80)


def test_the_metric_is_that_of_the_settings(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    settings = replace(LINEAR, l2=(), l2_values=3, metric="per_class")
    found = dict(evaluate(flat_encoder, train, test, settings))
    assert found == {"top1": 100.0, "per_class": 100.0, "held_out_per_class": 100.0, "l2": found["l2"]}


def test_one_l2_is_not_chosen(flat_encoder, colour_images):
    settings = replace(LINEAR, l2=(0.1,))
    found = evaluate(flat_encoder, colour_images(30, 0), colour_images(30, 1), settings)
    assert list(found) == [("top1", 100.0), ("per_class", 100.0), ("l2", 0.1)]


def test_finetuning_learns_and_leaves_the_encoder_alone(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    before, numbers = state(flat_encoder), torch.get_rng_state()
    found = list(evaluate(flat_encoder, train, test, FINETUNE))
    assert found == [("top1", 100.0), ("per_class", 100.0), ("lr", 0.5)]
    after = state(flat_encoder)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
    assert torch.equal(numbers, torch.get_rng_state())


def test_finetuning_on_other_labels_scores_chance(flat_encoder, colour_images):
    train, test = colour_images(90, 0), colour_images(90, 1)
    train.labels = np.random.default_rng(0).permutation(train.labels)
    found = dict(evaluate(flat_encoder, train, test, replace(FINETUNE, steps=10)))
    assert found["top1"] < 75  # a colour is one answer: 0, 1/3, 2/3 are what 3 colours can score
    assert found["top1"] == pytest.approx(found["per_class"])


def test_the_learning_rate_is_chosen_on_held_out_images(flat_encoder, colour_images, monkeypatch, caplog):
    """The score of each rate is made up: what remains is the choice, and on which images it is made."""
    seen = []

    def pretend(network, classifier, images, labels, recipe, *, progress):
        seen.append((recipe.lr, len(images), recipe.seed))
        if recipe.lr >= 8:
            raise SeedHubError("the loss is not finite")
        with torch.no_grad():  # a mistake in half of the images, or in none
            classifier.weight.copy_(torch.eye(3) if recipe.lr == 2 else -torch.eye(3))

    monkeypatch.setattr(transfer, "finetune", pretend)
    train, test = colour_images(60, 0), colour_images(30, 1)
    settings = replace(FINETUNE, lr=(9.0, 2.0, 1.0, 8.0), seed=3)
    with caplog.at_level(logging.WARNING):
        found = list(evaluate(flat_encoder, train, test, settings))
    assert seen == [(1.0, 48, 3), (2.0, 48, 3), (8.0, 48, 3), (2.0, 60, 3)]
    assert found == [("top1", 100.0), ("per_class", 100.0), ("held_out_top1", 100.0), ("lr", 2.0)]
    assert "Learning rates from 8 on are out of the choice: the loss is not finite" in caplog.text
    with pytest.raises(SeedHubError, match="not finite"):
        list(evaluate(flat_encoder, train, test, replace(settings, lr=(8.0, 9.0))))


def test_one_image_per_class_leaves_nothing_to_choose_on(flat_encoder, colour_images):
    with pytest.raises(SeedHubError, match="give a single lr"):
        list(evaluate(flat_encoder, colour_images(3), colour_images(9, 1), replace(FINETUNE, lr=(0.1, 0.2))))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "frozen"}, "choose linear or finetune"),
        ({"metric": "top5"}, "choose top1 or per_class"),
        ({"mode": "finetune", "features": "projected"}, "leave out --features"),
        ({"steps": 0}, "at least one step"),
        ({"lr": ()}, "learning rates > 0"),
    ],
)
def test_senseless_settings_are_refused(wrong, said, colour_images):
    with pytest.raises(SeedHubError, match=said):
        list(evaluate(None, colour_images(9), colour_images(9, 1), replace(LINEAR, **wrong)))


def test_a_suite_is_its_data_sets_one_by_one(flat_encoder, suite_file, colour_images):
    path = suite_file([ENTRY, {**ENTRY, "name": "tints", "data": "tints", "metric": "per_class"}])
    suite = read_suite(path)
    found = list(evaluate_suite(flat_encoder, suite, replace(LINEAR, trials=2)))
    names = ["colours_top1"] * 2 + ["tints_per_class"] * 2 + ["mean"] * 2
    assert [name for name, _ in found] == names
    alone = []
    for data_set in suite:
        values = evaluate(flat_encoder, *data_set.open(), replace(LINEAR, metric=data_set.metric))
        alone.append(dict(values)[data_set.metric])
    assert [found[0][1], found[2][1]] == alone
    assert found[4][1] == fmean(alone)


def test_the_suite_of_this_project(root, shared_data):
    path = root / "eval" / "suites" / "small.json"
    suite = read_suite(path, shared_data)
    assert [(s.name, s.metric) for s in suite] == [
        ("dtd10", "top1"),
        ("scene15", "per_class"),
        ("trashnet6", "top1"),
    ]


def test_a_suite_names_no_place_on_a_disk(root):
    for path in (root / "eval" / "suites").glob("*.json"):
        for entry in json.loads(path.read_text()):
            assert not Path(entry["data"]).is_absolute() and ".." not in Path(entry["data"]).parts


def test_paths_start_from_the_folder_that_is_given(suite_file, tmp_path):
    path = suite_file([{**ENTRY, "licence": "ours"}])
    place = str(tmp_path / "colours")
    assert read_suite(path) == [DataSet("colours", place, "train", "test", "top1", "ours")]
    moved = tmp_path / "elsewhere" / "suite.json"
    moved.parent.mkdir()
    path.rename(moved)
    assert read_suite(moved, tmp_path)[0].data == place
    with pytest.raises(SeedHubError, match='"colours" is no file or folder in ".*elsewhere"'):
        read_suite(moved)
    with pytest.raises(SeedHubError, match='no folder ".*nowhere" to look for the data sets of suite.json'):
        read_suite(moved, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{]", "is not JSON"),
        ({}, "is not a list of data sets"),
        ([], "is not a list of data sets"),
        (["colours"], "Data set 1 of .* is no object"),
        ([ENTRY, {**ENTRY, "split": "test"}], 'Data set 2 of .* has an unknown key "split"'),
        ([{**ENTRY, "metrik": "top1"}], 'Did you mean "metric"'),
        ([{k: v for k, v in ENTRY.items() if k != "test"}], 'has no "test"'),
        ([{**ENTRY, "data": 3}], 'needs text as "data", not 3'),
        ([{**ENTRY, "train": " "}], 'needs text as "train"'),
        ([{**ENTRY, "name": "my colours"}], 'is called "my colours"'),
        ([{**ENTRY, "metric": "per class"}], 'the metric "per class": .*Did you mean "per_class"'),
        ([ENTRY, ENTRY], 'two data sets called "colours"'),
        ([{**ENTRY, "data": "colors"}], '"colors" is no file or folder'),
        ([{**ENTRY, "test": "tset"}], 'no split "tset": it has "test", "train". Did you mean "test"'),
        ([{**ENTRY, "train": "test"}], "trained and tested on the same split"),
        ([{**ENTRY, "data": "colours/test"}], 'no split "train": it has no splits'),
    ],
)
def test_what_is_wrong_in_a_suite_is_said_in_one_sentence(content, said, suite_file):
    with pytest.raises(SeedHubError, match=said) as told:
        read_suite(suite_file(content))
    assert "\n" not in str(told.value)


def test_a_suite_that_is_not_there(tmp_path):
    with pytest.raises(SeedHubError, match="cannot be read .No such file or directory.: name a JSON file"):
        read_suite(tmp_path / "suite.json")
