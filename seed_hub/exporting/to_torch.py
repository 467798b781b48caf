"""torch.export's .pt2: read by torch alone, without timm and without this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

SUFFIX = ".pt2"
BESIDE: tuple[str, ...] = ()
NEEDS: tuple[str, ...] = ()
LARGEST_BATCH: int | None = None
PIXELS = torch.uint8  # of --preprocess


def write(program: ExportedProgram, path: Path) -> None:
    with warnings.catch_warnings():  # of torch, about itself
        warnings.simplefilter("ignore")
        torch.export.save(program, path)


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(path).module()

    def run(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(pixels)

    return run
