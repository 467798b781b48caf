"""Teachers: one string names any network, and none is ever silently random, mis-normalised or mis-pooled.

    timm:NAME[.TAG]                          timm, pretrained
    hf-hub:REPO[@REVISION]                   a repository of the Hub in timm's format
    hf:REPO[@REVISION] | hf:FOLDER           transformers' AutoModel; no code from the repository
    torchhub:REPO[:REF]/ENTRY[?key=value]    torch.hub; runs the repository's code, and says so
    torchvision:NAME[/WEIGHTS]               torchvision's weights, default: its best
    file:PATH?arch=NAME[&key=value]          a safetensors or weights_only-loadable checkpoint file
    seed:RUN | seed:NAME[.TAG]               a run folder of ours, or a model of the zoo

What each family of networks is pooled and fed like stands in ``families.py``; what was chosen for a teacher, ``describe`` in
``description.py`` tells; ``check.py`` looks at its embeddings.

One file per source; each offers ``check(rest, options, allow_random)``, of the string alone, and
``load(rest, options, image_size, allow_random, classifier) -> Encoder``.
"""

from __future__ import annotations

import importlib
import pkgutil
from os import PathLike, fspath
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError, nearest

# Names of timm's own for what it loads; they are loaded by it.
_TIMMS = ("hf-hub",)
SOURCES = tuple(
    sorted(
        (
            *(
                m.name.removeprefix("from_")
                for m in pkgutil.iter_modules(__path__)
                if m.name.startswith("from_")
            ),
            *_TIMMS,
        )
    )
)


def load_teacher(
    spec: str | PathLike[str],
    *,
    allow_random: bool = False,
    image_size: int | None = None,
    classifier: bool = False,
) -> Frozen:
    """The frozen network ``spec`` names (see the module's docstring; a ``Path`` is a folder of ours), with its own
    normalisation and pooling.

    Args:
        allow_random: accept weights that are random; for tests only.
        image_size: side in pixels it will be given, for networks that must be built for it.
        classifier: keep its classifier, if it has one: ``Features.logits`` is then filled.

    Raises:
        SeedHubError: unknown source or name, weights missing, incomplete or random; says what to do.
    """
    spec = spec if isinstance(spec, str) else f"seed:{fspath(spec)}"
    check_spec(spec, allow_random=allow_random)
    module, rest, options = _parts(spec)
    encoder = module.load(
        rest, options, image_size=image_size, allow_random=allow_random, classifier=classifier
    )
    if options:
        raise SeedHubError(f'The teacher "{spec}" has options nobody reads: {", ".join(options)}.')
    if not allow_random and looks_untrained(encoder.backbone):
        raise SeedHubError(
            f'The teacher "{spec}" has random weights: every normalisation layer is at its initial values. '
            "Name weights that were trained, or pass --allow-random-teacher if this is a test."
        )
    encoder.name = spec
    return Frozen(encoder)


def check_spec(spec: str, *, allow_random: bool = False) -> None:
    """Refuse what names no teacher, or one that is not there, in a moment: no weights are read, and nobody is asked for any.

    Raises:
        SeedHubError: as :func:`load_teacher` would.
    """
    module, rest, options = _parts(spec)
    module.check(rest, options, allow_random=allow_random)


def _parts(spec: str) -> tuple[ModuleType, str, dict[str, str]]:
    """(the module of the source, what it is to load, how)."""
    source, colon, rest = spec.partition(":")
    if not colon or source not in SOURCES:
        raise SeedHubError(
            f'"{spec}" names no teacher: write SOURCE:NAME, with SOURCE one of {", ".join(SOURCES)}, '
            "for example timm:vit_small_patch14_dinov2.lvd142m." + nearest(source, SOURCES)
        )
    if source in _TIMMS:
        source, rest = "timm", spec
    rest, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    return importlib.import_module(f"seed_hub.teachers.from_{source}"), rest, options


def load_model(spec: str | PathLike[str], *, image_size: int | None = None) -> Frozen:
    """M of the command line: a run folder or model folder, a zoo name (``untrained:NAME`` for its initial weights), a
    teacher string, or a Hub id (ORG/NAME, as ``hf:ORG/NAME``). A ``Path`` is a folder."""
    if not isinstance(spec, str):
        return load_teacher(spec, image_size=image_size)
    if spec.startswith("untrained:"):
        import torch

        from seed_hub.encoder import build_student

        torch.manual_seed(0)
        encoder = build_student(spec.removeprefix("untrained:"))
        encoder.name = spec
        return Frozen(encoder)
    if spec.partition(":")[0] in SOURCES:
        return load_teacher(spec, image_size=image_size)
    if (spec and Path(spec).exists()) or spec.split(".")[0].startswith("seed_"):
        return load_teacher("seed:" + spec, image_size=image_size)
    if spec.count("/") == 1 and not spec.startswith((".", "/", "~")):  # a Hub id
        return load_teacher("hf:" + spec, image_size=image_size)
    raise SeedHubError(
        f'"{spec}" is no model: name a run folder, a model of the zoo (`seed-hub list`), untrained:NAME, '
        f"or a teacher such as timm:NAME ({', '.join(SOURCES)})."
    )


def looks_untrained(backbone: nn.Module) -> bool:
    """True if every normalisation layer still has its initial weight, bias and running statistics.

    Weights of convolutions cannot tell; norms can, as training moves all of them within a few steps.
    """
    norms = [
        m
        for m in backbone.modules()
        if getattr(m, "weight", None) is not None and "norm" in type(m).__name__.lower()
    ]
    if not norms:
        return False
    return all(_at_start(m) for m in norms)


def _at_start(norm: Any) -> bool:
    weight, bias = norm.weight, getattr(norm, "bias", None)
    mean = getattr(norm, "running_mean", None)
    constant = bool(
        (weight == weight.flatten()[0]).all()
    )  # ones, or zeros where a residual branch starts closed
    return constant and (bias is None or not bias.any()) and (mean is None or not mean.any())
