"""Feature maps of a frozen network: what a protocol on pixels starts from.

Legend: B images, S side in pixels, D channels, h w height and width of the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from seed_hub.encoder import Features, Frozen
from seed_hub.errors import SeedHubError


@torch.no_grad()
def dense_features(
    network: Frozen, pixels: Tensor, stages: Sequence[int] = (-1,), *, precision: str = "fp32"
) -> Tensor:
    """uint8 ``[B, 3, S, S]`` -> float32 ``[B, D, h, w]``: the maps of ``stages`` side by side, as large as the largest.

    Args:
        stages: 0, 1, ... from the shallowest, or -1, -2, ... from the deepest, which is the map that the network pools:
            behind the last norm of a transformer, and the one map of a network without stages.
        precision: of the network, fp32 or bf16.

    Raises:
        SeedHubError: the network has no such map, or one of a single position.
    """
    x = pixels.to(memory_format=torch.channels_last).float().div_(255)
    with torch.autocast(x.device.type, torch.bfloat16, precision == "bf16"):
        found = network(x, stages=any(k != -1 for k in stages)).float()
    maps = [_map(found, k, network.name, pixels.shape[-1]) for k in stages]
    finest = max((each.shape[-2:] for each in maps), key=lambda shape: shape[0])
    return torch.cat(
        [each if each.shape[-2:] == finest else interpolate(each, finest, mode="bilinear") for each in maps],
        1,
    )


def dense_width(network: Frozen, size: int, stages: Sequence[int] = (-1,)) -> int:
    """D of :func:`dense_features`, found by looking at one empty image of ``size`` px."""
    empty = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=network.encoder.scale.device)
    try:
        return dense_features(network, empty, stages).shape[1]
    except SeedHubError:
        raise
    except Exception as error:  # each family says in its own way that it cannot
        raise SeedHubError(
            f"{network.name} gives no feature maps {', '.join(map(str, stages))} of an image of {size} px ({error}): "
            "choose other --stages or another --size."
        ) from error


def _map(found: Features, k: int, name: str, size: int) -> Tensor:
    """``[B, C, h, w]``."""
    n = len(found.stages)
    if k not in (-1, n - 1):
        if not -n <= k < n:
            raise SeedHubError(
                f"{name} has {n} stages, and none with the number {k}: choose others with --stages."
            )
        return found.stages[k]
    positions = 0 if found.tokens is None else found.tokens.shape[1]
    side = isqrt(positions)  # the map of a square image is square
    if found.tokens is None or side**2 != positions or side < 2:
        raise SeedHubError(
            f"{name} gives {positions} position(s) for an image of {size} px, and no map: this protocol needs a network "
            "with a feature map or patch tokens, or a larger --size."
        )
    return found.tokens.transpose(1, 2).unflatten(2, (side, side))
