"""``timm:NAME[.TAG]`` or ``hf-hub:REPO[@REVISION]``, always pretrained, with the pooling and normalisation of its config."""

from __future__ import annotations

import logging
from typing import Any

import timm
import torch

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError, nearest
from seed_hub.teachers.families import family_of
from seed_hub.teachers.repository import ask_once, card_licence, first_line, refusal

_log = logging.getLogger(__name__)
ELSEWHERE = ("hf-hub:", "local-dir:")


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """timm knows the architecture, and weights of it; what the Hub or a folder has is found out when it is loaded."""
    if rest.startswith(ELSEWHERE):
        if not rest.partition(":")[2]:
            raise SeedHubError(f"{rest} names no repository: write {rest}ORG/NAME[@REVISION].")
        return
    arch = rest.split(".")[0]
    if not timm.is_model(arch):
        raise SeedHubError(f'timm has no model "{rest}".' + nearest(arch, timm.list_models()))
    if not allow_random and not timm.is_model_pretrained(rest):
        tags = timm.list_pretrained(arch + ".*")
        raise SeedHubError(
            f'timm has no weights for "{rest}"; it has {", ".join(tags) or "none for this architecture"}.'
        )


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """``pool=avg|token|map`` overrides the pooling. ``local-dir:FOLDER`` is timm's name for a folder."""
    if rest.startswith(ELSEWHERE):
        return _load_elsewhere(rest, options, image_size, allow_random, classifier)
    kwargs = _arguments(options, classifier)
    cfg = timm.get_pretrained_cfg(rest) if timm.is_model_pretrained(rest) else None
    if image_size and cfg is not None and cfg.fixed_input_size:
        kwargs["img_size"] = image_size  # position embeddings are resampled to the views' size
    repo, _, revision = ((cfg.hf_hub_id if cfg else None) or "").partition("@")
    try:
        if repo and not allow_random and not rest.startswith("seed_"):
            ask_once(repo, revision or None)
        backbone = timm.create_model(rest, pretrained=not allow_random, **kwargs)
    except SeedHubError:
        raise
    except Exception as error:  # download errors of three libraries, and timm's own
        if repo:
            raise refusal(error, f"timm:{rest}", repo, revision or None) from error
        raise SeedHubError(
            f"The weights of timm:{rest} could not be loaded ({first_line(error)}): check the network, or use file:PATH?arch={rest.split('.')[0]}."
        ) from error
    return _encoder(backbone, image_size)


def _load_elsewhere(
    rest: str, options: dict[str, str], image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """A repository of the Hub, or a folder, in timm's format."""
    where = rest.partition(":")[2]
    repo, _, revision = where.partition("@")
    kwargs = _arguments(options, classifier)
    try:
        ask_once(repo, revision or None)
        with torch.device("meta"):  # its config alone
            plain: Any = timm.create_model(rest, **kwargs)
        if image_size and plain.pretrained_cfg.get("fixed_input_size"):
            kwargs["img_size"] = image_size
        backbone = timm.create_model(rest, pretrained=not allow_random, **kwargs)
    except (KeyError, AssertionError) as error:
        raise SeedHubError(
            f"{rest} is no model in timm's format ({first_line(error)}): try hf:{where}, or name another."
        ) from error
    except Exception as error:  # of the Hub client, of safetensors, of timm
        raise refusal(error, rest, repo, revision or None) from error
    encoder = _encoder(backbone, image_size)
    encoder.licence = encoder.licence or card_licence(repo, revision or None)
    family = family_of(f"hf-hub:{repo}")
    if family and family.licence and family.licence != encoder.licence:
        _log.warning(
            f"{rest} says its terms are {encoder.licence}, and those of {family.name} are {family.licence}: ask before you "
            "publish what it taught"
        )
    return encoder


def _arguments(options: dict[str, str], classifier: bool) -> dict[str, Any]:
    kwargs: dict[str, Any] = {} if classifier else {"num_classes": 0}
    if "pool" in options:
        kwargs["global_pool"] = options.pop("pool")
    return kwargs


def _encoder(backbone: Any, image_size: int | None) -> Encoder:
    own: dict[str, Any] = backbone.pretrained_cfg
    return Encoder(
        backbone,
        arch=own["architecture"],
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        input_size=image_size or own["input_size"][-1],
        licence=own.get("license"),
    )
