"""Each file says what the network says, read by its own library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from seed_hub.encoder import Encoder, build_student
from seed_hub.exporting import FORMATS, to_torch
from seed_hub.exporting.exporter import Wish, export
from seed_hub.exporting.network import Network, trace
from seed_hub.projection import projection_head

To = Callable[[str], ModuleType]


@pytest.mark.parametrize("preprocess", [False, True], ids=["float", "uint8"])
@pytest.mark.parametrize("format", [name for name in FORMATS if name != "coreml"])  # written below
def test_a_file_says_what_the_network_says(
    format: str, preprocess: bool, resnet: Encoder, to: To, tmp_path: Path
) -> None:
    """Read back as a user would, with pixels made here: normalisation and the layout are not taken from our own code."""
    module, side = to(format), resnet.input_size
    out = tmp_path / f"small{module.SUFFIX}"
    report = export(resnet, Wish(format, out, preprocess=preprocess))
    pixels = np.random.default_rng(3).integers(0, 256, (5, side, side, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (resnet.mean, resnet.std))
    with torch.no_grad():
        expected = resnet.backbone((x - mean) / std)
    run = module.open_file(out)
    given = torch.from_numpy(pixels) if preprocess else x
    for part in (slice(0, 1), slice(0, 5), slice(1, 3)):  # every size of batch, in any order
        torch.testing.assert_close(run(given[part]), expected[part], atol=2e-3, rtol=2e-3)
    assert report["parity"]["cosine"] > 0.9999 and report["parity"]["neighbour_agreement"] == 1
    assert set(report["parity"]["by_batch"]) == {"1", "4", "16"}
    assert report["output"]["shape"] == ["batch", expected.shape[1]]
    assert min(report["latency_ms"].values()) > 0
    assert json.loads((tmp_path / f"{out.name}.parity.json").read_text()) == report
    written = {each.name: each for each in tmp_path.iterdir()}
    assert written.keys() == {out.name, f"{out.name}.parity.json", *(f"small{s}" for s in module.BESIDE)}
    own = sum(each.stat().st_size for name, each in written.items() if not name.endswith(".json"))
    assert report["size_mb"] == pytest.approx(own / 1e6)


def test_a_pt2_file_is_read_by_torch_alone(resnet: Encoder, tmp_path: Path) -> None:
    export(resnet, Wish("torch", tmp_path / "small.pt2"))
    x = torch.rand(3, 3, resnet.input_size, resnet.input_size)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch\n"
        "found = torch.export.load('small.pt2').module()(torch.load('x.pt'))\n"
        "assert 'seed_hub' not in sys.modules and 'timm' not in sys.modules\n"
        "torch.save(found, 'found.pt')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "found.pt"), resnet(x).pooled)


def test_a_vit_at_another_size_and_its_projection(
    moved: Callable[[Encoder], Encoder], tmp_path: Path
) -> None:
    """Position embeddings are settled for the size; the head's output is the file's only where it is asked for."""
    encoder = moved(build_student("test_vit", dynamic_img_size=True))
    encoder.head = projection_head(encoder.width, 16, 8).eval()
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = encoder(x)
    for features in ("pooled", "projected"):
        out = tmp_path / f"{features}.pt2"
        report = export(encoder, Wish("torch", out, size=96, features=features))
        assert report["parity"]["images"] == 64
        found = to_torch.open_file(out)(x)
        torch.testing.assert_close(found, getattr(expected, features), atol=1e-5, rtol=1e-4)
        held = torch.export.load(out).state_dict
        assert any("encoder.head" in key for key in held) == (features == "projected")


def test_onnx_names_its_tensors_and_leaves_the_batch_open(resnet: Encoder, to: To, tmp_path: Path) -> None:
    to("onnx").write(trace(Network(resnet)), tmp_path / "a.onnx")
    import onnx

    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"))
    graph = onnx.load(tmp_path / "a.onnx").graph
    (given,), (found,) = graph.input, graph.output
    batch, *sides = given.type.tensor_type.shape.dim
    assert (given.name, found.name) == ("pixel_values", "embedding")
    assert batch.dim_param and [s.dim_value for s in sides] == [3, resnet.input_size, resnet.input_size]


@pytest.mark.parametrize("preprocess", [False, True], ids=["float", "int32"])
def test_coreml_is_written_where_nothing_runs_it(
    preprocess: bool, resnet: Encoder, to: To, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to("coreml").platform, "system", lambda: "Linux")
    out = tmp_path / "a.mlpackage"
    report = export(resnet, Wish("coreml", out, preprocess=preprocess))
    assert report["parity"] is None and report["latency_ms"] is None
    assert report["input"]["dtype"] == ("int32" if preprocess else "float32")
    export(resnet, Wish("coreml", out, preprocess=preprocess, overwrite=True))  # a folder in a folder's place
    import coremltools

    spec = coremltools.utils.load_spec(str(out)).description
    assert [each.name for each in spec.input] == ["pixel_values"]
    assert [each.name for each in spec.output] == ["embedding"]


def test_openvino_is_read_from_onnx_without_its_telemetry(
    resnet: Encoder, to: To, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = to("openvino")
    import openvino

    def tell(*_: Any, **__: Any) -> None:
        raise AssertionError("a conversion was reported")

    monkeypatch.setattr(openvino, "convert_model", tell)
    if find_spec("openvino_telemetry"):
        monkeypatch.setattr("openvino_telemetry.Telemetry.init", tell)
        monkeypatch.setattr("openvino_telemetry.Telemetry.send_event", tell)
    module.write(trace(Network(resnet)), tmp_path / "a.xml")
    assert {path.name for path in tmp_path.iterdir()} == {"a.xml", "a.bin"}
