"""SimCLR, SimSiam and DoGo: published numbers, loops, invariants, two processes; and LARS."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import load_model_folder
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods import method_class
from seed_hub.training.methods.dogo import peer_kl
from seed_hub.training.methods.simclr import nt_xent
from seed_hub.training.methods.simsiam import simsiam_loss, spread
from seed_hub.training.optimization import Lars, build_optimizer
from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings
from seed_hub.training.views import MOCO_V2
from tests.training.golden_numbers import agree, read

STUDENT = "test_efficientnet"  # timm's smallest, for tests
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def _u(a, shape=(4, 6)):
    """Rows of the fact sheet's reproducible numbers: sin(0.37 k + 0.0113 k^2 + a), k = 1, 2, ..."""
    k = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(0.37 * k + 0.0113 * k**2 + a).reshape(shape)


def _make(name, *, student=STUDENT, **settings):
    torch.manual_seed(0)
    cls = method_class(name)
    encoder = build_student(student)
    shapes = Shapes(pooled=encoder.width, embedding=encoder.width, classes=0, stages=())
    small = {"hidden_width": 32, "embedding_width": 16} | settings
    return cls(encoder, cls.Settings(**small), Task(shapes, (), images=64, classes=0, seed=0))


def _batch(method, images=8):
    generator = torch.Generator().manual_seed(1)
    views = [torch.rand(images, 3, 32, 32, generator=generator) for _ in method.view_settings(MOCO_V2)]
    return Batch(views, torch.arange(images), [], -torch.ones(images, dtype=torch.int64))


def _close(value, expected):
    assert value.item() == pytest.approx(expected, rel=1e-5)


# Published numbers.


@DTYPES
def test_nt_xent_agrees_with_the_published_code(golden, dtype):
    data, meta = read(golden / "simclr_ntxent.safetensors")
    z1 = data["z1"].to(dtype).requires_grad_()
    loss = nt_xent(z1, data["z2"].to(dtype), temperature=float(meta["tau"]))
    loss.backward()
    agree(loss, z1.grad, data["loss"], data["grad_z1"], dtype)


@DTYPES
@pytest.mark.parametrize(("own", "other"), ["ab", "ba"])
def test_peer_kl_agrees_with_the_published_code(golden, own, other, dtype):
    data, meta = read(golden / "dogo_kl.safetensors")
    z1, z2, peer_z1, peer_z2 = (data[f"{z}_{side}"].to(dtype) for side in (own, other) for z in ("z1", "z2"))
    z1.requires_grad_()
    loss = peer_kl(z1, z2, peer_z1, peer_z2, temperature=float(meta["tau"]))
    (loss / len(z1)).backward()  # the published gradient is of the mean over all entries
    agree(loss, z1.grad, data[f"loss_{own}_batchmean"], data[f"grad_z1_{own}"], dtype)
    agree(loss / len(z1), z1.grad, data[f"loss_{own}"], data[f"grad_z1_{own}"], dtype)


def test_the_fact_sheets_numbers():
    x1, y1, x2, y2 = (_u(a) for a in (1, 2, 3, 4))
    own, peer = (x1, y1), (x2, y2)
    _close(nt_xent(*own, temperature=0.5), 1.4174082)
    for temperature, summed in ((0.1, 5.1236143), (0.5, 2.8348167), (1.0, 3.1025915)):
        _close(2 * nt_xent(*own, temperature=temperature), summed)
    orthonormal = torch.eye(4, 6)
    _close(nt_xent(orthonormal, orthonormal, temperature=0.5), -math.log(math.e**2 / (math.e**2 + 6)))
    _close(peer_kl(*own, *peer), 4 * 0.17603596)
    _close(peer_kl(*peer, *own), 4 * 0.08803964)
    # The released weight of 100 on the mean over entries is 100 / B here.
    _close(nt_xent(*own, temperature=0.5) + 100 / 4 * peer_kl(*own, *peer), 19.021004)
    _close(nt_xent(*peer, temperature=0.5) + 100 / 4 * peer_kl(*peer, *own), 10.072052)
    _close(simsiam_loss(x2, y2, x1, y1), 0.2371388)


# The same, written with loops.


def test_nt_xent_is_what_its_equation_says():
    torch.manual_seed(0)
    z1, z2, more = torch.randn(5, 8).double(), torch.randn(5, 8).double(), torch.randn(7, 8).double()
    unit = [row / row.norm() for row in (*z1, *z2)]
    further = [row / row.norm() for row in more]
    for negatives in (None, more, more[:0]):
        total = 0.0
        for i, anchor in enumerate(unit):
            positive = math.exp(anchor @ unit[(i + 5) % 10] / 0.3)
            among = sum(math.exp(anchor @ other / 0.3) for j, other in enumerate(unit) if j != i)
            if negatives is not None and len(negatives):
                among += sum(math.exp(anchor @ other / 0.3) for other in further)
            total -= math.log(positive / among)
        assert nt_xent(z1, z2, temperature=0.3, negatives=negatives).item() == pytest.approx(total / 10)


def test_peer_kl_is_what_its_equation_says():
    torch.manual_seed(0)
    own, peer = torch.randn(2, 4, 6).double(), torch.randn(2, 4, 9).double()
    total = 0.0
    for i in range(4):
        p, q = (
            [math.exp(cosine_similarity(z[0, i], z[1, j], 0) / 0.2) for j in range(4)] for z in (own, peer)
        )
        total += sum(b / sum(q) * math.log(b / sum(q) / (a / sum(p))) for a, b in zip(p, q, strict=True))
    assert peer_kl(*own, *peer, temperature=0.2).item() == pytest.approx(total / 4)


# Invariants of the losses.


def test_a_joint_order_of_images_does_not_matter_and_one_of_second_views_does():
    torch.manual_seed(0)
    z1, z2, p1, p2 = torch.randn(4, 6, 8).double()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(nt_xent(z1, z2), nt_xent(z1[order], z2[order]))
    torch.testing.assert_close(
        simsiam_loss(z1, z2, p1, p2), simsiam_loss(*(x[order] for x in (z1, z2, p1, p2)))
    )
    plain = peer_kl(z1, z2, p1, p2)
    torch.testing.assert_close(plain, peer_kl(z1[order], z2[order], p1[order], p2[order]))
    assert abs(plain - peer_kl(z1, z2[order], p1, p2)) > 0.01


def test_identical_peers_have_nothing_to_say():
    torch.manual_seed(0)
    z1, z2 = torch.randn(2, 6, 8)
    assert peer_kl(z1, z2, z1, z2).item() == 0
    assert peer_kl(z1, z2, *torch.randn(2, 6, 8)).item() > 0


def test_where_gradients_stop():
    z1, z2, peer_z1, peer_z2 = (torch.randn(4, 8, requires_grad=True) for _ in range(4))
    peer_kl(z1, z2, peer_z1, peer_z2).backward()
    assert z1.grad is not None and z2.grad is not None and peer_z1.grad is None and peer_z2.grad is None
    p1, p2, z1, z2 = (torch.randn(4, 8, requires_grad=True) for _ in range(4))
    simsiam_loss(p1, p2, z1, z2).backward()
    assert p1.grad is not None and p2.grad is not None and z1.grad is None and z2.grad is None


def test_similarities_are_float32_under_autocast():
    torch.manual_seed(0)
    four = torch.randn(4, 16, 64)
    plain = [nt_xent(*four[:2]), peer_kl(*four), simsiam_loss(*four)]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [nt_xent(*four[:2]), peer_kl(*four), simsiam_loss(*four)]
        half = [nt_xent(*four[:2].bfloat16()), peer_kl(*four.bfloat16()), simsiam_loss(*four.bfloat16())]
    for a, b, c in zip(plain, mixed, half, strict=True):
        assert b.dtype == c.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_spread_tells_a_collapse():
    torch.manual_seed(0)
    assert spread(torch.randn(512, 64)).item() == pytest.approx(1, abs=0.05)
    assert spread(torch.randn(1, 64).expand(512, 64)).item() == pytest.approx(0, abs=1e-5)


# The methods.


def test_simclrs_head_is_centred_and_its_first_layer_is_fit_for_fine_tuning():
    method = _make("simclr", hidden_width=0)
    method.head[-1].weight.data.uniform_(0.5, 2)
    first, norm, _ = method.head[:3]
    assert first.bias is None and isinstance(norm, torch.nn.BatchNorm1d)
    assert first.out_features == method.student.width
    assert sum(isinstance(layer, torch.nn.Linear) for layer in method.head) == 3
    assert sum(isinstance(layer, torch.nn.Linear) for layer in _make("simclr", head_layers=2).head) == 2
    out = method.head(torch.randn(32, method.student.width))
    torch.testing.assert_close(out.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    assert not method.head[-1].bias.requires_grad and method.head[-1].weight.requires_grad


def test_simclrs_memory_is_its_averages_and_adds_negatives():
    method = _make("simclr", memory=12, memory_momentum=0.5)
    batch = _batch(method)
    outputs = method(batch)
    before = copy.deepcopy(method.slow_head[0].weight)
    method.head[0].weight.data += 1
    method.after_step({k: v.detach() for k, v in outputs.items() if v.ndim})
    torch.testing.assert_close(method.slow_head[0].weight, before + 0.5)
    assert len(method.queue.get()) == 8, "one per image"
    torch.testing.assert_close(method.queue.get().norm(dim=1), torch.ones(8))
    method.eval()
    with torch.no_grad():
        with_memory = method(batch)["loss"]
        method.queue.set_extra_state({"next": 0, "count": 0})
        assert with_memory > method(batch)["loss"]
    plain = _make("simclr")
    assert not any("slow" in name or "queue" in name for name in plain.state_dict())


def test_simclrs_jitter_at_half_strength_is_mocos():
    half, full = (_make("simclr", jitter=strength).view_settings(MOCO_V2)[0] for strength in (0.5, 1.0))
    assert half == MOCO_V2
    assert (full.brightness, full.contrast, full.saturation, full.hue) == (0.8, 0.8, 0.8, 0.2)


def test_simsiams_projector_ends_in_a_norm_without_scale_and_offset():
    method = _make("simsiam")
    assert not any(p.requires_grad for p in method.head[-1].parameters())
    assert method.predictor[0].out_features == 512 and method.predictor[-1].bias is not None


@pytest.mark.parametrize("base", ["simclr", "simsiam"])
@pytest.mark.parametrize("peer_base", ["simclr", "simsiam"])
def test_what_a_student_follows_in_dogo(base, peer_base):
    """A SimSiam base compares predictions, save that beside another one it is followed by its projections."""
    method = _make("dogo", base=base, peer_base=peer_base, kl_weight=2.0, peer_kl_weight=3.0).double().eval()
    batch = _batch(method, images=4)
    views = [view.double() for view in batch.views]
    said = method(Batch(views, batch.index, [], batch.labels))
    z, (peer,) = [method.head(method.student(v).pooled) for v in views[:2]], method.others
    peer_z = [peer.head(peer.encoder(v).pooled) for v in views[2:]]
    own = z if base == "simclr" else [method.predictor(x) for x in z]
    if peer_base == "simclr" or base == "simsiam":
        target = peer_z
    else:
        target = [peer.predictor(x) for x in peer_z]
    torch.testing.assert_close(said["kl"], peer_kl(*own, *target))
    base_loss = nt_xent(*z, temperature=0.5) if base == "simclr" else simsiam_loss(*own, *z)
    torch.testing.assert_close(said["student_loss"], base_loss)
    total = said["student_loss"] + said["peer_loss"] + 2 * said["kl"] + 3 * said["peer_kl"]
    torch.testing.assert_close(said["loss"], total)


@pytest.mark.parametrize("peer_base", ["simclr", "simsiam"])
def test_no_gradient_crosses_peers(peer_base):
    method = _make("dogo", peer_base=peer_base)
    said = method(_batch(method))
    for key, moved, still in (("kl", "student", "others"), ("peer_kl", "others", "student")):
        method.zero_grad()
        said[key].backward(retain_graph=True)
        assert any(p.grad is not None for p in getattr(method, moved).parameters())
        assert all(p.grad is None for p in getattr(method, still).parameters())


def test_a_peer_of_the_students_own_architecture_has_other_weights():
    method = _make("dogo")
    (peer,) = method.others
    assert peer.encoder.arch == method.student.arch
    assert not torch.equal(peer.encoder.backbone.conv_stem.weight, method.student.backbone.conv_stem.weight)
    assert method.peers() == {STUDENT: (peer.encoder, peer.head)}


def test_three_networks_follow_each_other():
    """Each the mean of the two others; every one has views of its own, and is shipped."""
    method = (
        _make("dogo", peer=("test_resnet", "resnet10t"), kl_weight=2.0, peer_kl_weight=3.0).double().eval()
    )
    batch = _batch(method, images=4)
    views = [view.double() for view in batch.views]
    assert len(views) == 6
    said = method(Batch(views, batch.index, [], batch.labels))
    networks = [(method.student, method.head)] + [(peer.encoder, peer.head) for peer in method.others]
    z = [[head(net(v).pooled) for v in views[2 * n : 2 * n + 2]] for n, (net, head) in enumerate(networks)]
    follow = [sum(peer_kl(*z[k], *z[other]) for other in range(3) if other != k) / 2 for k in range(3)]
    torch.testing.assert_close(said["kl"], follow[0])
    torch.testing.assert_close(said["peer_kl"], follow[1] + follow[2])
    total = sum(nt_xent(*pair, temperature=0.5) for pair in z) + 2 * follow[0] + 3 * (follow[1] + follow[2])
    torch.testing.assert_close(said["loss"], total)
    assert list(method.peers()) == ["test_resnet", "resnet10t"]


def test_a_run_ships_the_peer_beside_the_student(settings, tmp_path):
    chosen = settings(method="dogo", student=STUDENT, optimizer="lars", epochs=0.4)
    run(chosen, {"peer": ("resnet10t",), "hidden_width": 32, "embedding_width": 16})
    student, peer = (load_model_folder(tmp_path / "run" / place) for place in ("best", "best/resnet10t"))
    assert (student.arch, peer.arch) == (STUDENT, "resnet10t")
    assert student.input_size == peer.input_size == 32
    assert peer(torch.rand(2, 3, 32, 32)).embedding.shape == (2, 16), "with its head"


def test_what_cannot_be_a_peer_is_refused():
    with pytest.raises(SeedHubError, match='Unknown --peer-base "simsam".*Did you mean "simsiam"'):
        _make("dogo", peer_base="simsam")
    with pytest.raises(SeedHubError, match='There is no student "resnet10x"'):
        _make("dogo", peer=("resnet10x",))
    with pytest.raises(SeedHubError, match='The peer "resnet10t" is given twice'):
        _make("dogo", peer=("resnet10t", "resnet10t"))
    method = _make("dogo")
    method.student.input_size = 100
    settings = type(method.settings)(peer=("vit_tiny_patch16_224",))
    with pytest.raises(SeedHubError, match='peer "vit_tiny_patch16_224" does not take images of 100 px'):
        type(method)(method.student, settings, method.task)


# LARS.


def test_lars_agrees_with_the_documented_formula():
    adapted, exempt = (torch.tensor([3.0, 4.0], dtype=torch.float64).requires_grad_() for _ in range(2))
    groups = [{"params": [adapted], "weight_decay": 1e-4}, {"params": [exempt], "trust": 0.0}]
    optimizer = Lars(groups, lr=2.0)
    for expected, plain in (((2.994, 3.992), (1.8, 2.4)), ((2.982612, 3.976816), (-0.48, -0.64))):
        for w in (adapted, exempt):
            w.grad = torch.tensor([0.6, 0.8], dtype=torch.float64)
        optimizer.step()
        torch.testing.assert_close(adapted.detach(), torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(exempt.detach(), torch.tensor(plain, dtype=torch.float64))


def test_lars_spares_biases_and_norms_and_continues_from_its_state():
    def made():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
        torch.nn.init.zeros_(module[2].weight)  # takes the plain step, not one of 0 / 0
        return module, build_optimizer(module, RunSettings(optimizer="lars", batch_size=512))

    def step(module, optimizer):
        optimizer.zero_grad()
        module(torch.linspace(-1, 1, 24).view(6, 4).square()).square().sub(1).square().mean().backward()
        optimizer.step()

    module, optimizer = made()
    decayed, exempt = optimizer.param_groups
    assert optimizer.defaults["lr"] == pytest.approx(0.6)
    assert all(p.ndim > 1 for p in decayed["params"]) and decayed["trust"] == 0.001
    assert len(exempt["params"]) == 4 and exempt["weight_decay"] == exempt["trust"] == 0
    step(module, optimizer)
    other, continued = made()
    other.load_state_dict(module.state_dict())
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(module, optimizer)
    step(other, continued)
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert a.isfinite().all() and torch.equal(a, b)
