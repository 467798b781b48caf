"""How a network of transformers is read: one vector, patch tokens and maps, whatever its kind.

Legend: B batch, H W height and width, T tokens, C channels, D pooled width.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from seed_hub.encoder import Features
from seed_hub.errors import SeedHubError
from seed_hub.teachers.foreign import Reader


class Transformers(Reader):
    """A network of transformers."""

    def __init__(self, network: Any, *, pooling: str, revision: str | None = None) -> None:
        super().__init__(network, pooling=pooling, revision=revision)
        takes = inspect.signature(network.forward).parameters
        self._interpolates, self._shuffles = "interpolate_pos_encoding" in takes, "noise" in takes
        patch = getattr(network.config, "patch_size", None)
        self._patch = patch if isinstance(patch, int) else patch[0] if patch else None

    def inspect(self, x: Tensor, *, adapt: bool) -> None:
        """Count, on ``x`` ``[B, 3, H, W]``, the tokens that are no positions (None for a last state that is a map).

        Args:
            adapt: a convolutional network of a family of ViTs is pooled its own way, by its average and norm.
        """
        said = self._ask(x, True)
        last, deepest = said.last_hidden_state, said.hidden_states[-1]
        if last.ndim == 3:
            h, w = deepest.shape[2:] if deepest.ndim == 4 else self._grid(x)
            # Fewer tokens than patches: they were merged on the way (Swin, Hiera), and none is special.
            self.prefix = max(0, last.shape[1] - h * w) if h else 0
        if adapt and deepest.ndim == 4:
            self.pooling = "avg" if said.get("pooler_output") is None else "pooler"

    def read(self, x: Tensor, *, stages: bool = False) -> Features:
        said = self._ask(x, stages)
        last = said.last_hidden_state  # [B, T, C], or a map [B, C, H', W']
        maps = []
        if stages:
            hidden = said.get("reshaped_hidden_states") or said.hidden_states
            maps = [m for m in (self._as_map(each, x) for each in hidden[1:]) if m is not None]
        tokens = last.flatten(2).transpose(1, 2) if last.ndim == 4 else last[:, self.prefix or 0 :]
        return Features(pooled=self._pool(said, last, tokens), tokens=tokens, stages=maps)

    def _ask(self, x: Tensor, stages: bool) -> Any:
        extra: dict[str, Any] = {}
        if self._interpolates:
            extra["interpolate_pos_encoding"] = True  # of the network's own size it is the identity
        if self._shuffles:  # MAE sorts patches by noise: ours leaves them where they are
            h, w = self._grid(x)
            extra["noise"] = torch.arange(h * w, device=x.device).expand(len(x), -1)
        return self.network(pixel_values=x, output_hidden_states=stages, **extra)

    def _pool(self, said: Any, last: Tensor, tokens: Tensor) -> Tensor:
        """``[B, D]``."""
        if self.pooling in ("pooler", "map"):
            own = said.get("pooler_output")
            if own is None:
                raise SeedHubError("has no pooling layer of its own: choose pool=token or pool=avg")
            return own.flatten(1)
        if self.pooling == "token":
            if not self.prefix:
                raise SeedHubError("has no class token: choose pool=avg")
            return last[:, 0]
        return tokens.mean(1)

    def _as_map(self, hidden: Tensor, x: Tensor) -> Tensor | None:
        h, w = self._grid(x)
        if hidden.ndim == 3 and hidden.shape[1] == (self.prefix or 0) + h * w:
            return hidden[:, self.prefix or 0 :].transpose(1, 2).unflatten(2, (h, w))
        return hidden if hidden.ndim == 4 else None

    def _grid(self, x: Tensor) -> tuple[int, int]:
        """Patches down and across."""
        return (x.shape[2] // self._patch, x.shape[3] // self._patch) if self._patch else (0, 0)
