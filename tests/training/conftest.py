"""Small real runs: generated pictures, a small student, a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings

STUDENT = "test_efficientnet"  # timm's smallest, for tests


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of two kinds, stripes and discs, in class folders."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(60):
        y, x = np.mgrid[:40, :48] / rng.uniform(3, 9)
        shape = np.sin(x + y * rng.normal()) if i % 2 else np.hypot(x - 2, y - 2) < rng.uniform(1, 3)
        pixels = 255 * (0.2 + 0.6 * shape[..., None] * rng.uniform(0.3, 1, 3)) + rng.normal(0, 8, (40, 48, 3))
        path = folder / ("stripes" if i % 2 else "discs") / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def settings(pictures: Path, tmp_path: Path):
    """Settings of a run of six steps, with any changes."""

    def make(**changes) -> RunSettings:
        base = {
            "data": str(pictures),
            "student": STUDENT,
            "method": "moco",
            "out": str(tmp_path / "run"),
            "size": 32,
            "batch_size": 8,
            "epochs": 1.0,  # 54 training images: six steps
            "held_out": 6,
            "workers": 0,
            "device": "cpu",
            "watch_every": 0.5,
        }
        return RunSettings(**base | changes)

    return make


@pytest.fixture(scope="session")
def teacher_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of this package's own making."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    settings = RunSettings(
        data=str(pictures),
        student=STUDENT,
        method="moco",
        out=str(out),
        size=32,
        batch_size=8,
        epochs=0.4,
        held_out=6,
        workers=0,
        device="cpu",
    )
    run(settings, {"queue_size": 16, "hidden_width": 32, "embedding_width": 16})
    return out


@pytest.fixture(autouse=True)
def restore_torch():
    """Runs seed torch and flush denormals; later tests must not notice."""
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    torch.set_flush_denormal(False)
