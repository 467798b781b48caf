"""The losses against the published reference implementations' numbers (value and gradient)."""

from __future__ import annotations

import pytest
import torch

from seed_hub.training.feature_queue import FeatureQueue
from seed_hub.training.methods.moco import info_nce
from seed_hub.training.methods.seed import seed_loss
from tests.training.golden_numbers import agree, read


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ["seed_t0.0001", "seed_t0.01", "seed_t0.07"])
def test_seed_agrees_with_the_published_code(golden, name, dtype):
    data, meta = read(golden / f"{name}.safetensors")
    z_s = data["student"].to(dtype).requires_grad_()
    loss = seed_loss(
        z_s,
        data["teacher"].to(dtype),
        data["queue"].to(dtype),
        student_temperature=float(meta["tau_s"]),
        teacher_temperature=float(meta["tau_t"]),
    )
    loss.backward()
    agree(loss, z_s.grad, data["loss"], data["grad_student"], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moco_agrees_with_the_published_code(golden, dtype):
    data, meta = read(golden / "moco_infonce.safetensors")
    query = data["query"].to(dtype).requires_grad_()
    loss = info_nce(query, data["key"].to(dtype), data["queue"].to(dtype), temperature=float(meta["tau"]))
    loss.backward()
    agree(loss, query.grad, data["loss"], data["grad_query"], dtype)


def test_queue_after_a_push_is_the_published_codes(golden):
    data, _ = read(golden / "seed_t0.01.safetensors")
    k, d = data["queue"].shape
    queue = FeatureQueue(k, d)
    queue.push(data["queue"].float())
    queue.push(data["teacher"].float())
    torch.testing.assert_close(queue.get(), data["queue_after"].float())


def test_at_zero_teacher_temperature_seed_is_info_nce_to_the_teacher():
    torch.manual_seed(0)
    z_s, z_t, queue = torch.randn(5, 8).double(), torch.randn(5, 8).double(), torch.randn(20, 8).double()
    seed = seed_loss(z_s, z_t, queue, student_temperature=0.2, teacher_temperature=1e-6)
    torch.testing.assert_close(seed, info_nce(z_s, z_t, queue, temperature=0.2))


def test_losses_do_not_depend_on_the_queues_order_nor_on_scale():
    torch.manual_seed(0)
    z_s, z_t, queue = torch.randn(5, 8), torch.randn(5, 8), torch.randn(20, 8)
    loss = seed_loss(z_s, z_t, queue)
    torch.testing.assert_close(loss, seed_loss(z_s, z_t, queue[torch.randperm(20)]))
    torch.testing.assert_close(loss, seed_loss(3 * z_s, 0.5 * z_t, 2 * queue))


def test_the_gradient_reaches_the_student_only():
    z_s, z_t, queue = (torch.randn(4, 8, requires_grad=True) for _ in range(3))
    seed_loss(z_s, z_t, queue).backward()
    assert z_s.grad is not None and z_t.grad is None and queue.grad is None


def test_similarities_are_float32_under_autocast():
    torch.manual_seed(0)
    z_s, z_t, queue = torch.randn(16, 64), torch.randn(16, 64), torch.randn(256, 64)
    plain = seed_loss(z_s, z_t, queue, teacher_temperature=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = seed_loss(z_s, z_t, queue, teacher_temperature=0.01)
        contrast = info_nce(z_s, z_t, queue)
    assert mixed.dtype == contrast.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


def test_an_empty_queue_gives_zero_loss_and_gradient():
    z_s = torch.randn(4, 8, requires_grad=True)
    loss = seed_loss(z_s, torch.randn(4, 8), torch.empty(0, 8))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and z_s.grad.abs().max() < 1e-6
