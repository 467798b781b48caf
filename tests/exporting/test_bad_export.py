"""What cannot be exported is said in one sentence, and leaves nothing behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from seed_hub.cli import main
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.exporting import FORMATS, writing
from seed_hub.exporting.exporter import Wish, export


class Strange(nn.Module):
    """A backbone with an operator that ONNX does not know."""

    num_features, pretrained_cfg = 3, None

    def forward_features(self, x: Tensor) -> Tensor:
        return x + torch.special.bessel_j0(x)

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x.mean((2, 3))


@pytest.mark.parametrize("format", ["onnx", "openvino", "coreml"])
def test_an_operator_that_the_format_has_not_is_named(
    format: str, to: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    encoder = Encoder(Strange(), arch="strange", input_size=8)
    with pytest.raises(SeedHubError, match=f"{format} has no counterpart of the operator .*bessel_j0"):
        export(encoder, Wish(format, tmp_path / f"a{to(format).SUFFIX}"))
    assert not list(tmp_path.iterdir())


class Branching(Strange):
    def forward_features(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_depends_on_its_input_is_refused(tmp_path: Path) -> None:
    encoder = Encoder(Branching(), arch="branching", name="mine", input_size=8)
    with pytest.raises(SeedHubError, match="mine cannot be captured by torch.export at 8 pixels"):
        export(encoder, Wish("torch", tmp_path / "a.pt2"))


def test_a_failure_that_names_no_operator_keeps_its_reason(tmp_path: Path) -> None:
    class Module(ModuleType):
        @staticmethod
        def write(program: object, path: Path) -> None:
            raise RuntimeError("no room\nat all")

    with pytest.raises(SeedHubError, match=r"conversion to some failed \(no room\): try another --format"):
        writing.write(Module("seed_hub.exporting.to_some"), None, tmp_path / "a")  # type: ignore[arg-type]


BAD = {
    "unknown format": ("--format onx --out a.onnx", 'no format "onx".*Did you mean "onnx"'),
    "wrong ending": ("--format torch --out a.onnx", 'ends in ".onnx": this format\'s files end in .pt2'),
    "no folder": ("--format torch --out none/a.pt2", "there is no folder none"),
    "exists": ("--format torch --out old.pt2", "old.pt2 exists already: replace it with --overwrite"),
    "a folder": ("--format torch --out folder.pt2", "folder.pt2 is a folder: name a file"),
    "int8 alone": ("--format torch --out a.pt2 --int8", "--int8 needs images.*--data"),
    "int8 not there": (
        "--format torch --out a.pt2 --int8 --data x",
        "--int8 is not there for --format torch",
    ),
    "features": ("--format torch --out a.pt2 --features all", "choose --features pooled or projected"),
    "negative": ("--format torch --out a.pt2 --max-drop -1", "--max-drop is a number, at least 0"),
    "huge": ("--format torch --out a.pt2 --size 5000", "--size is 5000: give a side of 1 to 4096 pixels"),
    "cosine": ("--format torch --out a.pt2 --min-cosine 2", "--min-cosine is at most 1"),
    "no images": ("--format torch --out a.pt2 --images 0", "--images is a whole number, at least 1"),
    "no data": ("--format torch --out a.pt2 --data nowhere", "nowhere"),
    "no out": ("--format torch", "--out is missing"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(
    case: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.pt2").touch()
    Path("folder.pt2").mkdir()
    words, sentence = BAD[case]
    assert main(["export", "--model", str(model), *words.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(sentence, line)
    assert {path.name for path in tmp_path.iterdir()} == {"old.pt2", "folder.pt2"}


def test_a_file_beside_is_not_replaced_unasked(tmp_path: Path, to: Callable[[str], ModuleType]) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(SeedHubError, match="a.bin exists already"):
        writing.refuse_place(tmp_path / "a.xml", to("openvino"), False)
    writing.refuse_place(tmp_path / "a.xml", to("openvino"), True)


def test_no_projection_head(resnet: Encoder, tmp_path: Path) -> None:
    with pytest.raises(SeedHubError, match='no projection head: export its "pooled" features'):
        export(resnet, Wish("torch", tmp_path / "a.pt2", features="projected"))


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "torch"])
def test_missing_packages_are_named(format: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(SeedHubError, match=r"pip install [a-z ]+\.") as refusal:
        writing.format_module(format)
    named = str(refusal.value).rpartition("pip install ")[2].rstrip(".").split()
    declared = (root / "pyproject.toml").read_text()
    assert named and all(f'"{package}' in declared for package in named) and f"\n{format} = [" in declared


def test_the_command_shows_what_it_measured(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.pt2"
    words = ["--format", "torch", "--out", str(out), "--data", str(photos), "--preprocess", "--json"]
    assert main(["export", "--model", str(model), *words]) == 0
    shown = capsys.readouterr().out
    report = json.loads(shown.strip().splitlines()[-1])
    assert "uint8 [batch, 64, 64, 3]" in shown and "same nearest neighbour" in shown
    assert re.search(r"batch +lowest cosine +largest difference\n +1 ", shown)
    assert report["parity"]["images"] == 64 and report["compared_on"] == photos.name
