"""CRD: published numbers of two steps, loops, its memory, its negatives."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.functional import linear, normalize

from seed_hub.encoder import Features
from seed_hub.errors import SeedHubError
from seed_hub.training.method import Batch, Shapes, Task
from seed_hub.training.methods.crd import Crd, CrdMemory, Settings, draw_negatives, nce

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def _u(shape, a):
    """The fact sheet's reproducible numbers: sin(0.37 k + 0.0113 k^2 + a), k = 1, 2, ..."""
    k = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return torch.sin(0.37 * k + 0.0113 * k**2 + a).reshape(shape)


def _memory(rows_s, rows_t, negatives, temperature=0.07, momentum=0.5):
    memory = CrdMemory(*rows_s.shape, negatives, temperature, momentum).to(rows_s.dtype)
    for buffer, rows in zip(memory.buffers(), (rows_s, rows_t), strict=True):
        buffer.copy_(rows)
    return memory


# Published numbers.


@DTYPES
def test_two_steps_agree_with_the_published_code(golden, dtype):
    with safe_open(golden / "crd.safetensors", "pt") as file:
        data = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        meta = file.metadata()
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in data.items()}
    memory = _memory(
        given["memory_s_0"],
        given["memory_t_0"],
        int(meta["nce_k"]),
        float(meta["nce_t"]),
        float(meta["nce_m"]),
    )
    tolerance = {"rtol": 1e-6, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    for step in ("1", "2"):
        feat_s = given[f"feat_s_{step}"].clone().requires_grad_()
        z_s = normalize(linear(feat_s, given["embed_s.weight"], given["embed_s.bias"]), dim=1)
        z_t = normalize(
            linear(given[f"feat_t_{step}"], given["embed_t.weight"], given["embed_t.bias"]), dim=1
        )
        index = given[f"index_{step}"]
        loss = memory.loss(z_s, z_t, index, given[f"contrast_index_{step}"])
        loss.backward()
        torch.testing.assert_close(loss.double(), data[f"loss_{step}"], **tolerance)
        grad = data[f"grad_feat_s_{step}"]
        scale = grad.abs().max()
        torch.testing.assert_close(feat_s.grad.double() / scale, grad / scale, **tolerance)
        memory.update(z_s, z_t, index)
        for side, rows in zip("st", memory.buffers(), strict=True):
            torch.testing.assert_close(rows.double(), data[f"memory_{side}_{step}"], **tolerance)
        expected = torch.stack([data["Z_s"], data["Z_t"]])
        torch.testing.assert_close(torch.tensor(memory.z).double(), expected, **tolerance)


def test_the_fact_sheets_numbers():
    a = math.sqrt(3 / 16)
    memory = _memory(a * _u((32, 16), 3), a * _u((32, 16), 4), 6)
    index = torch.tensor([3, 10, 17, 24])
    contrast = torch.tensor(
        [
            [3, 8, 12, 16, 20, 24, 28],
            [10, 16, 20, 24, 28, 0, 4],
            [17, 24, 28, 0, 4, 8, 12],
            [24, 0, 4, 8, 12, 16, 20],
        ]
    )
    f_s = _u((4, 8), 5).requires_grad_()
    w_s = (0.3 * _u((16, 8), 1)).requires_grad_()
    w_t = (0.3 * _u((16, 12), 2)).requires_grad_()
    z_s = normalize(linear(f_s, w_s, 0.1 * _u((16,), 1.5)), dim=1)
    z_t = normalize(linear(_u((4, 12), 6), w_t, 0.1 * _u((16,), 2.5)), dim=1)
    loss = memory.loss(z_s, z_t, index, contrast)
    loss.backward(retain_graph=True)
    norms = [x.grad.norm().item() for x in (f_s, w_s, w_t)]
    assert loss.item() == pytest.approx(13.0441265, rel=1e-4)
    assert norms == pytest.approx([2.4097576, 9.8188171, 11.0679226], rel=1e-4)
    before = copy.deepcopy(memory.rows_s)
    memory.update(z_s, z_t, index)
    assert memory.z == pytest.approx((23769.965, 42423.957), rel=1e-4)
    assert torch.allclose(memory.rows_s[index].norm(dim=1), torch.ones(4).double())
    others = [i for i in range(32) if i not in index]
    assert torch.equal(memory.rows_s[others], before[others])
    assert memory.loss(z_s, z_t, index, contrast).item() == pytest.approx(9.3849792, rel=1e-4)


def test_uniform_scores_have_a_closed_form():
    for k, n, expected in ((6, 32, 2.870817), (16384, 50000, 10.709091)):
        scores = torch.full((2, 1 + k), 1 / n, dtype=torch.float64)
        assert nce(scores, n).item() == pytest.approx(expected, rel=1e-6)
        assert expected == pytest.approx(math.log(k + 1) + k * math.log((k + 1) / k), abs=0.006)


# The same, written with loops.


def test_the_loss_is_what_its_equation_says():
    torch.manual_seed(0)
    n, k, tau = 9, 4, 0.2
    rows_s, rows_t, z_s, z_t = (normalize(torch.randn(m, 5).double(), dim=1) for m in (n, n, 2, 2))
    contrast = torch.tensor([[1, 0, 2, 5, 8], [7, 3, 2, 6, 0]])
    total = 0.0
    for anchor, rows in ((z_s, rows_t), (z_t, rows_s)):
        e = [[math.exp(anchor[b] @ rows[j] / tau) for j in contrast[b]] for b in range(2)]
        z = n * sum(map(sum, e)) / (2 * (1 + k))
        for positive, *negatives in e:
            total -= math.log(positive / z / (positive / z + k / n + 1e-7))
            total -= sum(math.log(k / n / (x / z + k / n + 1e-7)) for x in negatives)
    loss = _memory(rows_s, rows_t, k, tau).loss(z_s, z_t, contrast[:, 0], contrast)
    assert loss.item() == pytest.approx(total / 2)


# The memory.


@pytest.fixture
def asked():
    """(memory, z_s, z_t, index, contrast_index)"""
    torch.manual_seed(0)
    z_s, z_t = (normalize(torch.randn(3, 6), dim=1) for _ in range(2))
    index = torch.tensor([4, 0, 7])
    contrast = torch.cat([index[:, None], draw_negatives(index, 12, 5, seed=0, step=0)], dim=1)
    return CrdMemory(12, 6, 5), z_s, z_t, index, contrast


def test_the_loss_changes_nothing_and_the_update_only_its_rows(asked):
    memory, z_s, z_t, index, contrast = asked
    before = copy.deepcopy(memory.state_dict())
    first = memory.loss(z_s, z_t, index, contrast)
    assert torch.equal(first, memory.loss(z_s, z_t, index, contrast))
    for key, value in memory.state_dict().items():
        assert torch.equal(value, before[key]) if isinstance(value, torch.Tensor) else value == before[key]
    memory.update(z_s, z_t, index)
    untouched = torch.ones(12, dtype=torch.bool)
    untouched[index] = False
    for side, z in (("rows_s", z_s), ("rows_t", z_t)):
        rows = getattr(memory, side)
        assert torch.equal(rows[untouched], before[side][untouched])
        torch.testing.assert_close(rows[index], normalize(before[side][index] + z, dim=1))


def test_z_is_of_the_first_batch_and_survives_a_resume(asked):
    memory, z_s, z_t, index, contrast = asked
    means = [
        (z @ rows.T).gather(1, contrast).div(0.07).exp().mean().item()
        for z, rows in ((z_s, memory.rows_t), (z_t, memory.rows_s))
    ]
    memory.loss(z_s, z_t, index, contrast)
    memory.loss(-z_s, z_t, index, contrast)  # another part of the first batch
    memory.update(z_s, z_t, index)
    assert memory.z == pytest.approx([12 * mean for mean in means])
    z = memory.z
    memory.loss(z_t, z_s, index, contrast)
    memory.update(z_t, z_s, index)
    assert memory.z == z
    other = CrdMemory(12, 6, 5)
    other.load_state_dict(copy.deepcopy(memory.state_dict()))
    assert other.z == z
    assert torch.equal(other.loss(z_s, z_t, index, contrast), memory.loss(z_s, z_t, index, contrast))


def test_rows_begin_with_norm_one_in_the_mean_square():
    torch.manual_seed(0)
    memory = CrdMemory(4000, 128, 5)
    assert memory.rows_s.square().sum(1).mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(memory.rows_s, memory.rows_t)
    # Z / N at the start: the mean of exp(u . v / tau) over such rows, exp(1 / (2 D tau^2)).
    u = normalize(torch.randn(64, 128), dim=1)
    assert (u @ memory.rows_s.T / 0.07).exp().mean().item() == pytest.approx(
        math.exp(1 / (256 * 0.07**2)), abs=0.05
    )


def test_the_loss_is_float32_under_autocast(asked):
    memory, z_s, z_t, index, contrast = asked
    plain = memory.loss(z_s, z_t, index, contrast)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = memory.loss(z_s, z_t, index, contrast)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_more_negatives_than_images_are_refused():
    for negatives in (0, 12, 16384):
        with pytest.raises(
            SeedHubError, match=f"--negatives is {negatives} and each of the 12 .* 11 or less"
        ):
            CrdMemory(12, 6, negatives)


# The negatives.


def test_negatives_are_others_and_never_twice():
    index = torch.arange(40)
    for negatives in (1, 10, 39):
        drawn = draw_negatives(index, 40, negatives, seed=3, step=5)
        assert drawn.shape == (40, negatives)
        for own, row in zip(index.tolist(), drawn.tolist(), strict=True):
            assert own not in row and len(set(row)) == negatives


def test_negatives_are_a_function_of_seed_step_and_image():
    index = torch.tensor([5, 17, 30, 2])
    torch.manual_seed(0)
    whole = draw_negatives(index, 40, 10, seed=1, step=7)
    torch.manual_seed(1)
    assert torch.equal(whole[2:], draw_negatives(index[2:], 40, 10, seed=1, step=7))
    assert not torch.equal(whole, draw_negatives(index, 40, 10, seed=1, step=8))
    assert not torch.equal(whole, draw_negatives(index, 40, 10, seed=2, step=7))


def test_negatives_are_uniform():
    steps, index = 2000, torch.tensor([3])
    drawn = torch.cat([draw_negatives(index, 11, 4, seed=0, step=step) for step in range(steps)])
    share = drawn.flatten().bincount(minlength=11) / steps
    assert share[3] == 0
    others = share[torch.arange(11) != 3]
    # Each of ten others is among four with probability 0.4: five standard deviations are 0.055.
    assert (others - 0.4).abs().max() < 5 * math.sqrt(0.4 * 0.6 / steps)


def test_with_labels_negatives_are_of_other_classes_where_classes_are_known():
    labels = torch.arange(40) % 4
    index = torch.arange(0, 40, 3)
    drawn = draw_negatives(index, 40, 30, seed=0, step=0, labels=labels)
    assert (labels[drawn] != labels[index][:, None]).all()
    assert all(len(set(row)) == 30 for row in drawn.tolist())
    unknown = torch.full((40,), -1)
    free = draw_negatives(index, 40, 39, seed=0, step=0, labels=unknown)
    assert (free != index[:, None]).all()
    with pytest.raises(SeedHubError, match="only 30 images of other classes.*--negatives 30 or less"):
        draw_negatives(index, 40, 31, seed=0, step=0, labels=labels)


# The method.


class _Student(nn.Module):
    width = 5

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, self.width)

    def forward(self, pixels, *, stages=False):
        return Features(self.layer(pixels.flatten(1)))


def _method(labels=None, **settings):
    torch.manual_seed(0)
    shapes = Shapes(pooled=5, embedding=5, classes=3, stages=())
    task = Task(shapes, (shapes,), images=20, classes=3, seed=0, labels=labels)
    return Crd(_Student(), Settings(negatives=10, embedding_width=4, **settings), task)


def _batch(index):
    generator = torch.Generator().manual_seed(index[0])
    said = Features(torch.randn(4, 5, generator=generator), logits=torch.randn(4, 3, generator=generator))
    index = torch.tensor(index)
    return Batch([torch.rand(4, 3, 2, 2, generator=generator)], index, [[said]], index % 3)


def test_labels_are_the_datas_and_are_not_saved():
    labels = torch.arange(20) % 3
    with_labels, without = _method(labels, ce_weight=1.0), _method()
    batch = _batch([0, 5, 7, 9])
    assert with_labels(batch)["feature"] != without(batch)["feature"]
    assert with_labels.memory.state_dict().keys() == without.memory.state_dict().keys()
    assert "labels" not in with_labels.state_dict()


def test_a_resumed_run_draws_and_scores_the_same():
    method = _method()
    method(_batch([0, 5, 7, 9]))["loss"].backward()
    outputs = method(_batch([0, 5, 7, 9]))
    method.after_step({k: v.detach() for k, v in outputs.items() if v.ndim})
    other = _method()
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    for each in (method, other):
        each.step = 1
        torch.manual_seed(each is method)
    batch = _batch([1, 2, 3, 4])
    assert torch.equal(method(batch)["loss"], other(batch)["loss"])
