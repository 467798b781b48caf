"""Projection heads out of a checkpoint: chains of linear layers and batch norms, with an activation between."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from seed_hub.projection import ACTIVATIONS


def read_head(
    tensors: Mapping[str, Tensor], prefix: str, width: int, activation: str
) -> tuple[nn.Sequential | None, str]:
    """(the head under ``prefix``, "") or (None, why it is none that can be rebuilt from its tensors).

    An activation has no tensors. It stands before every linear layer but the first, where a ``Sequential`` skips one
    number; layers called ``fc0, bn0, fc1, ...`` (mmselfsup) skip none.

    Args:
        width: D of the embedding that the head reads.
        activation: a name of ``projection.ACTIVATIONS``.
    """
    found = _modules(tensors, prefix)
    numbers = {name: re.fullmatch(r"(fc|bn)?(\d+)", name) for name in found}
    if list(found) == [""]:
        order = [""]
    elif all(numbers.values()):
        order = sorted(found, key=lambda name: (int(numbers[name][2]), numbers[name][1] == "bn"))  # type: ignore[index]
    else:
        return None, f"its layers are called {', '.join(found)}"
    layers: list[nn.Module] = []
    out, previous = width, -1
    for name in order:
        layer = _layer(found[name])
        if layer is None:
            return None, f"{prefix}{name} is neither a linear layer nor a batch norm"
        into = layer.in_features if isinstance(layer, nn.Linear) else layer.num_features
        if into != out:
            return None, f"{prefix}{name} takes {into} numbers and is given {out}"
        number = int(name) if name.isdigit() else None
        if isinstance(layer, nn.Linear):
            if layers:
                if number is not None and number - previous != 2:
                    return None, f"there is no single activation before {prefix}{name}"
                layers.append(ACTIVATIONS[activation]())
            out = layer.out_features
        elif number is not None and number - previous != 1:
            return None, f"something without tensors stands before {prefix}{name}"
        layers.append(layer)
        previous = previous if number is None else number
    return nn.Sequential(*layers).eval(), ""


def _modules(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, dict[str, Tensor]]:
    """Tensors under ``prefix`` by module, then by their own name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            module, _, own = key.removeprefix(prefix).rpartition(".")
            found.setdefault(module, {})[own] = tensor
    return found


def _layer(own: dict[str, Tensor]) -> nn.Linear | nn.BatchNorm1d | None:
    """The layer with exactly these tensors."""
    layer: nn.Linear | nn.BatchNorm1d
    if "running_mean" in own:
        layer = nn.BatchNorm1d(own["running_mean"].numel(), affine="weight" in own)
        own = {"num_batches_tracked": layer.state_dict()["num_batches_tracked"]} | own
    elif "weight" in own and own["weight"].ndim == 2:
        layer = nn.Linear(own["weight"].shape[1], own["weight"].shape[0], bias="bias" in own)
    else:
        return None
    if own.keys() != layer.state_dict().keys():
        return None
    layer.load_state_dict(own)
    return layer
