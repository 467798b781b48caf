"""How projects name the tensors of networks that timm has too. Adding a naming is adding a row."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Naming:
    """How a project names the tensors of a network that timm has too."""

    name: str
    rules: tuple[tuple[str, str], ...] = ()
    """(start of timm's name, the file's), regular expressions; the first that matches is applied, else nothing changes"""
    first_block: int | None = None
    """number of the first block where blocks are counted on through all stages; in the rules, timm's ``blocks.2.0.``
    is then ``KIND:5.``, KIND being expanded, plain or single (see :func:`_counted`)"""
    architectures: tuple[str, ...] = ()
    """the only ones that compute what the project's network computes; empty: timm's own do"""

    def names(self, wanted: Iterable[str]) -> dict[str, str]:
        """timm's name: the file's."""
        wanted = list(wanted)
        start = wanted if self.first_block is None else _counted(wanted, self.first_block)
        return {key: self._renamed(name) for key, name in zip(wanted, start, strict=True)}

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rules:
            new, count = re.subn("^" + pattern, replacement, name)
            if count:
                return new
        return name


def _counted(wanted: list[str], first: int) -> list[str]:
    """``blocks.STAGE.I.`` as ``KIND:NUMBER.``: an inverted residual is *expanded*, one without a first 1x1 convolution
    *plain*, a lone convolution *single*."""
    number: dict[str, int] = {}
    everything = set(wanted)
    counted = []
    for key in wanted:
        match = re.match(r"blocks\.\d+\.\d+\.", key)
        if match is None:
            counted.append(key)
            continue
        block = match[0]
        n = number.setdefault(block, first + len(number))
        kind = (
            "expanded"
            if block + "conv_pwl.weight" in everything
            else "single"
            if block + "conv.weight" in everything
            else "plain"
        )
        counted.append(f"{kind}:{n}.{key.removeprefix(block)}")
    return counted


def _block(kind: str, where: str, **parts: str) -> tuple[tuple[str, str], ...]:
    """Rules for the parts of one kind of block: timm's name, with ``__`` for a dot, = the file's under ``where``."""
    return tuple(
        (rf"{kind}:(\d+)\.{part.replace('__', chr(92) + '.')}\.", rf"{where}{name}.")
        for part, name in parts.items()
    )


NAMINGS = (
    Naming("timm"),  # torchvision's ResNets, MoCo's, DINO's and MAE's ViTs are named alike
    Naming(
        "a ResNet's children in a Sequential",
        rules=(
            (r"conv1\.", "0."),
            (r"bn1\.", "1."),
            *((rf"layer{i}\.", f"{i + 3}.") for i in (1, 2, 3, 4)),  # 2 and 3 are the ReLU and the pooling
        ),
    ),
    Naming(
        "mmpretrain's ViT",
        rules=(
            (r"patch_embed\.proj\.", "patch_embed.projection."),
            (r"blocks\.(\d+)\.norm(\d)\.", r"layers.\1.ln\2."),
            (r"blocks\.(\d+)\.mlp\.fc1\.", r"layers.\1.ffn.layers.0.0."),
            (r"blocks\.(\d+)\.mlp\.fc2\.", r"layers.\1.ffn.layers.1."),
            (r"blocks\.", "layers."),
            (r"norm\.", "ln1."),
        ),
    ),
    Naming(
        "EfficientNet-PyTorch",
        rules=(
            (r"conv_stem\.", "_conv_stem."),
            (r"bn1\.", "_bn0."),
            (r"conv_head\.", "_conv_head."),
            (r"bn2\.", "_bn1."),
            *_block(
                "expanded",
                r"_blocks.\1.",
                conv_pw="_expand_conv",
                bn1="_bn0",
                conv_dw="_depthwise_conv",
                bn2="_bn1",
                conv_pwl="_project_conv",
                bn3="_bn2",
                se__conv_reduce="_se_reduce",
                se__conv_expand="_se_expand",
            ),
            *_block(
                "plain",
                r"_blocks.\1.",
                conv_dw="_depthwise_conv",
                bn1="_bn1",
                conv_pw="_project_conv",
                bn2="_bn2",
                se__conv_reduce="_se_reduce",
                se__conv_expand="_se_expand",
            ),
        ),
        first_block=0,
        architectures=("efficientnet_b0_static_same", "efficientnet_b1_static_same"),
    ),
    Naming(
        "SEED's MobileNetV3",
        rules=(
            (r"conv_stem\.", "features.0.0."),
            (r"bn1\.", "features.0.1."),
            (r"conv_head\.", "classifier.0."),
            (r"single:\d+\.conv\.", "conv.0."),
            (r"single:\d+\.bn1\.", "conv.1."),
            *_block(
                "expanded",
                r"features.\1.conv.",
                conv_pw="0",
                bn1="1",
                conv_dw="3",
                bn2="4",
                conv_pwl="7",
                bn3="8",
                se__conv_reduce="5.fc.0",
                se__conv_expand="5.fc.2",
            ),
            *_block("plain", r"features.\1.conv.", conv_dw="0", bn1="1", conv_pw="4", bn2="5"),
        ),
        first_block=1,
        architectures=("mobilenetv3_large_100_se_first",),
    ),
)

# (a key that a network of the family has, whatever its prefix and naming; pattern of the architectures to try, in which
# SIDE is the last dimension of that tensor: a ViT's patch)
FAMILIES = (
    (
        r"(.*\.)?(layer1|4)\.0\.conv1\.weight",
        r"resnet(18|34|50|101|152|200)|wide_resnet\d+_2|resnext\d+_32x\d+d|resnet\d+x\d",
    ),
    (
        r"(.*\.)?patch_embed\.proj(ection)?\.weight",
        r"vit_(tiny|small|base|large|huge)_patchSIDE_(224|dinov2)",
    ),
    (r"(.*\.)?_conv_stem\.weight", r"efficientnet_b\d_static_same"),
    (r"(.*\.)?features\.0\.0\.weight", r"mobilenetv3_\w+_se_first"),
)
