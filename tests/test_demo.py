"""The demo with a few steps instead of hundreds: all it shows is measured, and nothing is claimed that did not happen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seed_hub import demo
from seed_hub.data import open_images
from seed_hub.demo import NEXT, Row, claim_holds, closing

BUDGET = 0.01  # a few steps of each run


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((folder / "demo.json").read_text())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo.main(out, budget=BUDGET, workers=0)
    return out


def test_the_table_shows_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    held = demo.main(tmp_path, budget=BUDGET, seed=1, workers=0) == 0
    printed, rows = capsys.readouterr().out, rows_of(tmp_path)
    assert list(rows) == ["untrained", "alone", "distilled", "teacher"]
    for row in rows.values():
        found = [line for line in printed.splitlines() if row["name"] in line and row["network"] in line]
        line = next(line for line in found if "%" in line)
        assert f"{row['accuracy']:.1f} %" in line
    assert ("did not hold" in printed) == (not held)
    assert f"\n  {NEXT}\n" in printed, "the line to copy stays on one line"
    others = rows_of(folder)
    assert any(rows[name]["accuracy"] != others[name]["accuracy"] for name in rows), (
        "another seed, other numbers"
    )


def test_both_students_see_as_many_images_and_no_labels(folder: Path) -> None:
    rows = rows_of(folder)
    assert rows["alone"]["images_seen"] == rows["distilled"]["images_seen"] > 0
    assert rows["alone"]["network"] == rows["distilled"]["network"] == rows["untrained"]["network"]
    for split, count in (("train", 1297), ("test", 500)):
        images = open_images(folder / "digits", split=split)
        assert len(images) == count
        assert images.labels is None
        assert images.load(0).size == (64, 64)


def test_the_accuracies_are_those_of_the_saved_models(folder: Path) -> None:
    """k-NN again, written out: 20 nearest by cosine, votes exp(cosine / 0.07)."""
    from sklearn.datasets import load_digits

    from seed_hub.teachers import load_model

    labels = torch.as_tensor(load_digits().target)
    for name in ("distilled", "alone"):
        network = load_model(f"seed:{folder / name}")
        parts = []
        for split in ("train", "test"):
            images = open_images(folder / "digits", split=split)
            pixels = np.stack([np.asarray(images.load(i)) for i in range(len(images))])
            x = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255).pooled
            parts.append(torch.nn.functional.normalize(x, dim=1))
        similarity, index = (parts[1] @ parts[0].T).topk(20)
        votes = torch.zeros(500, 10).scatter_add_(1, labels[index], (similarity / 0.07).exp())
        accuracy = 100 * (votes.argmax(1) == labels[1297:]).float().mean().item()
        assert rows_of(folder)[name]["accuracy"] == pytest.approx(
            accuracy, abs=0.5
        )  # ties and rounding: 2 digits


def test_the_picture_is_there_and_not_empty(folder: Path) -> None:
    picture = np.asarray(Image.open(folder / "demo.png").convert("RGB"))
    assert picture.shape[0] >= 700
    assert picture.shape[1] >= 1400
    left, right = picture[:, : picture.shape[1] // 3], picture[:, picture.shape[1] // 3 :]
    assert (left.reshape(-1, 3) == (11, 122, 117)).all(1).sum() > 5000, "the bar of the distilled student"
    assert (right.max(2) < 40).mean() > 0.1, "digits on black"


def table_of(untrained: float, alone: float, distilled: float, teacher: float = 97.0) -> list[Row]:
    values = {"untrained": untrained, "alone": alone, "distilled": distilled, "teacher": teacher}
    return [Row(name, "network", 0, value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "holds", "text"),
    [
        (
            (80, 87, 95),
            True,
            "8.0 points better than the one trained alone, and 15.0 better than untrained: 80% of the gap",
        ),
        ((80, 87, 98), True, "as good as the teacher"),
        ((80, 87, 87), False, "did not hold"),
        (
            (90, 87, 95),
            True,
            "8.0 points better than the one trained alone, and 5.0 better than untrained: 71% of the gap",
        ),
        ((96, 87, 95), False, "did not hold"),
        ((80, 95, 87), False, "did not hold"),
    ],
)
def test_it_claims_only_what_happened(values: tuple[float, float, float], holds: bool, text: str) -> None:
    rows = table_of(*values)
    assert claim_holds(rows) is holds
    assert text in closing(rows)
