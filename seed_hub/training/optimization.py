"""Optimiser and learning rate, as functions of the settings and the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.errors import SeedHubError
from seed_hub.training.settings import RunSettings

PEAK_PER_256 = {"sgd": 0.03, "adamw": 1e-3, "lars": 0.3}  # lars: SimCLR's


def build_optimizer(method: nn.Module, settings: RunSettings) -> torch.optim.Optimizer:
    """SGD (decay on all parameters, as MoCo and SEED), or AdamW or LARS (none on biases and norms)."""
    trained = [p for p in method.parameters() if p.requires_grad]
    lr = peak_lr(settings)
    if settings.optimizer == "sgd":
        sgd = torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=settings.weight_decay, fused=True)
        for weight in trained:
            # torch's fused step fails where a weight has its first gradient after others have had theirs.
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        return sgd
    decayed = [p for p in trained if p.ndim > 1]
    exempt = [p for p in trained if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": exempt, "weight_decay": 0.0, "exempt": True},
    ]
    if settings.optimizer == "lars":
        groups[1]["trust"] = 0.0
        return Lars(groups, lr=lr)
    return torch.optim.AdamW(groups, lr=lr, fused=True)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), for batches of thousands.

        g <- g + decay w;   v <- momentum v + lr r g;   w <- w - v;   r = trust |w| / |g|, one number per tensor

    The momentum holds past learning rates, as in SimCLR's code. r = 1 where w or g is zero.

    Args:
        trust: trust coefficient; 0 for groups that take r = 1.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """All tensors of a group at once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            if not weights:
                continue
            grads = [w.grad for w in weights]
            velocities = [self._velocity(w) for w in weights]
            scaled = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
            if group["trust"]:
                torch._foreach_mul_(scaled, _trust_ratios(weights, scaled, group["trust"]))
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, scaled, alpha=group["lr"])
            torch._foreach_sub_(weights, velocities)
        return loss

    def _velocity(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["velocity"] = torch.zeros_like(weight)
        return state["velocity"]


def _trust_ratios(weights: list[Tensor], grads: list[Tensor], trust: float) -> tuple[Tensor, ...]:
    """trust |w| / |g| of each tensor, left on its device."""
    w, g = (torch.stack(torch._foreach_norm(tensors)) for tensors in (weights, grads))
    return torch.where((w > 0) & (g > 0), trust * w / g, 1.0).unbind()


def peak_lr(settings: RunSettings) -> float:
    """The settings' learning rate, or the optimiser's default scaled linearly with the batch."""
    if settings.optimizer not in PEAK_PER_256:
        raise SeedHubError(f'Unknown --optimizer "{settings.optimizer}": choose {", ".join(PEAK_PER_256)}.')
    return settings.lr or PEAK_PER_256[settings.optimizer] * settings.batch_size / 256


@dataclass(frozen=True)
class Schedule:
    """Steps of a run, and what changes from one to the next: the learning rate rises linearly from 0, then falls by a half
    cosine to 0; the weight decay moves by a half cosine."""

    steps: int
    warmup: int
    watch_every: int
    peak: float
    decay: tuple[float, float]
    """first and last weight decay"""

    @classmethod
    def of(cls, settings: RunSettings, images: int) -> Schedule:
        per_epoch = images // settings.batch_size
        steps = max(1, round(settings.epochs * per_epoch))
        return cls(
            steps=steps,
            warmup=max(1, round(min(settings.warmup_epochs * per_epoch, 0.1 * steps))),
            watch_every=round(settings.watch_every * per_epoch) or max(1, steps // 20),
            peak=peak_lr(settings),
            decay=(
                settings.weight_decay,
                settings.weight_decay if settings.weight_decay_end < 0 else settings.weight_decay_end,
            ),
        )

    def set(self, optimizer: Any, step: int) -> None:
        """Give ``optimizer`` the learning rate and the weight decay of ``step``; groups without decay stay so."""
        for group in optimizer.param_groups:
            group["lr"] = self.lr(step)
            if not group.get("exempt"):
                group["weight_decay"] = self.weight_decay(step)

    def lr(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return (
            self.peak
            * 0.5
            * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
        )

    def weight_decay(self, step: int) -> float:
        """The weight decay of step ``step``, counted from 0."""
        first, last = self.decay
        return last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / self.steps))
