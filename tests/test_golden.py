"""The images that golden embeddings are of: the same for good, and told apart by what a network may get wrong."""

from __future__ import annotations

import hashlib

import pytest
import torch

from seed_hub.encoder import Encoder
from seed_hub.golden import golden_embeddings, golden_images
from tests.made_up_run import network

SHA256 = "d7d745621331819db32295ee468de53bb7be1ec98e2ddd4a900baa20d3abaea0"  # of the bytes at 64 px: another digest would make every released golden file wrong


def test_their_pixels_are_pinned() -> None:
    bytes_of = (golden_images(64) * 255).round().to(torch.uint8)
    assert hashlib.sha256(bytes_of.numpy().tobytes()).hexdigest() == SHA256


@pytest.mark.parametrize("side", [32, 47, 64, 224])
def test_they_are_whole_steps_of_grey_of_any_side(side: int) -> None:
    images = golden_images(side)
    assert images.shape == (3, 3, side, side) and images.dtype == torch.float32
    assert images.min() == 0 and images.max() <= 1
    torch.testing.assert_close(images * 255, (images * 255).round())
    for image in images:
        assert len({channel.numpy().tobytes() for channel in image}) == 3  # swapped channels would show


def test_swapped_axes_channels_or_a_missing_normalisation_change_the_embeddings() -> None:
    encoder = network("test_resnet")
    golden = golden_embeddings(encoder)
    images = golden_images(encoder.input_size)
    plain = Encoder(encoder.backbone, arch="test_resnet", mean=(0.0,) * 3, std=(1.0,) * 3)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images).pooled, golden)
        for wrong in (encoder(images.mT).pooled, encoder(images.flip(1)).pooled, plain(images).pooled):
            assert (wrong - golden).abs().max() > 1e-3
