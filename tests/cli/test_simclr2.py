"""The recipe of three stages: one command, which goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seed_hub.model_folder import load_model_folder

SMALL = [
    *("--size", "32", "--batch-size", "8", "--held-out", "12", "--workers", "0", "--device", "cpu"),
    *("--optimizer", "adamw", "--hidden-width", "32", "--label-share", "0.5"),
    *("--pretrain-epochs", "0.2", "--finetune-epochs", "0.5", "--distill-epochs", "0.2"),
]


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _command(photos: Path, out: Path) -> list[str]:
    network = ["--network", "test_resnet", "--student", "test_efficientnet"]
    return ["simclr2", "--data", str(photos), "--out", str(out), *network, *SMALL]


def test_three_stages_and_a_classifier(hub: Any, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = hub(*_command(photos, out), "--json")
    assert answer.status == 0, answer.err
    assert list(answer.json["stages"]) == ["pretrain", "finetune", "distill"]
    assert 0 <= answer.json["stages"]["distill"]["best"]["accuracy"] <= 1
    tuned, student = (load_model_folder(out / stage / "best") for stage in ("finetune", "distill"))
    assert (tuned.arch, student.arch) == ("test_resnet", "test_efficientnet")
    assert student.classifier[-1].out_features == 3
    config = json.loads((out / "finetune" / "config.json").read_text())
    assert config["lr"] == pytest.approx(1e-3 * 8 / 256 / 20)
    assert json.loads((out / "distill" / "config.json").read_text())["method_settings"]["kd_temperature"] == 1
    again = hub(*_command(photos, out))
    assert again.status == 2 and "continue them with --resume" in again.sentence


def test_it_goes_on_in_the_stage_it_was_in(
    hub: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.training import run as running

    out, real = tmp_path / "out", running.run_together

    def stopped(runs: Any, *args: Any, **options: Any) -> Any:
        return real(runs, *args, **options | ({"stop_at": 2} if runs[0].method == "finetune" else {}))

    monkeypatch.setattr(running, "run_together", stopped)
    answer = hub(*_command(photos, out))
    assert answer.status == 130
    assert f"Continue with: seed-hub simclr2 --resume --out {out}" in answer.sentence
    monkeypatch.undo()
    first = (out / "pretrain" / "log.jsonl").read_bytes()
    wrong = hub("simclr2", "--resume", "--out", out, "--kept-layers", "0")
    assert wrong.status == 2 and "started with --kept-layers" in wrong.sentence
    assert hub("simclr2", "--resume", "--out", out).status == 0
    assert (out / "pretrain" / "log.jsonl").read_bytes() == first
    assert [line["step"] for line in _log(out / "finetune") if line["event"] == "resume"] == [2]
    assert (out / "distill" / "verdict.json").exists()
    assert hub(*_command(photos, out), "--overwrite", "--pretrain-epochs", "0.1").status == 0
    assert (out / "pretrain" / "log.jsonl").read_bytes() != first


def test_what_a_later_stage_would_refuse_is_refused_first(
    hub: Any, photos: Path, draw: Any, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for i in range(40):
        draw(i).save(bare / f"{i}.png")
    out = tmp_path / "out"
    cases = {
        "learns from labels and": ["--data", bare],
        'There is no student "nothing"': ["--student", "nothing"],
        "--ce-weight is 1": ["--ce-weight", "1"],
        "--label-share is 0": ["--label-share", "0"],
        "--distill-epochs is 0.0: it must be above 0": ["--distill-epochs", "0"],
        "has 6 images to train on": ["--label-share", "0.05"],
        "--kept-layers is 3, and the student starts with 2": ["--kept-layers", "3"],
        "--kept-layers is -1: it must be 0 or more": ["--kept-layers", "-1"],
        "--memory is -1: it must be 0 or more": ["--memory", "-1"],
        'Unknown --device "abacus"': ["--device", "abacus"],
        "There are no runs of this recipe": ["--resume"],
    }
    for sentence, words in cases.items():
        answer = hub(*_command(photos, out), *words)
        assert answer.status == 2 and sentence in answer.sentence
        assert not out.exists()


@pytest.mark.parametrize(
    "words", [["--network", "test_efficientnet"], ["--ce-weight", "0.5", "--memory", "12"]]
)
def test_itself_labels_and_a_memory(hub: Any, photos: Path, tmp_path: Path, words: list[str]) -> None:
    """Self-distillation, and every term at once."""
    out = tmp_path / "out"
    assert hub(*_command(photos, out), *words).status == 0
    config, last = (
        json.loads((out / stage / "config.json").read_text()) for stage in ("pretrain", "distill")
    )
    own, itself = last["method_settings"], words[0] == "--network"
    assert config["method_settings"]["memory"] == (0 if itself else 12)
    assert own["kd_temperature"] == (0.1 if itself else 1) and own["kd_weight"] == 1 - own["ce_weight"]
    assert own["ce_weight"] == (0 if itself else 0.5) and last["label_share"] == (1 if itself else 0.5)
    steps = [line for line in _log(out / "distill") if line["event"] == "step"]
    assert all(("ce" in line) != itself for line in steps)
