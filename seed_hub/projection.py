"""Projection heads: the MLPs between a pooled embedding and a loss, and their description as JSON.

A head is saved beside its student (``projection_head.safetensors``) and rebuilt from the layers its config lists.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def projection_head(
    width: int,
    hidden: int,
    out: int,
    layers: int = 2,
    *,
    batch_norm: bool = False,
    last_norm: bool = False,
    last_bias: bool = True,
) -> nn.Sequential:
    """MLP ``width -> hidden -> ... -> out`` with ReLU between its layers.

    Args:
        layers: linear layers in it; 1: no hidden layer.
        batch_norm: between each hidden layer and its ReLU; those layers then have no bias (SimCLR).
        last_norm: batch norm after the last layer too, which then has no bias either.
        last_bias: of the last layer, where no norm follows it.
    """
    sizes = [width] + [hidden] * (layers - 1)
    blocks: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        blocks.append(nn.Linear(a, b, bias=not batch_norm))
        if batch_norm:
            blocks.append(nn.BatchNorm1d(b))
        blocks.append(nn.ReLU(inplace=True))
    blocks.append(nn.Linear(sizes[-1], out, bias=last_bias and not last_norm))
    if last_norm:
        blocks.append(nn.BatchNorm1d(out))
    return nn.Sequential(*blocks)


def hidden_layers(head: nn.Module | None) -> list[list[nn.Module]]:
    """Each linear layer of ``head`` but the last, with what follows it up to the next (norm, activation)."""
    layers = list(head) if isinstance(head, nn.Sequential) else []
    linear = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
    return [layers[first:after] for first, after in itertools.pairwise(linear)]


def describe(head: nn.Sequential) -> list[dict[str, Any]]:
    """The layers of ``head`` as JSON: linear layers, batch norms and activations."""
    return [_described(layer) for layer in head]


def _described(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"linear": [layer.in_features, layer.out_features], "bias": layer.bias is not None}
    if isinstance(layer, nn.BatchNorm1d):
        return {"batch_norm": layer.num_features, "affine": layer.affine}
    for name, kind in ACTIVATIONS.items():
        if isinstance(layer, kind):
            return {"activation": name}
    raise TypeError(f"{type(layer).__name__} is no layer of a projection head")


def rebuild(layers: list[dict[str, Any]]) -> nn.Sequential:
    """The head that :func:`describe` described, with initial weights."""
    return nn.Sequential(*(_rebuilt(layer) for layer in layers))


def _rebuilt(layer: dict[str, Any]) -> nn.Module:
    if "linear" in layer:
        width, out = layer["linear"]
        return nn.Linear(width, out, bias=layer["bias"])
    if "batch_norm" in layer:
        return nn.BatchNorm1d(layer["batch_norm"], affine=layer["affine"])
    return ACTIVATIONS[layer["activation"]]()
