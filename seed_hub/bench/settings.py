"""What a measurement of speed can be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchSettings:
    """What ``bench`` can be told."""

    teacher: str = "untrained:resnet50"
    """a teacher, or untrained:ARCHITECTURE: speed does not depend on weights"""
    student: str = "seed_mobilenetv3_large"
    """the network that is trained"""
    together: tuple[str, ...] = ()
    """further students, to be trained with the first from one teacher pass, beside each alone"""
    data: str = ""
    """images; empty: JPEG photographs of 500 x 375 px, written to a temporary folder"""
    split: str = ""
    """split of the data"""
    size: int = 224
    """side of the views in pixels"""
    batch_size: int = 64
    """images per step"""
    queue_size: int = 65536
    """K, rows in the queue, which is full from the first step"""
    embedding_width: int = 128
    """D, what the head of an untrained teacher gives"""
    only: tuple[str, ...] = ()
    """which of reference, live, cached, packed, packed_cached, raw, raw_cached, floor and the stages to measure; empty: all"""
    turns: int = 3
    """times that each is measured, in turns, after one that does not count"""
    compile: str = "none"
    """what torch.compile is tried on: none, teacher, student or both"""
    precision: str = "auto"
    """auto, fp32 or bf16, of our steps; the reference's is fp32"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    workers: int = 0
    """processes that load images; on a CPU 0, so that their time is counted"""
    threads: int = 1
    """of torch, on a CPU"""
    label: str = ""
    """what to call the measurement in the file"""
    out: str = ""
    """JSON lines file the measurement is added to"""
