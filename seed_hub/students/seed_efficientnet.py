"""EfficientNet (Tan and Le, 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seed_hub.students.student import build, student

if TYPE_CHECKING:
    from torch import nn


@student(
    base="efficientnet_b0",
    parameters=4_007_548,
    macs=384_534_752,
    width=1280,
    first_conv="conv_stem",
    classifier="classifier",
)
def seed_efficientnet_b0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-B0: a student of the SEED paper, twice MobileNetV3-Large's operations."""
    return build("seed_efficientnet_b0", pretrained, **kwargs)


@student(
    base="efficientnet_b1",
    parameters=6_513_184,
    macs=568_371_680,
    width=1280,
    first_conv="conv_stem",
    classifier="classifier",
)
def seed_efficientnet_b1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-B1, at 224 px as in the SEED paper rather than its native 240."""
    return build("seed_efficientnet_b1", pretrained, **kwargs)
