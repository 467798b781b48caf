"""ONNX, one file: for onnxruntime and whatever else reads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from seed_hub.exporting.network import INPUT, OUTPUT

SUFFIX = ".onnx"
BESIDE: tuple[str, ...] = ()
NEEDS = ("onnx", "onnxscript", "onnxruntime")
LARGEST_BATCH: int | None = None
PIXELS = torch.uint8  # of --preprocess
OPSET = 18  # the first that torch's exporter writes without converting


def write(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():  # of torch and onnxscript, about themselves
        warnings.simplefilter("ignore")
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
        assert found is not None  # of dynamo
        found.save(str(path))


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: pixels.numpy()})[0])

    return run
