"""Interrupted anywhere and continued, a run ends with the weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from seed_hub.errors import SeedHubError
from seed_hub.training import engine
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.run import run
from seed_hub.training.run_folder import RunFolder

SMALL = {
    "seed": {"queue_size": 20, "hidden_width": 32},
    "moco": {"queue_size": 20, "hidden_width": 32, "embedding_width": 16},
}


@pytest.fixture(params=method_names())
def start(request, settings, teacher_run, tmp_path):
    """``start(out, **how)`` runs the method into ``out``."""
    name = request.param
    teacher = f"seed:{teacher_run}" if method_class(name).needs_teacher else ""

    def go(out: str, **how):
        chosen = settings(
            method=name, teacher=teacher, out=str(tmp_path / out), optimizer="adamw", epochs=0.9
        )
        return run(chosen, SMALL.get(name, {}), **how)

    return go


def _weights(tmp_path, out):
    return load_file(tmp_path / out / "last" / "model.safetensors")


def _same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_stopped_and_continued_equals_uninterrupted(start, tmp_path, stop_at):
    start("whole")
    with pytest.raises(engine.Stopped):
        start("parts", stop_at=stop_at)
    start("parts", resume=True)
    _same(_weights(tmp_path, "whole"), _weights(tmp_path, "parts"))
    whole, parts = (RunFolder(tmp_path / name).load_checkpoint() for name in ("whole", "parts"))
    for key, value in whole["state"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, parts["state"][key]), key
        else:
            assert value == parts["state"][key], key
    assert whole["looks"] == parts["looks"]


def test_killed_after_a_checkpoint_equals_uninterrupted(start, tmp_path, monkeypatch):
    start("whole")
    with pytest.raises(engine.Stopped):
        start("parts", stop_at=2)

    real, calls = engine._accumulate, []

    def die_later(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt  # no saving, as a kill
        return real(*args)

    monkeypatch.setattr(engine, "_accumulate", die_later)
    with pytest.raises(KeyboardInterrupt):
        start("parts", resume=True)
    monkeypatch.setattr(engine, "_accumulate", real)
    start("parts", resume=True)
    _same(_weights(tmp_path, "whole"), _weights(tmp_path, "parts"))
    steps = [line["step"] for line in RunFolder(tmp_path / "parts").read_log() if line["event"] == "look"]
    assert steps == sorted(set(steps)), "superseded lines are left out"


def test_a_run_is_not_resumed_with_another_student(settings, tmp_path):
    with pytest.raises(engine.Stopped):
        run(settings(), SMALL["moco"], stop_at=1)
    with pytest.raises(
        SeedHubError, match="checkpoint is of test_efficientnet by moco, not seed_resnet18"
    ):
        run(settings(student="seed_resnet18"), SMALL["moco"], resume=True)
