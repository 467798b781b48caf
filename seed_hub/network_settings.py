"""What commands and protocols can be told of the network they run (loads no torch: the command line reads this)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.settings import flag_of

LARGEST_SIZE = 4096  # pixels: an image of that side is 200 MB in float32, before the network has seen it
# What these names are in every command and protocol that has them.
SIZES = ("size", "teacher_size")
LEAST = dict.fromkeys(("batch_size", "train_batch", "paper_batch", "probe_batch", "trials"), 1) | {
    "workers": -1,
    "seed": 0,
}


def check_numbers(values: Mapping[str, Any]) -> None:
    """Raises SeedHubError for the first of ``values``, by their names, that no network or loader can be told."""
    for name in SIZES:
        if not 0 <= values.get(name, 0) <= LARGEST_SIZE:
            raise SeedHubError(
                f"{flag_of(name)} is {values[name]}: give a side of 1 to {LARGEST_SIZE} pixels, or leave it out."
            )
    for name, least in LEAST.items():
        if values.get(name, least) < least:
            raise SeedHubError(f"{flag_of(name)} is {values[name]}: it must be {least} or more.")


@dataclass(frozen=True)
class NetworkSettings:
    """How images go through the network."""

    size: int = 0
    """input side in pixels; 0: the model's own"""
    precision: str = "fp32"
    """of the network: fp32, bf16, or auto (bf16 on GPUs that have it and on CPUs with AMX, where it is faster)"""
    batch_size: int = 256
    """images per forward pass"""
    workers: int = -1
    """processes that load images; -1: one less than the cores, at most 8"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""

    def __post_init__(self) -> None:
        check_numbers(vars(self))


@dataclass(frozen=True)
class FeatureSettings(NetworkSettings):
    """Which features of a frozen network, and how they are computed."""

    features: str = "pooled"
    """pooled: the trunk's output; projected: the projection head's"""

    def extraction(self) -> dict[str, Any]:
        """The arguments of :func:`seed_hub.eval.features.extract`."""
        names = ("size", "precision", "batch_size", "workers", "device", "features")
        return {name: getattr(self, name) for name in names}
