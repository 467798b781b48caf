"""Few labels: which images carry them, what is trained on them, and that the given network stays as it was."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seed_hub.data import Images, open_images
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.eval import semi
from seed_hub.eval.finetuning import UNIT_RATE
from seed_hub.eval.label_lists import labelled_images, read_list
from seed_hub.eval.semi import Settings, kept_layers, recipe_for

QUICK = Settings(
    share=(0.1, 0.5),
    trials=2,
    epochs=5,
    least_steps=16,
    lr=(0.05,),
    classifier_lr=(0.5,),
    size=8,
    workers=0,
    device="cpu",
)


@pytest.fixture
def folder(tmp_path):
    """``folder(red=20, green=10)``: that many noisy squares of each colour, all files called 0.png, 1.png, ..."""

    def make(name: str = "train", seed: int = 0, **counts: int) -> Images:
        for number, (colour, count) in enumerate(counts.items()):
            place = tmp_path / name / colour
            place.mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng((seed, number, i)).integers(0, 40, (10, 12, 3))
                pixels = (200 * np.eye(3, dtype=int)[number] + noise).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{colour}_{i}.png")
        return open_images(tmp_path / name, check=False)

    return make


def names(images: Images) -> list[str]:
    return [images.name(i) for i in range(len(images))]


@pytest.mark.parametrize("mode", ["finetune", "frozen"])
def test_colours_are_learnt_from_few(flat_encoder, folder, mode):
    train, test = folder(red=20, green=20, blue=20), folder("test", 1, red=5, green=5, blue=5)
    before = {name: value.clone() for name, value in flat_encoder.state_dict().items()}
    found = list(semi.evaluate(flat_encoder, train, test, replace(QUICK, mode=mode)))
    assert found == [("top1_10pct", 100.0)] * 2 + [("top1_50pct", 100.0)] * 2  # 3 classes: no top-5
    assert all(torch.equal(value, before[name]) for name, value in flat_encoder.state_dict().items())
    assert not flat_encoder.encoder.training and not any(p.requires_grad for p in flat_encoder.parameters())


def test_it_is_the_labels_that_are_learnt(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(15, 1)
    train.labels = np.roll(train.labels, 1)  # every colour has another's name
    found = list(semi.evaluate(flat_encoder, train, test, replace(QUICK, share=(0.5,))))
    assert found == [("top1_50pct", 0.0)] * 2


def test_images_that_are_all_alike_score_one_class(flat_encoder, colour_images, monkeypatch):
    train, test = colour_images(60, 0), colour_images(15, 1)
    monkeypatch.setattr(type(train), "load", lambda self, i: Image.new("RGB", (12, 10), (90, 60, 30)))
    found = list(semi.evaluate(flat_encoder, train, test, replace(QUICK, share=(0.5,))))
    assert found == [("top1_50pct", pytest.approx(100 / 3))] * 2


def test_top5_is_told_where_it_says_something(flat_encoder, colour_images):
    train, test = colour_images(60, 0), colour_images(30, 1)
    train.labels, test.labels = np.arange(60) % 6, np.arange(30) % 6  # two names for each colour
    train.classes = test.classes = list("abcdef")
    found = dict(semi.evaluate(flat_encoder, train, test, replace(QUICK, share=(1.0,), trials=1)))
    assert list(found) == ["top1_100pct", "top5_100pct"]
    assert found["top1_100pct"] < 100.0 == found["top5_100pct"]


def test_a_share_of_every_class_and_one_at_least(folder):
    train = folder(red=50, green=10, blue=2)
    chosen = labelled_images(train, 0.1, 0)
    assert Counter(chosen.labels.tolist()) == {
        train.classes.index(c): n for c, n in zip(("red", "green", "blue"), (5, 1, 1), strict=True)
    }
    assert names(chosen) == names(labelled_images(train, 0.1, 0)) != names(labelled_images(train, 0.1, 1))


def test_lists_are_written_and_read_again(folder, tmp_path):
    train, lists = folder(red=20, green=20), tmp_path / "lists"
    drawn = [names(labelled_images(train, 0.1, seed, str(lists))) for seed in (0, 1)]
    written = [(lists / f"10percent_seed{seed}.txt").read_text().split() for seed in (0, 1)]
    assert drawn == written and drawn[0] != drawn[1]
    assert sorted(file.name for file in lists.iterdir()) == ["10percent_seed0.txt", "10percent_seed1.txt"]
    (lists / "10percent_seed0.txt").write_text("\n".join(written[1]))
    assert names(labelled_images(train, 0.1, 0, str(lists))) == written[1]


def test_a_given_list_serves_every_seed(folder, tmp_path):
    """As SimCLR's of ImageNet: the file's name without its folder; blank lines and carriage returns are nothing."""
    train = folder(red=5, green=5)
    (tmp_path / "0.1percent.txt").write_text("red_3.png\r\n\r\ngreen_0.png\r\nred_3.png\r\n")
    for seed in (0, 1):
        chosen = labelled_images(train, 0.001, seed, str(tmp_path))
        assert names(chosen) == [str(Path("green") / "green_0.png"), str(Path("red") / "red_3.png")]
    assert not (tmp_path / "0.1percent_seed0.txt").exists()


def test_lists_that_do_not_fit_are_refused(folder, tmp_path, caplog):
    train, file = folder(red=3, green=3, blue=3), tmp_path / "1percent.txt"
    for colour in ("red", "green"):
        Image.new("RGB", (4, 4)).save(tmp_path / "train" / colour / "same.png")
    train = open_images(tmp_path / "train", check=False)
    for text, pattern in (
        ("red/red_0.png\nred/red_7.png", '"red/red_7.png" of the list .* names none of the 11 images'),
        ("red/red_0.png\nsame.png", '"same.png" of the list .* names 2 of .*: write the folder with it'),
        ("red/red_0.png\nred_1.png", "shows 1 class"),
        ("", "shows 0 class"),
    ):
        file.write_text(text)
        with pytest.raises(SeedHubError, match=pattern):
            read_list(file, train)
    with pytest.raises(SeedHubError, match="cannot be read"):
        read_list(tmp_path, train)
    with pytest.raises(SeedHubError, match="cannot be written"):
        labelled_images(train, 0.1, 0, str(file / "below a file"))
    file.write_text("red_0.png\ngreen_0.png")
    with caplog.at_level(logging.WARNING):
        assert len(read_list(file, train)) == 2
    assert "shows 2 of 3 classes" in caplog.text


def test_a_class_with_a_single_image_is_said(flat_encoder, folder, caplog):
    train, test = folder(red=10, green=10, blue=1), folder("test", 1, red=2, green=2, blue=2)
    with caplog.at_level(logging.WARNING):
        next(semi.evaluate(flat_encoder, train, test, QUICK))
    assert "1 of the classes have a single training image (blue)" in caplog.text


def test_the_first_layer_of_the_head_stays(flat_student, folder, monkeypatch):
    train, test = folder(red=10, green=10, blue=10), folder("test", 1, red=2, green=2, blue=2)
    hidden = [nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU()]
    flat_student.head = nn.Sequential(*hidden, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    before, seen = {k: v.clone() for k, v in flat_student.state_dict().items()}, []
    original = semi.finetune

    def spy(network, classifier, *rest, **more):
        original(network, classifier, *rest, **more)
        seen.append((network, classifier.in_features, rest[-1].features))

    monkeypatch.setattr(semi, "finetune", spy)
    for head_layer, mode in (("auto", "finetune"), ("none", "finetune"), ("auto", "frozen")):
        list(
            semi.evaluate(
                flat_student,
                train,
                test,
                replace(QUICK, share=(0.5,), trials=1, head_layer=head_layer, mode=mode),
            )
        )
    (kept, *width), *others = seen
    assert width == [6, "projected"]
    assert [type(layer) for layer in kept.head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert not torch.equal(kept.head[0].weight, flat_student.head[0].weight)  # it learns too
    assert [(network.head, *more) for network, *more in others] == [(None, 3, "pooled")] * 2
    assert all(torch.equal(value, before[name]) for name, value in flat_student.state_dict().items())


def test_heads_without_a_hidden_layer_have_none_to_keep(flat_student):
    assert kept_layers(flat_student) is None
    flat_student.head = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert kept_layers(flat_student) is None


def test_recipes_are_the_published_ones():
    ours = Settings(normalize=False)
    few, more = (recipe_for(ours, place, 0, images=images) for place, images in ((0, 12_811), (1, 128_116)))
    assert (few.lr, few.classifier_lr, more.lr, more.classifier_lr) == (0.02, 5.0, 0.01, 0.2)
    assert (few.epochs, few.batch_size, few.weight_decay, few.frozen) == (20, 256, 0.0, False)
    assert [few.rate(epoch / 20) for epoch in (0, 11, 12, 15, 16)] == pytest.approx([1, 1, 0.2, 0.2, 0.04])
    frozen = recipe_for(replace(ours, mode="frozen"), 0, 0, images=12_811)
    assert (frozen.epochs, frozen.classifier_lr, frozen.frozen) == (100, 3.0, True)
    assert [frozen.rate(epoch / 100) for epoch in (0, 59, 60, 80)] == pytest.approx([1, 1, 0.1, 0.01])


def test_normalised_features_have_one_rate():
    for mode, share in (("finetune", 0), ("finetune", 1), ("frozen", 0)):
        assert recipe_for(Settings(mode=mode), share, 0, images=12_811).classifier_lr == UNIT_RATE


def test_rates_shrink_with_the_batch():
    full, few = (recipe_for(Settings(), 0, 0, images=images) for images in (256, 64))
    small = recipe_for(replace(Settings(), train_batch=64), 0, 0, images=10_000)
    assert (
        (few.lr, few.classifier_lr)
        == (full.lr / 4, full.classifier_lr / 4)
        == (small.lr, small.classifier_lr)
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_given_rates_are_taken(optimizer):
    ours = replace(QUICK, lr=(0.3, 0.4), classifier_lr=(0.7,), optimizer=optimizer)
    found = [recipe_for(ours, place, 0, images=10) for place in (0, 1)]
    assert [(r.lr, r.classifier_lr, r.optimizer) for r in found] == [
        (0.3, 0.7, optimizer),
        (0.4, 0.7, optimizer),
    ]


def test_adamw_has_one_rate_for_all():
    found = {
        (recipe.lr, recipe.classifier_lr)
        for normalize in (True, False)
        for share, batch, images in ((0, 256, 9), (1, 64, 99))
        for recipe in [
            recipe_for(
                Settings(optimizer="adamw", normalize=normalize, train_batch=batch), share, 0, images=images
            )
        ]
    }
    assert found == {(1e-3, 1e-3)}


def test_adamw_is_slower_without_batch_norm(colour_images, monkeypatch):
    taken = []
    monkeypatch.setattr(semi, "finetune", lambda *given, **_: taken.append(given[4].lr))
    for name in ("test_resnet", "test_vit"):
        ours = replace(QUICK, share=(0.5,), trials=1, lr=(), optimizer="adamw", size=64)
        next(semi.evaluate(build_student(name), colour_images(9, 0), colour_images(9, 1), ours))
    assert taken == [1e-3, 1e-4]


@pytest.mark.parametrize(
    ("wrong", "pattern"),
    [
        ({"mode": "linear"}, "choose finetune or frozen"),
        ({"head_layer": "all"}, "auto or none"),
        ({"share": ()}, "Shares of the labels"),
        ({"share": (10.0,)}, "above 0 and up to 1"),
        ({"optimizer": "adam"}, 'no optimizer "adam" here: choose sgd or adamw'),
        ({"lr": (0.1, 0.2, 0.3)}, "lr has 3 values for 2 shares"),
    ],
)
def test_senseless_settings_are_refused(flat_encoder, colour_images, wrong, pattern):
    with pytest.raises(SeedHubError, match=pattern):
        next(semi.evaluate(flat_encoder, colour_images(9, 0), colour_images(9, 1), replace(QUICK, **wrong)))
