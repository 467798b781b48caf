"""Students that share a loop: each comes out as it would alone, and is continued as it would be alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from seed_hub.errors import SeedHubError
from seed_hub.training.engine import Stopped
from seed_hub.training.run import run, run_together

OWN = {"queue_size": 20, "hidden_width": 32}
STUDENTS = ("test_efficientnet", "test_resnet")


@pytest.fixture
def runs(settings, teacher_run, tmp_path):
    """Settings of two students of one teacher."""
    base = settings(method="seed", teacher=f"seed:{teacher_run}", epochs=0.75, optimizer="adamw")
    return [replace(base, student=name, out=str(tmp_path / "together" / name)) for name in STUDENTS]


def same(a: Path, b: Path) -> bool:
    x, y = (load_file(folder / "last" / "model.safetensors") for folder in (a, b))
    return x.keys() == y.keys() and all((x[key] == y[key]).all() for key in x)


def test_each_comes_out_as_it_would_alone_also_after_a_stop(runs, tmp_path):
    run_together(runs, OWN)
    for each in runs:
        run(replace(each, out=str(tmp_path / "alone")), OWN, overwrite=True)
        assert same(tmp_path / "alone", Path(each.out))
    stopped = [replace(each, out=each.out + "_stopped") for each in runs]
    with pytest.raises(Stopped):
        run_together(stopped, OWN, stop_at=2)
    # One of them goes on by itself, as if a kill had come between two saves: the other catches up.
    with pytest.raises(Stopped):
        run(stopped[1], OWN, resume=True, stop_at=3)
    run_together(stopped, OWN, resume=True)
    for each in runs:
        assert same(Path(each.out + "_stopped"), Path(each.out))


def test_a_student_given_twice_is_refused(runs):
    twice = [runs[0], replace(runs[1], student=runs[0].student)]
    with pytest.raises(SeedHubError, match="--student test_efficientnet is given twice"):
        run_together(twice, OWN)


def test_runs_that_differ_in_more_are_refused(runs):
    with pytest.raises(SeedHubError, match="differ in --student and --out only"):
        run_together([runs[0], replace(runs[1], lr=0.5)], OWN)


def test_two_teachers(runs, teacher_run):
    both = replace(runs[0], more_teachers=(f"seed:{teacher_run}?head=none",))
    assert run(both, OWN) is not None
    with pytest.raises(SeedHubError, match="same teacher is given twice"):
        run(replace(runs[1], more_teachers=(runs[1].teacher,)), OWN)
