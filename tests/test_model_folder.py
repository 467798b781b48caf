"""A saved model: whose files they are to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import HEAD, WEIGHTS, load_model_folder, save_model
from seed_hub.projection import projection_head
from seed_hub.teachers import load_model


class ForeignNetwork(torch.nn.Module):
    num_features = 8


def test_files_have_the_mode_that_the_umask_leaves_and_the_bytes_of_safetensors(tmp_path: Path) -> None:
    encoder = build_student("test_resnet")
    before = os.umask(0o027)
    try:
        save_model(tmp_path / "m", encoder, {}, projection_head(encoder.width, 8, 4))
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()}
    assert files == dict.fromkeys(("config.json", WEIGHTS, HEAD), 0o640)
    save_file(encoder.backbone.state_dict(), tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_what_was_loaded_is_saved_as_it_was(tmp_path: Path) -> None:
    encoder = build_student("test_resnet")
    encoder.input_size = 64
    encoder.backbone.bn1.running_mean.normal_()  # random weights are refused
    save_model(tmp_path / "first", encoder, {"name": "it"}, projection_head(encoder.width, 8, 4))
    save_model(str(tmp_path / "again"), load_model(str(tmp_path / "first")))
    first, again = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "again"))
    assert again["pretrained_cfg"] == first["pretrained_cfg"]
    assert (
        again["pretrained_cfg"]["interpolation"] == "bilinear" and again["pretrained_cfg"]["crop_pct"] == 1.0
    )
    assert again | {"seed_hub": first["seed_hub"]} == first
    for name in (WEIGHTS, HEAD):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


def test_a_network_that_is_not_timms_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedHubError, match="mine is no network of timm's"):
        save_model(tmp_path / "m", Encoder(ForeignNetwork(), arch="mine"))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "name", ["test_vit", "seed_vit_tiny", "vit_small_patch14_dinov2"]
)  # made for 160, 224 and 518 px
@torch.no_grad()
def test_a_vit_of_other_images_is_the_same_without_this_package(name: str, tmp_path: Path) -> None:
    encoder = build_student(name).eval()
    encoder.backbone.pos_embed.normal_()
    encoder.input_size = 56 if "patch14" in name else 64
    save_model(tmp_path, encoder, {})
    from transformers import AutoModel

    theirs = [
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True),
        AutoModel.from_pretrained(tmp_path),
    ]
    theirs.append(load_model_folder(tmp_path).backbone)
    for side in (encoder.input_size, 2 * encoder.input_size):
        pixels = torch.rand(2, 3, side, side)
        expected = encoder.backbone(pixels)
        for network in theirs:
            found = network.eval()(pixels)
            torch.testing.assert_close(getattr(found, "pooler_output", found), expected, rtol=1e-4, atol=1e-5)
