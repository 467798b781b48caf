"""What a loaded teacher is and how it is used, as facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from seed_hub.encoder import Frozen
from seed_hub.teachers.families import family_of
from seed_hub.teachers.foreign import Reader
from seed_hub.teachers.repository import cached_commit


@dataclass(frozen=True)
class Description:
    """Of one teacher."""

    name: str
    """as the user wrote it"""
    network: str
    """its architecture"""
    family: str | None
    """see :mod:`seed_hub.teachers.families`"""
    note: str
    """what to know of the family"""
    revision: str | None
    """commit of the Hub, or the branch or tag that was asked for; None: a file, or not known"""
    pooling: str
    prefix: int | None
    """class and register tokens, which are no patches; None: a convolutional network"""
    input_size: int
    """side in pixels"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int
    """of the embedding"""
    parameters: int
    licence: str | None


def describe(teacher: Frozen) -> Description:
    """The facts of a loaded teacher: read off the network, not off its name."""
    encoder = teacher.encoder
    backbone: Any = encoder.backbone
    family = family_of(encoder.name)
    if isinstance(backbone, Reader):
        revision, pooling, prefix = backbone.revision, backbone.pooling, backbone.prefix
    else:
        revision, pooling = _commit(encoder.name, backbone), _pooling(backbone)
        prefix = getattr(backbone, "num_prefix_tokens", None)
    width = encoder.width if encoder.head is None else _last_width(encoder.head)
    return Description(
        name=encoder.name,
        network=encoder.arch,
        family=family.name if family else None,
        note=family.note if family else "",
        revision=revision,
        pooling=pooling if encoder.head is None else f"{pooling}, then its projection head",
        prefix=prefix,
        input_size=encoder.input_size,
        mean=encoder.mean,
        std=encoder.std,
        width=width,
        parameters=sum(p.numel() for p in encoder.parameters()),
        licence=encoder.licence,
    )


def _commit(spec: str, backbone: Any) -> str | None:
    """Of weights that timm took from the Hub."""
    if not spec.startswith(("timm:", "hf-hub:", "hf:")):
        return None
    repo, _, revision = (backbone.pretrained_cfg.get("hf_hub_id") or "").partition("@")
    return cached_commit(repo, revision or None) or revision or None if repo else None


def _pooling(backbone: nn.Module) -> str:
    """timm's word for it, wherever the family keeps it."""
    for owner in (backbone, getattr(backbone, "head", None)):
        pool = getattr(owner, "global_pool", None)
        kind = getattr(pool, "pool_type", pool)
        if isinstance(kind, str) and kind:
            return kind
    return "avg"


def _last_width(head: nn.Module) -> int:
    return [layer.out_features for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
