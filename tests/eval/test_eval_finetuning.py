"""The training loop of evaluation: what it computes, what it leaves alone, and that workers change nothing."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seed_hub.errors import SeedHubError
from seed_hub.eval import finetuning
from seed_hub.eval.features import extract
from seed_hub.eval.finetuning import (
    Recipe,
    feature_scale,
    finetune,
    linear_classifier,
    predict,
    top_scores,
)
from seed_hub.eval.training_views import TrainingViews, batches

QUICK = Recipe(epochs=6, batch_size=8, lr=0.1, classifier_lr=1.0, size=8, device="cpu")


def labels_of(images) -> torch.Tensor:
    return torch.from_numpy(images.labels)


def weights(*modules: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("frozen", [False, True])
def test_colours_are_learnt(flat_student, colour_images, frozen):
    train, test = colour_images(30, 0), colour_images(15, 1)
    classifier = linear_classifier(3, 3, 0)
    before = weights(flat_student)
    recipe = replace(QUICK, frozen=frozen, classifier_lr=30.0 if frozen else 1.0)
    finetune(flat_student, classifier, train, labels_of(train), recipe)
    logits = predict(flat_student, classifier, test, recipe)
    assert logits.shape == (15, 3) and logits.dtype == torch.float32
    assert top_scores(logits, labels_of(test))[0] == 100.0
    assert same(before, weights(flat_student)) == frozen


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_training_is_the_optimiser_on_the_views(flat_student, colour_images, name):
    """Against a loop of its own: torch's optimiser, one group per module, on the views the loader gave."""
    images, recipe = (
        colour_images(21, 0),
        replace(QUICK, epochs=2, milestones=(0.5,), factor=0.1, weight_decay=0.01, optimizer=name),
    )
    mine, theirs = copy.deepcopy(flat_student), copy.deepcopy(flat_student).train()
    ours, other = linear_classifier(3, 3, 0), linear_classifier(3, 3, 0)
    finetune(mine, ours, images, labels_of(images), recipe)
    views = TrainingViews(images, 8, crop=recipe.crop)
    settings = {"weight_decay": 0.01} | ({"momentum": 0.9} if name == "sgd" else {})
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    trunk = kind(theirs.parameters(), lr=0.1, **settings)
    head = kind(other.parameters(), lr=1.0, **settings)
    for epoch in range(2):
        if epoch == 1:
            trunk.param_groups[0]["lr"], head.param_groups[0]["lr"] = 0.01, 0.1
        for batch in batches(21, 8, 0, epoch):
            x = torch.stack([views[epoch, int(i)][0] for i in batch]) / 255
            loss = cross_entropy(other(theirs(x).pooled), labels_of(images)[batch])
            for optimizer in (trunk, head):
                optimizer.zero_grad()
            loss.backward()
            for optimizer in (trunk, head):
                optimizer.step()
    for a, b in zip(weights(mine, ours), weights(theirs, other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_workers_and_global_random_numbers_change_nothing(flat_student, colour_images):
    images, found = colour_images(20, 0), []
    for workers, noise in ((0, 1), (2, 2), (0, 3)):
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        network, classifier = copy.deepcopy(flat_student), linear_classifier(3, 3, 0)
        finetune(network, classifier, images, labels_of(images), replace(QUICK, epochs=2, workers=workers))
        assert torch.equal(state, torch.random.get_rng_state())
        found.append(weights(network, classifier))
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_dropout_draws_from_the_recipe_s_seed(flat_student, colour_images):
    images, found = colour_images(20, 0), []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        classifier = nn.Sequential(nn.Dropout(0.5), linear_classifier(3, 3, 0))
        finetune(
            copy.deepcopy(flat_student), classifier, images, labels_of(images), replace(QUICK, seed=seed)
        )
        found.append(weights(classifier))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_modes_gradients_and_flags_are_put_back(flat_student, colour_images):
    images, classifier = colour_images(9, 0), linear_classifier(3, 3, 0)
    flat_student.eval().requires_grad_(False)
    flat_student.backbone.train()
    finetune(flat_student, classifier, images, labels_of(images), replace(QUICK, epochs=1))
    assert (flat_student.training, flat_student.backbone.training) == (False, True)
    assert not any(p.requires_grad for p in flat_student.parameters())
    assert all(p.requires_grad and p.grad is None for p in classifier.parameters())
    predict(flat_student, classifier, images, QUICK)
    assert (flat_student.training, flat_student.backbone.training, classifier.training) == (False, True, True)


def test_what_the_classifier_sees(flat_student, colour_images):
    """Behind the head its layer learns too, at the encoder's rate; the pooled output leaves it alone."""
    images = colour_images(12, 0)
    flat_student.head = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    for features, width in (("pooled", 3), ("projected", 5)):
        network, classifier = copy.deepcopy(flat_student), linear_classifier(width, 3, 0)
        recipe = replace(QUICK, features=features)
        finetune(network, classifier, images, labels_of(images), recipe)
        assert same(weights(flat_student.head), weights(network.head)) == (features == "pooled")
        assert predict(network, classifier, images, recipe).shape == (12, 3)


@pytest.mark.parametrize(("n", "size"), [(1, 8), (7, 8), (8, 8), (9, 8), (17, 8), (18, 8), (3, 1)])
def test_every_image_once_an_epoch_and_never_one_alone(n, size):
    parts = batches(n, size, 0, 0)
    assert sorted(torch.cat(parts).tolist()) == list(range(n))
    assert size == 1 or n == 1 or min(map(len, parts)) > 1
    assert n < 10 or not torch.equal(torch.cat(parts), torch.cat(batches(n, size, 0, 1)))


def test_the_run_is_as_long_as_it_says(flat_student, colour_images):
    images, told = colour_images(9, 0), []
    recipe = replace(QUICK, epochs=2, batch_size=4, least_steps=5)  # 2 steps an epoch, of 4 and 5 images
    finetune(
        flat_student,
        linear_classifier(3, 3, 0),
        images,
        labels_of(images),
        recipe,
        progress=lambda *a: told.append(a),
    )
    assert told == [(4, 27), (9, 27), (13, 27), (18, 27), (22, 27), (27, 27)]


def test_rates():
    steps = Recipe(milestones=(0.6, 0.8), factor=0.1)
    assert [steps.rate(e / 100) for e in (0, 59, 60, 79, 80, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert [sum(steps.rate(e / n) == 1 for e in range(n)) for n in (5, 15, 35, 100)] == [3, 9, 21, 60]
    falling = Recipe(cosine=True)
    assert [falling.rate(x) for x in (0.0, 0.5)] == pytest.approx([1.0, 0.5])


def test_a_view_is_a_function_of_seed_epoch_and_image(colour_images):
    images = colour_images(4, 0)
    views = TrainingViews(images, 8, crop=QUICK.crop)
    first = views[0, 1][0]
    views[3, 2]
    assert first.dtype == torch.uint8 and first.shape == (3, 8, 8)
    assert torch.equal(first, views[0, 1][0])
    others = TrainingViews(images, 8, crop=QUICK.crop, seed=1)[0, 1], views[1, 1], views[0, 2]
    assert not any(torch.equal(first, other) for other, _ in others)


def test_a_network_that_is_trained_on_a_cpu_is_made_ready_for_it(flat_student, colour_images, monkeypatch):
    asked = []
    monkeypatch.setattr(finetuning, "prepare_for_cpu", lambda *how: asked.append(how))
    images, classifier = colour_images(9, 0), linear_classifier(3, 3, 0)
    for recipe in (replace(QUICK, precision="bf16"), replace(QUICK, frozen=True)):
        finetune(flat_student, classifier, images, labels_of(images), recipe)
    assert asked == [(flat_student, "bf16")]


def test_features_of_any_size_learn_alike(flat_student, colour_images):
    """A network whose features are 100 times as large is the same network."""
    images, found = colour_images(21, 0), []
    for factor in (1.0, 100.0):
        network, classifier = copy.deepcopy(flat_student), linear_classifier(3, 3, 0)
        for value in (network.backbone.norm.weight, network.backbone.norm.bias):
            value.data *= factor
        recipe = replace(QUICK, frozen=True, lr=0.0)
        recipe = replace(recipe, scale=feature_scale(network, images, recipe))
        features = extract(network, images, size=8)
        assert (recipe.scale * features).norm(dim=1).mean().item() == pytest.approx(1.0, rel=1e-5)
        finetune(network, classifier, images, labels_of(images), recipe)
        found.append(predict(network, classifier, images, recipe))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_features_that_are_all_zero_are_refused(flat_student, colour_images):
    for value in (flat_student.backbone.norm.weight, flat_student.backbone.norm.bias):
        value.data.zero_()
    with pytest.raises(SeedHubError, match="features that are all 0"):
        feature_scale(flat_student, colour_images(9, 0), QUICK)


def test_scores_against_sorting():
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(500, 12, generator=generator),
        torch.randint(0, 12, (500,), generator=generator),
    )
    best = logits.argsort(dim=1, descending=True)
    expected = [100 * float((best[:, :k] == labels[:, None]).any(1).float().mean()) for k in (1, 5)]
    assert top_scores(logits, labels) == pytest.approx(expected)
    assert top_scores(torch.zeros(10, 10), torch.arange(10)) == (10.0, 50.0)  # equal logits: the lower class
    assert top_scores(torch.full((10, 10), float("nan")), torch.arange(10)) == (0.0, 0.0)
    assert top_scores(torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])) == (25.0, 50.0)


def test_the_classifier_starts_small_and_takes_no_global_random_numbers():
    state = torch.random.get_rng_state()
    layer = linear_classifier(200, 100, 3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not layer.bias.any()
    assert torch.equal(layer.weight, linear_classifier(200, 100, 3).weight)


def test_what_cannot_be_trained_is_said(flat_student, flat_encoder, colour_images):
    images, classifier = colour_images(9, 0), linear_classifier(3, 3, 0)
    for wrong, pattern in (
        ({"epochs": 0}, "at least one epoch"),
        ({"lr": -1.0}, "no learning rate"),
        ({"precision": "fp8"}, 'no precision "fp8"'),
        ({"features": "projected"}, 'no "projected" features'),
        ({"batch_size": 1}, "two in each batch under batch norm"),
        ({"classifier_lr": 1e38, "weight_decay": 1e10}, "diverged in epoch"),
    ):
        with pytest.raises(SeedHubError, match=pattern):
            finetune(
                copy.deepcopy(flat_student), classifier, images, labels_of(images), replace(QUICK, **wrong)
            )
    finetune(
        flat_student,
        linear_classifier(3, 3, 0),
        images,
        labels_of(images),
        replace(QUICK, batch_size=1, frozen=True),
    )
    with pytest.raises(TypeError, match="a copy of its encoder"):
        finetune(flat_encoder, classifier, images, labels_of(images), QUICK)
    with pytest.raises(ValueError, match="9 images and 8 labels"):
        finetune(flat_student, classifier, images, labels_of(images)[:8], QUICK)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(flat_student, colour_images):
    images, state = colour_images(30, 0), torch.cuda.get_rng_state()
    classifier, recipe = linear_classifier(3, 3, 0), replace(QUICK, device="cuda", precision="bf16")
    finetune(flat_student, classifier, images, labels_of(images), recipe)
    assert torch.equal(state, torch.cuda.get_rng_state())
    assert top_scores(predict(flat_student, classifier, images, recipe), labels_of(images))[0] == 100.0
