"""Optimiser and learning rate, as functions of the settings and the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from seed_hub.errors import SeedHubError
from seed_hub.training.settings import RunSettings

PEAK_PER_256 = {"sgd": 0.03, "adamw": 1e-3}


def build_optimizer(method: nn.Module, settings: RunSettings) -> torch.optim.Optimizer:
    """SGD (decay on all parameters, as MoCo and SEED) or AdamW (none on biases and norms)."""
    trained = [p for p in method.parameters() if p.requires_grad]
    lr = peak_lr(settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=settings.weight_decay, fused=True)
    decayed = [p for p in trained if p.ndim > 1]
    exempt = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def peak_lr(settings: RunSettings) -> float:
    """The settings' learning rate, or the optimiser's default scaled linearly with the batch."""
    if settings.optimizer not in PEAK_PER_256:
        raise SeedHubError(f'Unknown --optimizer "{settings.optimizer}": choose {" or ".join(PEAK_PER_256)}.')
    return settings.lr or PEAK_PER_256[settings.optimizer] * settings.batch_size / 256


@dataclass(frozen=True)
class Schedule:
    """Steps of a run, and the learning rate at each: linear from 0, then a half cosine to 0; per step, not per epoch."""

    steps: int
    warmup: int
    watch_every: int
    peak: float

    @classmethod
    def of(cls, settings: RunSettings, images: int) -> Schedule:
        per_epoch = images // settings.batch_size
        steps = max(1, round(settings.epochs * per_epoch))
        return cls(
            steps=steps,
            warmup=max(1, round(min(settings.warmup_epochs * per_epoch, 0.1 * steps))),
            watch_every=round(settings.watch_every * per_epoch) or max(1, steps // 20),
            peak=peak_lr(settings),
        )

    def lr(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return (
            self.peak
            * 0.5
            * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        )
