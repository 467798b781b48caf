"""MobileNetV4 (Qin et al., 2024): networks for phones whose blocks suit accelerators as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seed_hub.students.student import build, student

if TYPE_CHECKING:
    from torch import nn


@student(
    base="mobilenetv4_conv_small",
    parameters=2_493_024,
    macs=184_725_568,
    width=1280,  # after conv_head; the map before it, timm's num_features, has 960 channels
    first_conv="conv_stem",
    classifier="classifier",
)
def seed_mobilenetv4_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV4-Conv-Small: convolutions only, fewer operations than MobileNetV3-Large."""
    return build("seed_mobilenetv4_small", pretrained, **kwargs)
