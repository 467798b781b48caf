"""A file that says something else gets no name; what is compared is what the evaluation embeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seed_hub.data import open_images
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import extract
from seed_hub.exporting import exporter, to_torch
from seed_hub.exporting.exporter import Wish, export
from seed_hub.exporting.network import Network
from seed_hub.exporting.parity import compare, embed_with_file, embed_with_network
from seed_hub.exporting.pixels import natural_pixels


def broken(change: Callable[[Tensor], Tensor]) -> Callable[[Path], Callable[[Tensor], Tensor]]:
    real = to_torch.open_file

    def open_file(path: Path) -> Callable[[Tensor], Tensor]:
        run = real(path)
        return lambda pixels: change(run(pixels))

    return open_file


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda y: y + 0.05 * y.std() * torch.randn_like(y), "cosine of only"),
        (lambda y: y.flip(0), "cosine of only"),  # right for one image
        (lambda y: y * torch.nan, "cosine of only nan"),
        (lambda y: y[:, 1:], "embeddings of width"),
        (lambda y: y.sum(0), "not one embedding each"),
    ],
    ids=["noise", "order", "nan", "width", "rank"],
)
def test_a_file_that_says_something_else_gets_no_name(
    change: Any, sentence: str, resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_torch, "open_file", broken(change))
    (tmp_path / "a.pt2").write_text("what was there")
    with pytest.raises(SeedHubError, match=sentence):
        export(resnet, Wish("torch", tmp_path / "a.pt2", overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt2"]
    assert (tmp_path / "a.pt2").read_text() == "what was there"


def test_the_threshold_is_the_users(resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_torch, "open_file", broken(lambda y: y + 0.05 * y.std() * torch.randn_like(y)))
    report = export(resnet, Wish("torch", tmp_path / "a.pt2", min_cosine=0.5))
    assert (tmp_path / "a.pt2").exists() and 0.5 < report["parity"]["centred_cosine"] < 0.9999


def test_the_centred_cosine_sees_what_the_plain_one_hides() -> None:
    torch.manual_seed(0)
    varying = torch.randn(21, 8)
    parity = compare(100 + varying, 100 + varying.roll(1, 0))
    assert parity.cosine > 0.999 and parity.centred_cosine < 0.7 and parity.neighbour_agreement < 0.5


def test_each_batch_is_told_apart() -> None:
    """Rows 1 to 4 are the second batch of (1, 4, 16)."""
    torch.manual_seed(0)
    x = torch.randn(21, 8)
    y = x.clone()
    y[3, 0] += 1
    found = compare(x, y).by_batch
    assert [each["largest_difference"] for each in found.values()] == pytest.approx([0, 1, 0])
    assert found["1"]["cosine"] == pytest.approx(1) and found["4"]["cosine"] < 0.99


def test_the_networks_embedding_is_the_one_that_is_evaluated(resnet: Encoder, photos: Path) -> None:
    images = open_images(photos)
    pixels = exporter._pixels(images, resnet.input_size)
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:64])
    torch.testing.assert_close(
        embed_with_network(Network(resnet), pixels),
        extract(resnet, images.subset(chosen), size=resnet.input_size),
    )


def test_few_images_are_filled_up_for_the_batches(photos: Path) -> None:
    pixels = exporter._pixels(open_images(photos).subset(range(3)), 16)
    assert pixels.shape == (21, 3, 16, 16) and len(torch.unique(pixels.flatten(1), dim=0)) == 21


def test_batches_of_every_size_meet_every_image(resnet: Encoder) -> None:
    seen: list[int] = []

    def run(pixels: Tensor) -> Tensor:
        seen.append(len(pixels))
        return pixels.mean((2, 3))

    network, pixels = Network(resnet), natural_pixels(40, 16)
    found = embed_with_file(run, network, pixels, (1, 4, 16))
    assert seen == [1, 4, 16, 16, 3]
    torch.testing.assert_close(found, (pixels.float() / 255).mean((2, 3)))


def test_noise_has_the_spectrum_of_photographs() -> None:
    x = natural_pixels(32, 64).double()
    assert torch.equal(natural_pixels(4, 64), natural_pixels(4, 64)) and x.std() > 20
    power = torch.fft.rfft(x - x.mean((2, 3), keepdim=True), dim=3).abs().square().mean((0, 1, 2))
    slope = np.polyfit(np.log(np.arange(2, 16)), np.log(power[2:16].numpy()), 1)[0]
    assert -2.2 < slope < -0.8  # white noise: 0
