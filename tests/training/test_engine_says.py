"""What the loop says of itself: that it waits for images, that a batch does not fit, that nothing could be compiled."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from seed_hub.data import Images
from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError
from seed_hub.training import progress as progress_module
from seed_hub.training.compiling import compile_frozen, compile_trained
from seed_hub.training.run import assemble, run


def lines(settings) -> list[dict]:
    return [json.loads(line) for line in (Path(settings.out) / "log.jsonl").read_text().splitlines()]


def test_a_loop_that_waits_for_its_images_says_so_once(settings, monkeypatch, capsys):
    load = Images.open

    def slow(self, i):
        time.sleep(0.02)
        return load(self, i)

    monkeypatch.setattr(Images, "open", slow)
    monkeypatch.setattr(progress_module, "REPORT_SECONDS", 0.0)
    made = settings()
    run(made)
    assert capsys.readouterr().err.count("come slower than they are learnt from") == 1
    steps = [line for line in lines(made) if line["event"] == "step"]
    assert max(step["waiting"] for step in steps[1:]) > 0.25


def test_a_loop_that_does_not_wait_says_nothing(settings, monkeypatch, capsys):
    forward = Encoder.forward

    def slow(self, pixels, **kwargs):
        time.sleep(0.2)
        return forward(self, pixels, **kwargs)

    monkeypatch.setattr(Encoder, "forward", slow)
    monkeypatch.setattr(progress_module, "REPORT_SECONDS", 0.0)
    run(settings())
    assert "come slower" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "queue_size", "rising"), [("seed", 20, 2), ("moco", 20, 2), ("seed", 4096, 6), ("kd", None, 0)]
)
def test_that_the_loss_rises_is_explained_while_a_queue_fills(
    settings, scoring_teacher, monkeypatch, capsys, method, queue_size, rising
):
    """Of eight rows a step, twenty are there after the third."""
    monkeypatch.setattr(progress_module, "REPORT_SECONDS", 0.0)
    own = {} if queue_size is None else {"queue_size": queue_size, "hidden_width": 32}
    run(settings(method=method, teacher="" if method == "moco" else scoring_teacher), own)
    shown = [line for line in capsys.readouterr().err.splitlines() if "  loss " in line]
    assert ["(rises while the queue fills)" in line for line in shown] == [n < rising for n in range(6)]


def test_the_terms_that_a_student_inherits_are_said_at_the_start(settings, small_settings, scoring_teacher):
    said: list[str] = []
    bound = scoring_teacher + "&licence=cc-by-nc-4.0"
    made = settings(method="seed", teacher=bound, more_teachers=(scoring_teacher,))
    assemble([made], small_settings("seed"), say=said.append)
    assert f"taught by {bound} (licence cc-by-nc-4.0) and {scoring_teacher} (licence unknown): " in said[0]


def _holds(most: int, monkeypatch) -> None:
    """A device on which the student can learn from ``most`` images at once."""
    forward = Encoder.forward

    def limited(self, pixels, **kwargs):
        if self.training and len(pixels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, pixels, **kwargs)

    monkeypatch.setattr(Encoder, "forward", limited)


@pytest.mark.parametrize(("batch_size", "parts"), [(8, 4), (12, 6)])
def test_of_a_batch_that_does_not_fit_it_is_said_which_does(batch_size, parts, settings, monkeypatch):
    made = settings(batch_size=batch_size)
    _holds(2, monkeypatch)
    with pytest.raises(SeedHubError, match=f"does not fit into the memory: --accumulate {parts} computes it"):
        run(made)
    monkeypatch.undo()
    _holds(2, monkeypatch)
    assert run(settings(batch_size=batch_size, out=made.out + "-parts", accumulate=parts)) is not None


def test_where_nothing_fits_that_is_said(settings, monkeypatch):
    _holds(1, monkeypatch)
    with pytest.raises(SeedHubError, match="not even two images do; choose a smaller --size or --student"):
        run(settings())


def _compiler(monkeypatch, backend) -> None:
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compiled(self, backend=backend))


def autocast():
    return torch.autocast("cpu", torch.bfloat16, enabled=False)


def test_compiling_a_student_leaves_no_trace(monkeypatch):
    _compiler(monkeypatch, "eager")
    student, pixels = build_student("test_resnet"), torch.rand(2, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    expected = build_like(student)(pixels).pooled
    random = torch.get_rng_state()
    assert compile_trained(student, pixels, autocast)
    assert student._compiled_call_impl is not None
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    torch.testing.assert_close(student.train()(pixels).pooled, expected)


def build_like(student: Encoder) -> Encoder:
    twin = build_student("test_resnet")
    twin.load_state_dict(student.state_dict())
    return twin.train()


def _broken(*_):
    raise RuntimeError("no C++ compiler\nand more")


@pytest.mark.parametrize("way", [compile_trained, compile_frozen])
def test_what_cannot_be_compiled_runs_as_it_is_and_that_is_said_once(way, monkeypatch, caplog):
    _compiler(monkeypatch, _broken)
    student, pixels = build_student("test_resnet"), torch.rand(2, 3, 32, 32)
    with caplog.at_level(logging.WARNING):
        assert not way(student, pixels, autocast)
    assert caplog.text.count("cannot be compiled here") == 1 and "and more" not in caplog.text
    assert student._compiled_call_impl is None
    assert student(pixels).pooled.isfinite().all()


def test_a_compiled_run_learns_what_an_eager_one_does(settings, monkeypatch, caplog):
    _compiler(monkeypatch, "eager")
    plain, compiled = settings(), settings(out=settings().out + "-compiled", compile="both")
    assert run(plain) == run(compiled)
    assert "cannot be compiled" not in caplog.text


def test_an_unknown_part_is_refused(settings):
    with pytest.raises(SeedHubError, match='Unknown --compile "all": choose none, teacher, student, both'):
        run(settings(compile="all"))
