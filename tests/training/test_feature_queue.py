"""The queue: first in, first out, at any batch size."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from seed_hub.training.feature_queue import FeatureQueue


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 10, 13])
def test_it_holds_the_last_k_rows_whatever_the_batch(batch):
    torch.manual_seed(0)
    queue, size = FeatureQueue(10, 4), 10
    pushed = torch.empty(0, 4)
    for _ in range(9):
        rows = torch.randn(batch, 4)
        queue.push(rows)
        pushed = torch.cat([pushed, normalize(rows, dim=1)])
        last = pushed[-size:]
        assert len(queue.get()) == len(last)
        # The same set of rows; the order inside the memory is not promised.
        torch.testing.assert_close(_sorted(queue.get()), _sorted(last))


def test_it_starts_empty_and_its_state_restores_the_place():
    queue = FeatureQueue(5, 3)
    assert queue.get().shape == (0, 3)
    queue.push(torch.randn(3, 3))
    other = FeatureQueue(5, 3)
    other.load_state_dict(queue.state_dict())
    rows = torch.randn(4, 3)
    queue.push(rows)
    other.push(rows)
    torch.testing.assert_close(queue.get(), other.get(), rtol=0, atol=0)


def _sorted(rows: torch.Tensor) -> torch.Tensor:
    return rows[rows[:, 0].argsort()]
