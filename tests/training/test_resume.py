"""Interrupted anywhere and continued, a run ends with the weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from seed_hub.errors import SeedHubError
from seed_hub.training import engine
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.pupil import Pupil
from seed_hub.training.run import run
from seed_hub.training.run_folder import RunFolder

QUICK = [name for name in method_names() if name not in ("moco", "seed")]


@pytest.fixture
def start(settings, small_settings, teacher_run, scoring_teacher, tmp_path):
    """``start(method, out, **how)`` runs the method into ``out``."""

    def go(name: str, out: str, **how):
        cls, own = method_class(name), small_settings(name)
        teacher = ""
        if cls.needs_teacher:
            scores = "logits" in cls.reads(cls.Settings(**own))
            teacher = scoring_teacher if scores else f"seed:{teacher_run}"
        chosen = settings(
            method=name,
            teacher=teacher,
            out=str(tmp_path / out),
            optimizer="adamw",
            epochs=0.9,
            allow_random_teacher=True,
        )
        return run(chosen, own, **how)

    return go


def _weights(tmp_path, out):
    return load_file(tmp_path / out / "last" / "model.safetensors")


def _same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(
    ("method", "stop_at"),
    [(name, step) for name in ("moco", "seed") for step in (1, 3, 4)] + [(name, 3) for name in QUICK],
)
def test_stopped_and_continued_equals_uninterrupted(start, tmp_path, method, stop_at):
    start(method, "whole")
    with pytest.raises(engine.Stopped):
        start(method, "parts", stop_at=stop_at)
    start(method, "parts", resume=True)
    _same(_weights(tmp_path, "whole"), _weights(tmp_path, "parts"))
    whole, parts = (RunFolder(tmp_path / name).load_checkpoint() for name in ("whole", "parts"))
    for key, value in whole["state"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, parts["state"][key]), key
        else:
            assert value == parts["state"][key], key
    assert whole["looks"] == parts["looks"]


@pytest.mark.parametrize("method", ["moco", "seed"])
def test_killed_after_a_checkpoint_equals_uninterrupted(start, tmp_path, monkeypatch, method):
    start(method, "whole")
    with pytest.raises(engine.Stopped):
        start(method, "parts", stop_at=2)

    real, calls = Pupil.take_step, []

    def die_later(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt  # no saving, as a kill
        return real(*args)

    monkeypatch.setattr(Pupil, "take_step", die_later)
    with pytest.raises(KeyboardInterrupt):
        start(method, "parts", resume=True)
    monkeypatch.setattr(Pupil, "take_step", real)
    start(method, "parts", resume=True)
    _same(_weights(tmp_path, "whole"), _weights(tmp_path, "parts"))
    steps = [line["step"] for line in RunFolder(tmp_path / "parts").read_log() if line["event"] == "look"]
    assert steps == sorted(set(steps)), "superseded lines are left out"


@pytest.mark.parametrize(
    ("given", "own"), [({"lr": 0.5}, {}), ({"epochs": 9.0}, {}), ({}, {"temperature": 0.5})]
)
def test_a_run_is_not_resumed_with_other_settings(settings, small_settings, given, own):
    """A script that is run again with another flag, say."""
    with pytest.raises(engine.Stopped):
        run(settings(), small_settings("moco"), stop_at=1)
    (name, value) = next(iter((given | own).items()))
    with pytest.raises(SeedHubError, match=f"began with {name} .*, not {value}: go on with its own"):
        run(settings(**given), small_settings("moco") | own, resume=True)
    run(settings(workers=1, save_every=1.0), small_settings("moco"), resume=True)  # decide nothing


def test_a_teacher_may_have_moved_but_is_the_same(settings, small_settings, scoring_teacher, tmp_path):
    made = settings(method="seed", teacher=scoring_teacher)
    with pytest.raises(engine.Stopped):
        run(made, small_settings("seed"), stop_at=1)
    path, query = scoring_teacher.removeprefix("file:").split("?")
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(path, tmp_path / "elsewhere")
    other = shutil.copy(path, tmp_path / "another.safetensors")
    with pytest.raises(SeedHubError, match="began with teacher"):
        run(replace(made, teacher=f"file:{other}?{query}"), small_settings("seed"), resume=True)
    run(replace(made, teacher=f"file:{moved}?{query}"), small_settings("seed"), resume=True)


def test_a_run_is_not_resumed_with_another_student(settings, small_settings, tmp_path):
    with pytest.raises(engine.Stopped):
        run(settings(), small_settings("moco"), stop_at=1)
    with pytest.raises(SeedHubError, match="checkpoint is of test_efficientnet by moco, not seed_resnet18"):
        run(settings(student="seed_resnet18"), small_settings("moco"), resume=True)
