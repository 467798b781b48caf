"""A float ONNX file as an int8 one: onnxruntime's static quantisation, less what it would destroy.

Weights in 8 bits per output channel, all of them, where they are multiplied as int8 from -64 to 64: x86 CPUs without VNNI add
two products in 16 bits, which overflow beyond (a ResNet-18's mean cosine was 0.978 there, and 0.9998 within). Activations in 8 bits by the range they have on calibration images,
except around the few convolutions where that costs the embedding too much: each is quantised alone and the embedding
compared; those that cost most compute in float, as few as bring the cosine back.

Legend: N images, D width, E channels of a weight.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seed_hub.exporting import to_onnx
from seed_hub.exporting.network import INPUT

_log = logging.getLogger(__name__)

PRODUCTS = ("Conv", "Gemm", "MatMul")  # what has weights; all else computes in float
PROBES = 64  # calibration images that the cosine is measured on while choosing


@dataclass(frozen=True)
class Choice:
    """Which products compute in int8."""

    products: int
    """there are"""
    in_float: list[str]
    """layers of those that compute in float, with weights of 8 bits; what costs most first"""
    cosine_of_all: float
    """mean cosine of the probes if all were in int8"""
    cosine: float
    """and as chosen"""


def quantise(plain: Path, small: Path, batches: Callable[[], Iterator[Tensor]], target: float) -> Choice:
    """The ONNX file ``plain`` as int8 ``small``.

    Args:
        batches: the calibration images from the start, as the file takes them.
        target: mean cosine of embeddings that is aimed at; in vain where 8-bit weights alone are further off.
    """
    probes = _first(batches(), PROBES)
    ready = plain.with_name("ready.onnx")
    layers = _prepare(plain, ready)
    write = _Writer(ready, small, batches)
    reference = _embed(ready, probes)  # [N, D]

    def cosine(in_float: Collection[str], packed: bool = True) -> float:
        write(in_float, packed=packed)
        return _mean_cosine(reference, _embed(small, probes))

    of_all = found = cosine([])
    in_float: list[str] = []
    if not of_all >= target:
        _log.warning(
            "All in int8, the embeddings would have a cosine of %.4f: each of the %d layers is tried alone, and those "
            "that cost most stay in float.",
            of_all,
            len(layers),
        )
        costs = {name: cosine([other for other in layers if other != name], packed=False) for name in layers}
        in_float = fewest(sorted(layers, key=lambda name: costs[name]), lambda some: cosine(some) >= target)
        found = cosine(in_float)
    return Choice(len(layers), [layers[name] for name in in_float], of_all, found)


def fewest(ordered: Sequence[str], enough: Callable[[list[str]], bool]) -> list[str]:
    """The shortest beginning of ``ordered`` that is ``enough``, by bisection; all of it if none is."""
    low, high = 0, len(ordered)  # the first `low` are not enough
    while high - low > 1:
        middle = (low + high) // 2
        if enough(list(ordered[:middle])):
            high = middle
        else:
            low = middle
    return list(ordered[:high])


class _Writer:
    """``write(in_float)``: the quantised file; activations are measured once."""

    def __init__(self, ready: Path, small: Path, batches: Callable[[], Iterator[Tensor]]) -> None:
        self.ready, self.small, self.left = ready, small, batches()
        self.ranges = ready.with_name("ranges.json")

    def get_next(self) -> dict[str, np.ndarray] | None:
        """What onnxruntime asks of calibration data."""
        part = next(self.left, None)
        return None if part is None else {INPUT: part.numpy()}

    def __call__(self, in_float: Collection[str], *, packed: bool = True) -> None:
        """``packed``: with 8-bit weights where it computes in float."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        with _quiet():
            quantize_static(
                str(self.ready),
                str(self.small),
                self,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                op_types_to_quantize=list(PRODUCTS),
                nodes_to_exclude=list(in_float),
                calibration_cache_path=self.ranges,
            )
        if packed:
            pack_weights(self.small, in_float)


def pack_weights(path: Path, names: Collection[str]) -> None:
    """Weights of the products ``names`` in 8 bits per output channel, made float again where they are used."""
    import onnx

    model = onnx.load(str(path))
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    for node in [each for each in graph.node if each.name in names]:
        weight = weights.pop(node.input[1], None)
        if weight is None:  # a product of two activations, or weights that another product shares
            continue
        values = onnx.numpy_helper.to_array(weight)  # [E, ...], or [..., E]
        axis = _output_axis(node, values.ndim)
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = np.abs(values).max(others, keepdims=True) / 127
        scale[scale == 0] = 1  # a channel of zeros
        parts = {
            f"{weight.name}_int8": np.round(values / scale).astype(np.int8),
            f"{weight.name}_scale": scale.astype(np.float32).ravel(),
        }
        graph.initializer.remove(weight)
        graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in parts.items())
        unpack = onnx.helper.make_node("DequantizeLinear", list(parts), [weight.name], axis=axis)
        unpack.name = f"{weight.name}_float"
        graph.node.insert(0, unpack)
    onnx.save(model, str(path))


def _output_axis(node: Any, dimensions: int) -> int:
    """Of a product's weight: Conv ``[E, ...]``, MatMul ``[..., E]``, Gemm as its transB says."""
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else dimensions - 1


def _prepare(plain: Path, ready: Path) -> dict[str, str]:
    """Batch norms folded and shapes inferred, at ``ready``; the products by name, each with that of its layer."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with _quiet():
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    nodes = [node for node in onnx.load(str(ready)).graph.node if node.op_type in PRODUCTS]
    return {node.name: _layer(node.input[1]) for node in nodes}


def _layer(weight: str) -> str:
    """``encoder.backbone.blocks.0.conv.weight`` -> ``blocks.0.conv``; other names as they are."""
    return weight.removeprefix("encoder.").removeprefix("backbone.").removesuffix(".weight")


def _first(batches: Iterator[Tensor], count: int) -> list[Tensor]:
    found: list[Tensor] = []
    while sum(map(len, found)) < count and (part := next(batches, None)) is not None:
        found.append(part)
    return found


def _embed(path: Path, batches: list[Tensor]) -> Tensor:
    run = to_onnx.open_file(path)
    return torch.cat([run(part) for part in batches])


def _mean_cosine(a: Tensor, b: Tensor) -> float:
    return cosine_similarity(a.double(), b.double()).mean().item()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises through the root logger and stdout to do what is done here already."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
