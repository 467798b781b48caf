"""Batches: each image once an epoch, shared out over processes, continued anywhere."""

from __future__ import annotations

import pytest

from seed_hub.errors import SeedHubError
from seed_hub.training.batches import StepBatches


def _batches(**changes):
    return list(
        StepBatches(
            **{"n": 23, "batch_size": 4, "seed": 0, "first": 0, "last": 12, "rank": 0, "world": 1} | changes
        )
    )


def test_every_epoch_is_a_new_permutation():
    batches = _batches()
    first, second = batches[:5], batches[5:10]
    seen = [i for b in first for i, _ in b]
    assert len(set(seen)) == 20 and {e for b in first for _, e in b} == {0}
    assert {e for b in second for _, e in b} == {1} and [i for b in second for i, _ in b] != seen


def test_processes_share_each_batch():
    whole = _batches()
    for mine, yours, both in zip(_batches(world=2, rank=0), _batches(world=2, rank=1), whole, strict=True):
        assert mine + yours == both


@pytest.mark.parametrize("first", [1, 5, 7, 11])
def test_it_continues_anywhere(first):
    assert _batches(first=first) == _batches()[first:]


def test_fewer_images_than_a_batch_is_said():
    with pytest.raises(SeedHubError, match="3 training images, fewer than one batch of 4"):
        _batches(n=3)
