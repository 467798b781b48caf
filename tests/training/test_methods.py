"""Every method of the folder, because it is there."""

from __future__ import annotations

import copy
import inspect
import math
from dataclasses import fields, is_dataclass

import pytest
import torch

from seed_hub.encoder import Encoder, Features, build_student
from seed_hub.errors import SeedHubError
from seed_hub.training.checks import resolve_method_settings
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.views import MOCO_V2, recipe

STUDENT = "test_efficientnet"  # timm's smallest, for tests
TEACHER = Shapes(
    pooled=40, embedding=24, classes=5, stages=((8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2), (24, 1, 1))
)


@pytest.fixture(params=method_names())
def made(request):
    """(method, batch) with a student at 32 px."""
    torch.manual_seed(0)
    cls = method_class(request.param)
    smaller = {
        "queue_size": 64,
        "hidden_width": 64,
        "out_dim": 64,
        "local_crops": 2,
        "bottleneck_width": 16,
        "negatives": 64,
        "kept_layers": 0,
        "first_stage": 0.0,
        "first_variance": 1.0,
    }
    known = {f.name for f in fields(cls.Settings)}
    student = build_student(STUDENT)
    method = cls(
        student,
        cls.Settings(**{k: v for k, v in smaller.items() if k in known}),
        Task(
            student=shapes_of(student),
            teachers=(TEACHER,) if cls.needs_teacher else (),
            images=200,
            classes=5,
            seed=0,
        ),
    )
    views = [torch.rand(32, 3, 32, 32) for _ in method.view_settings(recipe(MOCO_V2, 32))]
    said = [[_said() for _ in views]] if cls.needs_teacher else []
    return method, Batch(views, torch.arange(32), said, torch.arange(32) % 5)


def shapes_of(student: Encoder) -> Shapes:
    with torch.no_grad():
        return Shapes.of(copy.deepcopy(student).eval()(torch.zeros(1, 3, 32, 32), stages=True))


def _said() -> Features:
    """What a teacher may say of 32 images of 32 px."""
    return Features(
        pooled=torch.randn(32, TEACHER.pooled),
        projected=torch.randn(32, TEACHER.embedding),
        logits=torch.randn(32, TEACHER.classes),
        stages=[torch.randn(32, *stage) for stage in TEACHER.stages],
    )


def _step(method, batch):
    outputs = method(batch)
    method.after_step({k: v.detach() for k, v in outputs.items() if v.ndim})
    return outputs["loss"]


def test_settings_are_a_frozen_dataclass_with_a_docstring_per_field():
    for name in method_names():
        cls = method_class(name)
        assert is_dataclass(cls.Settings) and cls.Settings.__dataclass_params__.frozen, name
        source = inspect.getsource(cls.Settings)
        assert source.count('"""') == 2 * (1 + len(fields(cls.Settings))), (
            f"{name}: a docstring for each field"
        )


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(SeedHubError, match='Did you mean "moco"'):
        method_class("mocco")


def test_numbers_that_cannot_be_meant_are_refused():
    for name in method_names():
        cls = method_class(name)
        for field in fields(cls.Settings):
            if field.type not in ("int", "float"):
                continue
            flag = f"--{field.name.replace('_', '-')}"
            for value in (-1, *([2] if field.name.endswith("momentum") else [])):
                with pytest.raises(SeedHubError, match=f"{flag} is {value}: .* must be "):
                    resolve_method_settings(cls, name, {field.name: value})
            assert resolve_method_settings(cls, name, {field.name: field.default}) == cls.Settings()
    for name, key, value, limit in (
        ("simclr", "head_layers", 0, "at least 1"),
        ("simclr", "jitter", 2.6, "at most 2.5"),
        ("finetune", "crop_least", 1.1, "at most 1"),
        ("seed", "queue_size", math.inf, "at least 1"),
    ):
        with pytest.raises(SeedHubError, match=f"is {value}: it must be {limit}"):
            resolve_method_settings(method_class(name), name, {key: value})


def test_the_gradient_reaches_the_student_and_no_average(made):
    method, batch = made
    _step(method, batch).backward()
    with torch.no_grad():  # a classifier that starts at zero hands nothing on before it has moved
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    method.zero_grad(set_to_none=True)
    _step(method, batch).backward()
    trained = dict(method.named_parameters())
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in trained.items() if n.startswith("student.")
    )
    assert any(p.grad.abs().max() > 0 for n, p in trained.items() if n.startswith("student."))
    assert all(p.grad is None for n, p in trained.items() if not p.requires_grad)


def test_forward_changes_no_queue_and_no_average(made):
    method, batch = made
    _step(method, batch)
    method.eval()  # batch norm's own statistics are not the method's
    before = copy.deepcopy(method.state_dict())
    method(batch)
    after = method.state_dict()
    for key, value in before.items():
        same = torch.equal(value, after[key]) if isinstance(value, torch.Tensor) else value == after[key]
        assert same, key


def test_it_overfits_32_images(made):
    method, batch = made
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(40):
        loss = _step(method, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(torch.tensor(losses)))
    # The queue fills in the first steps and the loss rises with it: compare from where it is full.
    full = losses[4:]
    assert sum(full[-5:]) / 5 < 0.9 * full[0], losses


def test_no_teacher_is_kept(made):
    method, _ = made
    assert not any("teacher" in name for name in method.state_dict())
