"""The table of checkpoint formats: how each is recognised by its keys, and where its backbone and its head are.

A checkpoint is read as one flat dictionary, nested dictionaries joined by dots (``state_dict.module.encoder_q.conv1.weight``).
A backbone is what stands under one *prefix* of it. Adding a format is adding a row.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
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
