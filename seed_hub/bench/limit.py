"""The least time that a step's arithmetic and memory traffic would take: how much of the machine a step makes use of.

    limit = sum over layers of max(operations / rate of products, bytes / bandwidth), once for what the teacher is asked,
            three times for what the student learns (forward, and two products backward), and the loss over the queue

Operations and bytes are those of convolutions and linear layers, input, weights and output each moved once in the precision
they are computed in: whatever lies between them could be fused. Attention's products are left out. Rates are those that the
machine reached while the step was measured.

Legend: B batch, D embedding width, K rows of the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SEED_PRODUCTS = 4  # B x K x D: similarities and expectation, of teacher and student


@dataclass(frozen=True)
class Layer:
    """What one layer takes for a batch."""

    operations: float
    """a multiply-accumulate counts as two"""
    numbers: float
    """in input, weights and output"""


@dataclass(frozen=True)
class Machine:
    """What it reached."""

    operations: Mapping[str, float]
    """per second, by precision"""
    bandwidth: float
    """bytes per second"""

    def seconds(self, layers: list[Layer], precision: str) -> float:
        size = 2 if precision == "bf16" else 4
        rate = self.operations[precision]
        return sum(max(each.operations / rate, each.numbers * size / self.bandwidth) for each in layers)


@torch.no_grad()
def layers_of(network: nn.Module, pixels: Tensor) -> list[Layer]:
    """The convolutions and linear layers that ``network`` runs on ``pixels`` ``[B, 3, S, S]``, in order."""
    found: list[Layer] = []

    def note(module: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
        weight = module.weight
        per_number = weight.numel() // weight.shape[0]  # products that make up one number of the output
        found.append(
            Layer(2.0 * output.numel() * per_number, given[0].numel() + weight.numel() + output.numel())
        )

    hooks = [
        module.register_forward_hook(note)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    was_training = network.training
    try:
        network.eval()(pixels)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return found


def limits(
    student: list[Layer],
    teacher: list[Layer],
    machine: Machine,
    precision: str,
    *,
    batch: int,
    rows: int,
    width: int,
) -> dict[str, float]:
    """Seconds of the least that a ``live`` and a ``cached`` step take.

    Args:
        batch, rows, width: B, K and D of the loss, which is computed in float32.
    """
    loss = Layer(SEED_PRODUCTS * 2.0 * batch * rows * width, rows * width)
    cached = 3 * machine.seconds(student, precision) + machine.seconds([loss], "fp32")
    return {"live": cached + machine.seconds(teacher, precision), "cached": cached}
