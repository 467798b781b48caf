"""Test images that were seen before: said, listed, and left out, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seed_hub.eval.leakage import COSINE


@pytest.fixture
def leaking(tmp_path: Path) -> Path:
    """6 training images of 2 classes, 6 test images of which one is a training image, and 4 more images with another."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 6), ("more", 4)):
        for i in range(count):
            grid = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            path = (
                tmp_path / ("photos" if split != "more" else "") / split / f"class{i % 2}" / f"{split}{i}.png"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(grid).resize((48, 48), Image.Resampling.BICUBIC).save(path)
    shutil.copy(tmp_path / "photos/train/class0/train0.png", tmp_path / "photos/test/class0/test0.png")
    with Image.open(tmp_path / "more/class1/more1.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "photos/test/class1/test1.png")
    return tmp_path


def test_what_was_seen_before(hub: Any, leaking: Path) -> None:
    out, found = leaking / "results.jsonl", leaking / "found.txt"
    words = ["eval", "knn", "--model", "untrained:test_resnet", "--data", leaking / "photos", "--out", out]
    words += ["--size", "32", "--workers", "0", "--device", "cpu", "--k", "1"]

    answer = hub(*words, "--check-duplicates")
    assert (
        answer.status == 0
        and "1 of the 6 images" in answer.err
        and "test0.png = class0/train0.png" in answer.err
    )
    answer = hub(*words, "--list-duplicates", found, "--distilled-on", leaking / "more", "--again")
    assert answer.status == 0, answer.err
    rows = [line.split("\t") for line in found.read_text().splitlines()]
    assert [row[:2] for row in rows] == [
        ["class0/test0.png", "class0/train0.png"],
        ["class1/test1.png", "class1/more1.png"],
    ]
    assert "mirrored" in rows[1][2]
    answer = hub(*words, "--drop-duplicates", "--distilled-on", leaking / "more")
    assert answer.status == 0, answer.err
    counts = [json.loads(line)["data"]["test"]["images"] for line in out.read_text().splitlines()]
    assert counts == [6, 6, 4]


def test_embeddings_are_compared_if_a_model_is_named(
    hub: Any, leaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.eval import leakage

    words = ["eval", "knn", "--model", "untrained:test_resnet", "--data", leaking / "photos", "--size", "32"]
    words += [
        "--workers",
        "0",
        "--device",
        "cpu",
        "--k",
        "1",
        "--out",
        leaking / "results.jsonl",
        "--check-duplicates",
    ]
    seen = []
    monkeypatch.setattr(
        leakage, "by_embedding", lambda x, y, cosine: seen.append((len(x), len(y), cosine)) or []
    )
    assert hub(*words, "--duplicates-by", "untrained:test_resnet").status == 0
    assert seen == [(6, 6, COSINE)]


def test_bad_input(hub: Any, leaking: Path) -> None:
    words = ["eval", "knn", "--model", "untrained:test_resnet", "--data", leaking / "photos", "--size", "32"]
    words += ["--workers", "0", "--device", "cpu", "--k", "1", "--out", leaking / "results.jsonl"]
    for flags, says in (
        (["--list-duplicates", leaking], "cannot be written"),
        (["--distilled-on", leaking / "nowhere"], "nowhere"),
    ):
        answer = hub(*words, *flags)
        assert answer.status and says in answer.err and "Traceback" not in answer.err, answer.err
    assert not (leaking / "results.jsonl").exists()
