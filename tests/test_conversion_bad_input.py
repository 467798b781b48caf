"""Checkpoints that must be refused, in one sentence that says what to do, and what the command says."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from seed_hub.cli.convert import convert as command
from seed_hub.conversion import convert, read_checkpoint
from seed_hub.errors import SeedHubError

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Of a small ResNet whose norms have moved."""
    torch.manual_seed(0)
    tensors = timm.create_model("test_resnet", num_classes=0).state_dict()
    return {k: v + torch.rand(v.shape) if k.endswith("running_mean") else v for k, v in tensors.items()}


def refusal(source: Path, **how: Any) -> str:
    """The one sentence with which the file is refused; nothing is written."""
    out = source.parent / "out"
    with pytest.raises(SeedHubError) as error:
        convert(source, out, **({"arch": "test_resnet"} | how))
    assert not out.exists()
    assert not out.with_name("out.partial").exists()
    text = str(error.value)
    assert "\n" not in text
    assert str(source) in text
    return text


class Hostile:
    """Unpickling it writes a file: the proof that code ran."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"echo ran > {self.proof}",)


@pytest.mark.parametrize("save", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))])
def test_a_hostile_pickle_is_refused_and_named(save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    source, proof = tmp_path / "c.pth", tmp_path / "proof"
    save({"state_dict": {}, "args": Hostile(proof)}, source)
    text = refusal(source)
    assert f"{os.system.__module__}.system" in text
    assert "could run code" in text
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_runs(protocol: int, tmp_path: Path) -> None:
    hostile = pickle.dumps(Hostile(tmp_path / "proof"), protocol)
    (tmp_path / "c.pth").write_bytes(hostile)
    refusal(tmp_path / "c.pth")
    assert not (tmp_path / "proof").exists()
    pickle.loads(hostile)  # the proof that it would have
    assert (tmp_path / "proof").exists()


def test_damaged_files(state: State, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save(state, whole)
    for content in (whole.read_bytes()[: whole.stat().st_size // 2], b"", b"no checkpoint at all"):
        cut.write_bytes(content)
        assert "is damaged or no checkpoint" in refusal(cut)
    cut.unlink()
    assert "There is no file" in refusal(cut)


def test_damaged_safetensors(state: State, tmp_path: Path) -> None:
    source = tmp_path / "c.safetensors"
    save_file(state, source)
    whole = source.read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    for content in (
        whole[: len(whole) // 2],
        struct.pack("<Q", 2**60) + whole[8:],
        whole[:8] + b"[" * header + whole[8 + header :],
        pickle.dumps(Hostile(tmp_path / "proof")),
    ):
        source.write_bytes(content)
        assert "is no whole safetensors file" in refusal(source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "layer2.0.conv1.weight"}, "x.layer2.0.conv1.weight"),
        (lambda s: s | {"layer2.0.conv1.weight": torch.ones(3, 3)}, "x.layer2.0.conv1.weight"),
        (
            lambda s: s | {"layer2.1.conv1.weight": torch.ones(3, 3)},
            "1 are left over (x.layer2.1.conv1.weight)",
        ),
        (lambda s: s | {"layer2.0.conv1.weight": s["layer2.0.conv1.weight"] * torch.nan}, "not finite"),
    ],
)
def test_what_fits_only_in_part_is_refused_with_its_keys(
    change: Callable[[State], State], said: str, state: State, tmp_path: Path
) -> None:
    torch.save({"x": change(state)}, tmp_path / "c.pth")
    assert said in refusal(tmp_path / "c.pth")


def test_a_larger_network_is_not_taken_for_a_smaller_one(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet34", num_classes=0).state_dict(), tmp_path / "c.pth")
    assert "is not a complete resnet18" in refusal(tmp_path / "c.pth", arch="resnet18")


def test_the_teacher_in_a_file_is_not_taken_for_the_student(state: State, tmp_path: Path) -> None:
    unknown = {"module.student.stem.weight": torch.ones(3, 3), "module.queue": torch.ones(3)}
    torch.save(
        {"state_dict": unknown | {f"module.teacher.{k}": v for k, v in state.items()}}, tmp_path / "c.pth"
    )
    assert "holds no test_resnet" in refusal(tmp_path / "c.pth")


def test_other_refusals(state: State, tmp_path: Path) -> None:
    source = tmp_path / "c.pth"
    torch.save({"epoch": 3, "args": {"lr": 0.1}}, source)
    assert "holds no tensors (epoch, args)" in refusal(source)
    torch.save({"w": torch.ones(3)}, source)
    assert "tensors are called w" in refusal(source)
    assert "tensors are called w" in refusal(source, arch=None)
    torch.save(timm.create_model("test_resnet", num_classes=0).state_dict(), source)
    assert "random weights" in refusal(source)
    with pytest.raises(SeedHubError, match='no architecture "test_resnets".*Did you mean "test_resnet"'):
        convert(source, tmp_path / "out", arch="test_resnets")
    with pytest.raises(SeedHubError, match="does not take these options"):
        convert(source, tmp_path / "out", arch="test_resnet", options={"num_heads": 3})


def test_a_dictionary_that_holds_itself(state: State, tmp_path: Path) -> None:
    content: dict[str, Any] = {"state_dict": state}
    content["again"] = content
    torch.save(content, tmp_path / "c.pth")
    assert set(read_checkpoint(tmp_path / "c.pth").tensors) == {f"state_dict.{key}" for key in state}


def test_the_command(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "c.pth", tmp_path / "out"
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}}, source)
    words = [str(source), "--out", str(out), "--arch", "test_resnet"]
    found = command(words)
    said = capsys.readouterr()
    assert "licence of these weights is unknown" in said.err
    assert "MoCo v1, tensors under state_dict.module.encoder_q." in said.out
    assert (found["out"], found["architecture"], found["width"]) == (str(out), "test_resnet", 96)
    assert "license" not in json.loads((out / "config.json").read_text())["pretrained_cfg"]
    with pytest.raises(SeedHubError, match="exists already: replace it with --overwrite"):
        command(words)
    more = ["--licence", "mit", "--mean", "0.5", "0.5", "0.5", "--input-size", "96", "--prefix"]
    command([*words, "--overwrite", *more, "state_dict.module.encoder_q"])
    cfg = json.loads((out / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["license"], cfg["mean"], cfg["input_size"]) == ("mit", [0.5] * 3, [3, 96, 96])
    assert "unknown" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "o"], "Name a checkpoint"),
        (["c.pth"], "--out is missing"),
        (["c.pth", "--out", "o", "--mean", "0.5"], "--mean takes three numbers"),
        (["c.pth", "--out", "o", "--std", "0", "1", "1"], "--std takes three numbers above 0"),
        (["c.pth", "--out", "o", "--num-heads", "-1"], "--num-heads is a number above 0"),
        (["nowhere.pth", "--out", "o"], "There is no file nowhere.pth"),
    ],
)
def test_flags_that_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(SeedHubError, match=said):
        command(words)


def test_only_model_folders_are_replaced(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "c.pth")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(SeedHubError, match="is no model folder and is not replaced"):
        convert(tmp_path / "c.pth", tmp_path / "out", arch="test_resnet", overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").exists()
