"""Networks that are not timm's, behind the same seam.

Legend: B batch, H W height and width, D pooled width.
"""

from __future__ import annotations

import logging

from torch import Tensor, nn

from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.teachers.families import Family

_log = logging.getLogger(__name__)
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""mean and std per channel, for pixels in [0, 1]"""


class Reader(nn.Module):
    """A network, and how its answer is read. One subclass per library.

    Args:
        network: whatever it is.
        pooling: how an image becomes one vector, in a word or two.
        prefix: class and register tokens ahead of the patch tokens; None: it has no tokens.
        revision: what was loaded: a commit, else the branch or tag that was asked for.
    """

    num_classes = 0
    num_features = 0  # D, known once it was asked

    def __init__(
        self, network: nn.Module, *, pooling: str, prefix: int | None = None, revision: str | None = None
    ) -> None:
        super().__init__()
        self.network, self.pooling, self.prefix, self.revision = network, pooling, prefix, revision

    def read(self, x: Tensor, *, stages: bool = False) -> Features:
        """Normalised ``x`` ``[B, 3, H, W]`` -> Features."""
        raise NotImplementedError


class ForeignEncoder(Encoder):
    """An encoder around a :class:`Reader`: embeddings and tokens, and maps where the network shows them. It has no
    classifier, and detectors cannot be built on it."""

    def forward(self, pixels: Tensor, *, stages: bool = False) -> Features:
        """``pixels`` ``[B, 3, H, W]`` in [0, 1] (float) -> :class:`~seed_hub.encoder.Features`."""
        return self.backbone.read(self.normalise(pixels), stages=stages)


def normalisation(
    spec: str, options: dict[str, str], stated: Normalisation | None, family: Family | None
) -> Normalisation:
    """(mean, std) as asked (``mean=``, ``std=``), as ``stated`` beside the weights, the family's, or ImageNet's, said
    aloud; in this order."""
    known = stated or (family.normalisation if family else None)
    if known is None and not {"mean", "std"} <= options.keys():
        _log.warning(
            f"{spec}: how its input is normalised is not known, ImageNet's mean and std are assumed (mean=, std=)"
        )
    mean, std = known or (IMAGENET_MEAN, IMAGENET_STD)
    return _per_channel(options.pop("mean", None), mean), _per_channel(options.pop("std", None), std)


def native_size(spec: str, options: dict[str, str], stated: int | None, family: Family | None) -> int:
    """Side in pixels as asked (``size=``), the family's, as ``stated`` beside the weights, or 224, said aloud."""
    asked = options.pop("size", None)
    if asked is not None:
        if not asked.isdigit() or not int(asked):
            raise SeedHubError(f'{spec}?size={asked}: "{asked}" is no number of pixels.')
        return int(asked)
    known = (family.size if family else None) or stated
    if known is None:
        _log.warning(f"{spec}: which size it was made for is not known, 224 px are assumed (size=)")
    return known or 224


def _per_channel(text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """``"0.5"`` or ``"0.485,0.456,0.406"`` as three numbers; ``default`` for None."""
    if text is None:
        return default
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (1, 3):
        raise SeedHubError(
            f'"{text}" is no number or three numbers, as in mean=0.5 or mean=0.485,0.456,0.406.'
        )
    return values * 3 if len(values) == 1 else values
