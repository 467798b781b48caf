"""The classic distillation losses: published numbers, loops, invariants; their methods, and two processes."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seed_hub.encoder import Features
from seed_hub.errors import SeedHubError
from seed_hub.training.feature_maps import pair_stages
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods import kd, method_class
from seed_hub.training.methods.vid import vid_regressor
from seed_hub.training.views import MOCO_V2
from tests.training.golden_numbers import agree, read, sines

MAPS = ("fitnet", "at", "vid", "ft", "nst", "ab", "fsp")
RELATIONS = ("sp", "rkd", "pkt", "cc")
FAMILY = (*MAPS, *RELATIONS, "kd", "crd")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def _loss(name, student, teacher):
    """The loss of that name; those on lists of maps get lists."""
    function = getattr(kd, f"{name}_loss")
    return function(student, teacher, temperature=4.0) if name == "kd" else function(student, teacher)


# Published numbers.


@DTYPES
@pytest.mark.parametrize("name", ["kd", "fitnet", "sp", "ft", "cc", "rkd", "pkt", "at", "nst", "ab", "fsp"])
def test_losses_agree_with_the_published_code(golden, name, dtype):
    data, meta = read(golden / "kd_family.safetensors")
    data = {key: value.to(dtype) for key, value in data.items()} | {
        key: value for key, value in data.items() if key.startswith(("loss_", "grad_"))
    }
    assert float(meta["T"]) == 4
    if name == "kd":
        student, teacher = data["logits_s"], data["logits_t"]
    elif name in ("cc", "rkd", "pkt"):
        student, teacher = data["feat_s"], data["feat_t"]
    else:
        student, teacher = data["map_s_1"], data["map_t_1"]
    if name in ("at", "nst", "ab", "fsp"):  # the published gradient is that of the first map
        wanted = data["map_s_0"].requires_grad_()
        loss = _loss(name, [wanted, student], [data["map_t_0"], teacher])
    else:
        wanted = student.requires_grad_()
        loss = _loss(name, wanted, teacher)
    loss.backward()
    agree(loss, wanted.grad, data[f"loss_{name}"], data[f"grad_{name}"], dtype)


@DTYPES
def test_vid_agrees_with_the_published_code(golden, dtype):
    data, _ = read(golden / "kd_family.safetensors")
    regressor = vid_regressor(8, 8).to(dtype)
    regressor.load_state_dict({f"{2 * i}.weight": data[f"vid_w{i}"] for i in range(3)})
    map_s = data["map_s_1"].to(dtype).requires_grad_()
    loss = kd.vid_loss(map_s, data["map_t_1"].to(dtype), regressor, data["vid_log_scale"].to(dtype))
    loss.backward()
    agree(loss, map_s.grad, data["loss_vid"], data["grad_vid"], dtype)


def test_the_fact_sheets_numbers():
    hint = sines((4, 6, 4, 4), 1.3), sines((4, 6, 4, 4), 2.3)
    first = sines((4, 3, 8, 8), 1.0), sines((4, 5, 8, 8), 2.0)
    second = sines((4, 4, 4, 4), 1.1), sines((4, 6, 2, 2), 2.1)
    shapes = ((4, 3, 8, 8), (4, 4, 4, 4), (4, 5, 4, 4))
    flow_s, flow_t = ([sines(shape, a + i / 10) for i, shape in enumerate(shapes)] for a in (3.0, 4.0))
    found = {
        0.00630724: kd.kd_loss(2 * sines((4, 5), 0.1), 2 * sines((4, 5), 0.2), temperature=4.0),
        0.43470109: kd.fitnet_loss(*hint),
        0.00426321: kd.at_loss([first[0]], [first[1]]),
        0.0994415: kd.at_loss([second[0]], [second[1]]),
        0.01152028: kd.sp_loss(*second),
        0.02980727: kd.cc_loss(sines((4, 8), 0.5), sines((4, 8), 0.6)),
        4.3649197: kd.rkd_loss(sines((4, 6), 0.3), sines((4, 7), 0.4)),
        0.04065195: kd.pkt_loss(sines((4, 6), 0.3), sines((4, 7), 0.4)),
        0.49310815: kd.nst_loss([first[0]], [first[1]]),
        0.49824899: kd.nst_loss([second[0]], [second[1]]),
        0.11133358 + 0.22266716: kd.ab_loss([hint[0]] * 2, [hint[1]] * 2),
        0.09965135: kd.ft_loss(*hint),
        0.00275907 + 0.03401707: kd.fsp_loss(flow_s, flow_t),
    }
    for expected, loss in found.items():
        # They were computed in float32: a small divergence of softmaxes has lost a digit.
        assert loss.item() == pytest.approx(expected, rel=1e-4 if expected == 0.00630724 else 1e-5)


# The same, written with loops.


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return torch.randn(5, 6).double(), torch.randn(5, 8).double()


def test_rkd_is_what_its_equation_says(pair):
    def huber(x):
        return x * x / 2 if abs(x) < 1 else abs(x) - 0.5

    def relations(f):
        distances = {(i, j): math.dist(f[i], f[j]) for i in range(5) for j in range(5)}
        mean = sum(distances.values()) / 20
        cosines = {}
        for i, j, k in itertools.product(range(5), repeat=3):
            if i in (j, k):
                cosines[i, j, k] = 0.0
                continue
            along = sum((a - o) * (b - o) for o, a, b in zip(f[i], f[j], f[k], strict=True))
            cosines[i, j, k] = along / distances[i, j] / distances[i, k]
        return {ij: d / mean for ij, d in distances.items()}, cosines

    (d_s, a_s), (d_t, a_t) = (relations(f.tolist()) for f in pair)
    expected = 25 * sum(huber(d_s[ij] - d_t[ij]) for ij in d_s) / 25
    expected += 50 * sum(huber(a_s[ijk] - a_t[ijk]) for ijk in a_s) / 125
    assert kd.rkd_loss(*pair).item() == pytest.approx(expected)


def test_pkt_and_sp_are_what_their_equations_say(pair):
    def cosines(f):
        return [[(a @ b / a.norm() / b.norm()).item() for b in f] for a in f]

    p_s, p_t = ([[(c + 1) / 2 for c in row] for row in cosines(f)] for f in pair)
    expected = 0.0
    for row_s, row_t in zip(p_s, p_t, strict=True):
        for s, t in zip(row_s, row_t, strict=True):
            expected += t / sum(row_t) * math.log((t / sum(row_t) + 1e-7) / (s / sum(row_s) + 1e-7)) / 25
    assert kd.pkt_loss(*pair).item() == pytest.approx(expected)

    g_s, g_t = ([[(a @ b).item() for b in f] for a in f] for f in pair)
    expected = 0.0
    for row_s, row_t in zip(g_s, g_t, strict=True):
        for s, t in zip(row_s, row_t, strict=True):
            expected += (s / math.hypot(*row_s) - t / math.hypot(*row_t)) ** 2 / 25
    assert kd.sp_loss(*pair).item() == pytest.approx(expected)


def test_nst_is_the_discrepancy_between_channels():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 2, 2).double(), torch.randn(2, 5, 2, 2).double()

    def mean_kernel(a, b):
        products = [(x.flatten() @ y.flatten() / x.norm() / y.norm()) ** 2 for x in a for y in b]
        return sum(products) / len(products)

    expected = sum(
        mean_kernel(t, t) + mean_kernel(s, s) - 2 * mean_kernel(s, t) for s, t in zip(*maps, strict=True)
    )
    assert kd.nst_loss([maps[0]], [maps[1]]).item() == pytest.approx(expected.item() / 2)


def test_ab_weighs_the_deepest_map_most_and_counts_wrong_sides():
    s, t = torch.tensor([[-2.0, 0.5, 3.0, -0.5]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    one = 9 + 0.25 + 0 + 0.25
    maps = [x.view(1, 4, 1, 1) for x in (s, t)]
    assert kd.ab_loss([maps[0]], [maps[1]]).item() == pytest.approx(0.003 * one)
    assert kd.ab_loss([maps[0]] * 3, [maps[1]] * 3).item() == pytest.approx(0.003 * one * (1 + 0.5 + 0.25))


# Invariants.


def test_what_the_losses_do_not_see(pair):
    x, _ = pair
    assert kd.rkd_loss(x, 3 * x + 1).item() == pytest.approx(0, abs=1e-12)
    assert kd.pkt_loss(x, 2 * x).item() == pytest.approx(0, abs=1e-12)
    assert kd.sp_loss(x, 2 * x).item() == pytest.approx(0, abs=1e-12)
    assert kd.kd_loss(x, x + 1, temperature=2.0).item() == pytest.approx(0, abs=1e-12)
    turn = torch.linalg.qr(torch.randn(6, 6).double()).Q
    for name in ("rkd", "pkt", "sp"):
        assert _loss(name, x, x @ turn).item() == pytest.approx(0, abs=1e-12), name
    maps = torch.randn(2, 4, 3, 3).double()
    shuffled = 2 * maps[:, [2, 0, 3, 1]]
    for name in ("at", "nst"):
        assert _loss(name, [maps], [shuffled]).item() == pytest.approx(0, abs=1e-12), name
    assert kd.ft_loss(maps, shuffled).item() == pytest.approx(0, abs=1e-12)


def _inputs(name):
    shape = {"kd": (6, 5), "cc": (6, 8), "rkd": (6, 8), "pkt": (6, 8), "sp": (6, 8)}.get(name, (6, 4, 4, 4))
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    if name not in ("at", "nst", "ab", "fsp"):
        return student, teacher, student, teacher
    return [student, 2 * student], [teacher, 2 * teacher], student, teacher


@pytest.mark.parametrize("name", ["kd", "fitnet", "sp", "ft", "rkd", "pkt", "at", "nst", "ab", "fsp"])
def test_the_gradient_reaches_the_student_only_also_under_autocast(name):
    torch.manual_seed(0)
    first, second, student, teacher = _inputs(name)
    loss = _loss(name, first, second)
    loss.backward()
    assert student.grad is not None and student.grad.isfinite().all() and student.grad.any()
    assert teacher.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        mixed = _loss(name, first, second)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, loss, rtol=0, atol=0)


def test_an_embedding_that_is_the_same_for_all_gives_finite_gradients():
    torch.manual_seed(0)
    for name in ("rkd", "pkt", "sp"):
        same = torch.ones(6, 8, requires_grad=True)
        loss = _loss(name, same, torch.randn(6, 8))
        loss.backward()
        assert loss.isfinite() and same.grad.isfinite().all(), name


# Pairs of stages.

RESNET = tuple((c, s, s) for c, s in zip((64, 256, 512, 1024, 2048), (112, 56, 28, 14, 7), strict=True))
VIT = ((192, 14, 14),) * 12


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (RESNET, RESNET, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]),
        # Of another size of image, the teacher's maps are as many halvings from its last.
        (tuple((c, s // 7 * 2, s // 7 * 2) for c, s, _ in RESNET), RESNET, [(i, i) for i in range(5)]),
        # ConvNeXt and Swin have no map at half the side.
        (RESNET, RESNET[1:], [(1, 0), (2, 1), (3, 2), (4, 3)]),
        (RESNET[1:], RESNET, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        # VGG has one more, at the full side.
        (RESNET, ((64, 224, 224), *RESNET), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        # All maps of a ViT are equal: the depth decides. 2/12 for 1/5, 5/12 for 2/5, ...
        (RESNET, VIT, [(0, 1), (1, 4), (2, 6), (3, 9), (4, 11)]),
        (VIT, RESNET, [(1, 0), (4, 1), (6, 2), (9, 3), (11, 4)]),
        (VIT, VIT[:6], [(1, 0), (3, 1), (5, 2), (7, 3), (9, 4), (11, 5)]),
        # Each stage is used once, even where one is nearest to all.
        (((8, 14, 14),) * 4, RESNET, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (((8, 1, 1),), VIT, [(0, 11)]),
    ],
)
def test_stages_are_paired_by_resolution_then_depth(student, teacher, pairs):
    assert pair_stages(student, teacher) == pairs


def test_the_stages_of_real_networks_are_paired_in_order():
    sides = [(112, 56, 28, 14, 7), (56, 28, 14, 7), (14,) * 12, (33, 17, 9, 5, 3), (7, 7, 4, 4, 2, 2), (5,)]
    for a, b in itertools.product(sides, repeat=2):
        pairs = pair_stages(*(tuple((8, side, side) for side in x) for x in (a, b)))
        assert len(pairs) == min(len(a), len(b))
        for (i, j), (k, n) in itertools.pairwise(pairs):
            assert i < k and j < n


# The methods, on a student of three small stages.


class Small(nn.Module):
    """A student as the methods see it."""

    width = 10

    def __init__(self):
        super().__init__()
        sizes = itertools.pairwise((3, 4, 6, 8))
        self.blocks = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in sizes)
        self.last = nn.Linear(8, self.width)

    def forward(self, pixels, *, stages=False):
        maps = [pixels]
        for block in self.blocks:
            maps.append(block(maps[-1].relu()))
        return Features(self.last(maps[-1].mean((2, 3))), stages=maps[1:] if stages else [])


TEACHER = Shapes(pooled=9, embedding=7, classes=5, stages=((4, 8, 8), (6, 4, 4), (5, 4, 4), (9, 2, 2)))
STUDENT = Shapes(pooled=10, embedding=10, classes=0, stages=((4, 8, 8), (6, 4, 4), (8, 2, 2)))


def _make(name, *, classes=5, teacher=TEACHER, **settings):
    torch.manual_seed(0)
    cls = method_class(name)
    if name == "crd":
        settings = {"negatives": 12, "embedding_width": 6} | settings
    return cls(
        Small(), cls.Settings(**settings), Task(STUDENT, (teacher,), images=20, classes=classes, seed=0)
    )


def _batch(first=0, last=8, *, logits=True, stages=True, labels=True):
    generator = torch.Generator().manual_seed(1)

    def randn(*shape):
        return torch.randn(shape, generator=generator)[first:last]

    said = Features(
        pooled=randn(8, 9),
        projected=randn(8, 7),
        logits=randn(8, 5) if logits else None,
        stages=[randn(8, *shape) for shape in TEACHER.stages] if stages else [],
    )
    index = torch.arange(8)[first:last]
    return Batch([randn(8, 3, 16, 16)], index, [[said]], index % 5 if labels else -torch.ones_like(index))


def test_every_function_of_the_family_is_exported():
    assert {f"{name}_loss" for name in FAMILY} - {"crd_loss"} <= set(kd.__all__)


@pytest.mark.parametrize("name", [*RELATIONS, "crd"])
def test_by_default_embeddings_are_enough(name):
    method = _make(name, classes=0, teacher=Shapes(pooled=9, embedding=7, classes=0, stages=()))
    assert method.reads(method.settings) == frozenset()
    outputs = method(_batch(logits=False, stages=False, labels=False))
    outputs["loss"].backward()
    assert all(p.grad is not None for p in method.parameters()) and method.classifier is None


def test_cc_has_a_head_for_each_teacher():
    teachers = tuple(Shapes(pooled=w, embedding=w, classes=0, stages=()) for w in (7, 4))
    cls = method_class("cc")
    method = cls(Small(), cls.Settings(), Task(STUDENT, teachers, images=20, classes=0, seed=0))
    said = [[Features(torch.randn(8, t.pooled))] for t in teachers]
    batch = replace(_batch(labels=False), teachers=said)
    pooled = method.student(batch.views[0]).pooled
    heads = (method.head, *method.more_heads)
    each = [kd.cc_loss(head(pooled), of[0].pooled) for head, of in zip(heads, said, strict=True)]
    torch.testing.assert_close(method(batch)["loss"], 0.02 * sum(each) / 2)
    with pytest.raises(SeedHubError, match="learnt from one teacher, and 2 are named"):
        cls(Small(), cls.Settings(kd_weight=1.0), Task(STUDENT, teachers, images=20, classes=5, seed=0))


@pytest.mark.parametrize("name", MAPS)
def test_by_default_maps_need_no_labels_and_no_scores(name):
    method = _make(name, classes=0)
    assert method.reads(method.settings) == {"stages"}
    method(_batch(logits=False, labels=False))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_the_loss_is_the_weighted_sum_of_its_terms(name):
    method = _make(name, ce_weight=0.3, kd_weight=0.5)
    assert method.reads(method.settings) >= {"labels", "logits"}
    method.step, method.steps = 1, 4
    batch = _batch()
    outputs = method(batch)
    terms = {k: v for k, v in outputs.items() if k != "loss" and not v.ndim}
    weights = {"ce": 0.3, "kd": 0.5} | {
        f.name.removesuffix("_weight"): f.default
        for f in fields(method.Settings)
        if f.name in ("feature_weight", "embedding_weight")
    }
    if name in ("ab", "fsp"):
        weights["feature"] = 0
    if name == "ft":
        weights["reconstruction"] = 0
    assert terms.keys() == weights.keys()
    assert outputs["loss"].item() == pytest.approx(sum(weights[k] * v.item() for k, v in terms.items()))
    scores = method.classifier(method.student(batch.views[0]).pooled)
    torch.testing.assert_close(terms["ce"], cross_entropy(scores, batch.labels))
    torch.testing.assert_close(terms["kd"], kd.kd_loss(scores, batch.teacher[0].logits, temperature=4.0))


def test_the_classifier_does_not_ship():
    method = _make("kd", classes=0)
    assert method.reads(method.settings) == {"logits"}
    assert method.classifier.out_features == TEACHER.classes
    assert not any(p is q for p in method.classifier.parameters() for q in method.student.parameters())
    assert method.view_settings(MOCO_V2) == [MOCO_V2]


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("at", {"ce_weight": 1.0, "kd_weight": 1.0, "classes": 4}, "name 4 classes and the teacher scores 5"),
        ("kd", {"kd_weight": 0.0}, "nothing to learn from: one of --kd-weight, --ce-weight"),
        ("sp", {"feature_weight": -1.0}, "--feature-weight is -1.0"),
        ("ab", {"first_stage": 1.5}, "--first-stage is 1.5"),
        ("nst", {"maps": 0}, "--maps is 0"),
        ("fsp", {"maps": 1}, "has 1: set --maps"),
    ],
)
def test_what_cannot_be_meant_is_refused(name, settings, says):
    with pytest.raises(SeedHubError, match=says):
        _make(name, **settings)


def test_maps_are_chosen_from_the_deep_end():
    # Paired: (0, 0), (1, 1 or 2), (2, 3); of the teacher's two maps of 4 x 4, depth 2/3 is nearest to 3/4.
    assert _make("at").pairs == [(0, 0), (1, 2), (2, 3)]
    assert _make("at", maps=2).pairs == [(1, 2), (2, 3)]
    assert _make("fitnet").pairs == [(1, 2)]
    assert _make("ft").pairs == [(2, 3)]
    assert isinstance(_make("fsp").regressors[0], nn.Identity)  # where channels agree


def test_a_map_of_one_position_is_passed_over_where_positions_are_compared():
    for name in ("at", "nst", "ft"):
        cls = method_class(name)
        stages = ((4, 8, 8), (6, 4, 4), (8, 1, 1))
        student = Shapes(pooled=10, embedding=10, classes=0, stages=stages)
        method = cls(Small(), cls.Settings(), Task(student, (student,), images=20, classes=0, seed=0))
        assert method.pairs == ([(1, 1)] if name == "ft" else [(0, 0), (1, 1)])
        point = Shapes(pooled=10, embedding=10, classes=0, stages=stages[-1:])
        with pytest.raises(SeedHubError, match="raise --size"):
            cls(Small(), cls.Settings(), Task(student, (point,), images=20, classes=0, seed=0))
    assert _make("vid").pairs[-1] == (2, 3)


@pytest.mark.parametrize("name", FAMILY)
def test_its_own_term_is_learnt(name):
    settings = {"embedding_weight": 0.0} if name in MAPS else {}
    if name == "vid":
        settings["first_variance"] = 1.0  # 5 takes longer to come down than this test takes
    method = _make(name, **settings)
    method.step, method.steps = int(name == "ft"), 2
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-2)
    own = []
    for _ in range(60):
        outputs = method(_batch())
        own.append(outputs["kd" if name == "kd" else "feature"].item())
        optimizer.zero_grad()
        outputs["loss"].backward()
        method.before_step()
        optimizer.step()
    assert own[-1] < 0.8 * own[0]


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_what_initialises_is_alone_first_and_absent_then(name):
    method = _make(name, ce_weight=1.0, first_stage=0.25)
    method.steps = 8
    for step, first in ((0, True), (1, True), (2, False), (7, False)):
        method.step = step
        weights = method.weights()
        assert [weights[k] > 0 for k in ("feature", "embedding", "ce")] == [first, not first, not first]
    alone = _make(name, embedding_weight=0.0)
    alone.step, alone.steps = 7, 8
    assert alone.weights()["feature"] > 0 and alone.head is None


def test_the_paraphraser_is_trained_first_and_stays_as_it_is():
    method = _make("ft")
    method.steps = 8
    for step in (0, 1):
        method.step = step
        for parameter in method.parameters():
            parameter.grad = None
        method(_batch())["loss"].backward()
        method.before_step()
        moved = [p.grad is not None and bool(p.grad.any()) for p in method.paraphraser.parameters()]
        assert all(moved) if step == 0 else not any(moved)
        assert any(p.grad.any() for p in method.translator.parameters()) == (step == 1)
        assert all(p.grad is not None for p in method.student.parameters())
