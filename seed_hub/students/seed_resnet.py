"""Residual networks (He et al., 2016): ResNet-18 and -34 are students of the SEED paper, ResNet-50 its smallest teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seed_hub.students.student import build, student

if TYPE_CHECKING:
    from torch import nn


@student(
    base="resnet18",
    parameters=11_176_512,
    macs=1_813_561_344,
    width=512,
    first_conv="conv1",
    classifier="fc",
)
def seed_resnet18(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18: the student most often reported on."""
    return build("seed_resnet18", pretrained, **kwargs)


@student(
    base="resnet34",
    parameters=21_284_672,
    macs=3_663_249_408,
    width=512,
    first_conv="conv1",
    classifier="fc",
)
def seed_resnet34(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-34: twice as deep as ResNet-18, the same embedding width."""
    return build("seed_resnet34", pretrained, **kwargs)


@student(
    base="resnet50",
    parameters=23_508_032,
    macs=4_087_136_256,
    width=2048,
    first_conv="conv1",
    classifier="fc",
)
def seed_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50: a student of large teachers, and a teacher itself."""
    return build("seed_resnet50", pretrained, **kwargs)
