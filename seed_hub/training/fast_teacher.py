"""A frozen network at its limit: batch norms folded into the convolutions before them, weights stored in the precision
that they are multiplied in, and on a CPU convolutions on small maps as products of matrices.

Nothing is taken on trust: the result answers a sample of pixels beside the original, and what does not agree is not used.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seed_hub.cpu_kernels import use_products
from seed_hub.encoder import Frozen

_log = logging.getLogger(__name__)
LEAST_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.995}
"""of an embedding to the original's in float32, for each image of the sample, by the precision of the weights"""


def at_its_limit(
    teacher: Frozen, pixels: Tensor, autocast: Callable[[], AbstractContextManager], dtype: torch.dtype
) -> Frozen:
    """A copy of ``teacher`` that says the same in less time; ``teacher`` itself where no way to make one holds.

    Args:
        pixels: a sample ``[B, 3, S, S]`` in [0, 1] that it can take, on its device.
        autocast: makes the context it will be asked in.
        dtype: ``bfloat16`` if that context computes in it, else ``float32``.
    """
    original = teacher.embed(pixels)  # [B, P] in float32
    for fold in (True, False):
        fast = copy.deepcopy(teacher)
        try:
            if fold:
                fold_batch_norms(fast, pixels)
            if dtype != torch.float32:
                store_weights_in(fast, dtype)
            if pixels.device.type == "cpu":
                use_products(fast)
            with autocast():
                worst = cosine_similarity(fast.embed(pixels).float(), original, dim=1).min().item()
        except (RuntimeError, TypeError, ValueError) as error:
            _log.debug("%s cannot be rewritten (folded: %s): %s", teacher.name, fold, error)
            continue
        if worst >= LEAST_COSINE[dtype]:
            return fast
        _log.debug("%s rewritten (folded: %s) has cosine %.5f to itself", teacher.name, fold, worst)
    _log.warning("%s is used as it is: rewritten for speed it did not say the same.", teacher.name)
    return teacher


def fold_batch_norms(network: nn.Module, pixels: Tensor) -> int:
    """Fold every batch norm whose input is a convolution's output into that convolution, in place; how many is returned.

    Which belong together is seen from one pass over ``pixels``, not from names: the tensor that a convolution returned is
    the very one that a norm was given, and both were called once.
    """
    pairs = _pairs(network, pixels)
    homes = {child: (parent, name) for parent in network.modules() for name, child in parent.named_children()}
    for convolution, norm in pairs:
        parent, name = homes[convolution]
        setattr(parent, name, fuse_conv_bn_eval(convolution, norm))
        parent, name = homes[norm]
        setattr(parent, name, _what_follows(norm))
    return len(pairs)


def store_weights_in(network: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of linear and convolution layers in ``dtype``, in place: autocast would convert them anew in every
    pass."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.to(dtype)


def _pairs(network: nn.Module, pixels: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """(convolution, the norm of its output) for all that follow each other, in the order of a forward pass."""
    made: dict[
        int, tuple[nn.Conv2d, Tensor]
    ] = {}  # the tensor is kept, that its identity is not given to another
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def note_output(module: Any, _given: Any, output: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        made[id(output)] = (module, output)

    def note_input(module: Any, given: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        convolution, _ = made.get(id(given[0]), (None, None))
        if convolution is not None:
            found.append((convolution, module))

    hooks: list[Any] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_output))
        elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(note_input))
    try:
        network(pixels[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return [(convolution, norm) for convolution, norm in found if calls[convolution] == calls[norm] == 1]


def _what_follows(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does besides normalising: timm's carry their activation."""
    after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
    return nn.Sequential(*after) if after else nn.Identity()
