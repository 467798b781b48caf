"""Published checkpoints as model folders: head-free backbone, projection head apart, provenance, licence.

``formats`` is the table, ``reading`` opens files without running anything from them, ``mapping`` fills a timm network,
``heads`` rebuilds projection heads, the networks that timm does not have are in :mod:`seed_hub.published_variants`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from seed_hub.conversion.heads import read_head
from seed_hub.conversion.mapping import Mapped, dropped, map_backbone
from seed_hub.conversion.reading import Checkpoint, read_checkpoint
from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import CONFIG, load_model_folder, replace_file, save_model
from seed_hub.weights import sha256_of

__all__ = ["convert", "map_backbone", "read_checkpoint"]

INPUT_SIZE = 224  # px: of every format in the table but ViTs with position embeddings of another side
CROP = 0.875  # of the side, 224 of 256: the central crop that these projects evaluate


def convert(
    source: Path,
    out: Path,
    *,
    arch: str | None = None,
    options: dict[str, Any] | None = None,
    prefix: str | None = None,
    licence: str | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    input_size: int | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the network in the checkpoint ``source`` to the model folder ``out``; its facts are returned.

    Args:
        arch, options, prefix: see :func:`map_backbone`.
        licence: terms of the weights; None stays unknown.
        mean, std: per channel, of pixels in [0, 1].
        input_size: side in pixels that it was made for; None: that of its position embeddings, else 224.
        overwrite: replace a model folder.

    Raises:
        SeedHubError: the file is damaged, could run code, does not hold one whole network, or an untrained one; ``out`` is taken.
    """
    refuse_taken(out, overwrite)
    checkpoint = read_checkpoint(source)
    mapped = map_backbone(checkpoint, arch, options=options, prefix=prefix)
    _refuse_untrained(source, mapped)
    mapped.backbone.pretrained_cfg |= {"crop_pct": CROP, "interpolation": mapped.format.interpolation}
    encoder = Encoder(
        mapped.backbone,
        arch=mapped.arch,
        name=out.name,
        mean=mean,
        std=std,
        input_size=input_size or _own_size(mapped.backbone),
        licence=licence,
    )
    head, why_not = None, ""
    if mapped.head is not None:
        head, why_not = read_head(checkpoint.tensors, mapped.head, encoder.width, mapped.format.activation)
    facts = {"name": out.name, "converted": _provenance(checkpoint, mapped, head, why_not, licence)}
    _write(out, encoder, facts, head, mapped.options)
    return facts | {"architecture": mapped.arch, "model_args": mapped.options, "width": encoder.width}


def refuse_taken(out: Path, overwrite: bool) -> None:
    """Raises SeedHubError if ``out`` exists and may not be replaced; only model folders may."""
    if not out.exists():
        return
    if not overwrite:
        raise SeedHubError(f"{out} exists already: replace it with --overwrite, or name another --out.")
    if not (out / CONFIG).is_file():
        raise SeedHubError(f"{out} is no model folder and is not replaced: name another --out.")


def _provenance(
    checkpoint: Checkpoint, mapped: Mapped, head: nn.Module | None, why_not: str, licence: str | None
) -> dict[str, Any]:
    return {
        "file": checkpoint.path.name,
        "sha256": sha256_of(checkpoint.path),
        "format": mapped.format.name,
        "naming": mapped.naming.name,
        "prefix": mapped.prefix,
        "head": mapped.head if head is not None else None,
        "head_left_out": why_not or None,
        "dropped": dropped(checkpoint, mapped, head is not None),
        "licence": licence,
    }


def _refuse_untrained(source: Path, mapped: Mapped) -> None:
    from seed_hub.teachers import looks_untrained  # whose from_file reads checkpoints with this package

    if looks_untrained(mapped.backbone):
        raise SeedHubError(
            f"{source} holds random weights: every normalisation layer is at its initial values; name a checkpoint of a "
            "network that was trained."
        )


def _own_size(backbone: Any) -> int:
    size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    return int(size[0]) if size else INPUT_SIZE


def _write(
    out: Path, encoder: Encoder, facts: dict[str, Any], head: nn.Sequential | None, options: dict[str, Any]
) -> None:
    """The folder appears whole, after it was read back, or not at all."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(partial, encoder, facts, head)
        if options:
            config = json.loads((partial / CONFIG).read_text())
            config["model_args"] |= options
            replace_file(partial / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
        load_model_folder(partial)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
