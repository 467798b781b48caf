"""Retrieval against scikit-learn and a brute force written from the definitions; ties, blocks and bounds."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from seed_hub.errors import SeedHubError
from seed_hub.eval import retrieval
from seed_hub.eval.retrieval import Settings, average_precision, retrieval_scores


def brute_force(gallery, gallery_labels, queries, query_labels, ks, leave_one_out=False):
    """One query at a time, one rank at a time, in float64."""
    gallery, queries = (x.numpy().astype(np.float64) for x in (gallery, queries))
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    recall, whole, top = dict.fromkeys(ks, 0), 0.0, 0.0
    for i, (query, y) in enumerate(zip(queries, query_labels.tolist(), strict=True)):
        others = [j for j in range(len(gallery)) if not (leave_one_out and j == i)]
        cosine = gallery @ query / np.linalg.norm(query)
        ranked = sorted(others, key=lambda j: (-round(cosine[j], 9), j))
        hits = [int(gallery_labels[j]) == y for j in ranked]
        total, seen = sum(hits), 0
        for k in ks:
            recall[k] += any(hits[:k])
        for rank, hit in enumerate(hits, start=1):
            seen += hit
            whole += hit * seen / rank / total
            top += hit * seen / rank / total if rank <= total else 0
    n = len(queries)
    return {
        **{f"recall_at_{k}": 100 * recall[k] / n for k in ks},
        "map": 100 * whole / n,
        "map_at_r": 100 * top / n,
    }


def blobs(n: int, seed: int, classes: int = 5, width: int = 12):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    return centres[y] + 1.5 * torch.randn(n, width, generator=generator), y


def corners(n: int, seed: int) -> torch.Tensor:
    """``[n, 16]`` of +-1: cosines are multiples of 1/8, exact in float32, so nearly all of them are ties."""
    return torch.randint(0, 2, (n, 16), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


@pytest.mark.parametrize("block", [1, 700, 2**23])
@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("make", [blobs, lambda n, seed: (corners(n, seed), torch.arange(n) % 5)])
def test_scores_are_the_brute_force_ones(make, leave_one_out, block, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", block)
    gallery = make(130, 0)
    queries = gallery if leave_one_out else make(37, 1)
    found = retrieval_scores(*gallery, *queries, k=(1, 2, 5), leave_one_out=leave_one_out)
    assert found == pytest.approx(brute_force(*gallery, *queries, (1, 2, 5), leave_one_out), abs=1e-9)
    assert list(found) == ["recall_at_1", "recall_at_2", "recall_at_5", "map", "map_at_r"]


def test_map_is_scikit_learns():
    (gallery, gallery_y), (queries, query_y) = blobs(200, 0), blobs(40, 1)
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], gallery[None], dim=2)
    expected = [
        average_precision_score((gallery_y == y).numpy(), c.numpy())
        for y, c in zip(query_y, cosine, strict=True)
    ]
    found = retrieval_scores(gallery, gallery_y, queries, query_y)
    assert found["map"] == pytest.approx(100 * np.mean(expected), abs=1e-6)


def test_average_precision_by_hand():
    relevant = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    whole, top = average_precision(relevant)
    assert whole.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 4, 0, 1])
    assert top.tolist() == pytest.approx([1 / 2, 0, 0, 1])


def test_perfect_features_score_100_and_reversed_ones_as_little_as_they_can():
    y = torch.arange(4).repeat(5)
    perfect = retrieval_scores(torch.eye(4)[y], y, torch.eye(4), torch.arange(4))
    assert set(perfect.values()) == {100.0}
    worst = retrieval_scores(-torch.eye(4)[y], y, torch.eye(4), torch.arange(4), k=(1, 15, 16))
    last = 100 * np.mean([i / (15 + i) for i in range(1, 6)])  # the 5 right ones come after the 15 others
    assert worst == pytest.approx(
        {"recall_at_1": 0, "recall_at_15": 0, "recall_at_16": 100, "map": last, "map_at_r": 0}
    )


def test_shuffled_labels_score_chance():
    x, y = blobs(1000, 0)
    y = y[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    found = retrieval_scores(x[:800], y[:800], x[800:], y[800:])
    assert found["recall_at_1"] == pytest.approx(20, abs=9)  # three deviations of 200 draws at 1/5
    assert found["map"] == pytest.approx(20, abs=1.5)


def test_constant_features_rank_by_index():
    """All equal: the order is that of the gallery, on every machine, and says nothing of the queries."""
    y = torch.tensor([0, 0, 1, 1])
    found = retrieval_scores(torch.ones(4, 3), y, torch.ones(2, 3), torch.tensor([0, 1]), k=(1,))
    assert found["recall_at_1"] == 50.0
    assert found["map"] == pytest.approx(100 * (1 + (1 / 3 + 2 / 4) / 2) / 2)


def test_queries_without_anything_to_find_count_0_and_are_said(caplog):
    x = torch.eye(3)
    with caplog.at_level(logging.WARNING):
        found = retrieval_scores(x, torch.tensor([0, 1, 1]), x[:2], torch.tensor([0, 7]), k=(1,))
    assert found["map"] == found["recall_at_1"] == 50.0
    assert "1 of 2 queries have no image of their class" in caplog.text


def test_a_k_beyond_the_gallery_is_clipped_and_said(caplog):
    x, y = blobs(20, 0)
    with caplog.at_level(logging.WARNING):
        found = retrieval_scores(x, y, x, y, k=(1, 50, 60), leave_one_out=True)
    assert list(found)[:2] == ["recall_at_1", "recall_at_19"]
    assert "only 19 images to find" in caplog.text


@pytest.mark.parametrize("k", [(), (0, 1)])
def test_senseless_k_is_refused(k, colour_images):
    with pytest.raises(SeedHubError, match="every k >= 1"):
        retrieval_scores(torch.eye(2), torch.arange(2), torch.eye(2), torch.arange(2), k=k)
    with pytest.raises(SeedHubError, match="every k >= 1"):
        next(retrieval.evaluate(None, colour_images(9, 0), colour_images(9, 1), Settings(k=k)))


def test_too_few_images_are_refused():
    one = torch.ones(1, 3)
    with pytest.raises(SeedHubError, match="gallery of 0 other image"):
        retrieval_scores(one, torch.zeros(1).long(), one, torch.zeros(1).long(), leave_one_out=True)
    with pytest.raises(ValueError, match="queries that are the gallery"):
        retrieval_scores(
            one, torch.zeros(1).long(), torch.ones(2, 3), torch.zeros(2).long(), leave_one_out=True
        )


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_evaluate(flat_encoder, colour_images, leave_one_out):
    """Colour is the class, and all the encoder sees."""
    before = {name: value.clone() for name, value in flat_encoder.state_dict().items()}
    train = colour_images(30, 0)
    test = train if leave_one_out else colour_images(12, 1)
    settings = Settings(leave_one_out=leave_one_out, workers=0, device="cpu")
    found = dict(retrieval.evaluate(flat_encoder, train, test, settings))
    assert found == dict.fromkeys(["recall_at_1", "recall_at_5", "recall_at_10", "map", "map_at_r"], 100.0)
    assert retrieval.HEADLINE in found
    assert all(torch.equal(value, before[name]) for name, value in flat_encoder.state_dict().items())


def test_one_split_as_both_is_asked_for_by_name(flat_encoder, colour_images):
    images = colour_images(9)
    with pytest.raises(SeedHubError, match="name another split"):
        next(retrieval.evaluate(flat_encoder, images, images))
