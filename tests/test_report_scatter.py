"""The map: groups stay groups, the seed decides, and what cannot be mapped is said."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seed_hub.report.held_out import HeldOut
from seed_hub.report.scatter import COLOURS, LEAST, MOST, SIDE, choose_dots, draw_maps, place


def held_out(labels: list[int] | None, x: torch.Tensor, teacher: torch.Tensor | None = None) -> HeldOut:
    class Pile(SimpleNamespace):
        def __len__(self) -> int:
            return len(x)

    return HeldOut(Pile(labels=labels, classes=None), x, teacher)  # type: ignore[arg-type]


def two_groups(n: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(16)[[0, 1]].repeat_interleave(n // 2, 0)
    return 3 * (centres + 0.05 * torch.randn(n, 16, generator=generator))


def test_near_embeddings_are_near_on_the_map_and_length_does_not_count() -> None:
    x = two_groups() * torch.linspace(0.1, 10, 40)[:, None]  # only the direction tells
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    places = place(x, 0)
    assert places is not None and places.shape == (40, 2) and np.isfinite(places).all()
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(40)
    assert (distance.argmin(axis=1) // 20 == np.arange(40) // 20).all()
    assert np.array_equal(places, place(x, 0))
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[arg-type]


def test_a_collapse_has_no_map() -> None:
    same = torch.ones(20, 8) * torch.linspace(1, 2, 20)[:, None]
    assert place(same, 0) is None
    assert "nothing to map" in draw_maps(held_out(None, same), 0)


def test_few_images_have_no_map() -> None:
    assert draw_maps(held_out(None, two_groups(LEAST - 2)), 0) == ""
    assert draw_maps(held_out(None, two_groups(LEAST)), 0).count("<figure") == 1


def test_the_most_frequent_classes_get_a_colour() -> None:
    labels = [c for c in range(14) for _ in range(2 + c % 7)]
    dots = choose_dots(held_out(labels, torch.zeros(len(labels), 2)), 0)
    counts = {c: labels.count(c) for c in range(14)}
    expected = sorted(counts, key=lambda c: (-counts[c], c))[:COLOURS]
    assert dots.names == [str(c) for c in expected]
    for label, kind in zip(labels, dots.kind.tolist(), strict=True):
        assert kind == (expected.index(label) if label in expected else -1)


def test_no_more_dots_than_a_page_holds() -> None:
    many = held_out(None, torch.zeros(MOST + 500, 2))
    first, again, other = (choose_dots(many, seed).index for seed in (0, 0, 1))
    assert len(set(first.tolist())) == MOST and first.max() < MOST + 500
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("labels", [None, [0] * 20 + [1] * 20, list(range(40))])
def test_every_image_is_a_dot_inside_the_drawing(labels: list[int] | None) -> None:
    html = draw_maps(held_out(labels, two_groups(), two_groups().flip(1)), 0)
    drawings = re.findall(r"<figure.*?</figure>", html)
    assert len(drawings) == 2 and "Student" in drawings[0] and "Teacher" in drawings[1]
    for drawing in drawings:
        places = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)h0", drawing)]
        assert len(places) == 40
        assert all(0 < value < SIDE for pair in places for value in pair)
    legend = html.partition("<ul class=legend>")[2]
    assert legend.count("<li>") == {0: 0, 2: 2, 40: COLOURS + 1}[len(set(labels or []))]
    assert ("other classes" in legend) == (len(set(labels or [])) == 40)
