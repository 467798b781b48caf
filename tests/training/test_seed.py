"""SEED's variants: small patches, two views, several teachers."""

from __future__ import annotations

import copy

import pytest
import torch

from seed_hub.encoder import Features, build_student
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods.seed import Seed, Settings, seed_loss
from seed_hub.training.views import MOCO_V2, recipe

SMALL = {"queue_size": 16, "hidden_width": 32}
B = 4


def made(teachers: int = 1, **changes) -> tuple[Seed, Batch]:
    torch.manual_seed(0)
    widths = (12, 20)[:teachers]
    shapes = tuple(Shapes(pooled=w, embedding=w, classes=0, stages=()) for w in widths)
    student = build_student("seed_mobilenetv3_small").eval()
    task = Task(student=shapes[0], teachers=shapes, images=100, classes=0, seed=0)
    method = Seed(student, Settings(**SMALL | changes), task).eval()
    for queue in [*method.queues, *method.small_queues]:
        queue.push(torch.randn(10, queue.rows.shape[1]))
    views = [torch.rand(B, 3, v.size, v.size) for v in method.view_settings(recipe(MOCO_V2, 64))]
    said = [[Features(torch.randn(B, w)) for _ in views] for w in widths]
    return method, Batch(views, torch.arange(B), said, torch.zeros(B, dtype=torch.long))


def loss_of(method: Seed, batch: Batch, view: int, teacher: int = 0, small: bool = False) -> torch.Tensor:
    head = [method.head, *method.more_heads][teacher]
    queue = (method.small_queues if small else method.queues)[teacher]
    z_s = head(method.student(batch.views[view]).pooled)
    return seed_loss(z_s, batch.teachers[teacher][view].pooled, queue.get())


def test_small_patches_are_six_small_crops_of_less_than_the_whole_view_shows():
    method, _ = made(small_patches=6)
    whole, *small = method.view_settings(recipe(MOCO_V2, 224))
    assert (whole.size, whole.scale) == (224, (0.14, 1.0))
    assert [(s.size, s.scale) for s in small] == [(96, (0.05, 0.14))] * 6


def test_the_patches_loss_is_added_and_averaged_over_patches():
    method, batch = made(small_patches=3)
    with torch.no_grad():
        patches = torch.stack([loss_of(method, batch, v, small=True) for v in (1, 2, 3)]).mean()
        torch.testing.assert_close(method(batch)["loss"], loss_of(method, batch, 0) + patches)


def test_symmetric_is_the_mean_of_two_views():
    method, batch = made(symmetric=True)
    with torch.no_grad():
        both = (loss_of(method, batch, 0) + loss_of(method, batch, 1)) / 2
        torch.testing.assert_close(method(batch)["loss"], both)


def test_several_teachers_have_a_head_and_a_queue_each():
    method, batch = made(teachers=2)
    with torch.no_grad():
        mean = (loss_of(method, batch, 0, 0) + loss_of(method, batch, 0, 1)) / 2
        torch.testing.assert_close(method(batch)["loss"], mean)
    assert [queue.rows.shape[1] for queue in method.queues] == [12, 20]


@pytest.mark.parametrize("changes", [{}, {"symmetric": True}, {"small_patches": 2}, {"teachers": 2}])
def test_one_embedding_of_each_image_is_enqueued(changes):
    method, batch = made(**changes)
    before = copy.deepcopy([len(q.get()) for q in [*method.queues, *method.small_queues]])
    outputs = method(batch)
    method.after_step({k: v.detach() for k, v in outputs.items() if v.ndim})
    for queue, count in zip([*method.queues, *method.small_queues], before, strict=True):
        assert len(queue.get()) == count + B
    first = torch.nn.functional.normalize(batch.teachers[0][0].pooled, dim=1)
    torch.testing.assert_close(method.queues[0].get()[-B:], first)
