"""MobileNetV3 (Howard et al., 2019): networks for phones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seed_hub.students.student import build, student

if TYPE_CHECKING:
    from torch import nn


@student(
    base="mobilenetv3_large_100",
    parameters=4_202_032,
    macs=215_309_760,
    width=1280,  # after conv_head; the map before it, timm's num_features, has 960 channels
    first_conv="conv_stem",
    classifier="classifier",
)
def seed_mobilenetv3_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV3-Large: the student of the SEED paper with the fewest operations."""
    return build("seed_mobilenetv3_large", pretrained, **kwargs)


@student(
    base="mobilenetv3_small_100",
    parameters=1_517_856,
    macs=55_486_400,
    width=1024,  # after conv_head; the map before it, timm's num_features, has 576 channels
    first_conv="conv_stem",
    classifier="classifier",
)
def seed_mobilenetv3_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV3-Small: a quarter of Large's operations."""
    return build("seed_mobilenetv3_small", pretrained, **kwargs)
