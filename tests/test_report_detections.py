"""Detection in a page: curves of classes as the line holds them, and pictures of these weights only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from seed_hub.errors import SeedHubError
from seed_hub.report.detections import MOST, draw_pictures, draw_precision_recall, open_pictures
from seed_hub.report.measurements import Comparison

STEP = [1.0] * 51 + [0.0] * 50


def comparison(curves: dict[str, list[float]], untrained: dict[str, list[float]] | None = None) -> Comparison:
    return Comparison({"curves": curves}, [], 0, None if untrained is None else {"curves": untrained})


def test_each_class_has_its_curve_the_best_first() -> None:
    html = draw_precision_recall(comparison({"worse": [0.25] * 101, "<b>": STEP}, {"<b>": [0.0] * 101}))
    first, second = re.findall(r"<figure.*?</figure>", html)
    assert "&lt;b&gt;</b> AP50 50.5, untrained 0.0" in first and "worse</b> AP50 25.0<" in second
    assert first.count("class=before") == 1 and "class=before" not in second
    path = re.search(r'class=line d="M([^"]+)"', first)
    assert path is not None
    points = [tuple(map(float, point.split())) for point in path[1].split("L")]
    assert len(points) == 101
    assert len({y for _, y in points[:51]}) == len({y for _, y in points[51:]}) == 1
    assert points[0][1] < points[-1][1], "precision 1 is above precision 0"
    assert [x for x, _ in points] == sorted(x for x, _ in points)


def test_of_many_classes_the_best_and_the_worst_are_drawn() -> None:
    html = draw_precision_recall(comparison({f"c{i:02}": [i / 100] * 101 for i in range(MOST + 3)}))
    drawn = re.findall(r"<b>c(\d+)</b>", html)
    assert [int(c) for c in drawn] == [14, 13, 12, 11, 10, 9, 5, 4, 3, 2, 1, 0]
    assert "The 3 classes between them are left out." in html


def test_a_line_without_curves_draws_nothing() -> None:
    assert draw_precision_recall(Comparison({}, [], 0, None)) == ""


def test_pictures_are_shown_if_they_are_of_these_weights(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 900)).save(tmp_path / "7.png")
    entry = {"file": "7.png", "image": 7, "true": 3, "found": 2}
    (tmp_path / "pictures.json").write_text(
        json.dumps({"weights": "abc", "threshold": 0.5, "pictures": [entry]})
    )
    html = draw_pictures(open_pictures(tmp_path, {"abc"}))
    assert html.count('src="data:image/jpeg;base64,') == 1
    assert "<figcaption>Test image 7: 3 true, 2 found</figcaption>" in html
    with pytest.raises(SeedHubError, match="by another model"):
        open_pictures(tmp_path, {"abd"})
    (tmp_path / "7.png").unlink()
    with pytest.raises(SeedHubError, match="no pictures in"):
        open_pictures(tmp_path, {"abc"})


@pytest.mark.parametrize("text", [None, "{", "[]", '{"pictures": []}', '{"pictures": [{}]}'])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pictures.json").write_text(text)
    with pytest.raises(SeedHubError, match="no pictures in .*eval detection --pictures"):
        open_pictures(tmp_path, {"abc"})
