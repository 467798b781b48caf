"""The table of known families repeats what timm says, and names are recognised as whole words."""

from __future__ import annotations

import pytest
import timm
import torch

from seed_hub.teachers.families import FAMILIES, family_of, family_of_type, find_family


def test_every_pretrained_network_of_timm_is_as_its_family_says() -> None:
    seen = set()
    for name in timm.list_pretrained():
        if name.startswith("seed_"):  # ours, named after their teachers
            continue
        family = find_family(name)
        if family is None:
            continue
        seen.add(family.name)
        cfg = timm.get_pretrained_cfg(name)
        if family.normalisation:
            assert (tuple(cfg.mean), tuple(cfg.std)) == family.normalisation, name
        assert family.size in (None, cfg.input_size[-1]), name
        assert family.licence in (None, cfg.license), name
    assert seen == {family.name for family in FAMILIES if family.timm}


@pytest.mark.parametrize("name", [name for family in FAMILIES for name in family.timm])
def test_pooling_and_tokens_are_timms(name: str) -> None:
    family = find_family(name)
    assert family is not None and name in family.timm
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    if "convnext" in name:
        assert network.head.global_pool.pool_type == family.pooling
    else:
        assert network.global_pool == family.pooling
        assert family.prefix in (None, network.num_prefix_tokens)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("torchhub:facebookresearch/dino:main/dino_resnet50", "DINO"),
        ("hf:facebook/dino-vitb16", "DINO"),
        ("hf:facebook/dinov2-small", "DINOv2"),
        ("hf:facebook/dinov2-with-registers-base", "DINOv2 with registers"),
        ("torchhub:facebookresearch/dinov2/dinov2_vits14_reg", "DINOv2 with registers"),
        ("hf:facebook/dinov3-vits16-pretrain-lvd1689m", "DINOv3"),
        ("hf:facebook/dinov3-vitl16-pretrain-sat493m", "DINOv3 of satellite images"),
        ("hf:facebook/dinov3-convnext-tiny-pretrain-lvd1689m", "DINOv3 ConvNeXt"),
        ("hf:facebook/EUPE-ViT-T", "EUPE"),
        ("hf:facebook/vit-mae-base", "MAE"),
        ("hf:facebook/hiera-tiny-224-mae-hf", None),
        ("hf:google/siglip2-base-patch16-224", "SigLIP 2"),
        ("hf:google/siglip-base-patch16-224", None),
        ("hf:google/tipsv2-b14", "TIPSv2"),
        ("hf:apple/aimv2-large-patch14-224", "AIMv2"),
        ("hf:nvidia/C-RADIOv4-H", "RADIO"),
        ("hf:IDEA-Research/grounding-dino-tiny", None),
        ("hf:nyu-visionx/moco-v3-vit-b", "MoCo v3"),
        ("file:moco_v2_800ep.pth.tar", "MoCo v2"),
        ("file:moco_v1_200ep.pth.tar", "MoCo v1"),
        ("hf-hub:SauravMaheshkar/barlowtwins-resnet50-in1k", "Barlow Twins"),
        ("torchhub:facebookresearch/barlowtwins:main/resnet50", "Barlow Twins"),
        ("torchhub:facebookresearch/vicreg:main/resnet50", "VICReg"),
        ("torchhub:facebookresearch/swav:main/resnet50w2", "SwAV w2"),
        ("torchhub:facebookresearch/swav:main/resnet50w5", "SwAV w5"),
        ("torchhub:facebookresearch/swav:main/resnet50", "SwAV"),
        ("file:simsiam_r50.pth", "SimSiam"),
        ("file:simclr_r50.pth", "SimCLR"),
        ("file:ibot_vits16.pth", "iBOT"),
        ("timm:resnet50.a1_in1k", None),
        ("timm:eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", None),
        ("timm:seresnet50.radioactive", None),
        ("file:/home/dino/resnet50.pth?arch=resnet50", None),
        ("hf:./mae/vit", None),
        ("torchhub:/home/dino/vicreg/resnet50", "VICReg"),
        ("seed:runs/dinov2_student", None),
    ],
)
def test_names_are_recognised(name: str, family: str | None) -> None:
    found = family_of(name)
    assert (found and found.name) == family


def test_a_kind_of_network_belongs_to_one_family() -> None:
    kinds = [kind for family in FAMILIES for kind in family.model_types]
    assert len(set(kinds)) == len(kinds)
    from transformers import CONFIG_MAPPING

    for kind in kinds:
        assert kind in CONFIG_MAPPING, kind
        found = family_of_type(kind)
        assert found is not None and kind in found.model_types
    assert family_of_type("vit") is None
