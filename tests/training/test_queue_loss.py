"""The streamed softmax over a queue: against the matrices it does not make, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from seed_hub.errors import SeedHubError
from seed_hub.training import queue_loss
from seed_hub.training.methods.bingo import bag_losses
from seed_hub.training.methods.compress import compress_loss
from seed_hub.training.methods.moco import info_nce
from seed_hub.training.methods.seed import seed_loss
from seed_hub.training.methods.simclr import nt_xent
from seed_hub.training.queue_loss import attend, attend_each, log_partition, nearest_rows
from seed_hub.training.queue_sums import SumsBesideOwn

D = 8
QUEUES = [0, 1, 2048, 2049, 5000]  # none; one; a whole block at these batches; one row more; several
TEMPERATURES = [1e-4, 0.01, 1 / 60, 0.2, 5.0]  # from 1 / 60 on no maximum is looked for


@pytest.fixture(autouse=True)
def fixed_numbers():
    torch.manual_seed(0)


def rows_of(kind: str, n: int, width: int = D) -> torch.Tensor:
    """Float64 rows, not unit vectors: spread out; close to three directions; opposite to every query of ``ones``."""
    if kind == "spread":
        return 3 * torch.randn(n, width, dtype=torch.float64)
    if kind == "tight":
        centres = torch.randn(3, width, dtype=torch.float64)
        return centres[torch.arange(n) % 3] + 1e-3 * torch.randn(n, width, dtype=torch.float64)
    return -torch.ones(n, width, dtype=torch.float64) + 0.01 * torch.randn(n, width, dtype=torch.float64)


def naive_seed(z_s, z_t, queue, tau_s, tau_t):
    """The equation, with its matrices."""
    z_s, z_t, queue = (normalize(x, dim=1) for x in (z_s, z_t, queue))
    s, t = (
        torch.cat([(z * z_t).sum(1, keepdim=True), z @ queue.T], dim=1) / tau
        for z, tau in ((z_s, tau_s), (z_t, tau_t))
    )
    return -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()


def with_gradient(loss, *inputs):
    """The value, and its gradient to each input, scaled as a larger loss would scale it."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    value = loss(*inputs)
    return [value.detach(), *torch.autograd.grad(7 * value, inputs)]


def close(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * max(1.0, b.abs().max().item()))


KINDS = pytest.mark.parametrize("kind", ["spread", "tight", "opposite"])


@KINDS
@pytest.mark.parametrize("k", QUEUES)
def test_seed_is_its_equation(k, kind):
    z_s, z_t, queue = rows_of("spread", 3), rows_of("spread", 3), rows_of(kind, k)
    for tau_s in TEMPERATURES:
        for tau_t in TEMPERATURES:
            taus = {"student_temperature": tau_s, "teacher_temperature": tau_t}
            ours = with_gradient(lambda z: seed_loss(z, z_t, queue, **taus), z_s)  # noqa: B023 (called at once)
            close(ours, with_gradient(lambda z: naive_seed(z, z_t, queue, *taus.values()), z_s))  # noqa: B023


@KINDS
@pytest.mark.parametrize("k", QUEUES)
@pytest.mark.parametrize("fresh", [False, True])
def test_moco_is_its_equation_with_gradients_to_query_key_and_others(k, kind, fresh):
    query, key, others, queue = (
        rows_of("spread", 3),
        rows_of("spread", 3),
        rows_of("tight", 2),
        rows_of(kind, k),
    )

    def naive(query, key, others):
        q, p, o, d = (normalize(x, dim=1) for x in (query, key, others, queue))
        own = (q * p).sum(1, keepdim=True)
        logits = torch.cat([q @ p.T if fresh else own, q @ o.T, q @ d.T], dim=1) / tau
        return (logits.logsumexp(1) - own[:, 0] / tau).mean()

    for tau in TEMPERATURES:
        ours = with_gradient(
            lambda *x: info_nce(*x[:2], queue, temperature=tau, batch_negatives=fresh, others=x[2]),  # noqa: B023
            query,
            key,
            others,
        )
        close(ours, with_gradient(naive, query, key, others))


@KINDS
@pytest.mark.parametrize("k", QUEUES)
def test_simclr_with_a_memory_is_the_one_with_as_many_negatives(k, kind):
    z1, z2, memory = rows_of("spread", 3), rows_of("spread", 3), rows_of(kind, k)
    for tau in TEMPERATURES:
        ours = with_gradient(lambda *z: nt_xent(*z, temperature=tau, memory=memory), z1, z2)  # noqa: B023
        close(ours, with_gradient(lambda *z: nt_xent(*z, temperature=tau, negatives=memory), z1, z2))  # noqa: B023


@KINDS
@pytest.mark.parametrize("k", QUEUES[1:])
@pytest.mark.parametrize("width", [None, 5])
def test_compress_is_its_equation_with_one_table_and_with_two(k, kind, width):
    z_s, z_t, a = rows_of("spread", 3, width or D), rows_of("spread", 3), rows_of(kind, k)
    b = a if width is None else rows_of("spread", k, width)

    def naive(z_s):
        log_s, log_t = (
            (normalize(z, dim=1) @ normalize(x, dim=1).T / tau).log_softmax(1)
            for z, x in ((z_s, b), (z_t, a))
        )
        return (log_t.exp() * (log_t - log_s)).sum(1).mean()

    for tau in TEMPERATURES:
        ours = with_gradient(lambda z: compress_loss(z, z_t, b, a, temperature=tau), z_s)  # noqa: B023
        expected = with_gradient(naive, z_s)
        # The divergence is a difference of terms as large as 1 / tau.
        torch.testing.assert_close(ours[0], expected[0], rtol=1e-9, atol=1e-13 / tau)
        close(ours[1:], expected[1:])


@pytest.mark.parametrize("k", [3, 2049, 5000])
@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_bingo_leaves_bags_and_own_rows_of_any_block_out(k, temperature):
    z_s, z_t, queue = rows_of("spread", 3), rows_of("spread", 3), rows_of("spread", k)
    queue[-1] = z_t[0]  # the nearest of all, in the last block ...
    same = torch.zeros(3, k, dtype=torch.bool)
    same[1, -1] = same[1, 0] = True  # ... which is an image of its own only for the second

    def naive(z_s):
        z, t, d = (normalize(x, dim=1) for x in (z_s, z_t, queue))
        near = (t @ d.T).masked_fill(same, -torch.inf).topk(2)
        e = z @ d.T / temperature
        rest = e.masked_fill(same.scatter(1, near.indices, True), -torch.inf).logsumexp(1, keepdim=True)
        own = (z * t).sum(1, keepdim=True) / temperature
        members = torch.where(
            near.values.isfinite(),
            torch.logaddexp(rest, e.gather(1, near.indices)) - e.gather(1, near.indices),
            0,
        )
        each = members.sum(1) / near.values.isfinite().sum(1)
        return (torch.logaddexp(rest, own) - own).mean() + each.mean()

    ours = with_gradient(
        lambda z: sum(
            bag_losses(z, z_t, queue, bag_size=3, temperature=temperature, same=lambda rows: same[:, rows])
        ),
        z_s,
    )
    close(ours, with_gradient(naive, z_s))


def test_nearest_rows_are_those_of_all_similarities():
    queries, rows = normalize(rows_of("spread", 3), dim=1), rows_of("spread", 5000)
    expected = (queries @ normalize(rows, dim=1).T).topk(40)
    cosines, places = nearest_rows(queries, rows, 40)
    torch.testing.assert_close(cosines, expected.values)
    assert torch.equal(places, expected.indices)
    assert nearest_rows(queries, rows[:7], 40)[1].shape == (3, 7)
    assert nearest_rows(queries, rows[:0], 40)[1].shape == (3, 0)


def test_a_queue_far_from_the_queries_is_not_lost_to_underflow():
    """The best candidate's logit is -10,000: exp of it, or of its distance to 1 / tau, is 0."""
    query = normalize(torch.ones(1, D, dtype=torch.float64), dim=1)
    found = attend(query, -torch.ones(3000, D, dtype=torch.float64), 1e-4)
    close(found, (-query, torch.tensor([math.log(3000) - 1e4], dtype=torch.float64)))
    single = attend(query.float(), -torch.ones(3000, D), 1e-4)
    # A sum of 3,000 equal weights: CPUs round it differently.
    torch.testing.assert_close(single.expectation, -query.float(), rtol=1e-4, atol=0)


def test_the_largest_logit_may_come_in_any_block():
    """A running maximum that forgets to rescale what it has summed would be wrong for one of the two orders."""
    query = normalize(rows_of("spread", 2), dim=1)
    rows = torch.cat([query, rows_of("opposite", 6000)])
    one, other = attend(query, rows, 0.02), attend(query, rows.flip(0), 0.02)
    close(one, other)


def test_float32_is_as_close_to_float64_as_the_matrices_are():
    z_s, z_t, queue = rows_of("spread", 16), rows_of("tight", 16), rows_of("tight", 5000)
    exact = with_gradient(lambda z: seed_loss(z, z_t, queue), z_s)
    ours = with_gradient(lambda z: seed_loss(z, z_t.float(), queue.float()), z_s.float())
    torch.testing.assert_close(ours[0].double(), exact[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(ours[1].double(), exact[1], rtol=0, atol=1e-5 * exact[1].abs().max().item())


@pytest.mark.parametrize("near", [0, 5, 4000])
def test_beside_an_own_candidate_near_rows_are_picked_out_and_far_ones_left(near, monkeypatch):
    """None, a few and most rows of the queue near to the first query, at the teacher's temperature: each its own way."""
    picked, pick = [], SumsBesideOwn._pick

    def watched(self, s, *given):
        picked.append(((s > self.least).sum().item(), pick(self, s, *given)))
        return picked[-1][1]

    monkeypatch.setattr(SumsBesideOwn, "_pick", watched)
    z_s, z_t, queue = (torch.randn(n, 64, dtype=torch.float64) for n in (3, 3, 5000))
    noise = torch.randn(near, 64, dtype=torch.float64)
    queue[:near] = z_t[0] + torch.linspace(0.02, 0.5, near, dtype=torch.float64)[:, None] * noise
    close(
        with_gradient(lambda z: seed_loss(z, z_t, queue), z_s),
        with_gradient(lambda z: naive_seed(z, z_t, queue, 0.2, 0.01), z_s),
    )
    ways = {(count > 0, done) for count, done in picked}
    assert (
        ways
        == {0: {(False, True)}, 5: {(True, True), (False, True)}, 4000: {(True, False), (False, True)}}[near]
    )


@pytest.mark.parametrize("k", [0, 1, 300, 40000])
def test_bf16_is_close_to_float32(k):
    """40,000 rows are three calls of the fused attention: their merge is exact beside the rounding of one."""
    z_s, z_t, queue = torch.randn(8, 64), torch.randn(8, 64), torch.randn(k, 64)
    queue[: k // 2] = z_t[0] + 0.3 * queue[: k // 2]  # neighbours, for the first
    exact = with_gradient(lambda z: seed_loss(z, z_t, queue), z_s)
    ours = with_gradient(lambda z: seed_loss(z, z_t, queue, queue_precision="bf16"), z_s)
    torch.testing.assert_close(ours[0], exact[0], rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(ours[1], exact[1], rtol=0, atol=0.01 * max(exact[1].abs().max().item(), 1e-3))
    if k > 1:
        assert not torch.equal(ours[1], exact[1]), "bf16 was asked for, and float32 computed"


def test_bf16_keeps_float64_exact():
    z_s, z_t, queue = rows_of("spread", 3), rows_of("spread", 3), rows_of("spread", 50)
    assert torch.equal(seed_loss(z_s, z_t, queue), seed_loss(z_s, z_t, queue, queue_precision="bf16"))


class Largest(TorchDispatchMode):
    """The most numbers that any operation inside has put out."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None and not func.is_view:
                self.numbers = max(self.numbers, tensor.numel())
        return out


@pytest.mark.parametrize("name", ["seed", "seed bf16", "moco", "simclr", "compress", "compress 2q", "bingo"])
def test_no_loss_makes_anything_that_grows_with_the_queue(name):
    """Neither a B x K matrix nor a copy of the queue, forward and backward: the same sizes at K and 4 K."""
    z_s, z_t, own = torch.randn(16, D, requires_grad=True), torch.randn(16, D), torch.randn(60_000, 4)
    losses = {
        "seed": lambda q: seed_loss(z_s, z_t, q),
        "seed bf16": lambda q: seed_loss(z_s, z_t, q, queue_precision="bf16"),
        "moco": lambda q: info_nce(z_s, z_t, q, batch_negatives=True),
        "simclr": lambda q: nt_xent(z_s, z_t, memory=q),
        "compress": lambda q: compress_loss(z_s, z_t, q, q),
        "compress 2q": lambda q: compress_loss(z_s[:, :4], z_t, own[: len(q)], q),
        "bingo": lambda q: sum(
            bag_losses(z_s, z_t, q, same=lambda r: torch.zeros(16, r.stop - r.start).bool())
        ),
    }
    sizes = []
    for k in (30_000, 60_000):
        queue = torch.randn(k, D)
        with Largest() as largest:
            losses[name](queue).backward()
        sizes.append(largest.numbers)
    assert sizes[0] == sizes[1] < 16 * 30_000 / 2


def test_log_partition_refuses_a_second_derivative():
    query, rows = normalize(torch.randn(2, D), dim=1).requires_grad_(), torch.randn(9, D)
    (grad,) = torch.autograd.grad(
        log_partition(query, attend(query, rows, 0.2), 0.2).square().sum(), query, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    z, queue = torch.randn(2, D), torch.randn(9, D)
    for loss in (
        lambda: seed_loss(z, z, queue, teacher_temperature=temperature),
        lambda: seed_loss(z, z, queue, student_temperature=temperature),
        lambda: info_nce(z, z, queue, temperature=temperature),
        lambda: compress_loss(z, z, queue, queue, temperature=temperature),
    ):
        with pytest.raises(SeedHubError, match="temperature is .*: choose one above 0"):
            loss()


def test_an_unknown_precision_is_refused():
    with pytest.raises(SeedHubError, match='"fp16": choose fp32 or bf16'):
        attend_each([torch.randn(2, D)], torch.randn(9, D), [0.2], precision="fp16")


def test_an_accelerators_blocks_give_the_same(monkeypatch):
    """Blocks of any length: those of other devices are longer, and batches beyond the cache make short ones."""
    queries, rows = normalize(rows_of("spread", 3), dim=1), rows_of("tight", 700)
    expected = attend(queries, rows, 0.01)
    monkeypatch.setattr(queue_loss, "_CPU_BLOCK", 1)
    assert len(list(queue_loss._blocks(3, 700, queries.device))) == 6
    close(attend(queries, rows, 0.01), expected)
