"""What a run says about itself."""

from __future__ import annotations

import pytest
import torch

from seed_hub.training.monitor import Look, effective_rank, neighbour_overlap, verdict, view_retrieval


def test_overlap_is_one_for_the_same_space_and_chance_for_an_unrelated_one():
    torch.manual_seed(0)
    x = torch.randn(400, 16)
    rotation = torch.linalg.qr(torch.randn(16, 16)).Q
    assert neighbour_overlap(x, 3 * x @ rotation) == pytest.approx(1)
    assert neighbour_overlap(x, torch.randn(400, 16)) == pytest.approx(10 / 399, abs=0.01)


def test_overlap_against_a_plain_computation():
    torch.manual_seed(1)
    x, y = torch.randn(30, 4), torch.randn(30, 4)

    def near(z):
        s = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2)
        s.fill_diagonal_(-2)
        return [set(row.tolist()) for row in s.topk(10).indices]

    expected = sum(len(a & b) for a, b in zip(near(x), near(y), strict=True)) / 300
    assert neighbour_overlap(x, y) == pytest.approx(expected)


def test_overlap_with_duplicates_and_few_images():
    x = torch.randn(4, 3).repeat(5, 1)
    assert 0 <= neighbour_overlap(x, x) <= 1
    assert neighbour_overlap(torch.randn(3, 2), torch.randn(3, 2)) == 1.0  # all others are neighbours


def test_effective_rank():
    torch.manual_seed(0)
    assert effective_rank(torch.randn(2000, 8)) == pytest.approx(8, abs=0.1)
    assert effective_rank(torch.randn(200, 1) @ torch.randn(1, 8)) == pytest.approx(1, abs=1e-3)


def test_view_retrieval():
    x = torch.randn(50, 8)
    assert view_retrieval(x, x) == 1.0
    assert view_retrieval(x, x.roll(1, 0)) < 0.1


def _look(agreement, rank=50.0):
    return Look(agreement, agreement, 0.5, 0.5, rank, None)


@pytest.mark.parametrize(
    ("after", "rank", "word"),
    [(0.5, 60, "It worked"), (0.12, 60, "Barely"), (0.1, 60, "It did not"), (0.09, 2, "COLLAPSED")],
)
def test_the_verdict_is_against_the_untrained_student(after, rank, word):
    assert verdict(_look(0.1), _look(after, rank), 2000).startswith(word)
