"""ResNets for small images: what they see, and that they are saved and loaded like any other network."""

from __future__ import annotations

import pytest
import timm
import torch

import seed_hub  # noqa: F401  (timm gets to know them)
from seed_hub.encoder import build_student
from seed_hub.model_folder import save_model
from seed_hub.teachers import load_model

NAMES = ("resnet18_small_images", "resnet50_small_images")


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_four_times_as_wide(name):
    own, usual = timm.create_model(name), timm.create_model(name.removesuffix("_small_images"))
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert own.eval().forward_features(pixels).shape == (2, usual.num_features, 4, 4)
        assert usual.eval().forward_features(pixels).shape == (2, usual.num_features, 1, 1)
        maps = timm.create_model(name, features_only=True).eval()
        sides = [each.shape[-1] for each in maps(pixels)]
    assert sides == [32, 32, 16, 8, 4]
    assert [32 // reduction for reduction in maps.feature_info.reduction()] == sides
    # All but the stem is a ResNet's, tensor by tensor.
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in (own, usual)]
    assert {key for key in shapes[1] if shapes[0].get(key) != shapes[1][key]} == {"conv1.weight"}
    assert shapes[0].keys() == shapes[1].keys() and shapes[0]["conv1.weight"] == (64, 3, 3, 3)


def test_one_is_saved_and_loaded(tmp_path):
    student = build_student("resnet18_small_images")
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        student.train()(pixels)  # statistics as a network has them that was trained
        student.eval()
        expected = student(pixels).pooled
        save_model(tmp_path / "best", student, {})
        loaded = load_model(f"seed:{tmp_path / 'best'}")
        torch.testing.assert_close(loaded(pixels).pooled, expected, rtol=1e-5, atol=1e-5)
