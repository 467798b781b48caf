"""Features: every image once, in order, in eval mode, without a trace on the training run that asks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from seed_hub.data.center import center_pixels
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import devices, extract, pick_device, remembered


def by_hand(encoder, images, size):
    views = [center_pixels(images.load(i), size) for i in range(len(images))]
    return torch.stack([encoder((view.float() / 255)[None]).pooled[0] for view in views]).detach()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 64])
def test_row_i_is_image_i(flat_encoder, colour_images, batch_size):
    images = colour_images(13)
    seen = []
    x = extract(flat_encoder, images, size=6, batch_size=batch_size, progress=lambda *done: seen.append(done))
    torch.testing.assert_close(x, by_hand(flat_encoder, images, 6))
    assert x.dtype == torch.float32
    assert x.device.type == "cpu"
    assert seen[-1] == (13, 13)


def test_workers_change_nothing(flat_encoder, colour_images):
    images = colour_images(10)
    assert torch.equal(
        extract(flat_encoder, images, workers=2, batch_size=3), extract(flat_encoder, images, batch_size=3)
    )


def test_size_0_is_the_encoders_own(flat_encoder, colour_images):
    images = colour_images(5)
    assert torch.equal(extract(flat_encoder, images), extract(flat_encoder, images, size=8))
    assert not torch.equal(extract(flat_encoder, images), extract(flat_encoder, images, size=3))


def test_a_student_in_training_is_measured_in_eval_mode_and_left_as_it_was(flat_student, colour_images):
    flat_student.train()
    flat_student.backbone.eval()  # a frozen part of a network in training
    flat_student.head = nn.Sequential(nn.Dropout(0.9))
    flat_student.head.train()
    modes = [module.training for module in flat_student.modules()]
    before = {name: tensor.clone() for name, tensor in flat_student.state_dict().items()}
    random = torch.get_rng_state()
    extract(flat_student, colour_images(9), batch_size=4)
    assert [module.training for module in flat_student.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in flat_student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_features_can_be_trained_on(flat_encoder, colour_images):
    """Inference tensors could not: autograd refuses to save them."""
    x = extract(flat_encoder, colour_images(6))
    weight = torch.ones(3, requires_grad=True)
    (x @ weight).sum().backward()
    assert weight.grad is not None


def test_projected_features(flat_student, colour_images):
    images = colour_images(4)
    with pytest.raises(SeedHubError, match="flat has no projection head"):
        extract(Frozen(flat_student), images, features="projected")
    flat_student.head = nn.Linear(3, 2)
    encoder = Frozen(flat_student)
    projected = extract(encoder, images, features="projected")
    torch.testing.assert_close(projected, flat_student.head(extract(encoder, images)).detach())
    with pytest.raises(SeedHubError, match='no "tokens" features'):
        extract(encoder, images, features="tokens")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_one_clear_error(flat_encoder, colour_images, value):
    flat_encoder.encoder.backbone.norm.bias.data[1] = value
    with pytest.raises(
        SeedHubError,
        match="flat gave features that are not finite .* 4 of 4 .*image 0 of .*earlier checkpoint",
    ):
        extract(flat_encoder, colour_images(9), batch_size=4)


def test_no_images(flat_encoder, colour_images):
    with pytest.raises(SeedHubError, match="holds no images"):
        extract(flat_encoder, colour_images(0))


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert isinstance(pick_device("auto"), torch.device)
    with pytest.raises(SeedHubError, match='no device "gpu" here'):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(SeedHubError, match='no device "cuda" here'):
            pick_device("cuda")
    for name in devices():
        assert isinstance(pick_device(name), torch.device)


@pytest.mark.parametrize(
    ("kind", "count", "says"),
    [
        (None, 0, 'use "auto" or "cpu".'),
        ("cuda", 2, 'use "auto", "cpu", "cuda" or "cuda:1".'),
        ("mps", 1, 'use "auto", "cpu" or "mps".'),
    ],
)
def test_the_devices_that_are_offered_are_there(monkeypatch, kind, count, says):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    with pytest.raises(SeedHubError) as refused:
        pick_device("gpu")
    assert str(refused.value).endswith(says)


def test_remembered_features_are_computed_once_and_forgotten_after(flat_encoder, colour_images):
    images = colour_images(6)
    calls = []
    hook = flat_encoder.register_forward_hook(lambda *_: calls.append(1))
    with remembered():
        first = extract(flat_encoder, images)
        first.mul_(2)  # a caller's own
        assert torch.equal(2 * extract(flat_encoder, images), first)
        assert len(calls) == 1
        extract(flat_encoder, images, size=3)
        assert len(calls) == 2
    extract(flat_encoder, images)
    assert len(calls) == 3
    hook.remove()
