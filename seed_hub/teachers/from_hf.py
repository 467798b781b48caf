"""``hf:REPO[@REVISION]`` or ``hf:FOLDER``: a network of transformers (``AutoModel``), without code from its repository."""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.teachers import from_timm
from seed_hub.teachers.families import Family, family_of, family_of_type
from seed_hub.teachers.foreign import ForeignEncoder, Normalisation, native_size, normalisation
from seed_hub.teachers.repository import ask_once, cached_commit, card_licence, first_line, refusal
from seed_hub.teachers.transformers_reader import Transformers

_log = logging.getLogger(__name__)
POOLINGS = ("token", "avg", "map", "pooler")


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """It can be a repository's name, or is a folder; what that has is found out when it is loaded."""
    repo = rest.partition("@")[0]
    if Path(rest).is_dir() or (repo and repo.count("/") < 2 and not repo.startswith((".", "/", "~"))):
        return
    raise SeedHubError(
        f'There is no folder "{rest}": write hf:ORG/NAME[@REVISION] or hf:FOLDER, with a folder that is there.'
    )


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """Options: ``pool=token|avg|pooler`` (class token, mean of the patch tokens, the network's own pooling layer),
    ``mean``, ``std``, ``size``, ``licence``. Class scores are not read: ``Features.logits`` stays empty."""
    named = _named(rest)
    network, missing = _network(named)
    if network is None:
        return from_timm.load(
            f"{'local-dir' if named.is_folder else 'hf-hub'}:{rest}",
            options, image_size=image_size, allow_random=allow_random, classifier=classifier,
        )  # fmt: skip
    processor = _processor(named)
    stated = _stated_normalisation(network.config, processor)
    mean, std = normalisation(named.spec, options, stated, named.family)
    native = native_size(named.spec, options, _stated_size(network.config, processor), named.family)
    reader = _reader(named, network, missing, image_size or native, options.pop("pool", None), allow_random)
    return ForeignEncoder(
        reader,
        arch=f"transformers.{type(network).__name__}",
        mean=mean,
        std=std,
        input_size=image_size or native,
        licence=options.pop("licence", None) or _licence(named),
    )


@dataclass(frozen=True)
class _Named:
    """What the teacher string says."""

    spec: str
    repo: str
    revision: str | None
    is_folder: bool
    family: Family | None


def _named(rest: str) -> _Named:
    if Path(rest).is_dir():
        return _Named(f"hf:{rest}", rest, None, True, family_of(f"hf:{rest}"))
    repo, _, revision = rest.partition("@")
    return _Named(f"hf:{rest}", repo, revision or None, False, family_of(f"hf:{repo}"))


def _network(named: _Named) -> tuple[Any, set[str]]:
    """(the image network in float32, names of its tensors that the repository lacks); (None, {}) for a timm network."""
    from transformers import AutoConfig, AutoModel

    where: dict[str, Any] = {"revision": named.revision, "trust_remote_code": False}
    try:
        ask_once(named.repo, named.revision)
        config = AutoConfig.from_pretrained(named.repo, **where)
        if config.model_type == "timm_wrapper":
            return None, set()
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0  # MAE would hide 75 % of the image from itself
        network, report = AutoModel.from_pretrained(
            named.repo, config=config, output_loading_info=True, **where
        )
    except Exception as error:  # of the Hub client, of safetensors, of transformers
        if "trust_remote_code" in str(error):
            raise SeedHubError(
                f"{named.spec} is code of its own, which is not run here: take timm's port of it (timm:NAME), if there is one."
            ) from error
        raise refusal(error, named.spec, named.repo, named.revision) from error
    missing = set(report["missing_keys"])
    if hasattr(network, "vision_model"):  # of an image-text pair; the text half is let go
        network = network.vision_model
        missing = {k.removeprefix("vision_model.") for k in missing if k.startswith("vision_model.")}
    network = network.float()
    if "pixel_values" not in inspect.signature(network.forward).parameters:
        raise SeedHubError(
            f"{named.spec} is a {type(network).__name__}, which takes no images: name an image network."
        )
    return network, missing


def _reader(
    named: _Named, network: Any, missing: set[str], size: int, asked: str | None, allow_random: bool
) -> Transformers:
    """The network with the pooling that was asked for, its family's, or the first its weights are complete for."""
    if asked is not None and asked not in POOLINGS:
        raise SeedHubError(f"{named.spec}?pool={asked}: choose one of {', '.join(POOLINGS)}.")
    family = named.family or family_of_type(network.config.model_type)
    known = asked or (family.pooling if family else None)
    revision = None if named.is_folder else cached_commit(named.repo, named.revision) or named.revision
    why_not = None
    for pooling in (known,) if known else ("pooler", "token", "avg"):
        reader = Transformers(network, pooling=pooling, revision=revision)
        why_not = _settle(reader, size, set() if allow_random else missing, adapt=asked is None)
        if why_not is None:
            if not known:
                prefix = "" if reader.prefix is None else f", {reader.prefix} tokens ahead of the patches"
                _log.warning(
                    f'{named.spec} is of no known family: by inspection, pooled by "{reader.pooling}"{prefix} (pool=)'
                )
            return reader
    raise SeedHubError(f"{named.spec} {why_not}.")


def _settle(reader: Transformers, size: int, missing: set[str], *, adapt: bool) -> str | None:
    """Ask the network once, count its tokens and its width; why it cannot be used, or None.

    What is missing matters if the embedding depends on it (an unused pooling layer does not), and gradients tell.
    """
    network = reader.network
    x = torch.zeros(1, 3, size, size)
    try:
        with torch.set_grad_enabled(bool(missing)):
            reader.inspect(x, adapt=adapt)
            pooled = reader.read(x).pooled  # [1, D]
    except SeedHubError as error:
        return str(error)
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        return f"cannot read images of {size} px ({first_line(error)}): choose another size= or pool="
    reader.num_features = pooled.shape[1]
    parameters = {k: p for k, p in network.named_parameters() if k in missing}
    gradients = (
        torch.autograd.grad(pooled.sum(), list(parameters.values()), allow_unused=True) if parameters else ()
    )
    needed = [k for k, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    needed += [
        k for k, _ in network.named_buffers() if k in missing and not k.endswith("num_batches_tracked")
    ]
    if needed:
        return f"lacks {len(needed)} tensors that its embedding depends on ({', '.join(needed[:4])}): they would be random"
    return None


def _processor(named: _Named) -> dict[str, Any]:
    """The repository's ``preprocessor_config.json``; empty if it has none."""
    from transformers import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(named.repo, revision=named.revision)[0]
    except OSError:
        return {}


def _stated_normalisation(config: Any, processor: dict[str, Any]) -> Normalisation | None:
    inside = hasattr(config, "norm_mean")  # RADIO normalises what it is given
    if inside or processor.get("do_normalize") is False:
        return (0.0,) * 3, (1.0,) * 3
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not (mean and std):
        return None
    # Of pixels in [0, 255], which are brought to [0, 1] first by most, and not by all.
    scale = 255 * processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 255.0
    mean, std = (tuple(value / scale for value in values) for values in (mean, std))
    return mean, std


def _stated_size(config: Any, processor: dict[str, Any]) -> int | None:
    """The network's own, before that of its preprocessing, which is a choice."""
    for stated in (getattr(config, "image_size", None), processor.get("crop_size"), processor.get("size")):
        for value in stated.values() if isinstance(stated, dict) else [stated]:
            side = value[0] if isinstance(value, (list, tuple)) else value
            if isinstance(side, int) and side > 0:
                return side
    return None


def _licence(named: _Named) -> str | None:
    """The family's, before the card's: cards of converted weights often name other terms than their authors did."""
    return (named.family.licence if named.family else None) or card_licence(named.repo, named.revision)
