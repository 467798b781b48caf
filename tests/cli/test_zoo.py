"""``list`` and ``info`` of released weights: theirs are the scores that were measured on their very tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seed_hub import weights
from seed_hub.cli import zoo
from seed_hub.weights import Weight
from tests.made_up_run import SIDE, line, make_run, network

FIRST = Weight("seed_resnet18.first", "a" * 64, "mit", "the first", input_size=64, tensors="1" * 64)
SECOND = Weight("seed_resnet18.second", "b" * 64, "cc-by-nc-4.0", "the second", tensors="2" * 64)


@pytest.fixture(autouse=True)
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two weights of one student, and what was measured of them and of others."""
    settings = {"size": 64, "protocol": "seed", "paper_epochs": 2}
    lines = [
        line("1" * 64, "run", 11.11),
        line("1" * 64, "run", 12.34),  # again: this one counts
        line("1" * 64, "run", 23.45, protocol="linear", metric="top1", settings=settings),
        line("1" * 64, "run", 56.78, protocol="retrieval", metric="map"),
        line("2" * 64, "other_run", 34.56),
        line("3" * 64, "untrained:seed_resnet18", 45.67),
        line("4" * 64, "nobody", 99.99),
    ]
    (tmp_path / "made_up.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    monkeypatch.setattr(zoo, "RESULTS", (tmp_path,))
    monkeypatch.setattr(weights, "WEIGHTS", (FIRST, SECOND))


def test_list_shows_each_weight_with_the_scores_of_its_tensors(hub: Any) -> None:
    answer = hub("list", "--json")
    rows = {row["name"]: row["weights"] for row in answer.json["students"]}
    assert rows["seed_resnet34"] == []
    first, second = rows["seed_resnet18"]
    assert [each["mean"] for each in first["scores"]] == [12.34, 23.45, 56.78]
    assert [each["mean"] for each in second["scores"]] == [34.56]
    assert (first["sha256"], first["input"]) == ("a" * 64, [3, 64, 64])
    (row,) = (text for text in answer.out.splitlines() if text.startswith("seed_resnet18.first"))
    for said in ("mit", "64 px", "knn top1_k20 12.3 %, linear seed (paper epochs 2) top1 23.4 % on photos"):
        assert said in row
    assert "56.8" not in answer.out and "46" not in row


def test_info_of_a_student_shows_all_and_of_a_weight_its_own(hub: Any) -> None:
    every = hub("info", "seed_resnet18", "--json")
    assert [each["mean"] for each in every.json["scores"]] == [12.34, 23.45, 56.78, 34.56, 45.67]
    assert "seed_resnet18.second" in every.out and "99.99" not in every.out
    one = hub("info", "seed_resnet18.second", "--json")
    assert [each["mean"] for each in one.json["scores"]] == [34.56]
    assert "seed_resnet18.second (cc-by-nc-4.0, 224 px): the second" in one.out
    assert "the first" not in one.out.rpartition("\n{")[0]
    for name in ("seed_resnet18.first", "seed-hub/seed_resnet18.first"):
        other = hub("info", name, "--json")
        assert other.json["input"] == [3, 64, 64] and "[B, 3, 64, 64]" in other.out
    wrong = hub("info", "seed_resnet18.secnd")
    assert wrong.status == 2 and 'Did you mean "seed_resnet18.second"' in wrong.sentence


def test_info_of_a_folder_is_that_of_the_model_in_it(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "seed_resnet18.mine", network("test_resnet"), "test_resnet")
    make_run(tmp_path / "seed_resnet18", network("test_resnet"), "test_resnet")
    monkeypatch.chdir(tmp_path)
    for folder in ("seed_resnet18.mine", "seed_resnet18.mine/best", "./seed_resnet18"):
        answer = hub("info", folder, "--json")
        assert (answer.json["name"], answer.json["input_size"]) == (f"seed:{folder}", SIDE)
    assert hub("info", "seed_resnet18", "--json").json["name"] == "seed_resnet18"
    assert "holds no trained model" in hub("info", str(tmp_path)).sentence
