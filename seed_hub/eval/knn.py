"""k-NN: does a picture's class show in its nearest neighbours? No training, no choice to make.

    score(c) = sum over the k nearest i of class c of exp(cos(q, x_i) / T)        Wu et al. 2018, DINO: T = 0.07

Legend: N bank, M queries, D width, k neighbours, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.labels import paired_labels
from seed_hub.network_settings import FeatureSettings

_log = logging.getLogger(__name__)

HEADLINE = "top1_k20"
# 32,768 x 256 similarities are 32 MB: large enough for full speed of the product, and never the whole matrix.
BANK_BLOCK, QUERY_BLOCK = 32_768, 256
_LAST = 0xFFFFFFFF


@dataclass(frozen=True)
class Settings(FeatureSettings):
    """How k-NN is measured."""

    k: tuple[int, ...] = (1, 10, 20, 200)
    """numbers of neighbours that vote"""
    temperature: float = 0.07
    """of the votes' weights exp(cosine / temperature); inf: each neighbour counts the same, as in the SEED paper"""
    leave_one_out: bool = False
    """with one split as both: each image is classified by all others"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float | Tensor]]:
    """Yields ``top1_k1``, ``top1_k10``, ... in percent: ``test`` classified by its neighbours in ``train``; and
    ``correct``, which images the headline counts.

    A k beyond the bank is clipped to it, said, and named as what it is.
    """
    train_y, test_y = paired_labels(train, test, same_images=settings.leave_one_out)
    how = settings.extraction()
    bank = extract(encoder, train, progress=progress, **how)
    queries = bank if settings.leave_one_out else extract(encoder, test, progress=progress, **how)
    largest = len(bank) - settings.leave_one_out
    device = pick_device(settings.device)
    if device.type == "cuda":  # Metal has no 64-bit sort: everything else is matched on the CPU
        bank, queries = bank.to(device), queries.to(device)
    ks = sorted({min(k, largest) for k in settings.k})
    if max(settings.k) > largest:
        _log.warning(
            "There are only %d neighbours to ask: k = %d becomes %d.", largest, max(settings.k), largest
        )
    right = knn_correct(
        bank,
        train_y,
        queries,
        test_y,
        k=ks,
        temperature=settings.temperature,
        leave_one_out=settings.leave_one_out,
    )
    for k in ks:
        yield f"top1_k{k}", 100 * right[k].float().mean().item()
    headline = int(HEADLINE.removeprefix("top1_k"))
    yield "correct", right[headline if headline in right else ks[0]]


@torch.no_grad()
def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int] = (1, 10, 20, 200),
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> dict[int, float]:
    """Percent of queries that :func:`knn_correct` gets right, per k; its arguments."""
    right = knn_correct(
        bank,
        bank_labels,
        queries,
        query_labels,
        k=k,
        temperature=temperature,
        leave_one_out=leave_one_out,
    )
    return {each: 100 * found.float().mean().item() for each, found in right.items()}


@torch.no_grad()
def knn_correct(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int] = (1, 10, 20, 200),
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> dict[int, Tensor]:
    """Boolean ``[M]``, per k: whose class gets the highest score (the equation at the top of this file).

    Equal scores go to the lower class number, so the same features give the same number everywhere.

    Args:
        bank, bank_labels: ``[N, D]``, int64 ``[N]``.
        queries, query_labels: ``[M, D]``, int64 ``[M]``.
        k: a k larger than the bank counts the whole bank.
        temperature: inf is the plain majority vote.
        leave_one_out: queries are the bank; row i is no neighbour of its own.
    """
    if not k or min(k) < 1 or not temperature > 0:
        raise SeedHubError(
            f"k-NN needs every k >= 1 and a temperature > 0, not k = {tuple(k)}, {temperature}."
        )
    similarity, index = neighbours(bank, queries, max(k), leave_one_out=leave_one_out)  # [M, k] twice
    # Relative to the nearest one: the same ranking of classes, and no overflow at any temperature.
    weights = ((similarity - similarity[:, :1]).double() / temperature).exp().cpu()  # [M, k]
    votes = bank_labels.cpu()[index.cpu()]  # [M, k]
    classes = int(bank_labels.max()) + 1
    right: dict[int, list[Tensor]] = {each: [] for each in k}
    for w, v, y in zip(weights.split(1024), votes.split(1024), query_labels.cpu().split(1024), strict=True):
        for each in k:
            score = torch.zeros(len(w), classes, dtype=torch.float64)  # [M, C]
            score.scatter_add_(1, v[:, :each], w[:, :each])
            right[each].append(score.argmax(1) == y)
    return {each: torch.cat(right[each]) for each in k}


@torch.no_grad()
def neighbours(
    bank: Tensor, queries: Tensor, k: int, *, leave_one_out: bool = False
) -> tuple[Tensor, Tensor]:
    """The k rows of ``bank`` ``[N, D]`` nearest to each row of ``queries`` ``[M, D]`` by cosine, exactly.

    Returns:
        (similarity float32 ``[M, k]``, index int64 ``[M, k]``), nearest first, equal similarities by lower index;
        k is at most N (N - 1 when leaving one out).

    Computed block by block, on the device of the inputs: memory does not grow with N x M.
    """
    if leave_one_out and len(bank) != len(queries):
        raise ValueError(
            f"leave_one_out needs queries that are the bank, not {len(queries)} and {len(bank)} rows"
        )
    k = min(k, len(bank) - leave_one_out)
    if k < 1:
        raise SeedHubError(
            f"A bank of {len(bank)} image(s) leaves no neighbour to look for: give more images."
        )
    bank, queries = normalize(bank.float(), dim=1), normalize(queries.float(), dim=1)
    found = []
    for first in range(0, len(queries), QUERY_BLOCK):
        block = queries[first : first + QUERY_BLOCK]
        best = torch.empty(len(block), 0, dtype=torch.int64, device=bank.device)
        for start in range(0, len(bank), BANK_BLOCK):
            similarity = block @ bank[start : start + BANK_BLOCK].T
            if leave_one_out:
                own = torch.arange(first, first + len(block), device=bank.device) - start
                rows = ((own >= 0) & (own < similarity.shape[1])).nonzero()[:, 0]
                similarity[rows, own[rows]] = float("-inf")
            best = torch.cat([best, _candidates(similarity, start, k)], dim=1)
            best = best.topk(min(k, best.shape[1]), dim=1).values
        found.append(best)
    ranks = torch.cat(found)
    return _value(ranks), _position(ranks)


def _candidates(similarity: Tensor, start: int, k: int) -> Tensor:
    """Ranks ``[m, >= k]`` that hold the k best of each row of ``similarity`` ``[m, n]``, columns counted from ``start``.

    Columns are looked at in groups: the k best lie in the k groups with the best maximum, so only those are
    ranked one by one. sqrt(n / k) columns per group make both steps cheapest.
    """
    n = similarity.shape[1]
    width = max(1, isqrt(n // k))
    similarity = pad(similarity, (0, -n % width), value=float("-inf"))
    tops = similarity.unflatten(1, (-1, width)).amax(2)  # [m, groups]
    groups = _position(
        _rank(tops, torch.arange(tops.shape[1], device=tops.device)).topk(min(k, tops.shape[1])).values
    )
    columns = (groups[:, :, None] * width + torch.arange(width, device=tops.device)).flatten(
        1
    )  # [m, k * width]
    return _rank(similarity.gather(1, columns), columns + start)


def _rank(value: Tensor, position: Tensor) -> Tensor:
    """(float32, position) as one int64, larger for a larger value and, among equal ones, for a lower position.

    Sorting these is sorting by value with every tie decided, which torch.topk leaves open.
    """
    bits = (value + 0.0).view(torch.int32)  # + 0.0: -0.0 is 0.0
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats count downwards in their bits
    return (bits.long() << 32) | (_LAST - position)


def _value(rank: Tensor) -> Tensor:
    bits = (rank >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _position(rank: Tensor) -> Tensor:
    return _LAST - (rank & _LAST)
