"""EsViT and DINO: the losses against published numbers and against plain loops, and what the method keeps."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import cosine_similarity

from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.projection import describe, rebuild
from seed_hub.training.dino_head import Prototypes, bottleneck_mlp
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods.esvit import Esvit, Settings, moved_center, region_loss, view_loss
from seed_hub.training.optimization import Schedule
from seed_hub.training.views import MOCO_V2, recipe

SMALL = Settings(local_crops=2, out_dim=16, hidden_width=8, bottleneck_width=4)
TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.04}


def _read(path):
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118 (safe_open is no mapping)


def _agree(value, expected, dtype):
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4
    scale = expected.abs().max()
    torch.testing.assert_close(value.double() / scale, expected / scale, rtol=tolerance, atol=tolerance)


def _known(meta):
    return {
        "student_temperature": float(meta["student_temp"]),
        "teacher_temperature": float(meta["teacher_temp"]),
        "n_crops": int(meta["ncrops"]),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_view_loss_agrees_with_the_published_code(golden, dtype):
    data, meta = _read(golden / "dino_view.safetensors")
    student, teacher = data["student"].to(dtype).requires_grad_(), data["teacher"].to(dtype)
    loss = view_loss(student, teacher, data["center_before"].to(dtype), **_known(meta))
    loss.backward()
    _agree(loss.detach(), data["loss"], dtype)
    _agree(student.grad, data["grad_student"], dtype)
    moved = moved_center(data["center_before"].to(dtype), teacher, float(meta["center_momentum"]))
    _agree(moved, data["center_after"], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_region_loss_agrees_with_the_published_code(golden, dtype):
    data, meta = _read(golden / "esvit_region.safetensors")
    data = {k: v.to(dtype) for k, v in data.items()}
    view, region = data["student_view"].requires_grad_(), data["student_region"].requires_grad_()
    loss = 0.5 * view_loss(view, data["teacher_view"], data["center_before"], **_known(meta))
    loss = loss + 0.5 * region_loss(
        region,
        data["teacher_region"],
        data["student_feat"],
        data["teacher_feat"],
        data["center_region_before"],
        **_known(meta),
        regions_global=int(meta["regions_global"]),
        regions_local=int(meta["regions_local"]),
    )
    loss.backward()
    _agree(loss.detach(), data["loss"].double(), dtype)
    _agree(view.grad, data["grad_student_view"].double(), dtype)
    _agree(region.grad, data["grad_student_region"].double(), dtype)
    moved = moved_center(data["center_region_before"], data["teacher_region"], float(meta["center_momentum"]))
    _agree(moved, data["center_region_after"].double(), dtype)


def _waves(rows, width, phase):
    k = torch.arange(1, rows * width + 1, dtype=torch.float64)
    return (0.37 * k + 0.0113 * k**2 + phase).sin().float().view(rows, width)


def test_both_losses_on_sine_waves_are_the_published_codes():
    """Numbers of the official code in float32, its first epoch: B = 2, K = 8, 4 crops of 4 and 2 regions."""
    center, known = torch.zeros(1, 8), TEMPERATURES | {"n_crops": 4}
    view = view_loss(_waves(8, 8, 1), _waves(4, 8, 2), center, **known)
    region = region_loss(
        _waves(24, 8, 3),
        _waves(16, 8, 5),
        _waves(24, 5, 4),
        _waves(16, 5, 6),
        center,
        **known,
        regions_global=4,
        regions_local=2,
    )
    assert view.item() == pytest.approx(7.8530240, rel=1e-5)
    assert (view + region).item() / 2 == pytest.approx(9.2105989, rel=1e-5)
    moved = moved_center(center, _waves(16, 8, 5), 0.9)
    expected = [0.023546, -0.015968, -0.001116, -0.033782, 0.006095, 0.020649, 0.008079, -0.005072]
    torch.testing.assert_close(moved[0], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.fixture
def regions():
    """Arguments of ``region_loss``: B = 3, V = 4, G = 4, L = 2, K = 6, C = 5."""
    torch.manual_seed(0)
    s, t = 3 * (2 * 4 + 2 * 2), 3 * 2 * 4
    tensors = [torch.randn(rows, width).double() for rows, width in ((s, 6), (t, 6), (s, 5), (t, 5), (1, 6))]
    return tensors, TEMPERATURES | {"n_crops": 4, "regions_global": 4, "regions_local": 2}


def _by_loops(student, teacher, feat_s, feat_t, center, counts):
    """Every pair, image and region on its own; ``counts`` regions of each crop, B = 3."""

    def row(crop, image, region):
        return 3 * sum(counts[:crop]) + image * counts[crop] + region

    pairs = []
    for t in range(2):
        p_t = ((teacher - center) / 0.04).softmax(1)
        for s in range(len(counts)):
            if s == t:
                continue
            terms = []
            for image in range(3):
                for i in range(counts[s]):
                    own = row(s, image, i)
                    near = [
                        cosine_similarity(feat_s[own], feat_t[row(t, image, j)], dim=0).item()
                        for j in range(counts[t])
                    ]
                    target = p_t[row(t, image, near.index(max(near)))]
                    terms.append(-sum(target * (student[own] / 0.1).log_softmax(0)))
            pairs.append(sum(terms) / len(terms))
    return sum(pairs) / len(pairs)


def test_the_region_loss_is_the_mean_over_pairs_images_and_regions(regions):
    tensors, known = regions
    torch.testing.assert_close(region_loss(*tensors, **known), _by_loops(*tensors, counts=[4, 4, 2, 2]))


def test_the_view_loss_is_the_region_loss_of_one_region(regions):
    student, teacher, feat_s, feat_t, center = regions[0]
    for crops in (2, 5):
        whole = {**TEMPERATURES, "n_crops": crops}
        one = (student[: 3 * crops], teacher[:6])
        loss = view_loss(*one, center, **whole)
        torch.testing.assert_close(
            loss, _by_loops(*one, feat_s[: 3 * crops], feat_t[:6], center, counts=[1] * crops)
        )
        single = region_loss(
            *one, feat_s[: 3 * crops], feat_t[:6], center, **whole, regions_global=1, regions_local=1
        )
        torch.testing.assert_close(loss, single)


def test_zero_logits_cost_log_k(regions):
    (student, teacher, feat_s, feat_t, center), known = regions
    zeros = (0 * student, 0 * teacher)
    assert region_loss(*zeros, feat_s, feat_t, 0 * center, **known).item() == pytest.approx(math.log(6))
    loss = view_loss(0 * student[:12], 0 * teacher[:6], 0 * center, **TEMPERATURES, n_crops=4)
    assert loss.item() == pytest.approx(math.log(6))


def test_regions_are_chosen_by_direction_not_by_length_nor_order(regions):
    (student, teacher, feat_s, feat_t, center), known = regions
    loss = region_loss(student, teacher, feat_s, feat_t, center, **known)
    lengths = torch.rand(len(feat_t), 1).double() + 0.5
    torch.testing.assert_close(
        loss, region_loss(student, teacher, 3 * feat_s, lengths * feat_t, center, **known)
    )
    order = (4 * torch.arange(6)[:, None] + torch.stack([torch.randperm(4) for _ in range(6)])).flatten()
    torch.testing.assert_close(
        loss, region_loss(student, teacher[order], feat_s, feat_t[order], center, **known)
    )


def test_the_gradient_reaches_the_students_logits_only(regions):
    tensors, known = regions
    for tensor in tensors:
        tensor.requires_grad_()
    region_loss(*tensors, **known).backward()
    student, *others = tensors
    view_loss(student[:12], others[0][:6], others[-1], **TEMPERATURES, n_crops=4).backward()
    assert student.grad is not None and all(tensor.grad is None for tensor in others)


def test_losses_are_float32_under_autocast(regions):
    tensors, known = regions
    tensors = [tensor.float() for tensor in tensors]
    plain = region_loss(*tensors, **known)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = region_loss(*tensors, **known)
        view = view_loss(tensors[0][:12], tensors[1][:6], tensors[-1], **TEMPERATURES, n_crops=4)
    assert mixed.dtype == view.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)


def test_the_head_has_the_published_codes_parameters_and_starts_within_one():
    with torch.device("meta"):
        full = [bottleneck_mlp(768, 2048, 256), Prototypes(256, 65536)]
    assert sum(p.numel() for part in full for p in part.parameters()) == 23_138_560
    x = torch.randn(10, 24)
    logits = Prototypes(8, 32)(bottleneck_mlp(24, 16, 8)(x))
    assert logits.shape == (10, 32) and logits.abs().max() <= 1
    layer = Prototypes(8, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            torch.equal(layer(x[:, :8]), copy.deepcopy(layer)(x[:, :8]))
            and layer(x[:, :8]).dtype == torch.float32
        )


def _made(settings=SMALL, student="test_efficientnet", **build):
    torch.manual_seed(0)
    student = build_student(student, **build)
    student.input_size = 64
    with torch.no_grad():
        shapes = Shapes.of(copy.deepcopy(student).eval()(torch.zeros(1, 3, 64, 64), stages=True))
    method = Esvit(student, settings, Task(shapes, (), images=200, classes=0, seed=0))
    method.steps = 100
    return method


def _batch(method, images=4):
    views = [torch.rand(images, 3, v.size, v.size) for v in method.view_settings(recipe(MOCO_V2, 64))]
    return Batch(views, torch.arange(images), [], torch.full((images,), -1))


VIT = {
    "student": "vit_tiny_patch16_224",
    "depth": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "dynamic_img_size": True,
}


@pytest.mark.parametrize("build", [{}, VIT], ids=["cnn", "vit"])
@pytest.mark.parametrize("crops", [0, 2])
def test_regions_of_crops_of_two_sides_are_compared(build, crops):
    method = _made(replace(SMALL, local_crops=crops), **build)
    batch = _batch(method)
    assert [view.shape[-1] for view in batch.views] == [64, 64] + [32] * crops
    outputs = method(batch)
    outputs["loss"].backward()
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("momentum."))
    mean = (outputs["view_loss"] + outputs["region_loss"]) / 2
    torch.testing.assert_close(outputs["loss"], mean)


def test_dino_has_no_region_head():
    method = _made(replace(SMALL, region_weight=0.0))
    assert not any("region" in name for name in method.state_dict())
    outputs = method(_batch(method))
    outputs["loss"].backward()
    method.after_step({k: v.detach() for k, v in outputs.items() if v.ndim})
    assert set(outputs) == {"loss", "view_mean"} and method.view_center.any()
    assert method.head[0].weight.grad.any()


def test_the_step_moves_average_and_centres_as_the_equations_say():
    method = _made()
    method.step = 50
    before = copy.deepcopy(method.state_dict())
    outputs = {"view_mean": torch.randn(2, 16), "region_mean": torch.randn(2, 16)}
    with torch.no_grad():
        for part in method._own().values():
            for parameter in part.parameters():
                parameter.add_(torch.randn_like(parameter))
    method.after_step(outputs)
    assert method.average_momentum == pytest.approx(0.998)
    after = method.state_dict()
    for name, _ in method.momentum.named_parameters():
        moved = 0.998 * before[f"momentum.{name}"] + 0.002 * after[name]
        torch.testing.assert_close(after[f"momentum.{name}"], moved)
    torch.testing.assert_close(after["view_center"], 0.1 * outputs["view_mean"].mean(0, keepdim=True))
    torch.testing.assert_close(after["region_center"], 0.1 * outputs["region_mean"].mean(0, keepdim=True))


def test_a_batch_in_parts_moves_the_centres_as_the_whole_batch():
    method = _made().eval()  # batch norm would see other batches
    batch = _batch(method)
    whole = method(batch)
    parts = [
        method(replace(batch, views=[view[own] for view in batch.views])) for own in (slice(2), slice(2, 4))
    ]
    for key in ("view_mean", "region_mean"):
        torch.testing.assert_close(torch.cat([part[key] for part in parts]).mean(0, keepdim=True), whole[key])
    torch.testing.assert_close(sum(part["loss"] for part in parts) / 2, whole["loss"])


def test_schedules():
    method = _made()
    method.steps = 30000
    at = {}
    for method.step in (0, 1500, 3000, 15000, 29999):
        at[method.step] = (method.temperature, method.average_momentum)
    assert at[0] == pytest.approx((0.04, 0.996)) and at[15000] == pytest.approx((0.07, 0.998))
    assert at[1500][0] == pytest.approx(0.055) and at[3000][0] == pytest.approx(0.07)
    assert 1 - at[29999][1] == pytest.approx(1.1e-11, rel=0.01)
    decay = Schedule(steps=30000, warmup=1, watch_every=1, peak=1.0, decay=(0.04, 0.4)).weight_decay
    assert [decay(step) for step in (0, 15000, 30000)] == pytest.approx([0.04, 0.22, 0.4])


def test_prototypes_wait_for_their_first_step():
    method = _made(replace(SMALL, freeze_last_layer=0.02))
    for method.step in (1, 2):
        method(_batch(method))["loss"].backward()
        method.before_step()
        for name, parameter in method.named_parameters():
            if not name.startswith("momentum."):
                frozen = method.step == 1 and "prototypes" in name
                assert (parameter.grad is None) == frozen, name
        method.zero_grad()


def test_nothing_is_dropped_in_the_momentum_encoder():
    method = _made(**VIT | {"depth": 2}, drop_path_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5).train()
    pixels = torch.rand(4, 3, 64, 64)
    average = method.momentum["student"]
    torch.testing.assert_close(average(pixels).pooled, average(pixels).pooled, rtol=0, atol=0)
    assert not torch.equal(method.student(pixels).pooled, method.student(pixels).pooled)


def test_the_head_ships_and_the_state_returns():
    method, other = _made(), _made(replace(SMALL, norm_last_layer=True))
    rebuilt = rebuild(describe(method.head))
    rebuilt.load_state_dict(method.head.state_dict())
    x = torch.randn(3, method.student.width)
    assert torch.equal(rebuilt(x), method.project(x))
    other.load_state_dict(method.state_dict())
    assert not other.prototypes.gain.requires_grad
    batch = _batch(method)
    assert torch.equal(method.eval()(batch)["loss"], other.eval()(batch)["loss"])


def test_views_are_two_global_and_several_local_ones():
    method, own = _made(), replace(MOCO_V2, scale=(0.5, 1.0), flip_p=0.0)
    for size, local in ((16, 8), (32, 16), (64, 32), (96, 48), (128, 48), (224, 96)):
        views = method.view_settings(recipe(own, size))
        assert [v.size for v in views] == [size, size, local, local]
        assert [v.scale for v in views] == [(0.5, 1.0)] * 2 + [(0.05, 0.4)] * 2
        assert all(v.flip_p == 0 for v in views)
    assert method.view_settings(MOCO_V2)[0].scale == (0.4, 1.0)
    assert _made(replace(SMALL, local_size=24)).view_settings(MOCO_V2)[-1].size == 24


def test_what_cannot_be_meant_is_refused():
    fixed = VIT | {"dynamic_img_size": False, "img_size": 64}
    with pytest.raises(SeedHubError, match="does not take local crops of 32 px: choose another --local-size"):
        _made(**fixed)
    assert _made(replace(SMALL, local_crops=0), **fixed)
    with pytest.raises(SeedHubError, match="--region-weight is 2"):
        _made(replace(SMALL, region_weight=2))
    with pytest.raises(SeedHubError, match="--local-crops is -1"):
        _made(replace(SMALL, local_crops=-1))
