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


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (0.9, "It worked: 90.0%"),
        (0.524, "It gained on what it started with (+2.4 points): 52.4% of"),
        (0.505, "It kept what it started with (+0.5 points): 50.5% of"),
        (0.495, "(-0.5 points)"),
        (0.4, "It did not work: 40.0%"),
    ],
)
def test_a_student_that_started_from_other_weights_is_measured_against_them(after, words):
    said = verdict(_look(0.5), _look(after), 2000, start="runs/earlier")
    assert words in said and "(at the start 50.0%" in said


def test_a_classifier_that_learnt_nothing_kept_nothing():
    look = Look(0.005, None, None, 0.5, 50.0, None, accuracy=0.005)
    assert verdict(look, look, 2000, start="runs/earlier").startswith(
        "It did not work: 0.5% of held-out images get their class"
    )


def test_of_a_handful_of_images_nothing_is_told():
    assert verdict(_look(0.9), _look(1.0), 12).startswith("Too few to tell: 12 images are held out")
