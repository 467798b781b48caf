"""Every format of the table: made from a network's own weights by the documented names, converted, compared with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seed_hub.conversion import convert, map_backbone, read_checkpoint
from seed_hub.conversion.formats import FORMATS
from seed_hub.errors import SeedHubError
from seed_hub.teachers import load_teacher
from seed_hub.weights import sha256_of

State = dict[str, Tensor]


def moved(network: Any) -> Any:
    """``network`` as if trained: no norm is where it started."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "running_mean", None) is not None:
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@cache
def network(arch: str) -> Any:
    torch.manual_seed(0)
    return moved(timm.create_model(arch, num_classes=0))


def under(prefix: str, module: nn.Module | State, times: float = 1) -> State:
    """Its state dict with ``prefix``; another network's if ``times`` is not 1."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {
        prefix + key: value * times if value.is_floating_point() else value for key, value in state.items()
    }


def linear(width: int, *blocks: str) -> nn.Sequential:
    """``"linear"``, ``"linear-"`` (without bias), ``"bn"``, ``"bn-"`` (not affine), ``"relu"``, ``"gelu"`` in a row."""
    torch.manual_seed(1)
    made: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(width, width),
        "linear-": lambda: nn.Linear(width, width, bias=False),
        "bn": lambda: nn.BatchNorm1d(width),
        "bn-": lambda: nn.BatchNorm1d(width, affine=False),
        "relu": nn.ReLU,
        "gelu": nn.GELU,
    }
    return moved(nn.Sequential(*(made[block]() for block in blocks)))  # type: ignore[no-any-return]


def neck(head: nn.Sequential) -> State:
    """mmselfsup's names of the four layers with tensors of linear, bn, relu, linear, bn."""
    return {
        f"neck.{name}.{key}": value
        for name, number in (("fc0", 0), ("bn0", 1), ("fc1", 3), ("bn1", 4))
        for key, value in head[number].state_dict().items()
    }


def mmpretrain(state: State) -> State:
    """A ViT's tensors as mmpretrain calls them."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("norm."):
            key = "ln1." + key.removeprefix("norm.")
        key = key.replace("patch_embed.proj.", "patch_embed.projection.").replace("blocks.", "layers.")
        for ours, theirs in (
            (".norm", ".ln"),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = value
    return renamed


def children(state: State) -> State:
    """A ResNet's tensors in ``nn.Sequential(*children)``."""
    place = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{place[key.split('.')[0]]}.{key.partition('.')[2]}": value for key, value in state.items()}


@dataclass(frozen=True)
class Case:
    format: str
    arch: str
    head: tuple[str, ...]
    content: Callable[[State, nn.Sequential], Any]
    """(state dict of the backbone, head): what the file holds"""
    dropped: tuple[str, ...] = ()
    """branches that must be reported"""


ARGS = argparse.Namespace(lr=0.03, best=np.float64(0.5), step=np.int64(3))
QUEUE = {"module.queue": torch.ones(8, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
MLP, SIMCLR = ("linear", "relu", "linear"), ("linear", "bn", "relu", "linear")
LIGHTNING = {"pytorch-lightning_version": "1.5.0", "epoch": 1, "optimizer_states": [{"lr": 0.1}]}
CASES = {
    "MoCo v1": Case(
        "MoCo v1",
        "test_resnet",
        ("linear",),
        lambda s, h: {
            "state_dict": under("module.encoder_q.", s)
            | under("module.encoder_q.fc.", h[0])
            | under("module.encoder_k.", s, 2)
            | QUEUE,
            "epoch": 200,
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
        },
        ("state_dict.module.encoder_k", "state_dict.module.queue", "optimizer"),
    ),
    "MoCo v2": Case(
        "MoCo v2",
        "test_resnet",
        MLP,
        lambda s, h: {
            "arch": "resnet50",
            "state_dict": under("module.encoder_q.", s)
            | under("module.encoder_q.fc.", h)
            | under("module.encoder_k.", s, 2)
            | under("module.encoder_k.fc.", h, 2)
            | QUEUE,
        },
        ("state_dict.module.encoder_k", "state_dict.module.queue"),
    ),
    "MoCo v3": Case(
        "MoCo v3",
        "test_vit",
        ("linear-", "bn", "relu", "linear-", "bn", "relu", "linear-", "bn-"),
        lambda s, h: {
            "state_dict": under("module.base_encoder.", s)
            | under("module.base_encoder.head.", h)
            | under("module.momentum_encoder.", s, 2)
            | under("module.predictor.", h)
        },
        ("state_dict.module.momentum_encoder", "state_dict.module.predictor"),
    ),
    "MoCo v3, ResNet": Case(
        "MoCo v3",
        "test_resnet",
        ("linear-", "bn", "relu", "linear-", "bn-"),
        lambda s, h: {
            "state_dict": under("module.base_encoder.", s) | under("module.base_encoder.fc.", h),
        },
    ),
    "SimSiam": Case(
        "SimSiam",
        "test_resnet",
        ("linear-", "bn", "relu", "linear-", "bn", "relu", "linear", "bn-"),
        lambda s, h: {
            "state_dict": under("module.encoder.", s)
            | under("module.encoder.fc.", h)
            | under("module.predictor.", linear(96, *SIMCLR))
        },
        ("state_dict.module.predictor",),
    ),
    "SwAV": Case(
        "SwAV",
        "test_resnet",
        SIMCLR,
        lambda s, h: (
            under("module.", s)
            | under("module.projection_head.", h)
            | {"module.prototypes.weight": torch.ones(30, 96)}
        ),
        ("module.prototypes",),
    ),
    "Barlow Twins": Case(
        "Barlow Twins",
        "test_resnet",
        ("linear-", "bn", "relu", "linear-", "bn", "relu", "linear-"),
        lambda s, h: {
            "epoch": 1000,
            "model": under("module.backbone.", s)
            | under("module.projector.", h)
            | under("module.bn.", nn.BatchNorm1d(96, affine=False)),
        },
        ("model.module.bn",),
    ),
    "VICReg": Case(
        "VICReg",
        "test_resnet",
        ("linear", "bn", "relu", "linear", "bn", "relu", "linear-"),
        lambda s, h: {"model": under("module.backbone.", s) | under("module.projector.", h)},
    ),
    "DINO": Case(
        "DINO",
        "test_vit",
        ("linear", "gelu", "linear", "gelu", "linear"),
        lambda s, h: {
            "student": under("module.backbone.", s, 2) | under("module.head.mlp.", h, 2),
            "teacher": under("backbone.", s)
            | under("head.mlp.", h)
            | {"head.last_layer.weight_g": torch.ones(9, 1), "head.last_layer.weight_v": torch.ones(9, 64)},
            "args": ARGS,
        },
        ("student", "teacher.head"),
    ),
    "iBOT": Case(
        "iBOT",
        "test_vit",
        ("linear", "gelu", "linear", "gelu", "linear"),
        lambda s, h: {
            "student": under("module.backbone.", s, 2),
            "teacher": under("module.backbone.", s | {"masked_embed": torch.zeros(1, 64)})
            | under("module.head.mlp.", h)
            | {f"module.head.last_layer{n}.weight_v": torch.ones(9, 64) for n in ("", "2")},
            "args": ARGS,
        },
        ("student", "teacher.module.head", "teacher.module.backbone.masked_embed"),
    ),
    "MAE": Case(
        "MAE",
        "test_vit",
        (),
        lambda s, h: {
            "model": s
            | {"mask_token": torch.zeros(1, 1, 64), "decoder_pos_embed": torch.zeros(1, 101, 32)}
            | under("decoder_blocks.0.norm1.", nn.LayerNorm(32)),
            "args": ARGS,
        },
        ("model.mask_token", "model.decoder_pos_embed", "model.decoder_blocks"),
    ),
    "VISSL": Case(
        "VISSL",
        "test_resnet",
        MLP,
        lambda s, h: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": under("_feature_blocks.", s), "heads": under("0.clf.", h)}}
            },
            "loss": {"memory": torch.ones(3)},
        },
        ("loss",),
    ),
    "VISSL, trunk only": Case("VISSL", "test_resnet", (), lambda s, h: under("_feature_blocks.", s)),
    "solo-learn": Case(
        "solo-learn",
        "test_resnet",
        SIMCLR,
        lambda s, h: (
            LIGHTNING
            | {
                "state_dict": under("backbone.", s)
                | under("momentum_backbone.", s, 2)
                | under("projector.", h)
                | under("classifier.", nn.Linear(96, 10))
            }
        ),
        ("state_dict.momentum_backbone", "state_dict.classifier"),
    ),
    "Lightning": Case(
        "Lightning",
        "test_resnet",
        ("linear", "bn", "relu", "linear"),
        lambda s, h: (
            LIGHTNING
            | {
                "state_dict": under("backbone.", children(s))
                | under("backbone_momentum.", children(s), 2)
                | under("projection_head.layers.", h)
            }
        ),
        ("state_dict.backbone_momentum",),
    ),
    "mmselfsup": Case(
        "mmselfsup",
        "test_resnet",
        ("linear", "bn", "relu", "linear", "bn"),
        lambda s, h: {"meta": {"epoch": 200}, "state_dict": under("backbone.", s) | neck(h)},
    ),
    "mmselfsup, ViT": Case(
        "mmselfsup",
        "test_vit",
        MLP,
        lambda s, h: {"state_dict": under("backbone.", mmpretrain(s)) | under("neck.mlp.", h)},
    ),
    "OpenSelfSup": Case(
        "MoCo of OpenSelfSup",
        "test_resnet",
        MLP,
        lambda s, h: {
            "state_dict": under("encoder_q.0.", s)
            | under("encoder_q.1.mlp.", h)
            | under("encoder_k.0.", s, 2)
            | {"queue": torch.ones(8, 16)}
        },
        ("state_dict.encoder_k",),
    ),
    "SEED": Case(
        "SEED",
        "test_resnet",
        MLP,
        lambda s, h: {
            "epoch": 200,
            "state_dict": under("module.student.", s)
            | under("module.student.fc.", h)
            | under("module.teacher.", s, 2)
            | QUEUE,
        },
        ("state_dict.module.teacher", "state_dict.module.queue"),
    ),
    "backbone only": Case(
        "backbone only",
        "test_resnet",
        (),
        lambda s, h: s | under("fc.", nn.Linear(96, 10)),
        ("fc",),
    ),
}


@pytest.fixture
def pixels() -> Tensor:
    torch.manual_seed(2)
    return torch.rand(2, 3, 160, 160)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_each_format_gives_the_same_network_and_head(name: str, tmp_path: Path, pixels: Tensor) -> None:
    case, source, out = CASES[name], tmp_path / "checkpoint.pth", tmp_path / "out"
    original = network(case.arch)
    head = linear(original.num_features, *case.head)
    torch.save(case.content(original.state_dict(), head), source)
    found = convert(source, out, arch=case.arch, licence="mit")["converted"]
    teacher = load_teacher(f"seed:{out}")
    assert teacher.licence == "mit"
    pooled = original(pixels)
    assert torch.equal(teacher.encoder.backbone(pixels), pooled)
    if case.head:
        assert torch.equal(teacher.encoder.head(pooled), head(pooled))  # type: ignore[misc]
    else:
        assert teacher.encoder.head is None
    assert found["format"] == case.format
    assert found["sha256"] == sha256_of(source)
    assert set(case.dropped) <= set(found["dropped"])
    kept = len(load_file(out / "model.safetensors")) + (len(head.state_dict()) if case.head else 0)
    assert kept + sum(found["dropped"].values()) == len(
        read_checkpoint(source).tensors
    )  # none is lost unsaid
    assert json.loads((out / "config.json").read_text())["seed_hub"]["converted"] == found


def test_every_row_of_the_table_is_tested() -> None:
    assert {case.format for case in CASES.values()} == {row.name for row in FORMATS}


@torch.no_grad()
def test_the_folder_loads_without_this_package(tmp_path: Path, pixels: Tensor) -> None:
    original = network("test_vit")
    save_file(original.state_dict(), tmp_path / "vit.safetensors")
    convert(tmp_path / "vit.safetensors", tmp_path / "out", arch="test_vit", options={"num_heads": 4})
    theirs = timm.create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
    assert theirs.blocks[0].attn.num_heads == 4  # no shape shows it: a wrong number loads without any error
    assert torch.equal(theirs(pixels), load_teacher(f"seed:{tmp_path}/out").encoder.backbone(pixels))
    assert not torch.allclose(theirs(pixels), original(pixels))


@torch.no_grad()
def test_position_embeddings_of_another_side_are_kept_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = moved(timm.create_model("test_vit", num_classes=0, img_size=96))
    torch.save(original.state_dict(), tmp_path / "c.pth")
    found = convert(tmp_path / "c.pth", tmp_path / "out", arch="test_vit")
    assert found["model_args"] == {"img_size": 96}
    teacher = load_teacher(f"seed:{tmp_path}/out")
    assert teacher.input_size == 96
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(teacher.encoder.backbone(images), original(images))


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224"])
def test_the_architecture_is_inferred(arch: str, tmp_path: Path) -> None:
    torch.save({"state_dict": under("module.encoder_q.", network(arch))}, tmp_path / "c.pth")
    mapped = map_backbone(read_checkpoint(tmp_path / "c.pth"))
    assert (mapped.arch, mapped.options, mapped.prefix) == (arch, {}, "state_dict.module.encoder_q.")


def test_vit_small_of_moco_v3_has_12_heads(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = timm.create_model("vit_small_patch16_224", num_classes=0).state_dict()
    state = {f"module.base_encoder.{key}": torch.ones(value.shape) for key, value in shapes.items()}
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    mapped = map_backbone(read_checkpoint(tmp_path / "c.pth"), "vit_small_patch16_224")
    assert mapped.options == {"num_heads": 12}
    assert mapped.backbone.blocks[0].attn.num_heads == 12


@torch.no_grad()
def test_a_head_that_cannot_be_rebuilt_is_left_out_and_said(tmp_path: Path) -> None:
    state = under("module.encoder_q.", network("test_resnet"))
    for head, why in (
        (nn.Sequential(nn.Linear(96, 96), nn.Linear(96, 8)), "no single activation before"),
        (nn.Sequential(nn.Linear(96, 96), nn.LayerNorm(96)), "neither a linear layer nor a batch norm"),
        (nn.Sequential(nn.Linear(90, 8)), "takes 90 numbers and is given 96"),
    ):
        torch.save({"state_dict": state | under("module.encoder_q.fc.", head)}, tmp_path / "c.pth")
        found = convert(tmp_path / "c.pth", tmp_path / "out", arch="test_resnet", overwrite=True)["converted"]
        assert found["head"] is None
        assert why in found["head_left_out"]
        assert found["dropped"]["state_dict.module.encoder_q.fc"] == len(head.state_dict())
        assert not (tmp_path / "out" / "projection_head.safetensors").exists()


@pytest.fixture
def two(tmp_path: Path) -> Path:
    net = network("test_resnet")
    torch.save({"a": under("net.", net), "b": under("net.", net, 2)}, tmp_path / "two.pth")
    return tmp_path / "two.pth"


def test_of_several_networks_one_must_be_named(two: Path) -> None:
    checkpoint = read_checkpoint(two)
    with pytest.raises(SeedHubError, match=r"several networks.*'a\.net\.', 'b\.net\.'.*prefix"):
        map_backbone(checkpoint, "test_resnet")
    mapped = map_backbone(checkpoint, "test_resnet", prefix="b.net.")
    original = network("test_resnet").state_dict()
    assert torch.equal(mapped.backbone.state_dict()["bn1.weight"], 2 * original["bn1.weight"])
