"""Core ML's .mlpackage. It is written anywhere and run by macOS only, so elsewhere nobody has compared it."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from seed_hub.exporting.network import INPUT, OUTPUT

SUFFIX = ".mlpackage"
BESIDE: tuple[str, ...] = ()
NEEDS = ("coremltools",)
# An ML program has no dimension without an upper bound.
LARGEST_BATCH: int | None = 16
PIXELS = torch.int32  # of --preprocess: its programs take no uint8


def write(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():  # of coremltools, about the versions of torch it was tried with
        warnings.simplefilter("ignore")
        import coremltools

        model = coremltools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            outputs=[coremltools.TensorType(name=OUTPUT)],
            minimum_deployment_target=coremltools.target.iOS17,
        )
        model.save(str(path))


def open_file(path: Path) -> Callable[[Tensor], Tensor] | None:
    """None where Core ML is not there to run it."""
    if platform.system() != "Darwin":
        return None
    import coremltools

    model = coremltools.models.MLModel(str(path))

    def run(pixels: Tensor) -> Tensor:
        return torch.from_numpy(model.predict({INPUT: pixels.numpy()})[OUTPUT])

    return run
