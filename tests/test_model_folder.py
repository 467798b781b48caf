"""A saved model: whose files they are to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from seed_hub.encoder import build_student
from seed_hub.model_folder import HEAD, WEIGHTS, load_model_folder, save_model
from seed_hub.projection import projection_head


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
