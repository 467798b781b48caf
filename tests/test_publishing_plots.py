"""Pictures on a card: they show the run's numbers, in words too, and are read on a white page and on a black one."""

from __future__ import annotations

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seed_hub.encoder import build_student
from seed_hub.licences import Source, decide
from seed_hub.model_folder import save_model
from seed_hub.publishing import plots
from seed_hub.publishing.plots import BARS, CURVES, pictures
from seed_hub.publishing.publication import CARD, Curve, Measured, Publication, Score, write_folder


def line(metric: str, mean: float, **more: Any) -> dict[str, Any]:
    data = {"source": "photos", "split": "test", "images": 1200, "fingerprint": "0123"}
    return {
        "protocol": "knn",
        "metric": metric,
        "n": 1,
        "mean": mean,
        "std": None,
        "data": {"test": data},
        "settings": {"size": 64},
    } | more


MEASURED = (
    Measured(
        line("top1_k20", 45.5, interval=[43.25, 48.0]),
        (Score("big [teacher]", 70.25, (68.0, 72.5)), Score("untrained", 12.5)),
    ),
    Measured(line("effective_rank", 33.0, std=2.0, n=3), (Score("another", 40.0),)),
)
LOSS = tuple((float(seen), 6 - 5 * seen / 640) for seen in range(0, 641, 10))
CURVES_OF_A_RUN = (
    Curve("agreement", ((0, 0.1), (320, 0.4), (640, 0.35)), "share found", 0.1, marked=320, share=True),
    Curve("loss", LOSS),
)


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    torch.manual_seed(0)
    save_model(tmp_path / "best", build_student("test_resnet"), {"name": "x"})
    return Publication(
        repository="people/small.made_up",
        model=tmp_path / "best",
        lineage=decide([Source("images", "photos", "own")]),
        settings={"student": "test_resnet", "method": "seed", "size": 64},
        command="",
        environment={},
        hours=1.0,
        images_seen=640,
        measured=MEASURED,
        curves=CURVES_OF_A_RUN,
    )


def shown(publication: Publication, folder: Path) -> dict[str, str]:
    """Alternative text of each picture on the card, by file."""
    text = (write_folder(publication, folder) / CARD).read_text()
    found = re.findall(r"^!\[([^\[\]\n]*)\]\(([^()\s]+)\)$", text, re.MULTILINE)
    assert len(found) == text.count("![")  # a Markdown reader sees each of them
    return {file: words for words, file in found}


def test_a_card_shows_its_pictures_and_says_what_is_on_them(publication: Publication, tmp_path: Path) -> None:
    words = shown(publication, tmp_path / "card")
    assert set(words) == {CURVES, BARS} and all((tmp_path / "card" / name).is_file() for name in words)
    assert words[CURVES] == (
        "agreement from 10.0% to 35.0%, untrained 10.0%; loss from 6 to 1; over 640 images seen"
    )
    assert words[BARS] == (
        "knn top1_k20 in %, 1,200 images of photos: big (teacher) 70.25 (68.00 to 72.50), "
        "this model 45.50 (43.25 to 48.00), untrained 12.50; "
        "knn effective_rank, 1,200 images of photos: another 40.00, this model 33.00 (31.00 to 35.00)"
    )


def test_a_student_that_went_on_from_other_weights_was_not_untrained(publication, tmp_path: Path) -> None:
    went_on = dataclasses.replace(publication, settings=publication.settings | {"start": "runs/earlier"})
    words = shown(went_on, tmp_path / "card")[CURVES]
    assert "agreement from 10.0% to 35.0%, at the start 10.0%;" in words
    text = (tmp_path / "card" / CARD).read_text()
    assert "Dashed: the student at the start." in text and "Dashed: the student untrained." not in text


def test_what_there_is_nothing_to_show_of_is_not_there(publication: Publication, tmp_path: Path) -> None:
    shown(publication, tmp_path / "card")
    bare = dataclasses.replace(publication, measured=(), curves=())
    assert shown(bare, tmp_path / "card") == {}  # over the earlier card
    assert not list((tmp_path / "card").glob("*.png"))


def test_pictures_are_the_same_bytes_each_time_and_readable_on_any_page(publication: Publication) -> None:
    drawn = pictures(publication)
    assert drawn == pictures(publication)
    for data in drawn.values():
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
        assert (pixels[..., 3] == 255).all()  # their own paper, whatever page they lie on
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (edge[:, :3] == 255).all()  # nothing is cut off
        assert min(pixels.shape[:2]) > 300 and pixels[..., :3].min() < 60  # dark ink


def test_bars_are_as_long_as_the_scores_and_whiskers_as_the_intervals() -> None:
    first, second = plots._draw_scores(MEASURED).axes
    for axes, values, intervals in (
        (first, [70.25, 45.5, 12.5], [(68.0, 72.5), (43.25, 48.0)]),
        (second, [40.0, 33.0], [(31.0, 35.0)]),
    ):
        assert [bar.get_width() for bar in axes.patches] == values
        assert [text.get_text() for text in axes.texts] == [f"{value:.2f}" for value in values]
        whiskers = [lines.get_segments()[0][:, 0] for lines in axes.collections]
        np.testing.assert_allclose(whiskers, intervals)
        assert axes.get_xlim()[0] <= 0  # bars that do not start at 0 lie
    own = [bar.get_facecolor() == first.patches[1].get_facecolor() for bar in first.patches]
    assert own == [False, True, False]
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["big [teacher]", "this model", "untrained"]


def test_curves_are_those_of_the_log() -> None:
    agreement, loss = plots._draw_curves(CURVES_OF_A_RUN).axes
    line_, untrained, ring = agreement.lines
    np.testing.assert_array_equal(line_.get_xydata(), CURVES_OF_A_RUN[0].points)
    assert set(untrained.get_ydata()) == {0.1}
    np.testing.assert_array_equal(ring.get_xydata(), [[320, 0.4]])
    raw, smooth = loss.lines
    np.testing.assert_array_equal(raw.get_xydata(), LOSS)
    middle = smooth.get_xydata()[5:-5]
    np.testing.assert_allclose(middle, LOSS[5:-5])  # the mean of neighbours on a straight line is the line
