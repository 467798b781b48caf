"""Label-free scores: what theory says of known features, and that views and generators are left in order."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch import nn
from torch.nn.functional import normalize, pdist

from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval import representation
from seed_hub.eval.representation import (
    RandomViews,
    Settings,
    alignment,
    effective_rank,
    linear_cka,
    neighbour_overlap,
    score_correlations,
    uniformity,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(width: int) -> torch.Tensor:
    return torch.linalg.qr(normal(width, width, seed=5)).Q


def test_effective_rank():
    assert effective_rank(normal(2000, 8)) == pytest.approx(8, abs=0.1)
    assert effective_rank(normal(200, 1) @ normal(1, 8, seed=1)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((50, 8), 0.1)) == pytest.approx(1, abs=1e-6)  # collapse
    plus_minus = torch.cat([torch.eye(5), -torch.eye(5)])
    assert effective_rank(3 * plus_minus + 7) == pytest.approx(5)
    p = np.array([3, 1]) / 4  # two directions, of singular values 3 to 1
    spread = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    assert effective_rank(spread) == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_alignment():
    x = normal(50, 6)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    assert alignment(torch.eye(4)[:2], torch.eye(4)[2:]) == pytest.approx(2)
    assert alignment(normal(4000, 64), normal(4000, 64, seed=1)) == pytest.approx(2, abs=0.02)  # strangers


@pytest.mark.parametrize("block", [1, 130, 2**24])
def test_uniformity_is_that_of_wang_and_isola(block, monkeypatch):
    """Their published three lines: pdist, power, log of the mean of the exponential."""
    monkeypatch.setattr(representation, "BLOCK", block)
    x = normal(60, 5) + 0.5
    expected = pdist(normalize(x.double(), dim=1)).pow(2).mul(-2).exp().mean().log().item()
    assert uniformity(x) == pytest.approx(expected, abs=1e-6)
    assert uniformity(17 * x) == pytest.approx(expected, abs=1e-6)


def test_uniformity_of_known_points():
    assert uniformity(torch.ones(40, 7)) == pytest.approx(0, abs=1e-5)  # collapse
    assert uniformity(torch.zeros(40, 7)) == pytest.approx(0, abs=1e-5)  # a dead network is collapsed too
    assert uniformity(torch.eye(9)) == pytest.approx(-4, abs=1e-5)  # all at distance sqrt 2
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8, abs=1e-5)
    assert uniformity(normal(3000, 512)) == pytest.approx(-4 + 8 / 512, abs=5e-3)  # E exp(4 cos) = exp(8 / D)


def test_neighbour_overlap():
    x = normal(400, 16)
    assert neighbour_overlap(x, 3 * x @ rotation(16)) == pytest.approx(1)
    assert neighbour_overlap(x, normal(400, 16, seed=1)) == pytest.approx(10 / 399, abs=0.01)
    assert neighbour_overlap(normal(3, 2), normal(3, 2, seed=1)) == 1.0  # all others are neighbours
    assert (
        neighbour_overlap(torch.ones(30, 4), torch.ones(30, 4)) == 1.0
    )  # equal ones by lower index, in both


def test_neighbour_overlap_is_the_set_arithmetic():
    x, y = normal(40, 5), normal(40, 5) + normal(40, 5, seed=3)

    def nearest(z):
        cosine = normalize(z.double(), dim=1) @ normalize(z.double(), dim=1).T
        return [
            set(sorted(set(range(40)) - {i}, key=lambda j: -row[j])[:7])
            for i, row in enumerate(cosine.tolist())
        ]

    expected = np.mean([len(a & b) / 7 for a, b in zip(nearest(x), nearest(y), strict=True)])
    assert neighbour_overlap(x, y, k=7) == pytest.approx(expected)


def test_cka_is_the_alignment_of_centred_gram_matrices():
    """Kornblith et al.'s other form, over images instead of features."""
    x, y = normal(50, 7) + 2, normal(50, 4, seed=1) + normal(50, 7)[:, :4]
    centre = torch.eye(50, dtype=torch.float64) - 1 / 50
    a, b = (centre @ (z.double() @ z.double().T) @ centre for z in (x, y))
    expected = (a * b).sum() / (a.norm() * b.norm())
    assert linear_cka(x, y) == pytest.approx(float(expected))
    assert linear_cka(y, x) == pytest.approx(float(expected))


def test_cka_of_known_features():
    x = normal(300, 8)
    assert linear_cka(x, 0.1 * x @ rotation(8) + 5) == pytest.approx(1)
    assert linear_cka(x, normal(300, 8, seed=1)) < 0.1
    assert linear_cka(x, torch.full((300, 4), 0.1)) == 0.0
    x = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert linear_cka(x, x[:, :1]) == pytest.approx(1 / math.sqrt(2))


def test_views_are_a_function_of_seed_image_and_view(colour_images):
    images, settings = colour_images(4), Settings()
    before = torch.get_rng_state()
    views = RandomViews(images, 8, settings, 0)
    first = [np.asarray(views.load(i)) for i in (0, 1, 2)]
    again = [np.asarray(RandomViews(images, 8, settings, 0).load(i)) for i in (2, 1, 0)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert first[0].shape == (8, 8, 3)
    for other in (RandomViews(images, 8, settings, 1), RandomViews(images, 8, Settings(seed=1), 0)):
        assert not np.array_equal(first[0], np.asarray(other.load(0)))
        assert other.fingerprint != views.fingerprint


def test_a_view_of_the_whole_image_is_it_or_its_mirror_image(colour_images):
    class Squares:
        source, fingerprint = "squares", "0"

        def load(self, i):
            return colour_images(3).load(i).crop((0, 0, 10, 10))

    views = RandomViews(Squares(), 10, Settings(crop_min=1.0), 0)
    turned = 0
    for i in range(3):
        for views.view in range(6):
            seen, whole = np.asarray(views.load(i)), np.asarray(Squares().load(i))
            turned += np.array_equal(seen, whole[:, ::-1])
            assert np.array_equal(seen, whole) or np.array_equal(seen, whole[:, ::-1])
    assert 3 < turned < 15  # of 18 fair coins


def test_evaluate_needs_no_labels_and_no_training_images(flat_encoder, colour_images):
    before = {name: value.clone() for name, value in flat_encoder.state_dict().items()}
    random = torch.get_rng_state()
    settings = Settings(workers=0, device="cpu")
    runs = [
        dict(representation.evaluate(flat_encoder, None, colour_images(30, labelled=False), settings))
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert list(runs[0]) == ["effective_rank", "alignment", "uniformity"]
    assert 1 <= runs[0]["effective_rank"] <= 3  # three colours are all there is to see
    assert 0 < runs[0]["alignment"] < 0.1  # a crop keeps its colour
    assert runs[0]["uniformity"] < -0.5
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in flat_encoder.state_dict().items())


def test_views_of_a_network_that_sees_nothing_are_aligned(flat_student, colour_images):
    """A collapsed network: perfectly aligned, not uniform at all, on one line."""
    flat_student.backbone.norm.weight.data.zero_()
    flat_student.backbone.norm.bias.data.fill_(1)
    settings = Settings(workers=0, device="cpu")
    found = dict(representation.evaluate(Frozen(flat_student), None, colour_images(12), settings))
    assert found == pytest.approx({"effective_rank": 1, "alignment": 0, "uniformity": 0}, abs=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_a_teacher_is_compared_with(flat_encoder, flat_student, colour_images, head, monkeypatch):
    """The teacher is the same network, or that network behind a head that mirrors the colours' space."""
    asked = {}

    def load(spec, *, image_size):
        asked.update(spec=spec, image_size=image_size)
        if head:
            flat_student.head = nn.Linear(3, 3, bias=False)
            flat_student.head.weight.data = -torch.eye(3)
        return Frozen(flat_student)

    monkeypatch.setattr(representation, "load_teacher", load)
    settings = Settings(teacher="timm:it", teacher_size=8, k=4, workers=0, device="cpu")
    found = dict(representation.evaluate(flat_encoder, None, colour_images(30), settings))
    assert asked == {"spec": "timm:it", "image_size": 8}
    assert found["neighbour_agreement"] == pytest.approx(100)
    assert found["cka"] == pytest.approx(100)


@pytest.mark.parametrize("wrong", [{"k": 0}, {"crop_min": 0.0}, {"crop_min": 1.5}])
def test_senseless_settings_are_refused(wrong, colour_images):
    with pytest.raises(SeedHubError, match="k >= 1 and 0 < crop_min <= 1"):
        next(representation.evaluate(None, None, colour_images(9), Settings(**wrong)))


def test_one_image_is_too_few(colour_images):
    with pytest.raises(SeedHubError, match="shows 1 image"):
        next(representation.evaluate(None, None, colour_images(1)))


def test_score_correlations():
    linear = [10.0, 20, 30, 40, 50]
    rows = [
        {
            "linear": y,
            "rank": y**2,
            "uniformity": -y,
            "bent": (y - 25) ** 2,
            "same": 3.0,
            "cka": None if y < 25 else y,
        }
        for y in linear
    ]
    found = score_correlations(rows)
    assert {name: each.rho for name, each in found.items()} == pytest.approx(
        {"rank": 1, "uniformity": -1, "bent": 5 / math.sqrt(90), "same": None, "cka": 1}
    )
    assert {name: each.n for name, each in found.items()} == {
        "rank": 5, "uniformity": 5, "bent": 5, "same": 5, "cka": 3,
    }  # fmt: skip
    with pytest.raises(SeedHubError, match="2 checkpoint.s. have both rank and linear"):
        score_correlations(rows[:2])
    with pytest.raises(SeedHubError, match="0 checkpoint.s. have both rank and top1"):
        score_correlations([{"rank": 1.0}] * 4, accuracy="top1")


def test_p_values_of_correlations():
    """Two-sided, by all pairings: twice the smaller share of those at least as high, or at least as low."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 6))
    (few,) = score_correlations([{"x": a, "linear": b} for a, b in zip(x, y, strict=True)]).values()
    for found, p, (a, b) in (
        (few.rho, few.rho_p, (x.argsort().argsort(), y.argsort().argsort())),
        (few.r, few.r_p, (x, y)),
    ):
        by_chance = np.array([np.corrcoef(a, b[list(order)])[0, 1] for order in permutations(range(6))])
        assert found == pytest.approx(np.corrcoef(a, b)[0, 1])
        low, high = (by_chance <= found + 1e-9).mean(), (by_chance >= found - 1e-9).mean()
        assert p == pytest.approx(min(1, 2 * min(low, high)))
    x = generator.normal(size=40)
    rows = [{"x": a, "linear": b} for a, b in zip(x, 0.3 * x + generator.normal(size=40), strict=True)]
    (many,) = score_correlations(rows).values()
    expected = pearsonr(*zip(*((row["x"], row["linear"]) for row in rows), strict=True))
    assert (many.r, many.r_p) == pytest.approx(tuple(expected), abs=0.02)
    assert score_correlations(rows)["x"] == many
