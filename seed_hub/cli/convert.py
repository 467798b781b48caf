"""``convert``: a published checkpoint as a model folder that timm, transformers and this package load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import facts, say, show
from seed_hub.errors import SeedHubError
from seed_hub.settings import read_settings


@dataclass(frozen=True)
class ConvertSettings:
    """What ``convert`` can be told."""

    out: str = ""
    """folder to write: model.safetensors, config.json, projection_head.safetensors where there is a head"""
    arch: str = ""
    """timm architecture; empty: inferred, for ResNets, ViTs and SEED's students"""
    licence: str = ""
    """terms of the weights, as an identifier such as cc-by-nc-4.0; empty: unknown, and said so"""
    prefix: str = ""
    """start of the names of the backbone's tensors, nested dictionaries joined by dots, a single dot where there is none; empty: found by itself"""
    input_size: int = 0
    """side in pixels it was made for; 0: that of its position embeddings, else 224"""
    num_heads: int = 0
    """attention heads of a ViT, which its file does not tell; 0: the architecture's, and 12 for ViT-S of MoCo v3"""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """of its training pixels in [0, 1], per channel"""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """their standard deviation"""
    overwrite: bool = False
    """replace the model folder"""


def convert(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "convert",
        "A published checkpoint (MoCo, SwAV, SimSiam, Barlow Twins, VICReg, DINO, iBOT, MAE, VISSL, solo-learn, "
        "mmselfsup, Lightning, SEED) as a model folder. No code of the file is run.",
    )
    parser.add_argument("checkpoint", metavar="CKPT", nargs="?", help="checkpoint file")
    parser.add_options("convert", read_settings(Path(__file__), "ConvertSettings").options, required=("out",))
    given = parser.parse(argv)
    if "checkpoint" not in given:
        raise SeedHubError("Name a checkpoint: `seed-hub convert CKPT --out FOLDER`.")
    source = Path(given.pop("checkpoint"))
    parser.need(given, "out")
    return _convert(source, ConvertSettings(**given))


def _convert(source: Path, settings: ConvertSettings) -> dict[str, Any]:
    for name in ("mean", "std"):
        if len(getattr(settings, name)) != 3:
            raise SeedHubError(f"--{name} takes three numbers, one per channel.")
    if min(settings.std) <= 0:
        raise SeedHubError("--std takes three numbers above 0.")
    for name in ("input_size", "num_heads"):
        if getattr(settings, name) < 0:
            raise SeedHubError(f"--{name.replace('_', '-')} is a number above 0.")

    from seed_hub import conversion

    found = conversion.convert(
        source,
        Path(settings.out),
        arch=settings.arch or None,
        options={"num_heads": settings.num_heads} if settings.num_heads else None,
        prefix=_prefix(settings.prefix),
        licence=settings.licence or None,
        mean=settings.mean,
        std=settings.std,
        input_size=settings.input_size or None,
        overwrite=settings.overwrite,
    )
    _tell(settings.out, found)
    return {"out": settings.out, **found}


def _prefix(text: str) -> str | None:
    if not text:
        return None
    words = text.strip(".")
    return words + "." if words else ""


def _tell(out: str, found: dict[str, Any]) -> None:
    how = found["converted"]
    left_out = f"left out: {how['head_left_out']}" if how["head_left_out"] else "none"
    show(
        facts(
            [
                ("folder", out),
                ("format", f"{how['format']}, tensors under {how['prefix'] or 'no prefix'}"),
                (
                    "architecture",
                    f"{found['architecture']}, pixels -> [{found['width']}]"
                    + "".join(f", {name} {value}" for name, value in found["model_args"].items()),
                ),
                ("head", how["head"] or left_out),
                (
                    "dropped",
                    "\n".join(f"{key}: {n} tensors" for key, n in how["dropped"].items()) or "nothing",
                ),
                ("sha256 of the file", how["sha256"]),
                ("licence", how["licence"] or "unknown"),
            ]
        )
    )
    if how["licence"] is None:
        say(
            "the licence of these weights is unknown: find it where they came from and state it with --licence"
        )
