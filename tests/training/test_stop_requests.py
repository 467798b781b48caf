"""What asks a whole process group to stop reaches the processes that load images too: they are the run's to end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from seed_hub.training.device import leave_stopping_to_the_run, stop_requests
from seed_hub.training.engine import Stopped
from seed_hub.training.pupil import Pupil
from seed_hub.training.run import run
from seed_hub.training.teacher_cache import building

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "sigwaitinfo"), reason="who sent a signal is not told here"
)


def ask_all_to_stop() -> None:
    """As ``timeout``, Slurm and systemd do: another process signals each one of the group."""
    ours = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    assert len(ours) == 3
    for number in ("-TERM", "-INT"):
        subprocess.run(["kill", number, *map(str, ours[1:])], check=True)
    subprocess.run(["kill", "-TERM", str(ours[0])], check=True)


def test_a_run_whose_whole_group_is_asked_saves_and_can_be_continued(settings, small_settings, monkeypatch):
    steps, take_step = [], Pupil.take_step

    def ask_first(self, schedule):
        steps.append(None)
        if len(steps) == 2:  # a batch of each process has come: all have begun
            ask_all_to_stop()
        take_step(self, schedule)

    monkeypatch.setattr(Pupil, "take_step", ask_first)
    made = settings(workers=2, epochs=20.0)
    with pytest.raises(Stopped, match=f"everything is saved in {made.out}"):
        run(made, small_settings("moco"))
    assert (Path(made.out) / "checkpoint.pt").exists() and not multiprocessing.active_children()


def test_so_does_the_making_of_a_cache(settings, small_settings, scoring_teacher, monkeypatch):
    batches, ask = [], building.ask_all

    def ask_first(*given):
        batches.append(None)
        if len(batches) == 2:
            ask_all_to_stop()
        return ask(*given)

    monkeypatch.setattr(building, "ask_all", ask_first)
    made = settings(method="seed", teacher=scoring_teacher, workers=2)
    with pytest.raises(KeyboardInterrupt, match="same command again"):
        building.build_cache(made, small_settings("seed"), epochs=2, dtype="float32")


def test_the_run_can_end_its_workers():
    loader = iter(DataLoader(range(4), num_workers=1, worker_init_fn=leave_stopping_to_the_run))
    next(loader)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_an_uncaught_exception_does_not_wait_for_its_workers_for_ever():
    script = (
        "from torch.utils.data import DataLoader\n"
        "from seed_hub.training.device import leave_stopping_to_the_run as init\n"
        "loader = iter(DataLoader(range(99), num_workers=1, worker_init_fn=init))\n"
        "next(loader)\n"
        "raise ValueError('uncaught')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "ValueError: uncaught" in done.stderr


def test_a_second_sigterm_asks_nothing_more_and_ctrl_c_stops_at_once():
    with stop_requests() as stop_requested:
        assert not stop_requested()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop_requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
