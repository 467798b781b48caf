"""What a run says about itself."""

from __future__ import annotations

import pytest
import torch

from seed_hub.training.monitor import Look, verdict, view_retrieval


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


def test_of_a_handful_of_images_nothing_is_told():
    assert verdict(_look(0.9), _look(1.0), 12).startswith("Too few to tell: 12 images are held out")
