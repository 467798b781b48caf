"""The paper's linear protocol: its recipe, and that it reads the network it is given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seed_hub.errors import SeedHubError
from seed_hub.eval.linear_sgd import learning_rate, linear_sgd, paper_recipe


def test_the_recipe_is_the_paper_s():
    recipe = paper_recipe("resnet18")
    assert (recipe.epochs, recipe.batch_size, recipe.classifier_lr, recipe.momentum) == (100, 256, 30.0, 0.9)
    assert (recipe.frozen, recipe.weight_decay, recipe.crop, recipe.flip) == (True, 0.0, (0.08, 1.0), 0.5)
    rates = [30 * recipe.rate(epoch / 100) for epoch in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([30, 30, 3, 3, 0.3, 0.3])


@pytest.mark.parametrize(
    ("arch", "rate"),
    [
        ("resnet50", 30.0),
        ("vit_small_patch16_224", 30.0),
        ("efficientnet_b0", 3.0),
        ("tf_efficientnet_b1", 3.0),
        ("mobilenetv3_large_100", 3.0),
    ],
)
def test_the_learning_rate_is_the_family_s(arch, rate):
    assert learning_rate(arch) == rate
    assert paper_recipe(arch, train_batch=64, normalize=False).classifier_lr == rate / 4
    assert paper_recipe(arch, train_batch=64).classifier_lr == 30 / 4
    assert paper_recipe(arch, train_batch=64, lr=7.0).classifier_lr == 7 / 4


def test_colours_are_read_and_the_network_is_not_changed(flat_encoder, colour_images):
    before = {name: value.clone() for name, value in flat_encoder.state_dict().items()}
    recipe = paper_recipe("flat", epochs=5, train_batch=16, size=8, device="cpu")
    a, b = (linear_sgd(flat_encoder, colour_images(60, 0), colour_images(30, 1), recipe) for _ in range(2))
    assert a.correct.all() and torch.equal(a.correct, b.correct)
    assert replace(a, correct=b.correct) == b
    assert (a.top1, a.top5, a.lr, a.classes) == (100.0, 100.0, 30 / 16, 3)
    assert all(torch.equal(value, before[name]) for name, value in flat_encoder.state_dict().items())
    assert not flat_encoder.encoder.training and not any(p.requires_grad for p in flat_encoder.parameters())


def test_what_cannot_be_measured_is_said(flat_encoder, colour_images):
    images, recipe = colour_images(9, 0), paper_recipe("flat", size=8, device="cpu")
    with pytest.raises(SeedHubError, match="name another split"):
        linear_sgd(flat_encoder, images, images, recipe)
    with pytest.raises(SeedHubError, match="have no label"):
        linear_sgd(flat_encoder, colour_images(9, 1, labelled=False), images, recipe)
