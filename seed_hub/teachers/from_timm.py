"""``timm:NAME[.TAG]``, always pretrained, with the pooling and normalisation of its pretrained config."""

from __future__ import annotations

from typing import Any

import timm

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError, nearest


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """``pool=avg|token|map`` overrides the pooling."""
    if not timm.is_model(rest.split(".")[0]):
        raise SeedHubError(f'timm has no model "{rest}".' + nearest(rest.split(".")[0], timm.list_models()))
    kwargs: dict[str, Any] = {} if classifier else {"num_classes": 0}
    if "pool" in options:
        kwargs["global_pool"] = options.pop("pool")
    cfg = timm.get_pretrained_cfg(rest) if timm.is_model_pretrained(rest) else None
    if cfg is None and not allow_random:
        tags = timm.list_pretrained(rest.split(".")[0] + ".*")
        raise SeedHubError(
            f'timm has no weights for "{rest}"; it has {", ".join(tags) or "none for this architecture"}.'
        )
    if image_size and cfg is not None and cfg.fixed_input_size:
        kwargs["img_size"] = image_size  # position embeddings are resampled to the views' size
    try:
        backbone: Any = timm.create_model(rest, pretrained=not allow_random, **kwargs)
    except SeedHubError:
        raise
    except Exception as error:  # download errors of three libraries, and timm's own
        raise SeedHubError(
            f"The weights of timm:{rest} could not be loaded ({_first_line(error)}): check the network, or use file:PATH?arch={rest.split('.')[0]}."
        ) from error
    own: dict[str, Any] = backbone.pretrained_cfg
    return Encoder(
        backbone,
        arch=own["architecture"],
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
        input_size=image_size or own["input_size"][-1],
        licence=own.get("license"),
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
