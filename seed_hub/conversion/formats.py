"""The table of checkpoint formats: how each is recognised by its keys, and where its backbone and its head are.

A checkpoint is read as one flat dictionary, nested dictionaries joined by dots (``state_dict.module.encoder_q.conv1.weight``).
A backbone is what stands under one *prefix* of it. Adding a format is adding a row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Format:
    """One way in which a project saves its networks."""

    name: str
    """of the project or method"""
    backbone: str
    """regular expression of the backbone's whole prefix; its group ``root`` is what the other parts share with it"""
    marks: tuple[str, ...] = ()
    """starts of keys that must all be there; ``{root}`` and ``{backbone}`` stand for the two prefixes"""
    heads: tuple[str, ...] = ()
    """prefixes of the projection head, the first that holds tensors is taken; same two words"""
    activation: str = "relu"
    """between the linear layers of the head"""
    interpolation: str = "bilinear"
    """of the resizing in the project's own evaluation"""
    options: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """architecture: what it was built with and shapes do not show"""

    def root(self, prefix: str, keys: Collection[str]) -> str | None:
        """What the parts of this format share if ``prefix`` is its backbone's and all marks are there, else None."""
        match = re.fullmatch(self.backbone, prefix)
        if match is None:
            return None
        root: str = match["root"]
        marks = [mark.format(root=root, backbone=prefix) for mark in self.marks]
        return root if all(any(key.startswith(mark) for key in keys) for mark in marks) else None


LIGHTNING = "pytorch-lightning_version"  # a key at the top of every file that Lightning writes

# First match wins: the more special a row, the earlier it stands.
FORMATS = (
    Format(
        "SEED",
        r"(?P<root>.*)student\.",
        marks=("{root}teacher.", "{root}queue"),
        heads=("{backbone}fc.",),
    ),
    Format(
        "MoCo of OpenSelfSup",
        r"(?P<root>.*)encoder_q\.0\.",
        heads=("{root}encoder_q.1.mlp.",),
    ),
    Format("MoCo v2", r"(?P<root>.*)encoder_q\.", marks=("{backbone}fc.0.",), heads=("{backbone}fc.",)),
    Format("MoCo v1", r"(?P<root>.*)encoder_q\.", heads=("{backbone}fc.",)),
    Format(
        "MoCo v3",
        r"(?P<root>.*)base_encoder\.",
        heads=("{backbone}head.", "{backbone}fc."),
        options={"vit_small_patch16_224": {"num_heads": 12}},  # timm's has 6
    ),
    Format(
        "SimSiam",
        r"(?P<root>.*)encoder\.",
        marks=("{backbone}fc.0.", "{root}predictor."),
        heads=("{backbone}fc.",),
    ),
    Format(
        "SwAV",
        r"(?P<root>.*)",
        marks=("{root}projection_head.", "{root}prototypes"),
        heads=("{root}projection_head.",),
    ),
    # The last layer of both follows an L2 normalisation: it is a set of prototypes, not part of the projection.
    Format(
        "iBOT",
        r"(?P<root>teacher\.(module\.)?)backbone\.",
        marks=("{root}head.last_layer2",),
        heads=("{root}head.mlp.",),
        activation="gelu",
        interpolation="bicubic",
    ),
    Format(
        "DINO",
        r"(?P<root>teacher\.(module\.)?)backbone\.",
        marks=("{root}head.last_layer",),
        heads=("{root}head.mlp.",),
        activation="gelu",
        interpolation="bicubic",
    ),
    Format("MAE", r"(?P<root>.*)", marks=("{root}decoder_blocks.",), interpolation="bicubic"),
    Format(
        "VISSL",
        r"(?P<root>.*?)(trunk\.)?(base_model\.)?_feature_blocks\.",
        heads=("{root}heads.0.clf.",),
    ),
    Format(
        "Barlow Twins",
        r"(?P<root>(.*\.)?)backbone\.",
        marks=("{root}bn.running_mean", "{root}projector."),
        heads=("{root}projector.",),
    ),
    Format(
        "solo-learn",
        r"(?P<root>state_dict\.)(backbone|encoder)\.",
        marks=(LIGHTNING, "{root}classifier."),
        heads=("{root}projector.",),
    ),
    Format(
        "mmselfsup",
        r"(?P<root>(.*\.)?)backbone\.",
        marks=("{root}neck.",),
        heads=("{root}neck.mlp.", "{root}neck."),
    ),
    Format(
        "Lightning",
        r"(?P<root>state_dict\.(.*\.)?)\w+\.",
        marks=(LIGHTNING,),
        heads=("{root}projection_head.layers.", "{root}projection_head.", "{root}projector."),
    ),
    Format(
        "VICReg",
        r"(?P<root>(.*\.)?)backbone\.",
        marks=("{root}projector.",),
        heads=("{root}projector.",),
    ),
    # Barlow Twins', VICReg's, DINO's and iBOT's backbone files, timm's and torchvision's. No head: an fc is a classifier.
    Format("backbone only", r"(?P<root>.*)"),
)

# Averaged, target and key networks beside the one that is trained by gradients, and the teacher beside SEED's student.
OTHER_NETWORK = re.compile(
    r"(.*\.)?(encoder_k|(momentum|key|target|ema)_\w+|\w+_(momentum|ema))\..*|.+\.teacher\..*"
)

# What may be left over beside a complete backbone, under its own prefix.
PARTS = (
    *("fc.", "head.", "heads.", "classifier."),
    *("projection_head.", "projector.", "predictor.", "prototypes", "queue", "neck."),
    *("mask_token", "masked_embed", "decoder_"),
)


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
