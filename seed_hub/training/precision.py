"""Where bf16 helps and where it hurts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seed_hub.errors import SeedHubError


def resolve_precision(requested: str, device: torch.device) -> str:
    """``auto`` -> ``bf16`` or ``fp32``.

    A CPU gains from bf16 only with AMX tiles: with AVX-512 alone a ResNet-50 was measured slower than in float32.
    """
    if requested in ("fp32", "bf16"):
        return requested
    if requested != "auto":
        raise SeedHubError(f'Unknown --precision "{requested}": choose auto, fp32 or bf16.')
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if device.type == "cpu":
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private: absent in some versions
        return "bf16" if has_amx is not None and has_amx() else "fp32"
    return "fp32"


class Float32DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that stays in float32 under autocast.

    On CPUs oneDNN's bf16 backward of 5 x 5 depthwise convolutions is up to 18 times slower than float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def keep_depthwise_float32(module: nn.Module) -> None:
    """Turn every depthwise ``Conv2d`` into :class:`Float32DepthwiseConv2d`, in place; parameters are untouched."""
    for child in module.modules():
        if type(child) is nn.Conv2d and child.groups == child.in_channels > 1:
            child.__class__ = Float32DepthwiseConv2d
