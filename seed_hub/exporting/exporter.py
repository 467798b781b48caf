"""Trace, write, compare, and only then give the file its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seed_hub.data import Images
from seed_hub.encoder import Encoder, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.provenance import commit, machine, versions
from seed_hub.eval.record import weights_sha256, without_folders
from seed_hub.exporting import int8
from seed_hub.exporting.network import OUTPUT, Network, trace
from seed_hub.exporting.parity import BATCHES, IMAGES, compare, embed_with_file, embed_with_network, latency
from seed_hub.exporting.pixels import image_pixels, natural_pixels
from seed_hub.exporting.writing import becoming, format_module, refuse_place, write

MIN_COSINE = 0.9999


@dataclass(frozen=True)
class Wish:
    """What file is wanted."""

    format: str
    out: Path
    size: int = 0
    """side in pixels; 0: the encoder's own"""
    features: str = "pooled"
    preprocess: bool = False
    min_cosine: float = MIN_COSINE
    """a file with a lower one, of any image, is refused; an int8 file is judged by its plan"""
    int8: int8.Plan | None = None
    """how to quantise; None: not at all"""
    overwrite: bool = False


def export(encoder: Frozen | Encoder, wish: Wish, images: Images | None = None) -> dict[str, Any]:
    """Write ``wish.out`` and, beside it, ``<out>.parity.json``, whose content is returned.

    Args:
        images: to compare on, and to calibrate with; None: noise like photographs.

    Raises:
        SeedHubError: nothing was written: an unknown format, a missing package, an operator the format has not, or a
            file that does not say what the network says.
    """
    module = format_module(wish.format)
    refuse_place(wish.out, module, wish.overwrite)
    if wish.int8:
        int8.refuse_format(wish.format)
        int8.refuse_images(images, wish.int8)
    network = Network(
        encoder, size=wish.size, features=wish.features, preprocess=wish.preprocess, pixels=module.PIXELS
    )
    pixels = _pixels(images, network.size)
    program = trace(network, module.LARGEST_BATCH)
    with becoming(wish.out) as path:
        loss = None
        if wish.int8 and images is not None:  # refused above without
            loss = int8.write(module, network, program, path, images, wish.int8)
            int8.judge(loss, wish.int8)
        else:
            write(module, program, path)
        run = module.open_file(path)
        reference = embed_with_network(network, pixels)
        report = _describe(network, module, wish, path, images, reference.shape[1]) | {
            "parity": None,
            "latency_ms": None,
            "int8": loss,
        }
        if run is not None:
            found = embed_with_file(run, network, pixels, BATCHES)
            report["parity"] = compare(reference, found).as_json()
            report["latency_ms"] = _latency(network, run, pixels[:1])
            if not wish.int8:
                _judge(report["parity"], wish)
        path.with_name(path.name + ".parity.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _pixels(images: Images | None, size: int) -> Tensor:
    """uint8 ``[N, 3, S, S]``, the same for the same data; noise fills up what the batches need."""
    if images is None:
        return natural_pixels(IMAGES, size)
    chosen = np.random.default_rng(0).permutation(len(images))[:IMAGES]
    found = image_pixels(images.subset(np.sort(chosen)), size)
    short = sum(BATCHES) - len(found)
    return torch.cat([found, natural_pixels(short, size)]) if short > 0 else found


def _describe(
    network: Network, module: ModuleType, wish: Wish, path: Path, images: Images | None, width: int
) -> dict[str, Any]:
    """All that is known of the file without running it."""
    about = versions() | {name: version(name) for name in module.NEEDS}
    return {
        "file": wish.out.name,
        "format": wish.format,
        "model": without_folders(network.encoder.name),
        "weights_sha256": weights_sha256(network.encoder.backbone),
        "licence": network.encoder.licence,
        "input": network.describe_input(),
        "output": {"name": OUTPUT, "features": network.features, "shape": ["batch", width]},
        "largest_batch": module.LARGEST_BATCH,
        "compared_on": "noise like photographs" if images is None else without_folders(images.source),
        "size_mb": _megabytes(path),
        "machine": machine("cpu"),
        "versions": about,
        **commit(),
    }


def _latency(network: Network, run: Callable[[Tensor], Tensor], pixels: Tensor) -> dict[str, float]:
    """Of one image, by the file and by torch."""
    given = network.input_of(pixels)
    with torch.inference_mode():
        return latency({"file": lambda: run(given), "torch": lambda: network(given)})


def _megabytes(path: Path) -> float:
    """Of all that lies beside ``path``: weights may be in a second file, and some files are folders."""
    return sum(each.stat().st_size for each in path.parent.rglob("*") if each.is_file()) / 1e6


def _judge(parity: dict[str, Any], wish: Wish) -> None:
    worst = min(parity["cosine"], parity["centred_cosine"])
    if not worst >= wish.min_cosine:
        raise SeedHubError(
            f"{wish.out} was not written: its embeddings have a cosine of only {worst:.5f} to the network's (less their "
            f"mean; at least {wish.min_cosine:g} is asked for): try another --format, or accept it with --min-cosine."
        )
