"""Known families of self-supervised networks: how each is recognised, pooled and fed, and under which terms.

One row per family, first match wins. A fact stands here only where a library's own configuration or the authors'
repository states it; what nobody stated is None, and is then inspected and said aloud. Rows that name ``timm`` networks
repeat timm's pretrained configurations, and a test compares them. Not known here:

- input size and normalisation of MoCo, SwAV, SimSiam, SimCLR, Barlow Twins, VICReg and iBOT (ImageNet's are assumed, said aloud),
- the terms of MoCo v1 and v2 (README and source headers disagree), SwAV, SimSiam and SimCLR,
- AIMv2's, PE's and SigLIP 2's input size, which differs between their networks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
_CLIP = (CLIP_MEAN, CLIP_STD)
_HALF = ((0.5,) * 3, (0.5,) * 3)
_NONE = ((0.0,) * 3, (1.0,) * 3)
_SATELLITE = ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))
_TIMM = "timm's pretrained configuration"
_README = "the authors' README"


@dataclass(frozen=True)
class Family:
    """What networks of one family have in common; None: not known, or not the same for all."""

    name: str
    pattern: str
    """regular expression, searched in the lower-case name"""
    source: str
    """who states these facts"""
    pooling: str | None = None
    """of a ViT: token (class token), avg (mean of patch tokens), map (its own attention pooling)"""
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """(mean, std) per channel, for pixels in [0, 1]"""
    size: int | None = None
    """side in pixels"""
    prefix: int | None = None
    """class and register tokens ahead of the patch tokens, of a ViT"""
    width: int | None = None
    licence: str | None = None
    """identifier of the Hugging Face Hub, or the name timm gives it"""
    model_types: tuple[str, ...] = ()
    """of transformers: their networks are pooled and counted the same, whatever they are called"""
    timm: tuple[str, ...] = ()
    """networks of timm that the row repeats"""
    note: str = ""


def _word(word: str) -> str:
    """The word by itself: ``mae`` is in vit-mae-base, not in videomae."""
    return rf"(?<![a-z0-9]){word}(?![a-z0-9])"


_DINOV3_POOLING = "pooled as in timm; the authors use the class token: pool=token"
_RESNET_W = "SwAV's ResNet-50 {} is wider in every stage and in its stem: torchvision's wide_resnet50_2 is another network."

FAMILIES = (
    Family(
        "EUPE ConvNeXt", "(?=.*convnext).*eupe", _TIMM, "avg", _IMAGENET, 256,
        licence="fair-noncommercial-research-license", timm=("convnext_tiny.eupe_lvd1689m",),
    ),
    Family(
        "EUPE", "eupe", _TIMM, "avg", _IMAGENET, 256, 5,
        licence="fair-noncommercial-research-license", timm=("vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m",),
    ),
    Family(
        "DINOv3 ConvNeXt", "(?=.*convnext).*dinov3", _TIMM, "avg", _IMAGENET, 224, licence="dinov3-license",
        model_types=("dinov3_convnext",), timm=("convnext_tiny.dinov3_lvd1689m",),
    ),
    Family(
        "DINOv3 of satellite images", "dinov3.*sat493m", _TIMM, "avg", _SATELLITE, 256, 5, licence="dinov3-license",
        timm=("vit_large_patch16_dinov3.sat493m",), note=_DINOV3_POOLING,
    ),
    Family(
        "DINOv3", "dinov3", _TIMM, "avg", _IMAGENET, 256, 5, licence="dinov3-license",
        model_types=("dinov3_vit",),
        timm=("vit_small_patch16_dinov3.lvd1689m", "vit_base_patch16_dinov3.lvd1689m"),
        note=_DINOV3_POOLING,
    ),
    Family(
        "DINOv2 with registers", "dinov2.*reg|reg4_dinov2", _TIMM, "token", _IMAGENET, 518, 5,
        licence="apache-2.0", model_types=("dinov2_with_registers",),
        timm=("vit_small_patch14_reg4_dinov2.lvd142m", "vit_base_patch14_reg4_dinov2.lvd142m"),
    ),
    Family(
        "DINOv2", "dinov2", _TIMM, "token", _IMAGENET, 518, 1, licence="apache-2.0", model_types=("dinov2",),
        timm=("vit_small_patch14_dinov2.lvd142m", "vit_base_patch14_dinov2.lvd142m"),
    ),
    Family(
        "DINO", "(?<!grounding[-_])" + _word("dino"), _TIMM, "token", _IMAGENET, 224, 1, licence="apache-2.0",
        timm=("vit_small_patch16_224.dino", "vit_small_patch8_224.dino", "vit_base_patch16_224.dino"),
    ),
    Family(
        "MAE", "^(?!.*hiera).*" + _word("mae"), _TIMM, "token", _IMAGENET, 224, 1, licence="cc-by-nc-4.0",
        model_types=("vit_mae",), timm=("vit_base_patch16_224.mae",),
    ),
    Family(
        "SigLIP 2, averaged", "siglip_gap.*v2_webli", _TIMM, "avg", _HALF, None, 0, licence="apache-2.0",
        timm=("vit_base_patch16_siglip_gap_224.v2_webli",),
    ),
    Family(
        "SigLIP 2", "siglip-?2|siglip.*v2_webli", _TIMM, "map", _HALF, None, 0, licence="apache-2.0",
        model_types=("siglip_vision_model",), timm=("vit_base_patch16_siglip_224.v2_webli",),
    ),
    Family(
        "PE spatial", _word("pe[-_]spatial"), _TIMM, "avg", _HALF, licence="apache-2.0",
        timm=("vit_pe_spatial_tiny_patch16_512.fb", "vit_pe_spatial_base_patch16_512.fb"),
    ),
    Family(
        "PE core", _word("pe[-_]core"), _TIMM, "map", _HALF, licence="apache-2.0",
        timm=("vit_pe_core_tiny_patch16_384.fb", "vit_pe_core_base_patch16_224.fb"),
    ),
    Family(
        "AIMv2", "aimv2", _TIMM, "avg", _CLIP, None, 0, licence="apple-ascl",
        model_types=("aimv2_vision_model",), timm=("aimv2_large_patch14_224.apple_pt",),
    ),
    Family(
        "RADIO", _word(r"radio(v\d)?"), _TIMM, "token", _CLIP, 512, licence="nvidia-open-model-license",
        model_types=("radio",), timm=("vit_base_patch16_radio_v3.c_radio",),
        note="from transformers it normalises its input itself",
    ),
    Family(
        "TIPSv2", "tipsv2", _TIMM, "token", _NONE, 448, 2, licence="apache-2.0",
        model_types=("tipsv2_vision_model",), timm=("vit_base_patch14_reg1_tipsv2.webli",),
    ),
    Family(
        "EVA-02", "eva-?02.*mim_in22k(?!_ft)", _TIMM, "avg", _CLIP, 224, 1, licence="mit",
        timm=("eva02_tiny_patch14_224.mim_in22k", "eva02_small_patch14_224.mim_in22k"),
    ),
    Family("VICReg", "vicreg", _README, licence="mit"),
    Family("Barlow Twins", "barlow[-_]?twins", _README, licence="cc-by-nc-4.0"),
    *(
        Family(f"SwAV w{times}", f"swav.*w{times}", _README, width=2048 * times, note=_RESNET_W.format(f"w{times}"))
        for times in (2, 4, 5)
    ),
    Family("SwAV", "swav", _README),
    Family("MoCo v3", "moco[-_]?v3", _README, licence="cc-by-nc-4.0",
           note="its ViT-S has 12 heads, where others have 6, and no tensor tells"),
    Family("MoCo v2", "moco[-_]?v2", _README),
    Family("MoCo v1", "moco", _README),
    Family("SimCLR", "simclr", _README),
    Family("SimSiam", "simsiam", _README),
    Family("iBOT", _word("ibot"), _README, licence="apache-2.0"),
)  # fmt: skip


def find_family(name: str) -> Family | None:
    """The family of the network called ``name``."""
    return next((family for family in FAMILIES if re.search(family.pattern, name.lower())), None)


def family_of(spec: str) -> Family | None:
    """The family of a teacher string, by its name and not by the folder or the organisation it lies in. Students of ours
    (``seed:``) are named after their teachers, and belong to none."""
    source, _, rest = spec.partition("?")[0].partition(":")
    parts = rest.split("/")[
        -2 if source == "torchhub" else -1 :
    ]  # torch.hub: the repository and its entry point
    return None if source == "seed" else find_family("/".join(parts))


def family_of_type(model_type: str) -> Family | None:
    """The family whose networks are transformers' ``model_type``: for its pooling only, as anyone may have trained it."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)
