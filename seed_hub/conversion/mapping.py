"""A checkpoint's tensors onto a timm network: all of them, or a sentence that lists what does not fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

import seed_hub.published_variants  # noqa: F401  (timm gets to know them)
from seed_hub.conversion.fitting import Fit, build, fits, score
from seed_hub.conversion.formats import FORMATS, Format
from seed_hub.conversion.namings import FAMILIES, Naming
from seed_hub.conversion.reading import Checkpoint
from seed_hub.errors import SeedHubError, nearest


@dataclass(frozen=True)
class Mapped:
    """A backbone with its weights, and where they came from."""

    backbone: Any
    """timm's network, in eval mode"""
    arch: str
    """its plain name"""
    options: dict[str, Any]
    """what it was built with beyond its name: ``model_args`` of a config.json"""
    format: Format
    naming: Naming
    prefix: str
    """of the backbone's tensors"""
    head: str | None
    """prefix of the projection head's, if there is one"""


def map_backbone(
    checkpoint: Checkpoint,
    arch: str | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    prefix: str | None = None,
    classes: int = 0,
) -> Mapped:
    """The network in ``checkpoint`` with all of its weights.

    Args:
        arch: a timm architecture; None: inferred from names and shapes, for ResNets, ViTs and SEED's students.
        options: further arguments of the architecture, such as ``num_heads``, which no shape shows.
        prefix: of the backbone's tensors, where it is not to be found by the table of formats.
        classes: keep a classifier of this many.

    Raises:
        SeedHubError: no network is found, several are, or one only in part; the keys are listed.
    """
    if arch is not None and not timm.is_model(arch):
        raise SeedHubError(f'timm has no architecture "{arch}".' + nearest(arch, timm.list_models()))
    form, fit = _chosen(checkpoint, _best(checkpoint, arch, dict(options or {}), prefix, classes))
    built_with = dict(form.options.get(fit.arch, {})) | fit.options
    _refuse_other_variants(checkpoint, fit)
    _refuse_partial(checkpoint, fit)
    backbone = build(fit.arch, built_with, classes)
    backbone.load_state_dict(_weights(checkpoint, fit, backbone.state_dict()))
    root = form.root(fit.prefix, checkpoint.keys) or ""
    heads = [head.format(root=root, backbone=fit.prefix) for head in form.heads]
    there = [head for head in heads if any(key.startswith(head) for key in checkpoint.tensors)]
    return Mapped(
        backbone.eval(),
        fit.arch,
        built_with,
        form,
        fit.naming,
        fit.prefix,
        there[0] if there else None,
    )


def dropped(checkpoint: Checkpoint, mapped: Mapped, head_kept: bool) -> dict[str, int]:
    """Number of tensors that were left out, by branch of the checkpoint: key encoder, queue, decoder, optimizer, ..."""
    used = {mapped.prefix + name for name in mapped.naming.names(mapped.backbone.state_dict()).values()}
    rest: Counter[str] = Counter()
    for key in checkpoint.tensors:
        if key in used or (head_kept and mapped.head and key.startswith(mapped.head)):
            continue
        words, backbone = key.split("."), mapped.prefix.split(".")
        shared = next((i for i, (a, b) in enumerate(zip(words, backbone, strict=False)) if a != b), 0)
        rest[".".join(words[: shared + 1])] += 1
    return dict(rest)


def _best(
    checkpoint: Checkpoint, arch: str | None, given: dict[str, Any], prefix: str | None, classes: int
) -> list[Fit]:
    """Of ``arch``, or of the first architecture that fits whole, else of the one that fits best."""
    best: list[Fit] = []
    for name in [arch] if arch else _candidates(checkpoint):
        best = max(best, fits(checkpoint, name, given, prefix, classes), key=score)
        if best and best[0].whole:
            break
    if not best:
        raise SeedHubError(
            f"{checkpoint.path} holds no {arch or 'ResNet or ViT that timm has'}: its tensors are called "
            f"{', '.join(list(checkpoint.tensors)[:4])}; name {'another' if arch else 'its'} architecture"
            f"{' or' if prefix else ', and'} the prefix of its tensors."
        )
    return best


def _candidates(checkpoint: Checkpoint) -> list[str]:
    """Architectures of the families whose first key is there, small ones first."""
    names: set[str] = set()
    for stem, pattern in FAMILIES:
        for key, tensor in checkpoint.tensors.items():
            if re.fullmatch(stem, key) and tensor.ndim:
                wanted = re.compile(pattern.replace("SIDE", str(tensor.shape[-1])))
                names |= {name for name in timm.list_models() if wanted.fullmatch(name)}
    return sorted(names, key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def _chosen(checkpoint: Checkpoint, found: list[Fit]) -> tuple[Format, Fit]:
    """The first row of the table that one of ``found`` matches."""
    for form in FORMATS:
        matching = [fit for fit in found if form.root(fit.prefix, checkpoint.keys) is not None]
        whole = [fit for fit in matching if fit.whole]
        if len(whole) > 1:
            raise SeedHubError(
                f"{checkpoint.path} holds several networks of this kind, under "
                f"{', '.join(repr(fit.prefix) for fit in whole)}: name the prefix of one."
            )
        if matching:  # of those in part the first: which keys are missing is said of it
            return form, (whole or matching)[0]
    raise AssertionError("the last row matches every prefix")


def _refuse_other_variants(checkpoint: Checkpoint, fit: Fit) -> None:
    if fit.naming.architectures and fit.arch not in fit.naming.architectures:
        raise SeedHubError(
            f"{checkpoint.path} is {fit.naming.name}, which computes something else than {fit.arch} with the same "
            f"weights: name {' or '.join(fit.naming.architectures)}."
        )


def _refuse_partial(checkpoint: Checkpoint, fit: Fit) -> None:
    if not fit.whole:
        raise SeedHubError(
            f"{checkpoint.path} is not a complete {fit.arch}: of {len(fit.names)} tensors {len(fit.wrong)} are missing "
            f"or of another shape{_listed(fit.wrong)}, {len(fit.extra)} are left over{_listed(fit.extra)}; name the "
            "right architecture, or the prefix of its tensors."
        )


def _listed(keys: list[str]) -> str:
    return f" ({', '.join(keys[:20])}{', ...' if len(keys) > 20 else ''})" if keys else ""


def _weights(checkpoint: Checkpoint, fit: Fit, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's state dict with the checkpoint's values."""
    weights = {}
    for name, initial in own.items():
        there = checkpoint.tensors.get(fit.names[name])
        if there is not None and there.is_floating_point() and not torch.isfinite(there).all():
            raise SeedHubError(
                f"{checkpoint.path}: {fit.names[name]} holds numbers that are not finite: the training diverged, take "
                "an earlier checkpoint."
            )
        weights[name] = initial if there is None else there.reshape(initial.shape)
    return weights
