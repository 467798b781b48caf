"""Published reference numbers: how they are read, how closely a loss must agree, and the inputs some are given for."""

from __future__ import annotations

import math

import torch
from safetensors import safe_open


def read(path):
    """(tensors, metadata) of a safetensors file."""
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118 (safe_open is no mapping)


def agree(loss, grad, expected_loss, expected_grad, dtype):
    """Value and gradient, to 1e-6 in float64 and 1e-4 in float32; the gradient relative to its largest entry."""
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(loss.double(), expected_loss, rtol=tolerance, atol=0)
    scale = expected_grad.abs().max()
    torch.testing.assert_close(grad.double() / scale, expected_grad / scale, rtol=tolerance, atol=tolerance)


def sines(shape, a):
    """Reproducible inputs: sin(0.37 k + 0.0113 k^2 + a), k = 1, 2, ..., row by row."""
    k = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(0.37 * k + 0.0113 * k**2 + a).reshape(shape)
