"""Intervals: against theory, and against a bootstrap written with loops."""

from __future__ import annotations

import numpy as np
import pytest

from seed_hub.eval.intervals import difference, interval, pack, unpack


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.mark.parametrize("count", [1, 7, 8, 1000])
def test_what_was_packed_comes_back(rng, count):
    right = rng.random(count) < 0.3
    assert np.array_equal(unpack(pack(right), count), right)


def test_the_interval_of_a_share_is_the_binomials(rng):
    right = np.arange(4000) % 5 == 0
    low, high = interval([right])
    half = 100 * 1.96 * np.sqrt(0.2 * 0.8 / 4000)
    assert (low, high) == pytest.approx((20 - half, 20 + half), abs=0.1)
    assert interval([np.ones(50, dtype=bool)]) == (100, 100)


def test_trials_that_differ_widen_the_interval(rng):
    same = rng.random(500) < 0.5
    trials = [rng.random(500) < share for share in (0.3, 0.5, 0.7)]
    narrow, wide = interval([same] * 3), interval(trials)
    assert np.diff(wide) > 2 * np.diff(narrow)
    assert np.diff(narrow) == pytest.approx(np.diff(interval([same])), rel=0.1)


def test_a_difference_is_paired(rng):
    theirs = rng.random(2000) < 0.5
    ours = theirs | (rng.random(2000) < 0.02)
    mean, (low, high) = difference([ours], [theirs])
    assert mean == pytest.approx(100 * (ours.mean() - theirs.mean()))
    assert 0 < low < mean < high
    assert high - low < 0.5 * np.diff(interval([ours]))[0]
    loops = np.random.default_rng(5)
    gap = ours.astype(float) - theirs
    plain = [100 * gap[loops.integers(2000, size=2000)].mean() for _ in range(2000)]
    assert (low, high) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.06)
    mean, (low, high) = difference([ours, ours], [theirs, theirs])
    assert 0 < low < mean < high
