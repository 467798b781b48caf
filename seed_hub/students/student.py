"""What a student is: a timm architecture under our name, with our pretrained configuration and never timm's.

timm's entry point, left to itself, looks up the configuration of *its* name: ``pretrained=True`` would then load
supervised ImageNet weights without a word. So each call hands over a configuration of ours.

No torch at import: the table of students is read by ``seed-hub list``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from seed_hub.weights import Weight, WeightsError, advice, locate, weights_of

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

AS_EVALUATED: dict[str, Any] = {"crop_pct": 1.0, "interpolation": "bilinear"}
"""how images become pixels when a student is measured, and so what its config says: the whole centre square"""


@dataclass(frozen=True)
class Student:
    """One row of the zoo."""

    name: str
    """The registered name, ``seed_...``."""
    base: str
    """The plain timm architecture; state-dict keys are the same, so published files carry this name."""
    parameters: int
    """Of the headless network."""
    macs: int
    """Multiply-accumulates of one forward pass of one image at 224 px, attention products included."""
    width: int
    """D of the pooled embedding ``[B, D]``, as measured: timm's ``num_features`` may differ (MobileNetV3: 960, not 1280)."""
    entrypoint: Callable[..., nn.Module]
    """The function that builds it."""
    first_conv: str
    """Where the image enters, for ``in_chans``."""
    classifier: str
    """Where a classifier would sit, for ``num_classes``."""
    input_size: int = 224
    """Side in pixels."""
    licence: str = "apache-2.0"
    """Of the definition; each weight has its own."""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (self.entrypoint.__doc__ or "").partition("\n")[0]


REGISTERED: dict[str, Student] = {}
"""Filled by :func:`student`, as the family files are imported; read it through ``seed_hub.catalog.students()``."""


def student(**facts: Any) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Enter the decorated function into the zoo under its own name, and complete its docstring with the ``facts``."""

    def enter(entrypoint: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        row = Student(name=entrypoint.__name__, entrypoint=entrypoint, **facts)
        entrypoint.__doc__ = _docstring(row)
        REGISTERED[row.name] = row
        return entrypoint

    return enter


def _docstring(row: Student) -> str:
    released = [
        f"    {weight.tag} ({weight.licence}): {weight.description}" for weight in weights_of(row.name)
    ]
    return "\n".join(
        [
            (row.entrypoint.__doc__ or row.name).strip(),
            "",
            f"{row.name} is timm's {row.base} without a classifier: {row.parameters / 1e6:.1f} M parameters,",
            f"{row.macs / 1e9:.2f} GMACs at 224 px, pixels [B, 3, H, W] -> embedding [B, {row.width}].",
            "Keyword arguments are timm's: num_classes, in_chans, global_pool, features_only, out_indices, ...",
            f'Code: {row.licence}. Weights, chosen with pretrained_cfg="TAG" (default: the first):',
            *(released or ["    none released yet; pretrained=True raises an error that says so."]),
        ]
    )


def build(
    name: str,
    pretrained: bool = False,
    *,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | None = None,
    **kwargs: Any,
) -> nn.Module:
    """The timm model behind ``name``, headless unless ``num_classes`` says otherwise.

    Args:
        pretrained: load the weight that ``pretrained_cfg`` names, or the default one; its sha256 is checked. A source
            that the caller states (``file``, ``url``, ``state_dict`` or another ``hf_hub_id``) is timm's to load.
        pretrained_cfg: a weight's tag or its whole name, or a whole configuration as timm takes it.
        pretrained_cfg_overlay: entries that replace those of the configuration.
        cache_dir: of the Hugging Face Hub.
        kwargs: timm's.

    Raises:
        WeightsError: no such weight, or its file is absent or damaged. Nothing falls back to random weights.
    """
    from timm.models import model_entrypoint, resolve_pretrained_cfg

    row = REGISTERED[name]
    if not pretrained_cfg or isinstance(pretrained_cfg, str):  # an empty one would be looked up among timm's
        tag = pretrained_cfg if isinstance(pretrained_cfg, str) else None
        repository = (pretrained_cfg_overlay or {}).get("hf_hub_id")  # of one of ours: its facts come with it
        named = next((weight.tag for weight in weights_of(name) if weight.repository == repository), None)
        pretrained_cfg = our_cfg(row, _chosen(name, tag or named))
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)  # type: ignore[arg-type]
    if pretrained and not (cfg.file or cfg.url or cfg.state_dict or cfg.source):
        ours = [weight for weight in weights_of(name) if weight.repository == cfg.hf_hub_id]
        if ours:
            cfg = replace(cfg, file=str(locate(ours[0], cache_dir=cache_dir)))
        elif not cfg.hf_hub_id:
            raise WeightsError(f"{name} has no released weight. {advice(name)}")
    cfg = replace(cfg, architecture=row.base)  # what timm saves then loads without this package
    build_with_timm = model_entrypoint(row.base)
    return build_with_timm(pretrained=pretrained, pretrained_cfg=cfg.to_dict(), cache_dir=cache_dir, **kwargs)


def our_cfg(row: Student, weight: Weight | None) -> PretrainedCfg:
    """The configuration handed to timm: where the weight is, what it was fed, and where the network can be adapted."""
    from timm.models import PretrainedCfg

    side = weight.input_size if weight else row.input_size
    return PretrainedCfg(
        hf_hub_id=weight.repository if weight else None,
        architecture=row.base,
        tag=weight.tag if weight else None,
        license=weight.licence if weight else None,
        description=weight.description if weight else None,
        input_size=(3, side, side),
        **AS_EVALUATED,  # mean and std are timm's default
        num_classes=0,
        first_conv=row.first_conv,
        classifier=row.classifier,
    )


def _chosen(name: str, tag: str | None) -> Weight | None:
    """The weight with this tag or whole name, or the default one; None when the student has none and none was asked for."""
    released = weights_of(name)
    if not tag:
        return released[0] if released else None
    tag = tag.removeprefix(f"{name}.")
    for weight in released:
        if weight.tag == tag:
            return weight
    raise WeightsError(f'There is no weight "{name}.{tag}". {advice(name)}')
