"""ResNets for small images, which timm does not have: a stem of one 3 x 3 convolution, without stride and pooling.

    resnet18_small_images, resnet50_small_images

Their maps are four times as wide and high as a ResNet's: at 32 to 64 pixels a ResNet as it is sees next to nothing in its
last stage (SimCLR, Chen et al., ICML 2020, appendix B.9, on CIFAR-10). For teachers: a step costs sixteen times as much.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

__all__: list[str] = []  # register_model adds each name

_SMALL = {
    "input_size": (3, 64, 64),
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "num_classes": 1000,
    "first_conv": "conv1",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({"resnet18_small_images": _SMALL, "resnet50_small_images": _SMALL})


class SmallImageResNet(ResNet):
    """timm's ResNet that sees an image at its full size up to its second stage."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[misc]
        stem = self.conv1
        self.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=False)  # type: ignore
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        stages: list[dict[str, Any]] = self.feature_info
        for place, stage in enumerate(stages):
            stage["reduction"] = 1 if place == 0 else stage["reduction"] // 4
        self.init_weights()


def _built(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    return build_model_with_cfg(SmallImageResNet, variant, pretrained, **kwargs)


@register_model
def resnet18_small_images(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-18 for images of 32 to 64 pixels: embeddings of 512."""
    own = {"block": BasicBlock, "layers": (2, 2, 2, 2)} | kwargs
    return _built("resnet18_small_images", pretrained, own)  # type: ignore[no-any-return]


@register_model
def resnet50_small_images(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50 for images of 32 to 64 pixels: embeddings of 2,048."""
    own = {"block": Bottleneck, "layers": (3, 4, 6, 3)} | kwargs
    return _built("resnet50_small_images", pretrained, own)  # type: ignore[no-any-return]
