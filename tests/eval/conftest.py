"""Images whose colour is their class, and an encoder that sees nothing but colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Frozen


class ColourImages:
    """N squares in 3 noisy colours: what protocols need of ``seed_hub.data.Images``."""

    def __init__(self, labels: np.ndarray | None, colours: np.ndarray, split: str | None, seed: int) -> None:
        self.source, self.split, self.bad = "/somewhere/colours", split, []
        self.labels, self.colours, self.seed = labels, colours, seed
        self.classes: list[str] | None = ["red", "green", "blue"]
        self.fingerprint = f"{seed:016x}"

    def __len__(self) -> int:
        return len(self.colours)

    def load(self, i: int) -> Image.Image:
        noise = np.random.default_rng((self.seed, i)).integers(0, 40, (10, 12, 3))
        base = 200 * np.eye(3, dtype=int)[self.colours[i]]
        return Image.fromarray((base + noise).astype(np.uint8))

    def subset(self, indices: Sequence[int]) -> ColourImages:
        labels = None if self.labels is None else self.labels[indices]
        return ColourImages(labels, self.colours[indices], self.split, self.seed)


@pytest.fixture
def colour_images() -> Callable[..., ColourImages]:
    """``colour_images(n, seed)``: n images, the classes in turn."""

    def make(n: int, seed: int = 0, *, split: str | None = None, labelled: bool = True) -> ColourImages:
        colours = np.arange(n) % 3
        return ColourImages(colours.copy() if labelled else None, colours, split or f"split{seed}", seed)

    return make


class Flat(nn.Module):
    """The mean colour, through batch norm: two modes to confuse, and a weight to damage."""

    num_features, num_classes, num_prefix_tokens = 3, 0, 0

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=True)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        return x.mean((2, 3))


@pytest.fixture
def flat_student() -> Encoder:
    return Encoder(Flat(), arch="flat", name="flat", mean=(0.0,) * 3, std=(1.0,) * 3, input_size=8)


@pytest.fixture
def flat_encoder(flat_student: Encoder) -> Frozen:
    torch.manual_seed(0)
    return Frozen(flat_student)
