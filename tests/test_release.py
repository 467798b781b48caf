"""``training/release.py``: what it writes, how often it may, and what it refuses, leaving everything as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import training.release
from seed_hub.golden import GOLDEN
from seed_hub.model_folder import CONFIG, HEAD, WEIGHTS
from seed_hub.weights import Weight, read_table, sha256_of
from tests.made_up_run import FINGERPRINT, line, make_run, network, write_json

NAME = "seed_mobilenetv3_small.made_up"
RESULT = "eval/results/made_up.jsonl"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout without weights, a run of it, and the script that made it."""
    run = make_run(tmp_path / "run", network("seed_mobilenetv3_small"), "seed_mobilenetv3_small")
    for folder in ("eval/results", "training/rows", "seed_hub"):
        (tmp_path / folder).mkdir(parents=True)
    (run / "results.jsonl").rename(tmp_path / RESULT)
    (tmp_path / "training" / "rows" / "row.py").touch()
    (tmp_path / "seed_hub" / "released.json").write_text("[]")
    environment = json.loads((run / "environment.json").read_text())
    write_json(
        run / "environment.json", environment | {"command": ["row.py", "--data", "/home/someone/photos"]}
    )
    return tmp_path


def main(root: Path, *more: str, name: str = NAME) -> int:
    words = [str(root / "run"), "--name", name, "--images-licence", "own", *more]
    return training.release.main(words, root)


def table(root: Path) -> tuple[Weight, ...]:
    return read_table(root / "seed_hub" / "released.json")


def other_weights(root: Path, seed: int) -> None:
    """The run trained again, and measured."""
    encoder = network("seed_mobilenetv3_small", seed)
    make_run(root / "again", encoder, "seed_mobilenetv3_small")
    for name in (WEIGHTS, CONFIG):
        (root / "again" / "best" / name).replace(root / "run" / "best" / name)
    with (root / RESULT).open("a") as file:
        file.write((root / "again" / "results.jsonl").read_text())


def test_a_run_becomes_a_folder_and_a_row(root: Path) -> None:
    assert main(root) == 0
    (weight,) = table(root)
    folder = root / "model_cards" / NAME
    assert weight == Weight(
        name=NAME,
        sha256=sha256_of(root / "run" / "best" / WEIGHTS),
        licence="apache-2.0",
        description="seed from timm:big.tag, photos, 320 views of 64 px, no labels",
        input_size=64,
        tensors=json.loads((root / RESULT).read_text().splitlines()[0])["model"]["sha256"],
    )
    assert (root / "run" / "best" / HEAD).exists() and not (folder / HEAD).exists()
    assert "projection_head" not in json.loads((folder / CONFIG).read_text())["seed_hub"]
    made = json.loads((folder / "run.json").read_text())
    assert (made["script"], made["fingerprint"], made["hours"]) == ("training/rows/row.py", FINGERPRINT, 2.0)


def test_the_same_weights_may_be_released_again_and_others_once_per_version(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(root) == 0
    assert main(root, "--watts", "100") == 0  # a new card
    first = table(root)[0].sha256
    other_weights(root, 1)
    assert main(root) == 2
    assert "released already, with other weights: choose another tag, or --replace" in capsys.readouterr().err
    assert table(root)[0].sha256 == first == sha256_of(root / "model_cards" / NAME / WEIGHTS)
    assert main(root, "--replace") == 0
    second = table(root)[0].sha256
    assert second != first and sha256_of(root / "model_cards" / NAME / WEIGHTS) == second
    assert main(root) == 0  # the same once more is no replacement
    other_weights(root, 2)
    assert main(root, "--replace") == 2
    assert "replaced in version" in capsys.readouterr().err and table(root)[0].sha256 == second
    monkeypatch.setattr(training.release, "__version__", "99.0")
    assert main(root, "--replace") == 0 and len(table(root)) == 1
    assert main(root, name="seed_mobilenetv3_small.second") == 0
    assert [weight.tag for weight in table(root)] == ["made_up", "second"]  # the default stays
    assert main(root, "--default", name="seed_mobilenetv3_small.second") == 0
    assert [weight.tag for weight in table(root)] == ["second", "made_up"]


def test_folders_are_kept_to_what_a_clone_may_cost(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(root) == 0
    size = sum(path.stat().st_size for path in (root / "model_cards" / NAME).iterdir()) / 1e6
    monkeypatch.setattr(training.release, "LIMIT", 1.5 * size)
    assert main(root) == 0  # in the place of itself
    assert main(root, name="seed_mobilenetv3_small.second") == 2
    assert f"model_cards/ would hold {2 * size:.1f} MB" in capsys.readouterr().err
    assert len(table(root)) == 1 and not (root / "model_cards" / "seed_mobilenetv3_small.second").exists()


def test_cards_follow_the_results(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(root) == 0
    folder = root / "model_cards" / NAME
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert training.release.main([], root) == 0 and "up to date" in capsys.readouterr().out
    with (root / RESULT).open("a") as file:
        file.write(json.dumps(line("3" * 64, "better", 77.25)) + "\n")
    assert training.release.main([], root) == 0 and f"{NAME} written" in capsys.readouterr().out
    assert "better 77.25" in (folder / "README.md").read_text()
    for name in (WEIGHTS, GOLDEN, CONFIG):
        assert (folder / name).read_bytes() == before[name]
    (root / RESULT).write_text("")
    assert training.release.main([], root) == 2 and "No line of eval/results" in capsys.readouterr().err


def _half(root: Path) -> None:
    path = root / "run" / "best" / WEIGHTS
    halved = {
        key: value.half() if value.is_floating_point() else value for key, value in load_file(path).items()
    }
    save_file(halved, path, metadata={"format": "pt"})


def _more_metadata(root: Path) -> None:
    path = root / "run" / "best" / WEIGHTS
    save_file(load_file(path), path, metadata={"format": "pt", "licence": "mit"})


def _without(name: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "more", "said"),
    [
        (_half, {}, "model.safetensors holds F16, and released files are float32"),
        (_more_metadata, {}, 'metadata .*licence.*only {"format": "pt"}'),
        (_without("run/verdict.json"), {}, "is not finished: continue it with --resume"),
        (_without("run/checkpoint.pt"), {}, "no checkpoint.pt, which knows the training images"),
        (_without("training/rows/row.py"), {}, '"row.py" is none of the scripts in training/'),
        (lambda root: (root / "training" / "row.py").touch(), {}, "is several of the scripts"),
        (lambda root: (root / RESULT).write_text(""), {}, "No line of eval/results is about the weights"),
        (lambda root: None, {"name": "seed_resnet18.made_up"}, "holds a mobilenetv3_small_100, and seed_resnet18 is a resnet18"),
        (lambda root: None, {"name": "seed_mobilenetv3_small"}, "names no weight: write --name seed_mobilenetv3_small.TAG"),
        (lambda root: None, {"name": "seed_mobilnetv3_small.x"}, 'Did you mean "seed_mobilenetv3_small"'),
        (lambda root: None, {"script": "eval/row.py"}, "name the one that made the run with --script"),
        (lambda root: None, {"out": "elsewhere"}, "has no option --out"),
    ],
)  # fmt: skip
def test_what_is_no_release_is_refused_in_one_sentence(
    root: Path,
    spoil: Callable[[Path], Any],
    more: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(root)
    flags = [word for key, value in more.items() if key != "name" for word in (f"--{key}", value)]
    assert main(root, *flags, name=more.get("name", NAME)) == 2
    told = capsys.readouterr().err.strip()
    assert re.search(said, told), told
    assert len(told.splitlines()) == 1 and table(root) == () and not (root / "model_cards").exists()
