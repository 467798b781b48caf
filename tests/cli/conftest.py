"""Small pictures, a small run, and the command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seed_hub.cli import main

# A run of three steps on the CPU; the queue is no multiple of the batch, which must simply work.
TINY = [
    *("--student", "seed_mobilenetv3_small", "--size", "32", "--batch-size", "8", "--queue-size", "20"),
    *("--epochs", "0.2", "--held-out", "12", "--workers", "0", "--device", "cpu"),
]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Verdicts about generated images are not for the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def picture(number: int, kind: int = 0) -> Image.Image:
    """A smooth 40 x 36 picture with a colour cast by ``kind``."""
    corners = np.random.default_rng(number).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    corners[..., kind] //= 3
    return Image.fromarray(corners).resize((40, 36), Image.Resampling.BILINEAR)


@pytest.fixture(scope="session")
def draw() -> Callable[..., Image.Image]:
    return picture


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 training and 24 validation pictures in 3 classes."""
    root = tmp_path_factory.mktemp("photos")
    for split, first, count in (("train", 0, 130), ("validation", 1000, 24)):
        for i in range(first, first + count):
            file = root / split / "abc"[i % 3] / f"{i:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(i, i % 3).save(file)
    return root


@dataclass
class Answer:
    """What a command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of stdout."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def sentence(self) -> str:
        """The last line on stderr, without its prefix: what an error says."""
        assert "Traceback" not in self.err
        return self.err.splitlines()[-1].removeprefix("seed-hub: ")


@pytest.fixture
def hub(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """``hub("list", "--json")``: the command line, in this process."""

    def call(*words: object) -> Answer:
        capfd.readouterr()
        status = main([str(word) for word in words])
        return Answer(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def teacher_run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps of MoCo: not good, but trained."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    assert main(["pretrain", "--data", str(photos), "--out", str(out), *TINY]) == 0
    return out


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    return TINY
