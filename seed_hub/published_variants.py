"""Networks that published checkpoints were trained as and timm does not have, under the names of timm's own tensors.

    mobilenetv3_large_100_se_first    SEED's: squeeze-and-excitation before the activation, not after it
    efficientnet_b0_static_same       SEED's (EfficientNet-PyTorch's): SAME padding as at 224 px, whatever comes in
    efficientnet_b1_static_same       likewise, as at 240 px
    resnet50x2, x4, x5, resnet200x2   SwAV's and VICReg's wide networks: the stem is widened too

A folder that names one of them is refused by a timm without this package: better than numbers that are slightly wrong.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from timm.layers.padding import get_same_padding
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    model_entrypoint,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

__all__: list[str] = []  # register_model adds each name

_CNN = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear", "num_classes": 1000}
_MOBILE = _CNN | {"first_conv": "conv_stem", "classifier": "classifier", "pool_size": (7, 7)}
_RESNET = _CNN | {"first_conv": "conv1", "classifier": "fc", "pool_size": (7, 7)}
default_cfgs = generate_default_cfgs(
    {
        "mobilenetv3_large_100_se_first": _MOBILE,
        "efficientnet_b0_static_same": _MOBILE,
        "efficientnet_b1_static_same": _MOBILE,
        "resnet50x2": _RESNET,
        "resnet50x4": _RESNET,
        "resnet50x5": _RESNET,
        "resnet200x2": _RESNET,
    }
)


class SqueezeExciteThenActivate(SqueezeExcite):
    """``act(x * gate(x))``: the squeeze-and-excitation ``se`` of a block, followed by the block's activation."""

    def __init__(self, se: SqueezeExcite, act: nn.Module) -> None:
        nn.Module.__init__(self)
        self.conv_reduce, self.act1, self.conv_expand, self.gate = (
            se.conv_reduce,
            se.act1,
            se.conv_expand,
            se.gate,
        )
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> the same shape."""
        gated: Tensor = self.act(super().forward(x))
        return gated


class StaticSameConv2d(nn.Conv2d):
    """``conv`` with a fixed padding that differs between the sides: ``(left, right, top, bottom)`` in pixels."""

    def __init__(self, conv: nn.Conv2d, padding: tuple[int, int, int, int]) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
            device=conv.weight.device,
        )
        self.weight, self.bias = conv.weight, conv.bias
        self.same = padding

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` -> ``[B, C', H', W']``."""
        return super().forward(F.pad(x, self.same))


class WidenedResNet(ResNet):
    """timm's ResNet whose stem has as many channels as its first stage, as in SwAV's ``resnet50w2``."""

    def __init__(self, *args: Any, channels: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(*args, channels=channels, **kwargs)  # type: ignore[misc]
        stem, first = channels[0], self.layer1[0]  # type: ignore[index]
        self.conv1 = nn.Conv2d(self.in_chans, stem, 7, stride=2, padding=3, bias=False)  # type: ignore[assignment]
        self.bn1 = nn.BatchNorm2d(stem)
        first.conv1 = nn.Conv2d(stem, first.conv1.out_channels, 1, bias=False)  # type: ignore[union-attr]
        first.downsample[0] = nn.Conv2d(stem, first.downsample[0].out_channels, 1, bias=False)  # type: ignore
        self.feature_info[0]["num_chs"] = stem
        self.init_weights()


def _like(base: str, variant: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """timm's ``base`` with the configuration of ``variant``: left to itself it would load its own weights."""
    cfg = resolve_pretrained_cfg(
        variant, kwargs.pop("pretrained_cfg", None), kwargs.pop("pretrained_cfg_overlay", None)
    )
    return model_entrypoint(base)(pretrained=pretrained, pretrained_cfg=cfg.to_dict(), **kwargs)


def _pad_as_at(side: int, network: Any) -> Any:
    """Give every spatial convolution the SAME padding it needs for images of ``side`` px."""
    for name, conv in list(network.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size == (1, 1):
            continue
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        total = int(get_same_padding(side, kernel, stride, 1))
        before, after = total // 2, total - total // 2
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, StaticSameConv2d(conv, (before, after, before, after)))
        side = math.ceil(side / stride)  # of what the next one sees: modules stand in the order they run
    return network


@register_model
def mobilenetv3_large_100_se_first(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MobileNetV3-Large with squeeze-and-excitation before the activation of expanded blocks."""
    network = _like("mobilenetv3_large_100", "mobilenetv3_large_100_se_first", pretrained, kwargs)
    for block in network.modules():
        if isinstance(block, InvertedResidual) and isinstance(block.se, SqueezeExcite):
            block.se = SqueezeExciteThenActivate(block.se, block.bn2.act)
            block.bn2.act = nn.Identity()
    return network  # type: ignore[no-any-return]


@register_model
def efficientnet_b0_static_same(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-B0, padded as at 224 px; batch norm as in TensorFlow."""
    kwargs = {"bn_eps": 1e-3, "bn_momentum": 0.01} | kwargs
    return _pad_as_at(224, _like("efficientnet_b0", "efficientnet_b0_static_same", pretrained, kwargs))


@register_model
def efficientnet_b1_static_same(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientNet-B1, padded as at 240 px although SEED trained it at 224; batch norm as in TensorFlow."""
    kwargs = {"bn_eps": 1e-3, "bn_momentum": 0.01} | kwargs
    return _pad_as_at(240, _like("efficientnet_b1", "efficientnet_b1_static_same", pretrained, kwargs))


def _widened(
    variant: str, width: int, layers: tuple[int, ...], pretrained: bool, kwargs: dict[str, Any]
) -> Any:
    channels = tuple(64 * width * 2**stage for stage in range(4))
    args: dict[str, Any] = {"block": Bottleneck, "layers": layers, "channels": channels} | kwargs
    return build_model_with_cfg(WidenedResNet, variant, pretrained, **args)


@register_model
def resnet50x2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50, twice as wide: embeddings of 4,096."""
    return _widened("resnet50x2", 2, (3, 4, 6, 3), pretrained, kwargs)


@register_model
def resnet50x4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50, four times as wide: embeddings of 8,192."""
    return _widened("resnet50x4", 4, (3, 4, 6, 3), pretrained, kwargs)


@register_model
def resnet50x5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-50, five times as wide: embeddings of 10,240."""
    return _widened("resnet50x5", 5, (3, 4, 6, 3), pretrained, kwargs)


@register_model
def resnet200x2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-200, twice as wide: embeddings of 4,096."""
    return _widened("resnet200x2", 2, (3, 24, 36, 3), pretrained, kwargs)
