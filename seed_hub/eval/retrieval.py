"""Retrieval: does a picture call up others of its class? Test images are queries, training images the gallery.

    recall@k = share of queries with an image of their class among the k nearest          (Jegou et al. 2011)
    AP(q)    = 1/R sum over the R images of q's class of  P(rank of the image)            mAP: the mean over q
    AP@R(q)  = 1/R sum over those with rank <= R of       P(rank of the image)            (Musgrave et al. 2020)

P(r) is the share of q's class among the first r. The order is by cosine over the whole gallery; equal cosines go to the
lower index, so the same features give the same number everywhere. (scikit-learn takes equal scores as one rank.)

A query whose class the gallery lacks finds nothing: it counts 0, as k-NN counts it wrong; many papers leave it out.

Legend: N gallery, M queries, D width, R gallery images of a query's class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.labels import paired_labels
from seed_hub.network_settings import FeatureSettings

_log = logging.getLogger(__name__)

HEADLINE = "map"
# A ranking needs whole rows of the similarity matrix: as many at a time as make 8.4 million values. With what sorting
# takes that is about 0.3 GB, for any gallery up to that size.
BLOCK = 2**23


@dataclass(frozen=True)
class Settings(FeatureSettings):
    """How retrieval is measured."""

    k: tuple[int, ...] = (1, 5, 10)
    """numbers of nearest images that are looked at for recall@k"""
    leave_one_out: bool = False
    """with one split as both: each image is a query to all others"""


def evaluate(
    encoder: Frozen | Encoder,
    train: Images,
    test: Images,
    settings: Settings = Settings(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields ``recall_at_1``, ``recall_at_5``, ..., ``map`` and ``map_at_r`` in percent.

    A k beyond the gallery is clipped to it, said, and named as what it is.
    """
    _check_k(settings.k)
    train_y, test_y = paired_labels(train, test, same_images=settings.leave_one_out)
    how = settings.extraction()
    gallery = extract(encoder, train, progress=progress, **how)
    queries = gallery if settings.leave_one_out else extract(encoder, test, progress=progress, **how)
    device = pick_device(settings.device)
    if device.type == "cuda":  # Metal has no float64 for the sums: everything else is ranked on the CPU
        gallery, queries = gallery.to(device), queries.to(device)
    found = retrieval_scores(
        gallery, train_y, queries, test_y, k=settings.k, leave_one_out=settings.leave_one_out
    )
    yield from found.items()


@torch.no_grad()
def retrieval_scores(
    gallery: Tensor,
    gallery_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int] = (1, 5, 10),
    leave_one_out: bool = False,
) -> dict[str, float]:
    """``recall_at_K`` for each k, ``map`` and ``map_at_r`` in percent (the equations at the top of this file).

    Args:
        gallery, gallery_labels: ``[N, D]``, int64 ``[N]``.
        queries, query_labels: ``[M, D]``, int64 ``[M]``.
        k: a k larger than the gallery counts the whole gallery.
        leave_one_out: queries are the gallery; row i is not found by itself.
    """
    _check_k(k)
    if leave_one_out and len(gallery) != len(queries):
        raise ValueError(
            f"leave_one_out needs queries that are the gallery, not {len(queries)} and {len(gallery)} rows"
        )
    largest = len(gallery) - leave_one_out
    if largest < 1 or len(queries) == 0:
        raise SeedHubError(
            f"{len(queries)} queries to a gallery of {largest} other image(s) find nothing: give more images."
        )
    if max(k) > largest:
        _log.warning("There are only %d images to find: k = %d becomes %d.", largest, max(k), largest)
    gallery, queries = normalize(gallery.float(), dim=1), normalize(queries.float(), dim=1)
    gallery_labels, query_labels = gallery_labels.to(gallery.device), query_labels.to(gallery.device)
    ks = sorted({min(each, largest) for each in k})
    totals = torch.zeros(len(ks) + 2, dtype=torch.float64)
    rows = max(1, BLOCK // len(gallery))
    alone = 0
    for first in range(0, len(queries), rows):
        similarity = queries[first : first + rows] @ gallery.T  # [m, N]
        if leave_one_out:
            similarity.diagonal(first).fill_(float("-inf"))  # its own place: last, where it is cut off
        order = similarity.sort(dim=1, descending=True, stable=True).indices[:, :largest]
        relevant = gallery_labels[order] == query_labels[first : first + rows, None]  # [m, N]
        alone += int((~relevant.any(1)).sum())
        hits = [relevant[:, :each].any(1).sum() for each in ks]
        totals += torch.stack([*hits, *average_precision(relevant).sum(1)]).double().cpu()
    if alone:
        _log.warning(
            "%d of %d queries have no image of their class to find: they count 0.", alone, len(queries)
        )
    names = [*(f"recall_at_{each}" for each in ks), "map", "map_at_r"]
    return dict(zip(names, (100 * totals / len(queries)).tolist(), strict=True))


def average_precision(relevant: Tensor) -> Tensor:
    """Booleans ``[m, N]``, column r - 1 the image of rank r -> (AP, AP@R) of each row, float64 ``[2, m]``; 0 if R is 0."""
    count = relevant.sum(1, keepdim=True)  # [m, 1], R of each query
    rank = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)  # [N]
    precision = relevant.cumsum(1).double() / rank  # [m, N]
    precision.masked_fill_(~relevant, 0)
    whole, top = precision.sum(1), precision.masked_fill_(rank > count, 0).sum(1)
    return torch.stack([whole, top]) / count[:, 0].clamp(min=1)


def _check_k(k: Sequence[int]) -> None:
    if not k or min(k) < 1:
        raise SeedHubError(f"Recall needs every k >= 1, not k = {tuple(k)}: give for example --k 1 5 10.")
