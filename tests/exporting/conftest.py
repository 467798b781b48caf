"""A small network as after training, pictures, and the formats that can be tried here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torch import nn

from seed_hub.encoder import Encoder, build_student
from seed_hub.exporting.pixels import natural_pixels
from seed_hub.model_folder import save_model
from seed_hub.projection import projection_head

SIDE = 64


@pytest.fixture(scope="session")
def moved() -> Callable[[Encoder], Encoder]:
    """As after training: norms have moved, channels are not normalised alike."""

    def move(encoder: Encoder) -> Encoder:
        torch.manual_seed(0)
        for module in encoder.eval().backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.running_mean, std=0.1)
        encoder.input_size = SIDE
        return encoder

    return move


@pytest.fixture(scope="session")
def resnet(moved: Callable[[Encoder], Encoder]) -> Encoder:
    torch.manual_seed(0)
    return moved(build_student("test_resnet"))


@pytest.fixture(scope="session")
def model(resnet: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    save_model(folder, resnet, {"name": "small"}, projection_head(resnet.width, 16, 8))
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 pictures in 3 classes, which differ in colour."""
    root = tmp_path_factory.mktemp("photos")
    for i, pixels in enumerate(natural_pixels(90, SIDE, seed=1).numpy().transpose(0, 2, 3, 1)):
        file = root / "abc"[i % 3] / f"{i:03}.png"
        file.parent.mkdir(exist_ok=True)
        pixels = pixels.copy()
        pixels[..., i % 3] //= 3
        Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(scope="session")
def to() -> Callable[[str], ModuleType]:
    """``to("onnx")``: its module; a test without what it needs is skipped."""

    def find(format: str) -> ModuleType:
        module = import_module(f"seed_hub.exporting.to_{format}")
        absent = [name for name in module.NEEDS if not find_spec(name)]
        if absent:
            pytest.skip(f"{' and '.join(absent)} not installed")
        return module

    return find
