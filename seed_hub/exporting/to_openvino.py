"""OpenVINO's .xml and .bin, weights in fp16 as OpenVINO itself prefers.

By way of ONNX: ``openvino.convert_model`` reports each conversion to its makers unless told not to, and reading an ONNX
file tells nobody.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from seed_hub.exporting import to_onnx
from seed_hub.exporting.network import OUTPUT

SUFFIX = ".xml"
BESIDE: tuple[str, ...] = (".bin",)
NEEDS = ("onnx", "onnxscript", "openvino")
LARGEST_BATCH: int | None = None
PIXELS = torch.uint8  # of --preprocess

# Its default where the processor has bf16 is bf16, whose embeddings are no longer the network's.
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def write(program: ExportedProgram, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx = Path(folder) / "network.onnx"
        to_onnx.write(program, onnx)
        from_onnx(onnx, path)


def from_onnx(onnx: Path, path: Path) -> None:
    """Any ONNX file, quantised ones too, as OpenVINO's pair of files."""
    import openvino

    openvino.save_model(openvino.Core().read_model(str(onnx)), str(path), compress_to_fp16=True)


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    import openvino

    request = openvino.Core().compile_model(str(path), "CPU", _SETTINGS).create_infer_request()

    def run(pixels: Tensor) -> Tensor:
        request.infer([pixels.numpy()])
        return torch.from_numpy(request.get_tensor(OUTPUT).data.copy())

    return run
