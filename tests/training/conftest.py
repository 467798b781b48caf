"""Small real runs: generated pictures, a small student, a few steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from seed_hub.training.methods import method_class
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


# What a method's settings are shrunk to, by name, for runs of 54 images of 32 px.
SMALL: dict[str, Any] = {
    "queue_size": 20,
    "hidden_width": 32,
    "embedding_width": 16,
    "out_dim": 32,
    "local_crops": 2,
    "negatives": 16,
    "kept_layers": 0,
}


@pytest.fixture(scope="session")
def small_settings() -> Callable[[str], dict[str, Any]]:
    """Method name -> those of :data:`SMALL` that it has."""

    def of(method: str) -> dict[str, Any]:
        known = {field.name for field in fields(method_class(method).Settings)}
        return {name: value for name, value in SMALL.items() if name in known}

    return of


@pytest.fixture(scope="session")
def scoring_teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher with a classifier of two classes; its weights are random."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("scoring") / "teacher.safetensors"
    save_file(timm.create_model(STUDENT, num_classes=2).state_dict(), path)
    return f"file:{path}?arch={STUDENT}"


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
            "allow_random_teacher": True,  # they have hardly been trained
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
