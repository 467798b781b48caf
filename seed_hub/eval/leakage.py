"""Leakage: images of a test set that are, re-encoded, resized or mirrored, in the training set too.

Three ways, from cheap to wide; a pair is compared by the first or the second, and by the third if there is an encoder:

    hash       Hamming distance of two perceptual hashes, the better of both orientations        (perceptual_hash.py)
    thumbnail  where one of the two pictures is too plain for a hash: largest difference of any of 8 x 8 cells in red,
               green or blue, in grey levels, the better of both orientations
    embedding  1 - cosine of an encoder's features: crops, other colours, other photographs of the same thing

So two flat pictures are duplicates if they have the same colour, and are not for being flat.

Legend: N images of a, M images of b, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import extract, pick_device
from seed_hub.eval.knn import neighbours
from seed_hub.eval.perceptual_hash import BITS, Fingerprints, fingerprints

# Of 3,000 copies (JPEG and WebP of quality 50, half, 3/4, double size) of photographs of four data sets, these two found
# all but one (2,717 by hash, 5 bits at most; 283 by thumbnail, 6 levels at most). Strangers among 2 * 10^8 pairs of tiny
# ImageNet came no nearer than 7 bits, plain strangers of three data sets no nearer than 14 levels; on a white table,
# where litter was photographed, one of 10 pairs within 4 bits showed another object.
HASH_DISTANCE = 4
THUMBNAIL_DIFFERENCE = 8
# A supervised MobileNetV2 at 96 px, 60 photographs: to the nearest of 200 others 0.91 (textures) and 0.78 (scenes) at
# most, to a JPEG copy of quality 50 0.96 and 0.98 in the median, to a crop of 90 % 0.89.
COSINE = 0.95
BLOCK = 2**22  # differences of thumbnails at a time: 16 MB


class NearDuplicate(NamedTuple):
    """An image of b and the image of a that it nearly is."""

    index_a: int
    index_b: int
    how: str
    """hash, mirrored hash, thumbnail, mirrored thumbnail or embedding"""
    distance: float
    """in bits, grey levels, or 1 - cosine"""


def find_near_duplicates(
    a: Images,
    b: Images,
    *,
    encoder: Frozen | Encoder | None = None,
    hash_distance: int = HASH_DISTANCE,
    cosine: float = COSINE,
    size: int = 0,
    precision: str = "fp32",
    batch_size: int = 256,
    workers: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[NearDuplicate]:
    """The images of ``b`` that are also in ``a``, each once: with its nearest image of ``a``, by the first way that finds it.

    Args:
        a, b: two sets, such as training and test images; labels are not looked at.
        encoder: also compare its pooled features (see :func:`seed_hub.eval.features.extract` for the next arguments).
        hash_distance: largest number of the 64 bits that may differ.
        cosine: smallest cosine of two embeddings. What it means depends on the encoder: look at what it finds.

    Returns:
        In the order of ``b``.

    Raises:
        SeedHubError: ``a`` and ``b`` are the same images, one is empty, or a threshold is out of range.
    """
    _check(a, b, hash_distance, cosine)
    place = pick_device(device)
    place = place if place.type == "cuda" else torch.device("cpu")
    prints = fingerprints(a, progress=progress), fingerprints(b, progress=progress)
    found = by_hash(*prints, hash_distance, place) + by_thumbnail(*prints, device=place)
    if encoder is not None:
        x, y = (
            extract(
                encoder,
                images,
                size=size,
                precision=precision,
                batch_size=batch_size,
                workers=workers,
                device=device,
                progress=progress,
            ).to(place)
            for images in (a, b)
        )
        found += by_embedding(x, y, cosine)
    first: dict[int, NearDuplicate] = {}
    for each in found:
        first.setdefault(each.index_b, each)
    return [first[i] for i in sorted(first)]


def _check(a: Images, b: Images, hash_distance: int, cosine: float) -> None:
    if a is b or (a.fingerprint, a.split, len(a)) == (b.fingerprint, b.split, len(b)):
        raise SeedHubError(
            f"{a.source} is compared with itself, and each image is its own duplicate: name two sets of images."
        )
    # A quarter of the bits: beyond that unrelated photographs meet.
    if not (0 <= hash_distance <= BITS // 4 and 0 < cosine <= 1):
        raise SeedHubError(
            f"Near-duplicates need a hash distance from 0 to {BITS // 4} and a cosine above 0 and up to 1, "
            f"not {hash_distance} and {cosine:g}."
        )


def by_hash(
    a: Fingerprints, b: Fingerprints, distance: int = HASH_DISTANCE, device: torch.device | str = "cpu"
) -> list[NearDuplicate]:
    """Pairs of pictures that are both not plain, each of ``b`` with the nearest of ``a``."""
    rows_a, rows_b = (~a.plain).nonzero()[:, 0], (~b.plain).nonzero()[:, 0]
    if not len(rows_a) or not len(rows_b):
        return []
    bank = a.signs[rows_a].to(device)
    nearest = []
    for side in (b, b.mirrored()):
        similarity, index = neighbours(bank, side.signs[rows_b].to(device), 1)
        # Cosines of +-1 vectors are multiples of 1/32: rounding gives whole bits.
        bits = ((1 - similarity[:, 0]) * (BITS / 2)).round()
        nearest.append((bits.cpu(), rows_a[index[:, 0].cpu()]))
    return _pairs("hash", nearest, rows_b, distance)


def by_thumbnail(
    a: Fingerprints,
    b: Fingerprints,
    difference: int = THUMBNAIL_DIFFERENCE,
    device: torch.device | str = "cpu",
) -> list[NearDuplicate]:
    """Pairs of which at least one is plain, each of ``b`` with the nearest of ``a``."""
    found = []
    for chosen_a, chosen_b in ((torch.ones_like(a.plain), b.plain), (a.plain, ~b.plain)):
        rows_a, rows_b = chosen_a.nonzero()[:, 0], chosen_b.nonzero()[:, 0]
        if not len(rows_a) or not len(rows_b):
            continue
        bank = a.thumbnails[rows_a].to(device)
        nearest = []
        for side in (b, b.mirrored()):
            levels, index = _nearest_thumbnails(bank, side.thumbnails[rows_b].to(device))
            nearest.append((levels, rows_a[index]))
        found += _pairs("thumbnail", nearest, rows_b, difference)
    return found


def _nearest_thumbnails(bank: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """(largest difference, index in ``bank``), each ``[M]`` on the CPU; of equal ones the lower index."""
    x, y = bank.flatten(1).float(), queries.flatten(1).float()  # [N, 192], [M, 192]
    rows = max(1, BLOCK // len(x))
    index = torch.cat([torch.cdist(block, x, p=float("inf")).argmin(1) for block in y.split(rows)])
    return (y - x[index]).abs().amax(1).cpu(), index.cpu()


def _pairs(
    how: str, nearest: Sequence[tuple[Tensor, Tensor]], rows_b: Tensor, largest: float
) -> list[NearDuplicate]:
    """Of (distance, index in a) upright and mirrored, the nearer one, where it is near enough."""
    (upright, index), (mirrored, mirrored_index) = nearest
    turned = mirrored < upright
    distance, index = torch.where(turned, mirrored, upright), torch.where(turned, mirrored_index, index)
    return [
        NearDuplicate(
            int(index[i]), int(rows_b[i]), f"mirrored {how}" if turned[i] else how, float(distance[i])
        )
        for i in (distance <= largest).nonzero()[:, 0].tolist()
    ]


def by_embedding(a: Tensor, b: Tensor, cosine: float = COSINE) -> list[NearDuplicate]:
    """Rows of ``b`` ``[M, D]`` with a row of ``a`` ``[N, D]`` at a cosine of at least ``cosine``, with the nearest."""
    similarity, index = neighbours(a, b, 1)
    return [
        NearDuplicate(int(index[i, 0]), i, "embedding", max(0.0, 1 - float(similarity[i, 0])))
        for i in (similarity[:, 0] >= cosine).nonzero()[:, 0].tolist()
    ]


def report(found: Sequence[NearDuplicate], a: Images, b: Images, *, names: int = 5) -> str:
    """How many of ``b``, what share, found how, and the first names: a few lines of text."""
    share = f"{len(found):,} of the {len(b):,} images of {_where(b)} ({len(found) / len(b):.2%})"
    if not found:
        return f"{share} are near-duplicates of an image of {_where(a)}."
    ways = ", ".join(
        f"{count:,} by {how}" for how, count in Counter(each.how for each in found).most_common()
    )
    lines = [f"{share} are near-duplicates of images of {_where(a)}: {ways}."]
    for each in found[:names]:
        lines.append(f"  {b.name(each.index_b)} = {a.name(each.index_a)} ({each.how}, {_distance(each)})")
    if len(found) > names:
        lines.append(f"  and {len(found) - names:,} more")
    return "\n".join(lines)


def listing(found: Sequence[NearDuplicate], a: Images, b: Images) -> list[str]:
    """``name in b <tab> name in a <tab> how <tab> distance`` of each."""
    return [
        f"{b.name(each.index_b)}\t{a.name(each.index_a)}\t{each.how}\t{each.distance:g}" for each in found
    ]


def without(b: Images, found: Collection[NearDuplicate]) -> Images:
    """``b`` less the images that were found in it.

    Raises:
        SeedHubError: none is left.
    """
    keep = np.ones(len(b), dtype=bool)
    keep[[each.index_b for each in found]] = False
    if not keep.any():
        raise SeedHubError(
            f"All {len(b):,} images of {_where(b)} are near-duplicates of the other set: none is left to measure on."
        )
    return b.subset(np.flatnonzero(keep))


def _distance(each: NearDuplicate) -> str:
    if each.how == "embedding":
        return f"cosine {1 - each.distance:.3f}"
    return f"{each.distance:.0f} {'of 64 bits' if 'hash' in each.how else 'grey levels'} apart"


def _where(images: Images) -> str:
    return f"{images.source}{f' ({images.split})' if images.split else ''}"
