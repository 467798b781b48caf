import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Remembered checks and unpacked data sets of one test stay in that test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets, or a skip that says where it was looked for."""
    place = os.environ.get("SEED_HUB_DATA") or Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    place = Path(place).resolve()
    if not place.is_dir():
        pytest.skip(f"real data sets are not at {place} (SEED_HUB_DATA may name another folder)")
    return place


@pytest.fixture
def picture():
    """picture(seed, width, height): an RGB image that is smooth, so that lossy formats keep it."""

    def make(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
        corners = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        return Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)

    return make


@pytest.fixture
def folder(tmp_path, picture):
    """folder({"cat/a.jpg": content}): image files; content None for a picture, else the bytes."""

    def make(files: dict[str, bytes | None], name: str = "images") -> Path:
        root = tmp_path / name
        for number, (path, content) in enumerate(files.items()):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                picture(number).save(file)
            else:
                file.write_bytes(content)
        return root

    return make
