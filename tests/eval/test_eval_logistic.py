"""Logistic regression: scikit-learn's optimum, what it chooses, and that it never looks at test labels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor

from seed_hub.errors import SeedHubError
from seed_hub.eval import logistic
from seed_hub.eval.logistic import accuracy, fit, l2_values, logistic_regression, predict

SWEEP = l2_values(6)


def blobs(n: int, seed: int, classes: int = 4, width: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    y = torch.randint(0, classes, (n,), generator=generator)
    return centres[y] + 2 * torch.randn(n, width, generator=generator), y  # not separable


def probabilities(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return (x.double() @ weight.T + bias).softmax(1)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.05, 0.3), (7.0, -40.0)])
def test_the_optimum_is_that_of_scikit_learn(scale, shift):
    (x, y), (test_x, _) = blobs(200, 0), blobs(100, 1)
    x, test_x = scale * x + shift, scale * test_x + shift
    inverse = [1e-3, 1.0, 100.0]  # C
    for c, (weight, bias) in zip(inverse, fit(x, y, [1 / c for c in inverse]), strict=True):
        # Given what it converges on: centred (its bias is free, too), which changes no probability.
        theirs = LogisticRegression(C=c, tol=1e-9, max_iter=20_000).fit((x - x.mean(0)).double().numpy(), y)
        expected = theirs.predict_proba((test_x - x.mean(0)).double().numpy())
        found = probabilities(weight, bias, test_x).numpy()
        assert np.abs(found - expected).max() < 1e-4


def test_a_path_is_its_values_solved_one_by_one():
    x, y = blobs(150, 0)
    for l2, (weight, bias) in zip(SWEEP, fit(x, y, SWEEP), strict=True):
        ((alone, alone_bias),) = fit(x, y, [l2])
        difference = probabilities(weight, bias, x) - probabilities(alone, alone_bias, x)
        assert difference.abs().max() < 1e-4


def test_features_keep_their_values_and_no_graph_is_left():
    x, y = blobs(60, 0)
    x = x.double()
    before = x.clone()
    ((weight, bias),) = fit(x, y, [1.0])
    assert torch.equal(x, before)
    assert not weight.requires_grad
    with torch.no_grad():
        ((same, same_bias),) = fit(x, y, [1.0])
    assert torch.equal(weight, same)
    assert torch.equal(bias, same_bias)


def test_perfect_features_score_100():
    y = torch.arange(5).repeat(20)
    x = torch.eye(5)[y] + 0.01 * torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
    result = logistic_regression(x[:50], y[:50], x[50:], y[50:], l2=SWEEP)
    assert result.scores == {"top1": 100.0, "per_class": 100.0}
    assert torch.equal(result.predicted, y[50:])


def test_random_labels_score_chance():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(1200, 8, generator=generator), torch.randint(0, 5, (1200,), generator=generator)
    result = logistic_regression(x[:600], y[:600], x[600:], y[600:], l2=SWEEP)
    for score in result.scores.values():
        assert abs(score - 20) < 400 * (0.2 * 0.8 / 600) ** 0.5


@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_constant_features_give_the_frequencies_of_the_classes(value):
    y = torch.tensor([0] * 10 + [1] * 30 + [2] * 20)
    x = torch.full((60, 7), value)
    ((weight, bias),) = fit(x, y, [1e-6])
    torch.testing.assert_close(
        probabilities(weight, bias, x[:1])[0], torch.tensor([1, 3, 2]) / 6, check_dtype=False
    )
    result = logistic_regression(x, y, x, y, l2=SWEEP)
    assert result.scores == {"top1": pytest.approx(50), "per_class": pytest.approx(100 / 3)}


def test_labels_with_gaps():
    x, y = blobs(200, 0)
    apart = torch.tensor([1, 3, 4, 9])
    ((weight, bias),) = fit(x, y, [1.0])
    ((wide, wide_bias),) = fit(x, apart[y], [1.0])
    assert wide.shape == (10, 10)
    assert torch.equal(predict(wide, wide_bias, x), apart[predict(weight, bias, x)])
    result = logistic_regression(x, apart[y], x, torch.full((200,), 12), l2=[1.0])  # a class never seen
    assert result.scores == {"top1": 0.0, "per_class": 0.0}


def test_equal_logits_go_to_the_lower_class():
    assert predict(torch.zeros(3, 2), torch.zeros(3), torch.ones(4, 2)).tolist() == [0, 0, 0, 0]


def test_accuracy_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([0, 1, 1, 3, 3, 3, 3])[torch.randint(0, 7, (300,), generator=generator)]
    guess = torch.tensor([0, 1, 1, 3, 3, 3, 2])[torch.randint(0, 7, (300,), generator=generator)]
    predicted = torch.where(torch.rand(300, generator=generator) < 0.6, truth, guess)
    found = accuracy(predicted, truth)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert found["per_class"] == pytest.approx(100 * balanced_accuracy_score(truth, predicted))
    assert found["top1"] == pytest.approx(100 * accuracy_score(truth, predicted))
    assert abs(found["top1"] - found["per_class"]) > 1  # unequal classes: two numbers, not one


def test_test_images_decide_nothing():
    (x, y), (test_x, test_y) = blobs(200, 0), blobs(80, 1)
    a = logistic_regression(x, y, test_x, test_y, l2=SWEEP)
    b = logistic_regression(x, y, test_x, (test_y + 1) % 4, l2=SWEEP)
    assert (a.l2, a.held_out) == (b.l2, b.held_out)
    assert torch.equal(a.predicted, b.predicted)
    assert a.scores["top1"] > 50 > b.scores["top1"]


def test_the_best_on_the_held_out_fifth_is_chosen_the_strongest_among_equals():
    (x, y), (test_x, test_y) = blobs(200, 0), blobs(80, 1)
    result = logistic_regression(x, y, test_x, test_y, l2=SWEEP[::-1])
    assert [l2 for l2, _ in result.held_out] == list(SWEEP)
    best = max(score for _, score in result.held_out)
    assert result.l2 == next(l2 for l2, score in result.held_out if score == best)
    other = logistic_regression(x, y, test_x, test_y, l2=SWEEP, seed=1)
    assert other.held_out != result.held_out


def test_the_metric_chooses():
    """A class of few images: strong l2 gives it up, which the mean over images hardly sees."""
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([0] * 180 + [1] * 20)
    x = y[:, None] * 3 + torch.randn(200, 1, generator=generator)
    by = {m: logistic_regression(x, y, x, y, l2=[1e3, 1e-3], metric=m).held_out for m in logistic.METRICS}
    assert by["per_class"][0][1] == 50.0  # all are taken for the frequent class
    assert by["top1"][0][1] == 90.0
    assert by["per_class"][1][1] > 50.0


def test_one_value_needs_no_held_out_images():
    x, y = torch.eye(4), torch.arange(4)
    result = logistic_regression(x, y, x, y, l2=[1e-3])
    assert result.held_out == ((1e-3, None),)
    assert result.scores["top1"] == 100.0
    with pytest.raises(SeedHubError, match="give a single value as --l2"):
        logistic_regression(x, y, x, y, l2=SWEEP)


def test_the_papers_sweep():
    values = l2_values(45)
    np.testing.assert_allclose(values, np.logspace(5, -6, 45))
    assert l2_values(12) == pytest.approx([10.0**power for power in range(5, -7, -1)])


def test_the_end_of_the_sweep_is_said(caplog):
    (x, y), (test_x, test_y) = blobs(200, 0), blobs(80, 1)
    with caplog.at_level(logging.WARNING):
        logistic_regression(x, y, test_x, test_y, l2=[1e6, 1e5, 1.0])
    assert "The best l2, 1, is the last of the sweep" in caplog.text
    caplog.clear()
    x, y = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
    with caplog.at_level(logging.WARNING):  # all of them are right: no stronger one is missed
        assert logistic_regression(x, y, x, y, l2=SWEEP).l2 == SWEEP[0]
    assert not caplog.text


def test_a_search_that_ends_early_is_said(caplog, monkeypatch):
    monkeypatch.setattr(logistic, "MOST_STEPS", 2)
    x, y = blobs(200, 0)
    with caplog.at_level(logging.WARNING):
        list(fit(x, y, [1e-3]))
    assert "stopped short of its optimum" in caplog.text


@pytest.mark.parametrize("l2", [(), (0.0, 1.0), (-1.0,), (float("inf"),), (float("nan"),)])
def test_senseless_values_are_refused(l2):
    x, y = blobs(20, 0)
    with pytest.raises(SeedHubError, match="l2 > 0"):
        logistic_regression(x, y, x, y, l2=l2)


def test_senseless_choices_are_refused():
    x, y = blobs(20, 0)
    with pytest.raises(SeedHubError, match='no metric "top5": choose top1 or per_class'):
        logistic_regression(x, y, x, y, l2=[1.0], metric="top5")
    with pytest.raises(SeedHubError, match="at least 2 values of l2, not 1"):
        l2_values(1)
