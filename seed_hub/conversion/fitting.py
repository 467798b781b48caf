"""How well a timm architecture fits into a checkpoint: under which prefix, by which naming, what is missing, what is left."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from seed_hub.conversion.formats import OTHER_NETWORK, PARTS
from seed_hub.conversion.namings import NAMINGS, Naming
from seed_hub.conversion.reading import Checkpoint
from seed_hub.encoder import create_flexible
from seed_hub.errors import SeedHubError

MOST_NETWORKS = (
    8  # prefixes looked at: a name such as conv1.weight stands under dozens, few of them of a network
)


@dataclass(frozen=True)
class Fit:
    """How well one architecture, read under one prefix with one naming, fits."""

    arch: str
    options: dict[str, Any]
    naming: Naming
    prefix: str
    names: dict[str, str]
    """timm's name: the file's, with its prefix"""
    wrong: list[str]
    """the file's names of tensors that are missing or of another shape"""
    extra: list[str]
    """names under the prefix that nothing is known to make of"""

    @property
    def fitting(self) -> int:
        """Tensors of the architecture that are there."""
        return len(self.names) - len(self.wrong)

    @property
    def whole(self) -> bool:
        """Every tensor is there, and none is left over."""
        return not self.wrong and not self.extra


def build(arch: str, options: dict[str, Any], classes: int, *, flexible: bool = True) -> Any:
    """timm's network; a ViT takes images of any side if ``flexible``, which costs a second construction."""
    try:
        return (create_flexible if flexible else timm.create_model)(arch, num_classes=classes, **options)
    except TypeError as error:
        raise SeedHubError(f"{arch} does not take these options ({error}).") from error


def fits(
    checkpoint: Checkpoint, arch: str, given: dict[str, Any], prefix: str | None, classes: int
) -> list[Fit]:
    """Of the best naming, under each prefix where as much fits as anywhere; networks of an average are no candidates."""
    with torch.device("meta"):
        wanted = build(arch, given, classes, flexible=False).state_dict()
    found: list[Fit] = []
    for naming in NAMINGS:
        names = naming.names(wanted)
        if naming.rules and all(own == theirs for own, theirs in names.items()):
            continue  # not about this network: timm's own naming has been tried
        votes = Counter(
            p
            for name in names.values()
            for p in checkpoint.prefixes.get(name, ())
            if not OTHER_NETWORK.fullmatch(p) or prefix == p
        )
        if prefix is not None:
            votes = Counter({prefix: votes[prefix]}) if votes[prefix] else Counter()
        for p, _ in votes.most_common(MOST_NETWORKS):
            found.append(_fit(checkpoint, arch, given, naming, p, names, wanted))
    top = max((fit.fitting for fit in found), default=0)
    return [fit for fit in found if fit.fitting == top > 0]


def score(found: list[Fit]) -> float:
    """Share of fitting tensors among the architecture's and the left over ones: a ResNet-50 is found whole in a
    ResNet-101, with much left over."""
    if not found:
        return -1.0
    return found[0].fitting / (len(found[0].names) + len(found[0].extra))


def _fit(
    checkpoint: Checkpoint,
    arch: str,
    given: dict[str, Any],
    naming: Naming,
    prefix: str,
    names: dict[str, str],
    wanted: dict[str, Tensor],
) -> Fit:
    options = given | _img_size(checkpoint.tensors.get(prefix + "pos_embed"), wanted, given)
    wrong = []
    for own, theirs in names.items():
        there = checkpoint.tensors.get(prefix + theirs)
        resized = own == "pos_embed" and options != given
        if there is None:
            # A checkpoint from before PyTorch counted batches lacks this one, and nothing in a network reads it.
            if not own.endswith("num_batches_tracked"):
                wrong.append(prefix + theirs)
        elif not resized and _shape(there, wanted[own]) != wanted[own].shape:
            wrong.append(prefix + theirs)
    full = {own: prefix + theirs for own, theirs in names.items()}
    return Fit(arch, options, naming, prefix, full, wrong, _left_over(checkpoint, prefix, set(full.values())))


def _left_over(checkpoint: Checkpoint, prefix: str, used: set[str]) -> list[str]:
    """Tensors under ``prefix`` that are not the backbone's, nor a head, a decoder or an averaged network beside it."""
    return [
        key
        for key in checkpoint.tensors
        if key.startswith(prefix)
        and key not in used
        and not key.removeprefix(prefix).startswith(PARTS)
        and not OTHER_NETWORK.fullmatch(key.removeprefix(prefix))
    ]


def _img_size(there: Tensor | None, wanted: dict[str, Tensor], given: dict[str, Any]) -> dict[str, int]:
    """``img_size`` for position embeddings of another side than the architecture's own."""
    own, patch = wanted.get("pos_embed"), wanted.get("patch_embed.proj.weight")
    if there is None or own is None or patch is None or "img_size" in given or there.shape == own.shape:
        return {}
    prefix_tokens = own.shape[1] - math.isqrt(own.shape[1]) ** 2
    side = math.isqrt(max(there.shape[1] - prefix_tokens, 0)) if there.ndim == 3 else 0
    if side == 0 or there.shape != (1, side * side + prefix_tokens, own.shape[2]):
        return {}
    return {"img_size": side * patch.shape[-1]}


def _shape(there: Tensor, wanted: Tensor) -> torch.Size:
    """Of ``there``; a linear layer's ``[out, in]`` stands for a 1x1 convolution's ``[out, in, 1, 1]``."""
    if there.ndim == 2 and wanted.shape[2:] == (1, 1):
        return torch.Size((*there.shape, 1, 1))
    return there.shape
