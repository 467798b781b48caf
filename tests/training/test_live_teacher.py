"""A teacher that is asked about several views at once says of each what it says of it alone."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from seed_hub.encoder import Encoder, Frozen, build_student
from seed_hub.training.live_teacher import ask, ask_all
from seed_hub.training.settings import RunSettings


def test_small_crops_are_asked_about_together(monkeypatch):
    torch.manual_seed(0)
    teacher, accelerator = Frozen(build_student("test_resnet")), Accelerator(cpu=True)
    settings = RunSettings(size=32)
    views = [torch.rand(2, 3, side, side) for side in (32, 32, 16, 16, 16, 24)]
    alone = [ask(teacher, view, settings, accelerator, stages=True) for view in views]
    asked, forward = [], Encoder.forward
    monkeypatch.setattr(
        Encoder, "forward", lambda self, x, **k: asked.append(tuple(x.shape)) or forward(self, x, **k)
    )
    together = ask_all(teacher, views, settings, accelerator, stages=True)
    assert asked == [(2, 3, 32, 32), (2, 3, 32, 32), (6, 3, 16, 16), (2, 3, 24, 24)]
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(other.embedding, one.embedding)
        assert len(one.stages) == len(other.stages) > 0
        for a, b in zip(one.stages, other.stages, strict=True):
            torch.testing.assert_close(a, b)
