"""The command line: what is asked, what is answered, and how fast."""

from __future__ import annotations

import errno
import json
import logging
import re
import shlex
import subprocess
import sys
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seed_hub
from seed_hub import cli
from seed_hub.cli import doctor, terminal, zoo
from seed_hub.cli.continuing import TRAINING
from seed_hub.cli.evaluate import _show
from seed_hub.cli.flags import Parser
from seed_hub.cli.train import _as_flags
from seed_hub.errors import SeedHubError
from seed_hub.settings import read_settings

PACKAGE = Path(seed_hub.__file__).parent
QUICK = [
    ["list"],
    ["list", "--json"],
    ["info", "seed_resnet18"],
    ["--help"],
    ["--version"],
    *([command, "--help"] for command in cli.COMMANDS),
    ["distill", "--method", "seed", "--help"],
    ["pretrain", "--method", "moco", "--help"],
    ["eval", "knn", "--help"],
    ["eval", "linear", "--help"],
]


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_it_answers_at_once_and_without_torch(words: list[str], root: Path) -> None:
    """Seconds of the processor, not of the clock: the machine may be busy."""
    code = (
        "import sys, time\nfrom seed_hub.cli import main\nstatus = main()\n"
        "heavy = {'torch', 'timm', 'torchvision', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{status} {heavy} {time.process_time():.2f} s' if status or heavy or time.process_time() > 1 else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_the_module_runs_and_a_closed_pipe_is_no_error(root: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m seed_hub.cli list | head -1; echo status ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("status 0\n")
    assert done.stderr == ""


# Results.


def test_list(hub: Any) -> None:
    answer = hub("list", "--json")
    assert answer.status == 0
    assert [row["name"] for row in answer.json["students"]] == list(seed_hub.catalog.students())
    for name in seed_hub.list_students():
        assert re.search(rf"^{name} +\d+\.\d M +\d\.\d\d G", answer.out, re.MULTILINE)


def test_info_shows_the_scores_that_were_measured(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {
        "protocol": "knn",
        "metric": "top1_k20",
        "n": 3,
        "mean": 12.34,
        "std": 0.5,
        "model": {
            "spec": "r18_seed",
            "name": "seed_resnet18",
            "sha256": "a",
            "facts": {"method": "seed", "teacher": "seed:moco"},
        },
        "data": {"test": {"source": "pets", "split": "validation", "images": 4000, "fingerprint": "f"}},
        "settings": {"size": 64},
    }
    other = {**line, "mean": 99.9, "model": {"spec": "x", "name": "seed_resnet34", "sha256": "b"}}
    (tmp_path / "knn.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(other) + "\n")
    (tmp_path / "more.jsonl").write_text(json.dumps(line) + "\n")  # the same in another file: shown once
    monkeypatch.setattr(zoo, "RESULTS", (tmp_path, tmp_path / "absent"))
    answer = hub("info", "seed_resnet18", "--json")
    assert answer.json["scores"] == [line]
    assert answer.json["parameters"] == 11_176_512
    for part in (
        "11.18 M",
        "1.814 G",
        "[B, 3, 224, 224]",
        "apache-2.0",
        "12.3 ± 0.5 %",
        "n = 3",
        "pets validation",
        "64 px",
    ):
        assert part in answer.out
    assert "99.9" not in answer.out
    monkeypatch.setattr(zoo, "RESULTS", ())
    assert "none measured yet" in hub("info", "seed_resnet18").out


def test_doctor(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = hub("doctor", "--json").json
    assert found["problems"] == []
    assert found["cores"] >= 1
    assert found["memory_gb"] > 0.5
    assert found["hub"]["offline"] is True
    assert found["devices"][-1].startswith("cpu")
    assert found["bf16"]["auto"] in ("bf16", "fp32")
    assert found["bf16"]["gain"] > 0


def test_doctor_says_what_to_install(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": None, "timm": "1.0.3"}
    monkeypatch.setattr(doctor, "_version", lambda name: there.get(name, "9999.0"))
    answer = hub("doctor", "--json")
    assert answer.status == 0
    assert answer.json["problems"] == [
        "2 needed packages are missing or too old: pip install 'torch>=2.6' 'timm>=1.0.29'"
    ]
    assert "pip install 'torch>=2.6'" in answer.out


def test_doctor_knows_what_the_package_needs(root: Path) -> None:
    text = (root / "pyproject.toml").read_text()
    block = text.partition("\ndependencies = [")[2].partition("\n]")[0]
    assert dict(re.findall(r'"([\w-]+)>=([\d.]+)"', block)) == doctor.NEEDED
    extras = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    named = re.findall(r"^(\w+) = ", extras, re.MULTILINE)
    assert set(doctor.EXTRAS) == set(named) - {"dev"}


def test_every_extra_is_used() -> None:
    """What users are told to install must be imported somewhere."""
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in doctor.EXTRAS.values():
        assert re.search(rf"^\s*(import|from) {name}\b", code, re.MULTILINE), name


def test_a_flag_of_several_values_given_twice_drops_none() -> None:
    for words in (["--peer", "a", "--peer", "b"], ["--peer", "a", "b"]):
        parser = Parser("pretrain")
        parser.add_options("method", read_settings(TRAINING / "methods" / "dogo.py").options)
        assert parser.parse(words) == {"peer": ("a", "b")}


def test_tables_are_aligned() -> None:
    assert terminal.table([["a", "1.5"], ["long", "10.25"]], ["name", "x"]).splitlines() == [
        "name      x",
        "a       1.5",
        "long  10.25",
    ]
    assert terminal.facts([("a", "1\n2"), ("long", "3")]) == "a      1\n       2\nlong   3"


# Flags.


def test_every_setting_is_documented(hub: Any) -> None:
    run = read_settings(PACKAGE / "training" / "settings.py", "RunSettings").options
    seed = read_settings(PACKAGE / "training" / "methods" / "seed.py").options
    text = " ".join(hub("distill", "--help").out.split())
    for option in [*run, *seed]:
        if option.name == "more_teachers":  # given by repeating --teacher
            continue
        assert f" {option.flag} " in text
        if option.name != "method":
            assert option.help.replace("%%", "%") in text
    assert "(default: 65536)" in text
    assert "released-code (--hidden-width 0 --teacher-temperature 0.0001)" in text
    assert "plus (--symmetric)" in text
    text = hub("pretrain", "--help").out
    assert "--key-momentum X" in text
    assert "teacher-" not in text
    assert "released-code (--no-batch-negatives)" in " ".join(text.split())


def test_what_turns_a_switch_off_says_so(hub: Any) -> None:
    text = " ".join(hub("distill", "--method", "simreg", "--help").out.split())
    assert "--no-batch-norm turn off: batch norm after each of its hidden layers" in text
    assert " --symmetric two whole views" in " ".join(hub("distill", "--help").out.split())


@pytest.mark.parametrize("path", sorted((TRAINING / "methods").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_presets_are_shown_as_they_can_be_typed(path: Path) -> None:
    """The words of the help, parsed, are the preset."""
    declared = read_settings(path)
    for values in declared.constants.get("PRESETS", {}).values():
        parser = Parser("distill")
        parser.add_options("method", declared.options)
        assert parser.parse(_as_flags(values).split()) == values


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["distil"], 'There is no command "distil"; there are: list, .*Did you mean "distill"'),
        (
            ["distill", "--batchsize", "8"],
            '`seed-hub distill` has no option --batchsize. Did you mean "--batch-size"',
        ),
        (
            ["distill", "--batch", "8"],
            "has no option --batch[.]",
        ),  # no abbreviations: a later flag would break them
        (
            ["distill", "--key-momentum", "1"],
            'The method "seed" has no option --key-momentum \\(it is one of moco\'s\\); its own are --queue-size',
        ),
        (["pretrain", "--data", "d", "--out", "o", "--preset", "x"], 'The method "moco" has no preset'),
        (
            ["pretrain", "--teacher", "timm:x"],
            'The method "moco" learns without a teacher: leave out --teacher',
        ),
        (
            ["pretrain", "--method", "seed"],
            'The method "seed" learns from a teacher: use `seed-hub distill --method seed`',
        ),
        (["distill", "--method", "moco"], "learns without a teacher: use `seed-hub pretrain --method moco`"),
        (["distill", "--method", "sed"], 'There is no method "sed".*Did you mean "seed"'),
        (
            ["distill", "--data", "d", "--teacher", "t", "--out", "o", "--preset", "papr"],
            'no preset "papr".*Did you mean "paper"',
        ),
        (
            ["pretrain", "--method", "moco", "--batch-negatives", "False"],
            "--batch-negatives takes no value and is on already: leave it out, or turn it off with --no-batch-negatives",
        ),
        (["pretrain", "--no-batch-negatives", "1"], "--no-batch-negatives takes no value: give it alone"),
        (["distill", "--symmetric=True"], "--symmetric takes no value: give it alone, or leave it out"),
        (["distill", "--no-batch-norm"], "no option --no-batch-norm \\(it is one of simreg's\\)"),
        (["eval", "linear", "--normalize", "no"], "turn it off with --no-normalize"),
        (["distill"], "--data is missing"),
        (["distill", "--data", "d", "--out", "o"], "--teacher is missing"),
        (["distill", "--resume"], "--out is missing"),
        (["distill", "--resume", "--overwrite", "--out", "o"], "There is no run to resume in o"),
        (["distill", "--lr", "fast"], '--lr: a number is needed, not "fast"'),
        (["distill", "--lr", "nan"], '--lr: a number is needed, not "nan"'),
        (["distill", "--size", "1.5"], '--size: a whole number is needed, not "1.5"'),
        (["distill", "--lr"], "--lr: expected one argument"),
        (["distill", "photos"], 'does not know what to do with "photos"'),
        (["eval", "kn"], 'There is no protocol "kn".*Did you mean "knn"'),
        (["eval", "knn", "--data", "d"], "--model is missing"),
        (["eval", "knn", "--modle", "m"], 'Did you mean "--model"'),
        (["info"], "Name a student"),
        (["info", "seed_resnet19"], 'Did you mean "seed_resnet18"'),
        (["report"], "Name the folder of a run"),
        (
            ["embed", "--model", "m", "--data", "d", "--out", "x.csv"],
            "name a file that ends in .parquet, .npy, .safetensors",
        ),
        ("embed --model m --data d --out x.npy --size -1".split(), "--size is -1: give a side of 1 to 4096"),
        ("embed --model m --data d --out x.npy --batch-size 0".split(), "--batch-size is 0: it must be 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_in_one_sentence(hub: Any, words: list[str], says: str) -> None:
    answer = hub(*words)
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("seed-hub: ")
    assert re.search(says, answer.err)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``distill`` and ``pretrain`` ask of the training package, which does nothing here."""
    import seed_hub.training.run

    calls: list[Any] = []

    def run_together(runs: list[Any], own: dict[str, Any], **how: Any) -> list[None]:
        calls.append((runs[0], own, {key: how[key] for key in ("resume", "overwrite")}))
        return [None]

    monkeypatch.setattr(seed_hub.training.run, "run_together", run_together)
    return calls


def test_flags_become_settings(hub: Any, asked: list[Any]) -> None:
    words = [
        "distill",
        "--data",
        "d",
        "--teacher",
        "timm:t",
        "--out",
        "o",
        "--epochs",
        "2",
        "--batch-size=1e2",
    ]
    assert (
        hub(
            *words,
            "--allow-random-teacher",
            "--preset",
            "released-code",
            "--hidden-width",
            "64",
            "--overwrite",
        ).status
        == 0
    )
    settings, own, how = asked[0]
    assert (settings.data, settings.teacher, settings.out, settings.method) == ("d", "timm:t", "o", "seed")
    assert (settings.epochs, settings.batch_size, settings.allow_random_teacher) == (2.0, 100, True)
    assert settings.lr == 0  # not given: the default
    assert own == {"teacher_temperature": 1e-4, "hidden_width": 64}  # what is given beats the preset
    assert how == {"resume": False, "overwrite": True}
    assert hub("pretrain", "--data", "d", "--out", "o").status == 0
    assert asked[1][0].method == "moco"


def test_resume_takes_the_settings_of_the_run(
    hub: Any, asked: list[Any], teacher_run: Path, photos: Path
) -> None:
    assert hub("distill", "--resume", "--out", teacher_run).status == 0  # whoever started it
    settings, own, how = asked[0]
    assert (settings.method, settings.student, settings.size) == ("moco", "seed_mobilenetv3_small", 32)
    assert (settings.data, own["queue_size"]) == (str(photos), 20)
    assert how == {"resume": True, "overwrite": False}
    agreeing = [
        "--size",
        "32",
        "--queue-size",
        "20",
        "--data",
        f"{photos}/",
        "--method",
        "moco",
        "--workers",
        "1",
    ]
    assert hub("pretrain", "--resume", "--out", teacher_run, *agreeing).status == 0
    assert asked[1][0].workers == 1  # where it runs may change
    assert asked[1][0].data == str(photos)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "0.5"], "was started with --lr 0.0, not 0.5: leave out --lr to continue it"),
        (["--queue-size", "8"], "was started with --queue-size 20, not 8"),
        (["--data", "elsewhere"], "was started with --data .*, not elsewhere"),
        (
            ["--no-batch-negatives"],
            "was started without --no-batch-negatives: leave out --no-batch-negatives",
        ),
        (["--overwrite"], "give one of them"),
    ],
)
def test_resume_refuses_other_settings(
    hub: Any, asked: list[Any], teacher_run: Path, words: list[str], says: str
) -> None:
    answer = hub("pretrain", "--resume", "--out", teacher_run, *words)
    assert answer.status == 2
    assert re.search(says, answer.sentence)
    assert not asked


def test_resume_refuses_what_is_no_run(hub: Any, teacher_run: Path) -> None:
    answer = hub("distill", "--resume", "--out", teacher_run / "best")
    assert answer.status == 2
    assert "not the settings of a run" in answer.sentence


# When something goes wrong.


def _failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(argv: list[str]) -> Any:
        raise error

    monkeypatch.setattr(zoo, "list_models", fail)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (SeedHubError("It is too small: take a larger one."), 2, "It is too small: take a larger one."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            2,
            "The disk is full at /a/b: free some space",
        ),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), 2, "Permission denied: /a/b: choose a place"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            2,
            "No such file or directory: x.",
        ),
        (
            ZeroDivisionError("division by zero"),
            1,
            "ZeroDivisionError: division by zero (unexpected: run again with --debug",
        ),
        (
            RuntimeError("not enough memory: you tried to allocate 4 GB"),
            1,
            "Out of memory: close other programs",
        ),
        (
            SeedHubError(
                'Caught SeedHubError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "x"\nseed_hub.errors.SeedHubError: Image "a.png" cannot be read.\n'
            ),
            2,
            'Image "a.png" cannot be read.',
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_are_sentences(
    hub: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, says: str
) -> None:
    _failing(monkeypatch, error)
    answer = hub("list", "--json")
    assert answer.status == status
    assert answer.err.count("\n") == 1
    assert answer.sentence.startswith(says)
    assert answer.json == {"error": answer.sentence, "status": status}
    assert "Traceback (most recent call last)" in hub("list", "--debug").err


def test_memory_is_saved_by_flags_that_the_command_has(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> Any:
        raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed.")

    monkeypatch.setattr(cli, "_run", fail)
    for command in cli.COMMANDS:
        said = hub(command).sentence
        assert said.startswith("Out of memory: ")
        monkeypatch.undo()
        text = hub("eval", "knn", "--help").out if command == "eval" else hub(command, "--help").out
        assert all(f" {flag} " in text for flag in re.findall(r"--[a-z-]+", said)), (command, said)
        monkeypatch.setattr(cli, "_run", fail)


def test_libraries_do_not_litter(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(argv: list[str]) -> dict[str, Any]:
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        logging.getLogger("some.library").warning("unexpected keys")
        logging.getLogger("seed_hub.eval").warning("2 classes have no image")
        return {}

    monkeypatch.setattr(zoo, "list_models", noisy)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    assert hub("list").err == "seed-hub: 2 classes have no image\n"
    with pytest.warns(FutureWarning):
        assert "unexpected keys" in hub("list", "--debug").err


def test_one_process_of_many_speaks(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert hub("list", "--json").out == ""
    _failing(monkeypatch, SeedHubError("No."))
    assert hub("list").err == "seed-hub (process 1): No.\n"


# The straight line.


def test_a_run_is_stopped_and_continued(
    hub: Any,
    monkeypatch: pytest.MonkeyPatch,
    photos: Path,
    teacher_run: Path,
    tiny: list[str],
    tmp_path: Path,
) -> None:
    import seed_hub.training.run as training

    out = tmp_path / "my run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "run_together", partial(training.run_together, stop_at=2))
        answer = hub("distill", "--data", photos, "--teacher", f"seed:{teacher_run}", "--out", out, *tiny)
    assert answer.status == 130
    assert answer.out == ""
    command = answer.sentence.partition("Continue with: ")[2]
    assert command == f"seed-hub distill --resume --out '{out}'"
    answer = hub(*shlex.split(command)[1:], "--json")
    assert answer.status == 0
    assert answer.json["student"] == str(out / "best")
    assert answer.json["verdict"] in answer.out
    assert 0 <= answer.json["best"]["agreement"] <= 1
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if line["event"] == "look"] == [0, 1, 2, 3]


def test_eval_prints_a_table_and_records_a_line(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results" / "knn.jsonl"
    words = [
        "eval",
        "knn",
        "--model",
        teacher_run,
        "--data",
        photos,
        "--size",
        "32",
        "--k",
        "1",
        "5",
        "--workers",
        "0",
        "--out",
        out,
    ]
    answer = hub(*words, "--json")
    assert answer.status == 0
    line = json.loads(out.read_text())
    assert answer.json == line
    assert set(line["values"]) == {"top1_k1", "top1_k5"}
    assert (line["data"]["train"]["split"], line["data"]["test"]["split"]) == ("train", "validation")
    assert (line["data"]["train"]["images"], line["data"]["test"]["images"]) == (130, 24)
    assert line["model"]["facts"]["method"] == "moco"
    assert str(photos) not in out.read_text()
    assert re.search(rf"^top1_k5 +{line['values']['top1_k5']['mean']:.2f}$", answer.out, re.MULTILINE)

    again = hub(*words, "--batch-size", "64")
    assert "measured before" in again.err
    assert again.out == answer.out.rpartition("\n{")[0] + "\n"
    assert len(out.read_text().splitlines()) == 1
    hub(*words, "--again")
    hub(*words, "--temperature", "0.1")
    assert len(out.read_text().splitlines()) == 3


def test_eval_refuses_what_it_cannot_measure(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path
) -> None:
    def sentence(*words: object) -> str:
        answer = hub(
            "eval", "knn", "--model", teacher_run, "--size", "32", "--out", tmp_path / "x.jsonl", *words
        )
        assert answer.status == 2
        return answer.sentence

    assert "name another split to test on" in sentence("--data", photos, "--split", "train")
    assert 'no split "tst"' in sentence("--data", photos, "--split", "tst")
    assert "it has none: name other images with --test-data" in sentence("--data", photos / "train")
    again = sentence("--data", photos / "train", "--test-data", photos / "train")
    assert "--test-data names the images to learn from once more: name others" in again
    assert (
        "is no model"
        in hub("eval", "knn", "--data", photos, "--model", "resnet18", "--out", tmp_path / "x.jsonl").sentence
    )
    assert not (tmp_path / "x.jsonl").exists()


def test_what_learns_from_no_images_needs_no_more_than_one_folder(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path
) -> None:
    words = ["eval", "representation", "--model", teacher_run, "--out", tmp_path / "x.jsonl", "--json"]
    words += ["--size", "32", "--workers", "0"]
    for data, split, images in ((photos, "validation", 24), (photos / "train", None, 130)):
        answer = hub(*words, "--data", data)
        assert answer.status == 0, answer.err
        part = answer.json["data"]["test"]
        assert (part["split"], part["images"]) == (split, images)
        assert answer.json["data"]["train"] == part
        assert f"{images} images\n" in answer.out and ", by " not in answer.out
    same = hub(*words, "--data", photos / "train", "--test-data", photos / "train")
    assert "measured before" in same.err
    words[1:2] = ["all", "--protocols", "representation", "--against", teacher_run]
    assert hub(*words, "--data", photos / "train").status == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--split-train", "train"], "learns from no images: leave out --split-train"),
        (["--check-duplicates"], "name those the model learnt from with --distilled-on"),
    ],
)
def test_what_learns_from_no_images_takes_none(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    what = ["eval", "representation", "--model", teacher_run, "--data", photos, "--out", tmp_path / "x.jsonl"]
    answer = hub(*what, *words)
    assert answer.status == 2
    assert says in answer.sentence


def test_a_small_value_keeps_its_digits(capsys: pytest.CaptureFixture[str]) -> None:
    part = {"source": "photos", "split": None, "images": 24}
    values = {"alignment": (0.001234, None), "lr": (0.3, 0.0), "top1": (12.345, 0.001), "decay": (0.0, None)}
    line = {
        "protocol": "x",
        "metric": "top1",
        "model": {"spec": "m"},
        "settings": {"size": 32},
        "data": {"train": part, "test": part},
        "values": {name: {"mean": mean, "std": std, "n": 3} for name, (mean, std) in values.items()},
    }
    _show(line)
    found = [row.split(" (")[0].split() for row in capsys.readouterr().out.splitlines()[1:]]
    assert found == [
        ["alignment", "0.00123"],
        ["lr", "0.300", "±", "0.00"],
        ["top1", "12.35", "±", "0.00"],
        ["decay", "0.00"],
    ]


def test_eval_of_one_split_and_of_two_places(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path
) -> None:
    words = ["eval", "knn", "--model", teacher_run, "--size", "32", "--k", "1", "--workers", "0", "--json"]
    alone = hub(
        *words, "--data", photos / "validation", "--leave-one-out", "--out", tmp_path / "a.jsonl"
    ).json
    assert alone["data"]["train"] == alone["data"]["test"]
    apart = ["--data", photos / "train", "--test-data", photos / "validation"]
    assert hub(*words, *apart, "--out", tmp_path / "a.jsonl").json["data"]["test"]["images"] == 24


@pytest.mark.parametrize(("amx", "taken"), [(True, "bf16"), (False, "fp32")])
def test_a_precision_is_chosen_and_recorded(
    hub: Any,
    photos: Path,
    teacher_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    amx: bool,
    taken: str,
) -> None:
    from seed_hub import machine

    monkeypatch.setattr(machine, "has_amx", lambda: amx)
    words = [
        "--model",
        teacher_run,
        "--size",
        "32",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--precision",
        "auto",
    ]
    shown = hub("eval", "knn", *words, "--data", photos, "--out", tmp_path / "a.jsonl", "--json").json
    assert shown["settings"]["precision"] == taken
    words += ["--data", photos, "--split", "validation", "--out", tmp_path / "a.npy"]
    assert hub("embed", *words, "--json").json["images"] == 24


def test_where_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    from seed_hub.cli.measuring import results_file

    monkeypatch.chdir(tmp_path)
    assert results_file("knn") == Path("results.jsonl")
    monkeypatch.chdir(root)
    assert results_file("knn") == Path("eval/results/knn.jsonl")


def test_embed_writes_the_same_numbers_in_three_formats(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    from seed_hub.cli import embed
    from seed_hub.data import open_images
    from seed_hub.eval.features import extract
    from seed_hub.teachers import load_model

    monkeypatch.setattr(embed, "BLOCK", 10)  # 24 images: three blocks, the last one short
    words = [
        "embed",
        "--model",
        teacher_run,
        "--data",
        photos,
        "--split",
        "validation",
        "--size",
        "32",
        "--workers",
        "0",
    ]
    for suffix in (".npy", ".safetensors", ".parquet"):
        answer = hub(*words, "--out", tmp_path / f"x{suffix}", "--json")
        assert answer.status == 0
        assert answer.json == {
            "file": str(tmp_path / f"x{suffix}"),
            "images": 24,
            "width": 1024,
            "left_out": 0,
            "ignored": 0,
        }
    images = open_images(str(photos), split="validation")
    expected = extract(load_model(str(teacher_run)), images, size=32).numpy()
    names = [images.name(i) for i in range(24)]
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)
    np.testing.assert_array_equal(
        load_file(tmp_path / "x.safetensors")["embedding"], np.load(tmp_path / "x.npy")
    )
    assert (tmp_path / "x.names.txt").read_text().splitlines() == names
    rows = pq.read_table(tmp_path / "x.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(rows["embedding"], dtype=np.float32), np.load(tmp_path / "x.npy"))
    assert rows["name"] == names
    assert rows["label"] == images.labels.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "x.names.txt",
        "x.npy",
        "x.parquet",
        "x.safetensors",
    ]
    refused = hub(*words, "--out", tmp_path / "x.npy")
    assert refused.status == 2
    assert "exists already: replace it with --overwrite" in refused.sentence


def test_embed_leaves_no_half_file(
    hub: Any, photos: Path, teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.cli import embed, embedding_files

    def full(self: Any, first: int, rows: Any) -> None:
        if first:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(b"half")

    monkeypatch.setattr(embed, "BLOCK", 10)
    monkeypatch.setattr(embedding_files._Npy, "add", full)
    (tmp_path / "x.npy").write_bytes(b"older")
    words = [
        "embed",
        "--model",
        teacher_run,
        "--data",
        photos,
        "--split",
        "validation",
        "--size",
        "32",
        "--workers",
        "0",
    ]
    answer = hub(*words, "--out", tmp_path / "x.npy", "--overwrite")
    assert answer.status == 2
    assert answer.sentence.startswith("The disk is full")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) == {"x.npy", "x.npy.rows", "x.npy.rows.json"} and found["x.npy"] == b"older"


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.safetensors"])
def test_embed_goes_on_where_it_was_stopped(
    name: str, hub: Any, photos: Path, teacher_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.cli import embed
    from seed_hub.eval import features

    asked: list[int] = []
    extract = features.extract

    def stopped(encoder: Any, images: Any, **how: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(images))
        return extract(encoder, images, **how)

    monkeypatch.setattr(embed, "BLOCK", 7)
    words = ["embed", "--model", teacher_run, "--data", photos, "--size", 32, "--workers", 0]
    assert hub(*words, "--out", tmp_path / "whole.npy").status == 0
    monkeypatch.setattr(features, "extract", stopped)
    assert hub(*words, "--out", tmp_path / name).status != 0
    assert not (tmp_path / name).exists()

    def counted(encoder: Any, images: Any, **how: Any) -> Any:
        asked.append(len(images))
        return extract(encoder, images, **how)

    monkeypatch.setattr(features, "extract", counted)
    rows = (tmp_path / (name + ".rows")).read_bytes()
    (tmp_path / (name + ".rows")).write_bytes(rows + b"half a row")
    answer = hub(*words, "--out", tmp_path / name)
    assert answer.status == 0 and "14 embeddings are there from before" in answer.err
    whole = np.load(tmp_path / "whole.npy")
    assert sum(asked) == len(whole)
    assert not [path for path in tmp_path.iterdir() if ".rows" in path.name]
    if name == "x.npy":
        assert (np.load(tmp_path / name) == whole).all()
    other = hub(*words[:-4], "--size", 40, "--workers", 0, "--out", tmp_path / name, "--overwrite")
    assert other.status == 0 and "from before" not in other.err  # of another size: none of those rows


def test_report_writes_a_page(hub: Any, teacher_run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    answer = hub("report", teacher_run, "--out", page, "--json")
    assert answer.status == 0
    assert answer.json == {"report": str(page)}
    assert "<html" in page.read_text()[:500]
    assert hub("report", tmp_path / "absent").status == 2


def test_demo_is_handed_its_folder(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    module = types.ModuleType("seed_hub.demo")
    module.main = lambda out: folders.append(out) or len(folders) - 1  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "seed_hub.demo", module)
    assert hub("demo").status == 0
    answer = hub("demo", "--out", "elsewhere", "--json")  # its second answer is 1: the claim did not hold
    assert answer.status == 1
    assert answer.json == {"out": "elsewhere", "status": 1}
    assert folders == [Path("demo"), Path("elsewhere")]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_list_takes_less_than_150_megabytes() -> None:
    code = (
        "import re, sys\n"
        "from seed_hub.cli import main\n"
        "main(['list'])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stderr.splitlines()[-1]) < 150e3
