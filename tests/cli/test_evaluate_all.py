"""``eval all``: one table, with the rows that give a number its meaning."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

HOW = ["--batch-size", "32", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="session")
def student_run(
    photos: Path, teacher_run: Path, tiny: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from seed_hub.cli import main

    out = tmp_path_factory.mktemp("runs") / "student"
    words = [
        "distill",
        "--data",
        str(photos),
        "--teacher",
        f"seed:{teacher_run}?head=none",
        "--out",
        str(out),
    ]
    assert main([*words, *tiny]) == 0
    return out


def test_a_run_beside_its_teacher_and_the_untrained_student(
    hub: Any, student_run: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.jsonl"
    words = ["eval", "all", "--model", student_run, "--data", photos, "--out", out, *HOW]
    answer = hub(*words)
    assert answer.status == 0, answer.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["protocol"] for line in lines] == ["knn", "linear"] * 3
    assert {line["settings"]["size"] for line in lines} == {32}, "all at the student's own size"
    rows = answer.out.splitlines()
    assert [row.split()[0] for row in rows[1:4]] == ["student", "untrained", "teacher"]
    ahead = lines[0]["mean"] - lines[2]["mean"]
    assert f"{ahead:+.2f}" in rows[2]
    assert re.search(r"\d \(\d+\.\d\d to \d+\.\d\d\)", rows[1])
    again = hub(*words)
    assert again.status == 0 and again.out == answer.out
    assert len(out.read_text().splitlines()) == 6, "measured once"


def test_a_budget_shortens_all_rows_alike_and_says_so(
    hub: Any, student_run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.eval import budget

    monkeypatch.setattr(budget, "LEAST_TEST", 4)
    monkeypatch.setattr(budget, "_seconds_per_image", lambda *_: 1.0)
    out = tmp_path / "results.jsonl"
    words = ["eval", "all", "--model", student_run, "--data", photos, "--out", out, *HOW]
    answer = hub(*words, "--budget", "2")  # 3 rows x 2 protocols: 20 seconds, at one image a second
    assert answer.status == 0, answer.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(line["shortened"]["minutes"] == pytest.approx(1 / 3) for line in lines)
    for part in ("train", "test"):
        (pair,) = {tuple(line["shortened"][f"{part} images"]) for line in lines}
        assert {line["data"][part]["images"] for line in lines} == {pair[1]} and pair[1] < pair[0]
    assert answer.out.count("†") == 6 + 1 and "not the whole measurement, shortened to fit" in answer.out
    assert hub(*words, "--budget", "2").status == 0
    assert len(out.read_text().splitlines()) == 6, "the same budget is measured once"
    assert hub(*words).status == 0
    assert len(out.read_text().splitlines()) == 12, "a shortened number is not taken for the whole one"
    assert "†" not in hub(*words, "--budget", "2").out, "and the whole one does for any budget"


def test_what_cannot_be_compared_with_is_refused(
    hub: Any, student_run: Path, teacher_run: Path, photos: Path
) -> None:
    data = ["--data", photos, *HOW]
    for words, sentence in (
        (["--model", teacher_run, "--against", "teacher"], "is no run that had a teacher"),
        (["--model", "timm:resnet18", "--against", "untrained"], "is no run of this package"),
        (["--model", student_run, "--protocols", "knnn"], 'no protocol "knnn"'),
        (["--model", student_run, "--against", "nonsense"], '"nonsense" is no model'),
    ):
        answer = hub("eval", "all", *words, *data)
        assert answer.status == 2 and sentence in answer.sentence, answer.err
