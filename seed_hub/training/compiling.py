"""torch.compile, tried before it is relied on.

Whether a network compiles, and for which processor a compiler is at hand, only a trial tells. It takes place before the first
step, on empty images, and leaves no trace in the network; where it fails the network runs as it is, and that is said once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from seed_hub.errors import SeedHubError

_log = logging.getLogger(__name__)
PARTS = ("none", "teacher", "student", "both")
Autocast = Callable[[], AbstractContextManager]


def compiles(asked: str, part: str) -> bool:
    """``asked`` for ``part``, teacher or student.

    Raises:
        SeedHubError: nobody can be asked for that.
    """
    if asked not in PARTS:
        raise SeedHubError(f'Unknown --compile "{asked}": choose {", ".join(PARTS)}.')
    return asked in (part, "both")


def compile_frozen(network: nn.Module, pixels: Tensor, autocast: Autocast) -> bool:
    """Compile a network that is only read, for ``pixels`` ``[B, 3, S, S]``; True if it worked. Its weights are laid out
    once for the products they enter."""

    def trial() -> None:
        with torch.no_grad(), autocast():
            network(pixels)

    return _try(network, trial, options={"freezing": True})


def compile_trained(network: Any, pixels: Tensor, autocast: Autocast) -> bool:
    """Compile an encoder that is trained, forward and backward pass, for ``pixels`` ``[B, 3, S, S]``; True if it worked.
    Weights, running statistics and random numbers are as before."""
    was_training, buffers = network.training, {name: b.clone() for name, b in network.named_buffers()}

    def trial() -> None:
        network.train()
        with autocast():
            pooled = network(pixels).pooled
        pooled.float().sum().backward()

    try:
        with torch.random.fork_rng():
            return _try(network, trial)
    finally:
        network.train(was_training)
        for parameter in network.parameters():
            parameter.grad = None
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])


def _try(network: Any, trial: Callable[[], None], **options: Any) -> bool:
    network.compile(**options)
    try:
        trial()
    except Exception as error:  # compilers raise nearly every type there is
        network._compiled_call_impl = None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        name = getattr(network, "name", type(network).__name__)
        _log.warning("%s cannot be compiled here (%s): it runs as it is.", name, reason)
        return False
    return True
