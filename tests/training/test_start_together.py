"""Several processes start: what one of them does first, and how long the others wait for it."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta

from accelerate import Accelerator

from seed_hub.training import run as runs
from seed_hub.training.device import build_accelerator
from seed_hub.training.settings import RunSettings


def test_the_others_wait_while_one_checks_every_image():
    accelerator = build_accelerator(RunSettings(device="cpu"))
    assert accelerator.init_handler.timeout >= timedelta(hours=1)  # NCCL's own: ten minutes


def test_one_process_of_a_machine_reads_images_and_teachers_first(
    monkeypatch, pictures, teacher_run, tmp_path
):
    """Teachers may have to be downloaded, and torch.hub does not lock what it unpacks."""
    events = []

    def noting(owner, name, event):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, **how: events.append(event) or original(*given, **how)
        )

    @contextmanager
    def first(self):
        events.append("first")
        yield
        events.append("others")

    monkeypatch.setattr(Accelerator, "main_process_first", first)
    monkeypatch.setattr(Accelerator, "local_main_process_first", first)
    noting(runs, "images_of", "images")
    noting(runs, "load_teachers", "teachers")
    settings = RunSettings(
        data=str(pictures),
        student="seed_mobilenetv3_small",
        teacher=f"seed:{teacher_run}",
        out=str(tmp_path / "run"),
        size=32,
        batch_size=8,
        held_out=6,
        device="cpu",
        allow_random_teacher=True,
    )
    runs.assemble([settings], {"queue_size": 20})
    assert events == ["first", "images", "others", "first", "teachers", "others"]
