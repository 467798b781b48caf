"""CompRess, SimReg, DisCo, BINGO: against loops over plain numbers, gradients, and what must hold by their equations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck

from seed_hub.encoder import Features, build_student
from seed_hub.errors import SeedHubError
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods import disco, method_class
from seed_hub.training.methods.bingo import bag_losses
from seed_hub.training.methods.compress import compress_loss
from seed_hub.training.methods.disco import consistency_loss
from seed_hub.training.methods.moco import info_nce
from seed_hub.training.methods.simreg import simreg_loss
from seed_hub.training.views import MOCO_V2
from tests.training.test_methods import STUDENT, TEACHER, _said, _step, shapes_of


def _rows(n, width=6):
    return torch.randn(n, width, dtype=torch.float64)


@pytest.fixture(autouse=True)
def fixed_numbers():
    torch.manual_seed(0)


def _cosine(x, y):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def _make(name, **changes):
    student = build_student(STUDENT)
    cls = method_class(name)
    needs = (TEACHER,) if cls.needs_teacher else ()
    task = Task(student=shapes_of(student), teachers=needs, images=200, classes=5, seed=0)
    return cls(student, cls.Settings(**changes), task)


def _batch(method, first=0):
    views = [torch.rand(32, 3, 32, 32) for _ in method.view_settings(MOCO_V2)]
    return Batch(views, torch.arange(first, first + 32), [[_said() for _ in views]], torch.full((32,), -1))


# CompRess


@pytest.mark.parametrize("temperature", [0.04, 0.5])
def test_compress_is_the_divergence_written_out(temperature):
    z_s, z_t, own, anchors = _rows(3, 4), _rows(3), _rows(7, 4), _rows(7)
    total = 0.0
    for s, t in zip(z_s.tolist(), z_t.tolist(), strict=True):
        p_t = [math.exp(_cosine(t, a) / temperature) for a in anchors.tolist()]
        p_s = [math.exp(_cosine(s, b) / temperature) for b in own.tolist()]
        for pt, ps in zip(p_t, p_s, strict=True):
            total += pt / sum(p_t) * math.log(pt / sum(p_t) * sum(p_s) / ps)
    loss = compress_loss(z_s, z_t, own, anchors, temperature=temperature)
    torch.testing.assert_close(loss.item(), total / 3, rtol=1e-9, atol=0)
    single = compress_loss(*(x.float() for x in (z_s, z_t, own, anchors)), temperature=temperature)
    torch.testing.assert_close(single.item(), total / 3, rtol=1e-4, atol=0)


def test_compress_is_zero_where_the_similarities_are_the_teachers():
    z_t, anchors = _rows(4), _rows(9)
    turn = torch.linalg.qr(_rows(6)).Q  # a rotation changes every embedding and no similarity
    z_s = (z_t @ turn).requires_grad_()
    loss = compress_loss(z_s, z_t, 3 * anchors @ turn, anchors)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and z_s.grad.abs().max() < 1e-12
    assert compress_loss(_rows(4), z_t, anchors, anchors) > 0


def test_compress_gradient():
    z_t, own, anchors = _rows(3), _rows(7, 4), _rows(7)
    assert gradcheck(
        lambda z: compress_loss(z, z_t, own, anchors, temperature=0.3), _rows(3, 4).requires_grad_()
    )


def test_compress_without_anchors_is_zero_and_still_part_of_the_graph():
    z_s = _rows(3).requires_grad_()
    loss = compress_loss(z_s, _rows(3), torch.empty(0, 6), torch.empty(0, 6))
    loss.backward()
    assert loss.item() == 0 and torch.equal(z_s.grad, torch.zeros_like(z_s))


def test_compress_with_two_queues_keeps_pairs():
    method = _make("compress", queues=2, queue_size=48)
    assert method.head is None
    outputs = []
    for first in (0, 32):  # 64 images through 48 places
        out = method(_batch(method, first))
        method.after_step({k: v.detach() for k, v in out.items() if v.ndim})
        outputs.append(out)
    said, own = method.anchors.get(), method.own_anchors.get()
    assert said.shape == (48, TEACHER.embedding) and own.shape == (48, method.student.width)
    for key, rows in (("enqueue", said), ("enqueue_own", own)):
        pushed = torch.nn.functional.normalize(torch.cat([o[key].detach() for o in outputs]), dim=1)
        places = [(rows - row).abs().sum(1).argmin().item() for row in pushed[-48:]]
        # Row j of both queues is of one image: those of the last 48 lie in the same places of both.
        assert places == [i % 48 for i in range(16, 64)]
        torch.testing.assert_close(rows[places], pushed[-48:])
    loss = _step(method, _batch(method))
    loss.backward()
    assert loss > 0 and all(p.grad is not None for p in method.student.parameters())


def test_compress_refuses_other_numbers_of_queues():
    with pytest.raises(SeedHubError, match="--queues is 3"):
        _make("compress", queues=3)


# SimReg


def test_simreg_is_twice_one_minus_the_cosine():
    z_s, z_t = _rows(5), _rows(5)
    expected = sum(2 - 2 * _cosine(s, t) for s, t in zip(z_s.tolist(), z_t.tolist(), strict=True)) / 5
    torch.testing.assert_close(simreg_loss(z_s, z_t).item(), expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(simreg_loss(z_s.float(), z_t.float()).item(), expected, rtol=1e-4, atol=0)
    assert gradcheck(lambda z: simreg_loss(z, z_t), z_s.requires_grad_())


def test_simreg_is_zero_for_equal_directions_and_four_for_opposite_ones():
    z = _rows(5)
    assert simreg_loss(7 * z, 0.1 * z).item() == pytest.approx(0, abs=1e-12)
    assert simreg_loss(-z, z).item() == pytest.approx(4)


@pytest.mark.parametrize("layers", [1, 3])
def test_simreg_has_the_mlp_and_the_views_it_is_told(layers):
    method = _make("simreg", head_layers=layers, hidden_width=16, weak_views=False)
    kinds = [type(layer).__name__ for layer in method.head]
    assert kinds.count("Linear") == layers and kinds.count("BatchNorm1d") == layers - 1
    assert method.view_settings(MOCO_V2) == [MOCO_V2]
    (weak,) = _make("simreg", hidden_width=16).view_settings(MOCO_V2)
    assert (weak.jitter_p, weak.grey_p, weak.blur_p) == (0, 0, 0)
    assert (weak.scale, weak.flip_p) == (MOCO_V2.scale, MOCO_V2.flip_p)


def test_simreg_has_an_mlp_for_each_teacher():
    student = build_student(STUDENT)
    cls, widths = method_class("simreg"), (12, 20)
    teachers = tuple(Shapes(pooled=w, embedding=w, classes=0, stages=()) for w in widths)
    task = Task(student=shapes_of(student), teachers=teachers, images=200, classes=0, seed=0)
    method = cls(student, cls.Settings(hidden_width=16), task).eval()
    said = [[Features(torch.randn(32, w))] for w in widths]
    batch = replace(_batch(method), teachers=said)
    pooled = student(batch.views[0]).pooled
    heads = (method.head, *method.more_heads)
    each = [simreg_loss(head(pooled), s[0].pooled) for head, s in zip(heads, said, strict=True)]
    torch.testing.assert_close(method(batch)["loss"], sum(each) / 2)


# DisCo


def test_disco_consistency_sums_the_distances_of_both_views():
    views, said = [_rows(4), _rows(4)], [_rows(4), _rows(4)]
    total = 0.0
    for q, t in zip(views, said, strict=True):
        for a, b in zip(q.tolist(), t.tolist(), strict=True):
            na, nb = math.hypot(*a), math.hypot(*b)
            total += sum((x / na - y / nb) ** 2 for x, y in zip(a, b, strict=True))
    torch.testing.assert_close(consistency_loss(views, said).item(), total / 4, rtol=1e-9, atol=0)
    for v in views:
        v.requires_grad_()
    assert gradcheck(lambda a, b: consistency_loss([a, b], said), tuple(views))


def test_disco_without_its_teacher_is_moco():
    ours = _make("disco", consistency_weight=0.0, queue_size=64, hidden_width=32)
    plain = _make("moco", queue_size=64, hidden_width=32, embedding_width=TEACHER.embedding)
    plain.load_state_dict(ours.state_dict())
    for _ in range(2):  # the second meets a queue and moved averages
        batch = _batch(ours)
        losses = [_step(ours, batch), _step(plain, batch)]
        torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def test_disco_hears_the_teacher_on_both_views():
    method = _make("disco", queue_size=64, hidden_width=32).eval()
    batch = _batch(method)
    out = method(batch)
    torch.testing.assert_close(out["loss"], out["contrast"] + out["consistency"])
    for v in range(2):
        said = list(batch.teachers[0])
        said[v] = _said()
        other = method(Batch(batch.views, batch.index, [said], batch.labels))
        assert other["consistency"] != out["consistency"] and other["contrast"] == out["contrast"]


@pytest.mark.parametrize("batch_negatives", [True, False])
def test_disco_meets_the_keys_of_all_processes(monkeypatch, batch_negatives):
    method = _make("disco", queue_size=64, hidden_width=32, batch_negatives=batch_negatives).eval()
    _step(method, _batch(method))
    elsewhere = torch.randn(16, TEACHER.embedding)
    monkeypatch.setattr(disco, "gather_others", lambda _: elsewhere)
    batch = _batch(method)
    out = method(batch)
    q, key = method.project(method.student(batch.views[0]).pooled), out["enqueue"]
    contrasts = []
    for i in range(32):
        negatives = method.queue.get()
        if batch_negatives:
            negatives = torch.cat([negatives, key[:i], key[i + 1 :], elsewhere])
        cosines = torch.cosine_similarity(q[i], torch.cat([key[i : i + 1], negatives]), dim=1)
        contrasts.append(-(cosines / 0.2).log_softmax(0)[0])
    torch.testing.assert_close(out["contrast"], torch.stack(contrasts).mean())


# BINGO


def _bag_by_hand(z_s, z_t, queue, same, bag_size, tau):
    """The two losses with sorted lists and sums of exponentials."""
    intra = inter = 0.0
    for i, (s, t) in enumerate(zip(z_s.tolist(), z_t.tolist(), strict=True)):
        others = [d for j, d in enumerate(queue.tolist()) if not same[i][j]]
        others.sort(key=lambda d: _cosine(t, d), reverse=True)
        bag, negatives = others[: bag_size - 1], others[bag_size - 1 :]
        below = sum(math.exp(_cosine(s, d) / tau) for d in negatives)
        own = math.exp(_cosine(s, t) / tau)
        intra -= math.log(own / (own + below)) / len(z_s)
        for d in bag:
            e = math.exp(_cosine(s, d) / tau)
            inter -= math.log(e / (e + below)) / len(bag) / len(z_s)
    return intra, inter


@pytest.mark.parametrize("bag_size", [1, 2, 4, 8, 9, 30])
def test_bingo_is_its_sums_written_out(bag_size):
    z_s, z_t, queue = _rows(4), _rows(4), _rows(8)
    same = torch.zeros(4, 8, dtype=torch.bool)
    same[0, :3] = same[1, 7] = same[2, :] = True  # the third image has nobody but itself
    expected = _bag_by_hand(z_s, z_t, queue, same.tolist(), bag_size, 0.3)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        got = bag_losses(
            *(x.to(dtype) for x in (z_s, z_t, queue)),
            bag_size=bag_size,
            temperature=0.3,
            same=lambda rows: same[:, rows],
        )
        torch.testing.assert_close([x.item() for x in got], list(expected), rtol=tolerance, atol=1e-12)
    assert gradcheck(
        lambda z: sum(
            bag_losses(z, z_t, queue, bag_size=bag_size, temperature=0.3, same=lambda rows: same[:, rows])
        ),
        z_s.requires_grad_(),
    )


def test_bingo_with_bags_of_one_is_the_instance_loss():
    z_s, z_t, queue = _rows(5), _rows(5), _rows(20)
    intra, inter = bag_losses(z_s, z_t, queue, bag_size=1, temperature=0.2)
    torch.testing.assert_close(intra, info_nce(z_s, z_t, queue, temperature=0.2))
    assert inter == 0


def test_bingo_without_a_queue_is_zero_and_still_part_of_the_graph():
    z_s = _rows(3).requires_grad_()
    loss = sum(bag_losses(z_s, _rows(3), torch.empty(0, 6), bag_size=4))
    loss.backward()
    assert loss.item() == 0 and torch.equal(z_s.grad, torch.zeros_like(z_s))


def test_bingo_leaves_an_images_own_rows_out():
    z_s, z_t, queue = _rows(4), _rows(4), _rows(12)
    own = torch.cat([queue, z_t])  # the image itself would be the nearest of all
    same = torch.cat([torch.zeros(4, 12), torch.eye(4)], dim=1).bool()
    same[:, 12:] = True
    with_own = bag_losses(z_s, z_t, own, bag_size=3, same=lambda rows: same[:, rows])
    torch.testing.assert_close(with_own, bag_losses(z_s, z_t, queue, bag_size=3))


@pytest.mark.parametrize("size", [20, 32, 48])
def test_bingo_knows_whose_rows_the_queue_holds(size):
    method = _make("bingo", queue_size=size, hidden_width=16)
    said = torch.nn.functional.normalize(torch.randn(96, TEACHER.embedding), dim=1)
    for first in (0, 32, 64):
        images = torch.arange(first, first + 32)
        method.after_step({"enqueue": said[images], "images": images})
        queue = method.queue.get()
        torch.testing.assert_close(queue, said[method.images[: len(queue)]])


@pytest.mark.parametrize("name", ["compress", "simreg", "disco", "bingo"])
def test_losses_are_float32_under_autocast_and_spare_the_teacher(name):
    z_s, z_t, queue = (torch.randn(8, 32, requires_grad=True) for _ in range(3))
    losses = {
        "compress": lambda: compress_loss(z_s, z_t, queue, queue),
        "simreg": lambda: simreg_loss(z_s, z_t),
        "disco": lambda: consistency_loss([z_s, z_s], [z_t, z_t]),
        "bingo": lambda: sum(bag_losses(z_s, z_t, queue)),
    }
    plain = losses[name]()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = losses[name]()
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain, rtol=0, atol=0)
    mixed.backward()
    assert z_s.grad is not None and z_t.grad is None and queue.grad is None
