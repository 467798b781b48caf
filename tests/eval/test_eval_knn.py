"""k-NN against brute force, perfect and random labels, and ties."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from seed_hub.errors import SeedHubError
from seed_hub.eval import knn
from seed_hub.eval.knn import knn_accuracy, neighbours


def brute_force(bank, queries, k, leave_one_out=False):
    """The definition: the whole matrix, a stable sort (equal values by lower index)."""
    similarity = normalize(queries, dim=1) @ normalize(bank, dim=1).T
    if leave_one_out:
        similarity.fill_diagonal_(float("-inf"))
    value, index = similarity.sort(dim=1, descending=True, stable=True)
    return value[:, :k], index[:, :k]


def corners(n: int, seed: int) -> torch.Tensor:
    """``[n, 16]`` of +-1: cosines are multiples of 1/8, exact in float32, so nearly all of them are ties."""
    return torch.randint(0, 2, (n, 16), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(knn, "BANK_BLOCK", 37)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 11)


@pytest.mark.parametrize("k", [1, 3, 20, 37, 90, 150])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.usefixtures("small_blocks")
def test_ties_go_to_the_lower_index_in_any_block(k, leave_one_out):
    bank = corners(150, 0)
    queries = bank if leave_one_out else corners(40, 1)
    k = min(k, 149) if leave_one_out else k
    value, index = neighbours(bank, queries, k, leave_one_out=leave_one_out)
    expected_value, expected_index = brute_force(bank, queries, k, leave_one_out)
    assert torch.equal(index, expected_index)
    assert torch.equal(value, expected_value)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(3))
def test_neighbours_are_the_brute_force_ones(seed):
    generator = torch.Generator().manual_seed(seed)
    bank, queries = (torch.randn(n, 24, generator=generator) for n in (400, 60))
    value, index = neighbours(bank, queries, 25)
    expected_value, _ = brute_force(bank.double(), queries.double(), 25)
    torch.testing.assert_close(value.double(), expected_value, rtol=0, atol=1e-6)
    found = (normalize(queries.double(), dim=1) @ normalize(bank.double(), dim=1).T).gather(1, index)
    torch.testing.assert_close(found, expected_value, rtol=0, atol=1e-6)  # each value belongs to its index
    assert all(len(row.unique()) == 25 for row in index)


def test_no_similarity_matrix_is_ever_whole(monkeypatch):
    shapes = []
    candidates = knn._candidates
    monkeypatch.setattr(
        knn, "_candidates", lambda s, *rest: shapes.append(tuple(s.shape)) or candidates(s, *rest)
    )
    monkeypatch.setattr(knn, "BANK_BLOCK", 64)
    monkeypatch.setattr(knn, "QUERY_BLOCK", 16)
    neighbours(torch.randn(200, 4), torch.randn(50, 4), 5)
    assert len(shapes) == 16
    assert all(m <= 16 and n <= 64 for m, n in shapes)


def test_zero_rows_and_signed_zeros_are_ties():
    bank = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    value, index = neighbours(bank, torch.tensor([[1.0, 0.0]]), 4)
    assert index.tolist() == [[3, 1, 2, 0]]
    assert value.tolist() == [[1.0, 0.0, 0.0, -1.0]]


def vote_by_hand(bank, bank_y, queries, k, temperature):
    """The definition, one query and one neighbour at a time."""
    value, index = brute_force(bank, queries, k)
    predictions = []
    for values, indices in zip(value.double().tolist(), index.tolist(), strict=True):
        score = [0.0] * (int(bank_y.max()) + 1)
        for v, i in zip(values, indices, strict=True):
            score[int(bank_y[i])] += float(torch.tensor(v / temperature, dtype=torch.float64).exp())
        predictions.append(score.index(max(score)))
    return torch.tensor(predictions)


@pytest.mark.parametrize("temperature", [0.07, 1.0, float("inf")])
def test_votes_agree_with_the_definition(temperature):
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(5, 8, generator=generator)
    bank_y, y = (torch.randint(0, 5, (n,), generator=generator) for n in (300, 80))
    bank, queries = (centres[t] + 1.5 * torch.randn(len(t), 8, generator=generator) for t in (bank_y, y))
    found = knn_accuracy(bank, bank_y, queries, y, k=(1, 10, 50), temperature=temperature)
    for k, accuracy in found.items():
        right = (vote_by_hand(bank, bank_y, queries, k, temperature) == y).double().mean()
        assert accuracy == pytest.approx(100 * float(right))
    assert 30 < found[10] < 100  # neither trivial nor hopeless


def test_equal_votes_go_to_the_lower_class():
    bank = torch.eye(4)[[0, 0, 1, 1]]
    queries = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    labels = torch.tensor([2, 2, 1, 1])
    assert knn_accuracy(bank, labels, queries, torch.tensor([1]), k=(4,)) == {4: 100.0}


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1e4])
def test_perfect_features_score_100(temperature):
    y = torch.arange(10).repeat(30)
    x = torch.eye(10)[y] + 0.01 * torch.randn(300, 10, generator=torch.Generator().manual_seed(0))
    found = knn_accuracy(x[:200], y[:200], x[200:], y[200:], temperature=temperature, k=(1, 10, 20))
    assert found == {1: 100.0, 10: 100.0, 20: 100.0}


def test_random_labels_score_chance():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(4000, 32, generator=generator), torch.randint(0, 10, (4000,), generator=generator)
    found = knn_accuracy(x[:2000], y[:2000], x[2000:], y[2000:])
    four_deviations = 400 * (0.1 * 0.9 / 2000) ** 0.5  # of the binomial, in percent
    assert all(abs(accuracy - 10) < four_deviations for accuracy in found.values())


def test_leave_one_out_never_asks_the_image_itself():
    """Pairs of equal images with different labels: the nearest other one is always wrong."""
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    y = torch.arange(100) // 50
    assert knn_accuracy(x, y, x, y, k=(1,))[1] == 50.0  # it finds the first of each pair
    assert knn_accuracy(x, y, x, y, k=(1,), leave_one_out=True)[1] == 0.0
    with pytest.raises(ValueError, match="the bank"):
        neighbours(x, x[:10], 3, leave_one_out=True)


def test_a_k_beyond_the_bank_is_the_bank():
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    found = knn_accuracy(x, y, x, y, k=(5, 12, 200))
    assert found[200] == found[12]
    assert neighbours(x, x, 200)[1].shape == (12, 12)
    assert neighbours(x, x, 200, leave_one_out=True)[1].shape == (12, 11)


@pytest.mark.parametrize(
    ("k", "temperature"), [((0, 1), 0.07), ((), 0.07), ((1,), 0.0), ((1,), float("nan"))]
)
def test_senseless_settings_are_refused(k, temperature):
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    with pytest.raises(SeedHubError, match="k >= 1 and a temperature > 0"):
        knn_accuracy(x, y, x, y, k=k, temperature=temperature)


def test_evaluate(flat_encoder, colour_images, caplog):
    settings = knn.Settings(k=(1, 5, 500), size=8, workers=0, device="cpu")
    with caplog.at_level(logging.WARNING):
        found = dict(knn.evaluate(flat_encoder, colour_images(60, 0), colour_images(30, 1), settings))
    assert found.pop("correct").tolist() == [True] * 30  # of k = 1: there is no headline among these
    assert found == {"top1_k1": 100.0, "top1_k5": 100.0, "top1_k60": found["top1_k60"]}
    assert "k = 500 becomes 60" in caplog.text
    images = colour_images(60, 0)
    once = replace(settings, leave_one_out=True, k=(1, 60))
    assert list(dict(knn.evaluate(flat_encoder, images, images, once))) == ["top1_k1", "top1_k59", "correct"]
