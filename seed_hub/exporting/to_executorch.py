"""ExecuTorch's .pte for phones, lowered to XNNPACK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

SUFFIX = ".pte"
BESIDE: tuple[str, ...] = ()
NEEDS = ("executorch",)
# Its memory is planned ahead, for the largest batch.
LARGEST_BATCH: int | None = 16
PIXELS = torch.uint8  # of --preprocess


def write(program: ExportedProgram, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(pixels: Tensor) -> Tensor:
        return method.execute([pixels.contiguous()])[0].clone()  # the next run writes over it

    return run
