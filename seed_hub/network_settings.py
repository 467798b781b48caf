"""What commands and protocols can be told of the network they run (loads no torch: the command line reads this)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True)
class FeatureSettings(NetworkSettings):
    """Which features of a frozen network, and how they are computed."""

    features: str = "pooled"
    """pooled: the trunk's output; projected: the projection head's"""

    def extraction(self) -> dict[str, Any]:
        """The arguments of :func:`seed_hub.eval.features.extract`."""
        names = ("size", "precision", "batch_size", "workers", "device", "features")
        return {name: getattr(self, name) for name in names}
