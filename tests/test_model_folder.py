"""A saved model: whose files they are to read."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file

from seed_hub.encoder import build_student
from seed_hub.model_folder import HEAD, WEIGHTS, save_model
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
