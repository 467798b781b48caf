"""Does a file say what the network says? And how fast, on this machine.

Legend: N images, D width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seed_hub.errors import SeedHubError
from seed_hub.eval.knn import neighbours
from seed_hub.exporting.network import Network

Run = Callable[[Tensor], Tensor]

BATCHES = (1, 4, 16)  # images; one batch alone would not show a batch dimension that is fixed, or mixed up
IMAGES = 64
ROUNDS = 15


@dataclass(frozen=True)
class Parity:
    """Of a file with its network, over the same images."""

    images: int
    cosine: float
    """the lowest of all images"""
    centred_cosine: float
    """the same, each less the network's mean over the images: embeddings of untrained or rectified networks are nearly
    parallel, and their cosine hides what this one shows"""
    largest_difference: float
    neighbour_agreement: float
    """share of images with the same nearest neighbour among the others"""
    by_batch: dict[str, dict[str, float]]
    """batch size -> cosine, largest_difference"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def embed_with_network(network: Network, pixels: Tensor) -> Tensor:
    """uint8 ``[N, 3, S, S]`` -> ``[N, D]`` by the encoder itself, without the file's preprocessing."""
    with torch.inference_mode():
        found = [network.encoder(part.float() / 255) for part in pixels.split(BATCHES[-1])]
    return torch.cat([each.pooled if network.features == "pooled" else each.projected for each in found])


def embed_with_file(
    run: Run, network: Network, pixels: Tensor, batches: Sequence[int] = BATCHES[-1:]
) -> Tensor:
    """The same by the file, in batches of the sizes ``batches`` and, from then on, of the last of them."""
    rows: list[Tensor] = []
    first = 0
    while first < len(pixels):
        size = batches[min(len(rows), len(batches) - 1)]
        part = pixels[first : first + size]
        found = run(network.input_of(part))
        if found.ndim != 2 or len(found) != len(part):
            raise SeedHubError(
                f"The file gives {list(found.shape)} for a batch of {len(part)} images, not one embedding each: "
                "this network cannot be exported to this format."
            )
        rows.append(found.float())
        first += size
    return torch.cat(rows)


def compare(reference: Tensor, found: Tensor, batches: Sequence[int] = BATCHES) -> Parity:
    """``[N, D]`` twice: the network's, and the file's from :func:`embed_with_file` with the same ``batches``."""
    if reference.shape != found.shape:
        raise SeedHubError(
            f"The file gives embeddings of width {found.shape[1]}, the network of width {reference.shape[1]}: "
            "this network cannot be exported to this format."
        )
    cosine = cosine_similarity(reference.double(), found.double())  # [N]
    mean = reference.double().mean(0)
    centred = cosine_similarity(reference.double() - mean, found.double() - mean)
    apart = (reference - found).abs().amax(1)
    by_batch, first = {}, 0
    for size in batches:
        part = slice(first, first + size)
        by_batch[str(size)] = {
            "cosine": float(cosine[part].min()),
            "largest_difference": float(apart[part].max()),
        }
        first += size
    near = [neighbours(x, x, 1, leave_one_out=True)[1] for x in (reference, torch.nan_to_num(found))]
    return Parity(
        images=len(reference),
        cosine=float(cosine.min()),
        centred_cosine=float(centred.min()),
        largest_difference=float(apart.max()),
        neighbour_agreement=(near[0] == near[1]).float().mean().item(),
        by_batch=by_batch,
    )


def latency(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds of each, one thread of torch, in turns: the median of :data:`ROUNDS`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in runs}
    try:
        for turn in range(-2, ROUNDS):  # the first ones allocate and choose kernels
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(each) for name, each in times.items()}
