"""``cache`` and ``distill --cache`` from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

VIEWS = ("--size", "32", "--batch-size", "8", "--held-out", "12", "--workers", "0", "--device", "cpu")


@pytest.fixture
def words(photos: Path, teacher_run: Path, tmp_path: Path) -> list[str]:
    """Of a cache of one epoch of views."""
    what = ("--data", str(photos), "--teacher", f"seed:{teacher_run}", "--views", "1")
    return ["cache", *what, "--out", str(tmp_path / "cache"), *VIEWS]


def test_a_cache_and_a_run_from_it(
    hub: Any, words: list[str], photos: Path, tiny: list[str], tmp_path: Path
) -> None:
    made = hub(*words, "--symmetric", "--json")
    assert made.status == 0, made.err
    shown = {name: made.json[name] for name in ("images", "views", "epochs", "dtype")}
    assert shown == {"images": 118, "views": 2, "epochs": 1, "dtype": "float16"}
    assert "118 images x 2 views x 1 epoch x" in made.err and "to go, at" in made.err
    again = hub(*words, "--preset", "plus")  # --symmetric by another name: nothing is left to do
    assert again.status == 0 and "to go" not in again.err and "--cache" in again.out

    run = ["distill", *words[1:5], "--cache", words[8], "--out", str(tmp_path / "run"), *tiny]
    answer = hub(*run, "--symmetric")
    assert answer.status == 0, answer.err
    assert (
        f"the teacher's answers from {words[8]} (one epoch of views in float16; cosine to live at least"
        in answer.err
    )
    refused = hub(*run, "--overwrite")
    assert refused.status == 2
    assert "2 views of an image there, 1 here (pass its method and view flags" in refused.sentence
    refused = hub("distill", "--resume", "--out", str(tmp_path / "run"), "--cache", "elsewhere")
    assert refused.status == 2 and "was started with --cache" in refused.sentence


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["--epochs", "3"],
            "--epochs changes nothing of what a teacher says: give it to `seed-hub distill` only.",
        ),
        (["--teacher", "timm:resnet18"], "A cache is of one teacher: make one for each"),
        (["--view", "3"], '`seed-hub cache` has no option --view. Did you mean "--views"'),
        (["--dtype", "int4"], 'Unknown --dtype "int4": choose float16, float32, int8. Did you mean "int8"'),
        (["--views", "0"], "--views is missing"),
        (["--method", "sed"], 'There is no method "sed". Did you mean "seed"'),
        (["--method", "moco"], "learns without a teacher"),
        (["--preset", "pluss"], 'has no preset "pluss"; it has: paper, released-code, plus, small-patch.'),
        (["--batch-size", "9", "--accumulate", "2"], "does not divide into 1 processes x 2 parts"),
    ],
)
def test_what_is_refused(hub: Any, words: list[str], more: list[str], sentence: str) -> None:
    answer = hub(*words, *more)
    assert answer.status == 2 and sentence in answer.sentence
    assert not Path(words[8]).exists()


def test_help_names_the_flags_of_views(hub: Any) -> None:
    text = hub("cache", "--help").out
    for flag in ("--views", "--dtype", "--small-patches", "--crop-min", "--held-out"):
        assert flag in text
    for flag in ("--epochs", "--lr ", "--optimizer"):
        assert flag not in text
