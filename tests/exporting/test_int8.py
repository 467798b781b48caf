"""Quantised files: small, measured on images that they were not calibrated with, refused for what they lose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from seed_hub.cli import main
from seed_hub.cli.export import _int8_rows
from seed_hub.data import Images, open_images
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.exporting import int8
from seed_hub.exporting.exporter import Wish, export
from seed_hub.exporting.int8 import Plan, judge, measure

To = Callable[[str], ModuleType]
PLAN = Plan(images=40, max_drop=10, min_cosine=0.98)


@pytest.mark.parametrize("preprocess", [False, True], ids=["float", "uint8"])
def test_an_int8_file_is_small_and_close(
    preprocess: bool, resnet: Encoder, photos: Path, to: To, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated on some images, measured on others; weights in int8, a scale for each output channel."""
    to("onnx")
    import onnx

    seen: list[int] = []
    real = int8.image_pixels

    def spy(images: Images, size: int) -> torch.Tensor:
        seen.extend(images.original_index.tolist())
        return real(images, size)

    monkeypatch.setattr(int8, "image_pixels", spy)
    out = tmp_path / "a.onnx"
    report = export(resnet, Wish("onnx", out, preprocess=preprocess, int8=PLAN), open_images(photos))
    test, calibration = set(seen[-50:]), set(seen[:-50])
    assert (len(calibration), len(test)) == (40, 50) and not calibration & test
    found = report["int8"]
    assert found["cosine"] > 0.99 and found["neighbour_overlap"] > 0.7 and found["choice"]["in_float"] == []
    assert found["calibrated_on"] == 40 and found["images"] == found["knn"]["images"] == 50
    assert found["knn"]["before"] - found["knn"]["after"] == pytest.approx(found["knn"]["drop"])
    weights = {each.name: each for each in onnx.load(out).graph.initializer}
    kernels = [each for each in weights.values() if len(each.dims) == 4 and each.dims[0] > 1]
    assert kernels and all(each.data_type == onnx.TensorProto.INT8 for each in kernels)
    scales = [each for name, each in weights.items() if name.endswith("_scale") and each.dims]
    assert {each.dims[0] for each in kernels} <= {each.dims[0] for each in scales}
    assert {path.name for path in tmp_path.iterdir()} == {"a.onnx", "a.onnx.parity.json"}


def test_openvino_runs_the_same_int8_network(resnet: Encoder, photos: Path, to: To, tmp_path: Path) -> None:
    to("openvino")
    report = export(resnet, Wish("openvino", tmp_path / "a.xml", int8=PLAN), open_images(photos))
    assert report["int8"]["cosine"] > 0.99
    assert (tmp_path / "a.bin").stat().st_size < 0.5 * sum(4 * p.numel() for p in resnet.parameters())


def loss(cosine: float = 0.999, drop: float | None = None) -> dict[str, Any]:
    knn = None if drop is None else {"drop": drop, "before": 50.0, "after": 50.0 - drop}
    return {"cosine": cosine, "knn": knn}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (loss(0.89), "mean cosine .* is 0.8900, and at least 0.9 "),
        (loss(float("nan")), "mean cosine"),
        (loss(drop=1.01), r"k-NN drops by 1.01 points, from 50.00 % to 48.99 %, and --max-drop allows 1:"),
        (loss(drop=float("nan")), "k-NN drops"),
    ],
)
def test_a_loss_is_refused(found: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SeedHubError, match=sentence):
        judge(found, Plan(min_cosine=0.9))


def test_a_small_loss_is_accepted() -> None:
    judge(loss(0.9), Plan(min_cosine=0.9))
    judge(loss(drop=1.0), Plan())
    judge(loss(drop=-3.0), Plan())


def test_a_refused_file_gets_no_name(resnet: Encoder, photos: Path, to: To, tmp_path: Path) -> None:
    to("onnx")
    plan = Plan(images=40, min_cosine=1.0)
    with pytest.raises(SeedHubError, match="at least 1 is asked for"):
        export(resnet, Wish("onnx", tmp_path / "a.onnx", int8=plan), open_images(photos))
    assert not list(tmp_path.iterdir())


def test_the_loss_is_that_of_the_embeddings() -> None:
    """Two classes apart; the file has turned four images of each into the other."""
    x = torch.tensor([[1.0, 0.1]] * 20 + [[0.1, 1.0]] * 20)
    labels = np.repeat([3, 7], 20)
    assert measure(x, x, labels)["knn"]["drop"] == 0
    y = x.clone()
    y[[0, 1, 2, 3, 20, 21, 22, 23]] = x[[20, 21, 22, 23, 0, 1, 2, 3]]
    found = measure(x, y, labels)["knn"]
    assert (found["before"], found["after"], found["drop"]) == pytest.approx((100, 80, 20))
    low, high = found["interval"]
    assert low < 20 < high
    assert measure(x, y, None)["knn"] is None and measure(x, y, np.full(40, -1))["knn"] is None
    hidden = np.where(np.arange(40) % 20 < 4, -1, labels)  # all that were turned
    assert measure(x, y, hidden)["knn"]["drop"] == 0


def test_too_few_images_are_told(
    photos: Path, to: To, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to("onnx")
    monkeypatch.chdir(tmp_path)
    words = ["--model", "untrained:test_resnet", "--format", "onnx", "--out", "a.onnx", "--int8"]
    assert main(["export", *words, "--data", str(photos)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "holds 90 images, and --images 512 to calibrate with leave fewer than 2" in line
    assert not list(tmp_path.iterdir())


def test_int8_says_what_it_needs(to: To, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8.writing, "find_spec", lambda name: None)
    with pytest.raises(SeedHubError, match=r"--int8 needs onnx .*pip install onnx "):
        int8.refuse_format("openvino")


def test_the_command_says_what_was_lost(
    model: Path, photos: Path, to: To, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to("onnx")
    words = ["--format", "onnx", "--out", str(tmp_path / "a.onnx"), "--data", str(photos), "--images", "40"]
    words += ["--int8", "--max-drop", "10", "--min-cosine", "0.98"]
    assert main(["export", "--model", str(model), *words]) == 0
    shown = capsys.readouterr().out
    assert "layers compute in int8\n" in shown and "int8, k-NN" in shown and "on 50 other images" in shown


def test_what_stays_in_float_is_told() -> None:
    choice = {"products": 9, "in_float": ["head", "blocks.3.conv"], "cosine_of_all": 0.4, "cosine": 0.995}
    (name, text), *_ = _int8_rows(loss(0.99) | {"choice": choice, "images": 5, "neighbour_overlap": 0.8})
    assert name == "int8" and text.splitlines() == [
        "7 of 9 layers compute in int8, as all of them would have a cosine of 0.4000; in float stay",
        "head",
        "blocks.3.conv",
    ]
