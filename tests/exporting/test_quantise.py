"""What stays in float: the layers that 8 bits destroy, those only, with weights of 8 bits all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder
from seed_hub.exporting import to_onnx, writing
from seed_hub.exporting.network import Network, trace
from seed_hub.exporting.pixels import natural_pixels
from seed_hub.exporting.quantise import fewest, pack_weights, quantise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.parametrize("needed", [1, 2, 3, 6, 7, 9])
def test_no_more_than_needed(needed: int) -> None:
    names = list("abcdefg")
    asked: list[int] = []

    def enough(some: list[str]) -> bool:
        asked.append(len(some))
        return len(some) >= needed

    assert fewest(names, enough) == names[: min(needed, 7)]
    assert len(asked) <= 3  # of 7: a bisection


class Uneven(nn.Module):
    """One channel of what the second layer is given is huge, and counts for nothing."""

    num_features, pretrained_cfg = 16, None

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 16, 3)
        self.uneven = nn.Conv2d(16, 16, 3)
        self.last = nn.Conv2d(16, 16, 3)
        self.uneven.weight.data[:, 0] = 0
        self.register_buffer("scale", torch.where(torch.arange(16) == 0, 1e4, 1.0).view(1, -1, 1, 1))

    def forward_features(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)) * self.scale
        return torch.relu(self.last(torch.relu(self.uneven(x))))

    def forward_head(self, x: Tensor, pre_logits: bool) -> Tensor:
        return x.mean((2, 3))


def test_what_8_bits_destroy_stays_in_float(tmp_path: Path) -> None:
    network = Network(Encoder(Uneven(), arch="uneven", input_size=16))
    pixels = natural_pixels(96, 16)
    batches = [network.input_of(part) for part in pixels.split(32)]
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    writing.write(to_onnx, trace(network), plain)
    choice = quantise(plain, small, lambda: iter(batches), 0.999)
    assert choice.in_float == ["uneven"] and choice.products == 3
    assert choice.cosine_of_all < 0.99 < 0.999 <= choice.cosine
    weights = {
        each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(str(small)).graph.initializer
    }
    integers = [abs(w.astype(int)).max() for w in weights.values() if w.dtype == np.int8 and w.ndim > 1]
    # Two products of 8 bits must fit 16; the third layer's weights are made float before.
    assert sorted(integers) == [64, 64, 127]
    run = to_onnx.open_file(small)
    found = torch.cat([run(part) for part in batches])
    expected = network(torch.cat(batches))
    assert torch.cosine_similarity(found, expected).mean() > 0.999
    weights = {each.name: each for each in onnx.load(small).graph.initializer}
    kernels = [each for each in weights.values() if len(each.dims) == 4 and each.dims[0] > 1]
    assert len(kernels) == 3 and all(each.data_type == onnx.TensorProto.INT8 for each in kernels)

    lenient = quantise(plain, small, lambda: iter(batches), 0.0)
    assert lenient.in_float == [] and lenient.cosine == lenient.cosine_of_all == choice.cosine_of_all


def test_packed_weights_are_the_nearest_of_8_bits(tmp_path: Path) -> None:
    """Each kind of product, its output channels of different sizes, one of them zero."""
    rng = np.random.default_rng(0)
    size = np.array([1.0, 0.01, 0, 100], dtype=np.float32)
    w = rng.normal(size=(4, 4)).astype(np.float32) * size[:, None]  # [out, in]
    weights = {"conv": w[:, :, None, None], "gemm_t": w, "gemm": w.T, "matmul": w.T, "left": w.T}
    nodes = [
        onnx.helper.make_node("Conv", ["x", "conv"], ["a"], name="a"),
        onnx.helper.make_node("Flatten", ["a"], ["b"], name="b"),
        onnx.helper.make_node("Gemm", ["b", "gemm_t"], ["c"], name="c", transB=1),
        onnx.helper.make_node("Gemm", ["c", "gemm"], ["d"], name="d"),
        onnx.helper.make_node("MatMul", ["d", "matmul"], ["e"], name="e"),
        onnx.helper.make_node("MatMul", ["e", "matmul"], ["f"], name="f"),  # shares its weights
        onnx.helper.make_node("MatMul", ["f", "left"], ["y"], name="g"),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [value("x", 1, [2, 4, 1, 1])],
        [value(name, 1, [2, 4]) for name in "cdey"],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "a.onnx")
    pack_weights(tmp_path / "a.onnx", ["a", "c", "d", "e", "f"])
    packed = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(packed)
    held = {each.name: onnx.numpy_helper.to_array(each) for each in packed.graph.initializer}
    assert "left" in held and "conv" not in held and held["matmul_int8"].dtype == np.int8

    step = np.abs(w).max(1, keepdims=True) / 127  # [out, 1]
    near = np.round(w / np.where(step == 0, 1, step)) * step
    x = rng.normal(size=(2, 4)).astype(np.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    c, d, e, y = session.run(None, {"x": x[:, :, None, None]})
    np.testing.assert_allclose(c, x @ near.T @ near.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d, c @ near.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(e, d @ near.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, e @ near.T @ w.T, rtol=1e-4, atol=1e-5)
