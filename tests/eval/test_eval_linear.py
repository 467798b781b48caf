"""The linear probe: what it reaches, what it chooses, and that it never looks at test labels."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from seed_hub.errors import SeedHubError
from seed_hub.eval import linear
from seed_hub.eval.linear import Settings, held_out_fifth, linear_probe, standardised

QUICK = Settings(epochs=5, probe_batch=64, lr=(1.0, 10.0, 100.0))


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(linear, "LEAST_STEPS", 60)


def blobs(n: int, seed: int, noise: float = 1.0, classes: int = 8, width: int = 16):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, classes, (n,), generator=generator)
    return centres[y] + noise * torch.randn(n, width, generator=generator), y


def test_perfect_features_score_100():
    y = torch.arange(10).repeat(40)
    x = torch.eye(10)[y] + 0.01 * torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    result = linear_probe(x[:300], y[:300], x[300:], y[300:], settings=QUICK)
    assert (result.top1, result.top5) == (100.0, 100.0)


def test_random_labels_score_chance():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(3000, 32, generator=generator), torch.randint(0, 10, (3000,), generator=generator)
    result = linear_probe(x[:1500], y[:1500], x[1500:], y[1500:], settings=QUICK)
    for score, chance in ((result.top1, 0.1), (result.top5, 0.5)):
        assert abs(score - 100 * chance) < 400 * (chance * (1 - chance) / 1500) ** 0.5


def test_test_labels_decide_nothing():
    train_x, train_y = blobs(400, 0)
    test_x, test_y = blobs(200, 1)
    a = linear_probe(train_x, train_y, test_x, test_y, settings=QUICK)
    b = linear_probe(train_x, train_y, test_x, test_y[torch.randperm(200)] * 0, settings=QUICK)
    assert (a.lr, a.weight_decay, a.held_out) == (b.lr, b.weight_decay, b.held_out)
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(a.bias, b.bias)
    assert a.top1 > 50 > b.top1


def test_test_features_decide_nothing():
    train_x, train_y = blobs(400, 0)
    test_x, test_y = blobs(200, 1)
    a = linear_probe(train_x, train_y, test_x, test_y, settings=QUICK)
    b = linear_probe(train_x, train_y, 5 - 3 * test_x[:50], test_y[:50], settings=QUICK)
    assert a.held_out == b.held_out
    assert torch.equal(a.weight, b.weight)


def test_same_seed_same_weights_other_seed_other_split():
    (x, y), (test_x, test_y) = blobs(300, 0), blobs(100, 1)
    a, b = (linear_probe(x, y, test_x, test_y, settings=QUICK) for _ in range(2))
    c = linear_probe(x, y, test_x, test_y, settings=replace(QUICK, seed=1))
    assert torch.equal(a.weight, b.weight)
    assert a.held_out == b.held_out != c.held_out


def test_the_best_on_the_held_out_fifth_is_chosen():
    (x, y), (test_x, test_y) = blobs(400, 0), blobs(100, 1)
    settings = replace(QUICK, lr=(1e-6, 3.0), weight_decay=(0.0, 10.0))
    result = linear_probe(x, y, test_x, test_y, settings=settings)
    assert [(lr, decay) for lr, decay, _ in result.held_out] == [
        (1e-6, 0.0),
        (1e-6, 10.0),
        (3.0, 0.0),
        (3.0, 10.0),
    ]
    best = max(result.held_out, key=lambda tried: tried[2])
    assert (result.lr, result.weight_decay) == best[:2] == (3.0, 0.0)


def test_an_edge_of_the_sweep_is_said(caplog):
    (x, y), (test_x, test_y) = blobs(400, 0), blobs(100, 1)
    with caplog.at_level(logging.WARNING):
        linear_probe(x, y, test_x, test_y, settings=replace(QUICK, lr=(1e-8, 1e-7, 1.0)))
    assert "the last of the sweep" in caplog.text


def test_one_setting_needs_no_held_out_images():
    x, y = torch.eye(4), torch.arange(4)
    result = linear_probe(x, y, x, y, settings=replace(QUICK, lr=(10.0,)))
    assert result.held_out == ((10.0, 0.0, None),)
    assert result.top1 == 100.0
    with pytest.raises(SeedHubError, match="give a single lr"):
        linear_probe(x, y, x, y, settings=QUICK)


def test_a_sweep_is_its_settings_trained_one_by_one():
    x, y = blobs(200, 0)
    x, _ = standardised(x, x)
    grid = [(1.0, 0.0), (30.0, 1e-3)]
    weight, bias = linear._train(x, y, 8, grid, QUICK)
    for r, setting in enumerate(grid):
        alone, alone_bias = linear._train(x, y, 8, [setting], QUICK)
        torch.testing.assert_close(weight[r], alone[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(bias[r], alone_bias[0], rtol=1e-3, atol=1e-4)


def test_the_gradient_is_that_of_cross_entropy(monkeypatch):
    """The closed form against autograd and torch.optim.SGD, step by step."""
    monkeypatch.setattr(linear, "LEAST_STEPS", 1)
    x, y = (t.double() if t.is_floating_point() else t for t in blobs(100, 0))
    settings = Settings(epochs=3, probe_batch=40, seed=5)
    weight, bias = linear._train(x, y, 8, [(0.5, 0.01)], settings)
    with torch.enable_grad():
        w, b = torch.zeros(8, 16, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
        w.requires_grad_(), b.requires_grad_()
        sgd = torch.optim.SGD([{"params": [w], "weight_decay": 0.01}, {"params": [b]}], lr=0.5, momentum=0.9)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=9)
        generator = torch.Generator().manual_seed(5)
        for _ in range(3):
            for batch in torch.randperm(100, generator=generator).split(40):
                sgd.zero_grad()
                cross_entropy(x[batch] @ w.T + b, y[batch]).backward()
                sgd.step()
                fall.step()
    torch.testing.assert_close(weight[0], w.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(bias[0], b.detach(), rtol=1e-6, atol=1e-7)


def test_the_held_out_fifth_is_stratified():
    y = torch.tensor([0] * 100 + [1] * 10 + [2] * 2 + [3] + [5] * 7)[torch.randperm(120)]
    held = held_out_fifth(y, 0)
    assert [int(held[y == c].sum()) for c in (0, 1, 2, 3, 5)] == [20, 2, 1, 0, 1]
    assert torch.equal(held, held_out_fifth(y, 0))
    assert not torch.equal(held, held_out_fifth(y, 1))


def test_dead_and_constant_units_do_no_harm():
    x, y = blobs(300, 0, noise=0.3)
    x = torch.cat([x, torch.zeros(300, 3)], dim=1)
    train, test = standardised(x[:200], x[200:])
    assert torch.equal(train[:, -3:], torch.zeros(200, 3))
    assert torch.isfinite(test).all()
    assert train.norm(dim=1).mean() == pytest.approx((16 / 19) ** 0.5, rel=0.05)
    assert linear_probe(x[:200], y[:200], x[200:], y[200:], settings=QUICK).top1 > 80


def test_the_scale_of_features_changes_nothing():
    (x, y), (test_x, test_y) = blobs(300, 0), blobs(100, 1)
    a = linear_probe(x, y, test_x, test_y, settings=QUICK)
    b = linear_probe(1024 * x, y, 1024 * test_x, test_y, settings=QUICK)
    assert a.held_out == b.held_out


def test_top5_and_equal_logits():
    weight, bias = torch.zeros(10, 2), torch.zeros(10)
    x, y = torch.ones(10, 2), torch.arange(10)
    assert linear._ranks(weight, bias, x, y).tolist() == list(range(10))  # lower classes first
    assert (linear._ranks(weight, bias, x, y + 7) >= 5).all()  # three of the classes 7 to 16 are known
    assert (linear._ranks(weight * float("nan"), bias, x, y) >= 5).all()


def test_evaluate(flat_encoder, colour_images):
    settings = replace(QUICK, size=8, workers=0, device="cpu", trials=2)
    found = list(linear.evaluate(flat_encoder, colour_images(60, 0), colour_images(30, 1), settings))
    names = [name for name, _ in found]
    assert names == ["top1", "held_out_top1", "lr", "weight_decay", "correct"] * 2  # 3 classes: no top-5
    assert [value for name, value in found if name == "top1"] == [100.0, 100.0]


def test_the_papers_protocol(flat_encoder, colour_images):
    settings = replace(
        QUICK, protocol="seed", paper_epochs=5, paper_batch=16, size=8, workers=0, device="cpu", trials=2
    )
    train, test = colour_images(60, 0), colour_images(30, 1)
    found = list(linear.evaluate(flat_encoder, train, test, settings))
    assert [name for name, _ in found] == ["top1", "lr", "correct"] * 2
    assert [value for name, value in found if name == "top1"] == [100.0, 100.0]
    assert [value for name, value in found if name == "lr"] == [30 / 16] * 2  # 30 for 256 images
    assert all(value.dtype == torch.bool and value.all() for name, value in found if name == "correct")
    for wrong, says in (
        ({"protocol": "moco"}, 'choose "fast" or "seed"'),
        ({"features": "projected"}, "pooled"),
    ):
        with pytest.raises(SeedHubError, match=says):
            next(linear.evaluate(flat_encoder, train, test, replace(settings, **wrong)))


@pytest.mark.parametrize("wrong", [{"lr": ()}, {"lr": (0.0, 1.0)}, {"epochs": 0}])
def test_senseless_settings_are_refused(wrong):
    x, y = blobs(50, 0)
    with pytest.raises(SeedHubError, match="learning rates > 0"):
        linear_probe(x, y, x, y, settings=replace(QUICK, **wrong))
