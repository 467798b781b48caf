"""The rows of Tiny-ImageNet: what each script asks of the package, and that measure.py knows every row of theirs."""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path

import pytest

from seed_hub.catalog import students
from seed_hub.cli import main as seed_hub
from seed_hub.training.checks import check_together, resolve_method_settings
from seed_hub.training.methods import method_class
from seed_hub.weights import WEIGHTS

SCRIPTS = Path(__file__).resolve().parents[2] / "training" / "tin200"
FILE = ("--teacher-file", "f.safetensors")
TWO = ["seed_resnet18", "seed_mobilenetv3_small"]


@pytest.fixture
def rows(monkeypatch):
    """The module of that name here: two folders beside this one have one, too."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("rows")
    for name in ("rows", "measure"):
        sys.modules.pop(name, None)


@pytest.fixture
def asked(rows, monkeypatch, tmp_path):
    """asked(script, *words) -> (runs, settings of the method, whether it goes on), nothing trained."""
    taken = []
    monkeypatch.setattr(rows, "run_together", lambda runs, own, *, resume: taken.append((runs, own, resume)))

    def ask(script, *words):
        words = [script, "--data", "tin", "--out", str(tmp_path), *words]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        return taken.pop()

    return ask


def test_every_script_asks_for_what_the_package_takes(asked, rows):
    asks = [asked(script) for script in ("moco_resnet18.py", "moco_again.py", "moco_resnet50.py")]
    asks.append(asked("seed_mobilenetv3_small.py", *FILE))
    asks.append(asked("imagenet.py", *FILE, "--student", *TWO))
    asks += [
        asked(script, "--student", name)
        for script in ("alone.py", "supervised.py")
        for name in students_of(rows)
    ]
    asks += [asked(script, "--student", *TWO) for script in ("cc.py", "ensemble.py", "again.py")]
    for runs, own, resume in asks:
        method = method_class(runs[0].method)
        resolve_method_settings(method, runs[0].method, own)
        check_together(runs)
        assert method.needs_teacher == bool(runs[0].teacher)
        assert runs[0].split == "train" and not resume


def students_of(rows):
    assert set(rows.STUDENT_IMAGES) <= set(students())
    return rows.STUDENT_IMAGES


def test_an_ensemble_is_of_released_weights(asked):
    (run,), _, _ = asked("ensemble.py", "--student", "seed_vit_tiny", "--lr", "1e-3")
    released = {f"seed:{weight.name}" for weight in WEIGHTS}
    assert {run.teacher, *run.more_teachers} <= released and len(run.more_teachers) == 2
    assert (Path(run.out).name, run.method, run.lr, run.start) == ("ensemble_vit_tiny", "cc", 1e-3, "")


def test_the_second_teacher_goes_on_from_a_released_student(asked, tmp_path):
    (teacher,), _, _ = asked("moco_again.py")
    assert Path(teacher.start).name in {weight.name for weight in WEIGHTS} and not teacher.teacher
    (run,), _, _ = asked("again.py", "--student", "seed_resnet18")
    assert run.teacher == f"seed:{tmp_path}/{Path(teacher.out).name}?head=none"


def test_the_supervised_network_sees_larger_views(asked):
    (run,), _, _ = asked("imagenet.py", *FILE, "--student", "seed_mobilenetv3_large", "--lr", "2e-3")
    assert run.teacher.startswith("file:f.safetensors?arch=mobilenetv2_100&") and not run.start
    assert (Path(run.out).name, run.method, run.size, run.teacher_size) == (
        "imagenet_mobilenetv3_large",
        "seed",
        48,
        96,
    )


def test_a_student_goes_on_from_another(asked, rows):
    words = ("--student", "seed_efficientnet_b0", "--start", "model_cards/x", "--images", "1234")
    (run,), _, _ = asked("ensemble.py", *words)
    assert run.start == "model_cards/x" and run.epochs * rows.IMAGES == pytest.approx(1234)


def test_a_student_and_its_baselines_see_as_many_images(asked, rows, tmp_path):
    for name in students_of(rows):
        taught, alone, labelled = (
            asked(f"{script}.py", "--student", name)[0][0] for script in ("cc", "alone", "supervised")
        )
        assert taught.epochs == alone.epochs == labelled.epochs
        assert taught.epochs * rows.IMAGES == pytest.approx(rows.STUDENT_IMAGES[name])
        assert taught.student == alone.student == labelled.student == name
        same = ("data", "split", "size", "batch_size", "optimizer", "weight_decay", "held_out", "seed")
        assert [getattr(taught, each) for each in same] == [getattr(alone, each) for each in same]
        assert taught.teacher == f"seed:{tmp_path}/moco_resnet18?head=none" and not alone.teacher
    teacher = asked("moco_resnet18.py")[0][0]
    assert teacher.seed != taught.seed  # a ResNet-18 does not start where its teacher did


def test_several_students_learn_together_and_go_on_together(asked, tmp_path, capsys):
    runs, _, _ = asked("cc.py", "--student", *TWO)
    assert [run.student for run in runs] == TWO
    assert [Path(run.out).name for run in runs] == ["cc_resnet18", "cc_mobilenetv3_small"]
    for run in runs:
        Path(run.out).mkdir()
        (Path(run.out) / "config.json").touch()
    assert asked("cc.py", "--student", *TWO)[2]
    with pytest.raises(SystemExit, match="2"):
        asked("cc.py", "--student", "seed_mobilenetv3_large", *TWO)
    assert "not see equally many images" in capsys.readouterr().err


def test_measure_knows_every_row_and_asks_for_what_the_package_takes(rows, tmp_path, capsys):
    measure = importlib.import_module("measure")
    names = [name.removeprefix("seed_") for name in rows.STUDENT_IMAGES]
    made = [
        *measure.TEACHERS,
        "seed_mobilenetv3_small",
        *(f"{how}_{name}" for how in measure.TAUGHT for name in names),
    ]
    for name in made:
        (tmp_path / name).mkdir()
        if name != "cc_vit_tiny":  # not finished
            (tmp_path / name / "verdict.json").touch()
    args = argparse.Namespace(data=tmp_path, runs=tmp_path, teacher_file=None)
    found = measure.models(args)
    assert set(found) == {*made, *(f"untrained:seed_{name}" for name in names)} - {"cc_vit_tiny"}
    for words in measure.commands(args).values():  # flags are read before files are looked for
        assert (
            seed_hub(["eval", *words, "--model", str(tmp_path / "cc_vit_tiny"), "--out", str(tmp_path / "o")])
            == 2
        )
        assert "no file or folder" in capsys.readouterr().err.lower()
