"""The looks that are kept, and the script that correlates what labels and what no labels say of them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr

from seed_hub.training import engine
from seed_hub.training.run import run
from seed_hub.training.run_folder import RunFolder

OWN = {"queue_size": 20, "hidden_width": 32}


@pytest.fixture(scope="module")
def script(root):
    spec = importlib.util.spec_from_file_location("eval_correlate", root / "eval" / "correlate.py")
    sys.modules["eval_correlate"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["eval_correlate"]


@pytest.fixture
def distilled(settings, teacher_run, tmp_path):
    """``distilled(out, **how)``: a run of SEED with looks at steps 2, 4 and 6."""

    def go(out="run", **how):
        changes = {
            "method": "seed",
            "teacher": f"seed:{teacher_run}",
            "watch_every": 0.33,
            "keep_looks": True,
        }
        run(settings(out=str(tmp_path / out), **changes), OWN, **how)
        return tmp_path / out

    return go


@pytest.fixture
def correlate(script, pictures, tmp_path):
    """``correlate(words)``: status of the script, on a split of the pictures."""
    for i, path in enumerate(sorted(pictures.glob("*/*.png"))):
        to = tmp_path / "split" / ("test" if i % 3 == 0 else "train") / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    common = ["--data", tmp_path / "split", "--workers", "0", "--device", "cpu"]
    common += ["--out", tmp_path / "looks.jsonl", "--correlations", tmp_path / "found.jsonl"]
    return lambda *words: script.main([str(word) for word in (*words, *common)])


def _lines(path):
    return [json.loads(text) for text in path.read_text().splitlines()]


def test_every_look_after_the_first_is_kept_and_survives_a_stop(distilled):
    whole = distilled("whole")
    with pytest.raises(engine.Stopped):
        distilled("parts", stop_at=3)
    parts = distilled("parts", resume=True)
    for folder in (whole, parts):
        assert sorted(path.name for path in (folder / "looks").iterdir()) == ["2", "4", "6"]
    for step in "246":
        one, other = (load_file(folder / "looks" / step / "model.safetensors") for folder in (whole, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)
    facts = [json.loads((whole / "looks" / s / "config.json").read_text())["seed_hub"] for s in "246"]
    looked = [line for line in RunFolder(whole).read_log() if line["event"] == "look"][1:]
    assert [fact["step"] for fact in facts] == [line["step"] for line in looked]
    assert [fact["look"]["score"] for fact in facts] == [line["score"] for line in looked]
    best = max(facts, key=lambda fact: fact["look"]["score"])
    assert json.loads((whole / "best" / "config.json").read_text())["seed_hub"]["step"] == best["step"]


def test_none_is_kept_unasked_and_overwriting_removes_them(distilled, settings, tmp_path):
    folder = distilled()
    run(settings(out=str(folder)), OWN, overwrite=True)
    assert not (folder / "looks").exists()


def test_correlations_over_the_looks_of_a_run(distilled, correlate, teacher_run, tmp_path, capfd):
    folder = distilled()
    log = folder / "log.jsonl"
    # On so short a run one report comes, after the first step: the others a longer one would have.
    log.write_text(
        log.read_text()
        + "".join(f"{json.dumps({'event': 'step', 'step': s, 'loss': 9.0 - s})}\n" for s in (4, 6))
    )
    (folder / "looks" / "99").mkdir()  # what a run that was killed left behind: its log does not know it
    assert correlate(folder, "--limit", 30) == 0
    measured = _lines(tmp_path / "looks.jsonl")
    assert [line["protocol"] for line in measured] == ["representation"] * 3 + ["linear", "knn"] * 3
    assert {line["settings"]["size"] for line in measured} == {32}
    assert all(abs(line["data"]["train"]["images"] - 30) <= 1 for line in measured)
    assert {line["settings"]["teacher_size"] for line in measured[:3]} == {32}

    (found,) = _lines(tmp_path / "found.jsonl")
    names = ["effective_rank", "alignment", "uniformity", "neighbour_agreement", "cka", "step", "loss", "knn"]
    assert list(found["scores"]) == names
    assert [row["step"] for row in found["checkpoints"]] == [2, 4, 6]
    assert [row["loss"] for row in found["checkpoints"]][1:] == [5.0, 3.0]
    assert [row["cka"] for row in found["checkpoints"]] == [m["values"]["cka"]["mean"] for m in measured[:3]]
    linear = [row["linear"] for row in found["checkpoints"]]
    assert linear == [m["mean"] for m in measured if m["protocol"] == "linear"]
    for name in names:
        score = found["scores"][name]
        assert score["n"] == 3
        if np.ptp(linear) and np.ptp(values := [row[name] for row in found["checkpoints"]]):
            assert score["rho"] == pytest.approx(spearmanr(values, linear).statistic)
            assert score["r"] == pytest.approx(pearsonr(values, linear).statistic)
    out = capfd.readouterr().out
    assert all(name in out for name in names)

    assert correlate(folder, "--limit", 30) == 0
    assert len(_lines(tmp_path / "looks.jsonl")) == 9, "measured once"
    again = _lines(tmp_path / "found.jsonl")[1]
    assert again["scores"] == found["scores"]


def test_correlations_over_models(distilled, settings, correlate, teacher_run, tmp_path, capfd):
    """One of them had no teacher; it is compared with the others'."""
    folder, alone = distilled(), tmp_path / "alone"
    run(settings(out=str(alone)), OWN)
    runs = ["--runs", folder, alone, teacher_run]
    assert correlate(*runs) == 0
    assert correlate(*runs, "--teacher", f"seed:{teacher_run}?head=none", "--teacher-size", 32) == 0
    found, to_pooled = _lines(tmp_path / "found.jsonl")
    assert (found["teacher"], to_pooled["teacher"]) == ("seed:run", "seed:run?head=none")
    assert "loss" not in found["scores"] and "step" not in found["scores"]
    assert [row["model"] for row in found["checkpoints"]] == ["run", "alone", teacher_run.name]
    agreed = [row["neighbour_agreement"] for row in to_pooled["checkpoints"]]
    assert agreed[2] == pytest.approx(100), "the teacher itself"
    assert max(agreed[:2]) < 100


def test_what_cannot_be_correlated(correlate, settings, teacher_run, tmp_path, capfd):
    def refused(*words):
        capfd.readouterr()
        assert correlate(*words) == 2
        text = capfd.readouterr().err
        assert text.count("\n") == 1
        assert not (tmp_path / "found.jsonl").exists()
        return text

    assert "gives 0 checkpoint(s)" in refused(teacher_run)
    assert "--keep-looks" in refused(teacher_run)
    assert "Name the folder of one run" in refused()
    assert "is missing or damaged" in refused(tmp_path)
    assert "is missing or damaged" in refused("--runs", tmp_path, tmp_path, tmp_path)
    others = []
    for number, teacher in enumerate(("timm:a", "timm:b", "timm:b")):
        others.append(tmp_path / f"run{number}")
        shutil.copytree(teacher_run, others[-1])
        config = json.loads((others[-1] / "config.json").read_text())
        (others[-1] / "config.json").write_text(json.dumps({**config, "teacher": teacher}))
    assert "timm:a at 32 px and timm:b at 32 px: name the one" in refused("--runs", *others)
