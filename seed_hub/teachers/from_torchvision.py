"""``torchvision:NAME[/WEIGHTS]``, for example ``torchvision:resnet50/IMAGENET1K_V2``."""

from __future__ import annotations

import contextlib
import sys

import timm
import torchvision

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError, nearest


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """It is one of torchvision's ResNets, and has the weights that are named."""
    name, _, tag = rest.partition("/")
    known = [
        m
        for m in torchvision.models.list_models(module=torchvision.models)
        if m.startswith(("resnet", "resnext", "wide_resnet"))
    ]
    if name not in known:
        raise SeedHubError(
            f"torchvision:{name} is not supported: torchvision's ResNets are ({', '.join(known)}); for others use timm: or file:."
            + nearest(name, known)
        )
    enum = torchvision.models.get_model_weights(name)
    if tag and tag not in enum.__members__:
        raise SeedHubError(
            f'torchvision:{name} has no weights "{tag}"; it has {", ".join(enum.__members__)}.'
        )


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """torchvision's weights in timm's network of the same name, whose tensors are called the same (the ResNets)."""
    name, _, tag = rest.partition("/")
    enum = torchvision.models.get_model_weights(name)
    weights = enum[tag] if tag else enum.DEFAULT
    backbone = timm.create_model(name, num_classes=len(weights.meta["categories"]) if classifier else 0)
    if not allow_random:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # it announces its downloads among our results
                state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # URLError, hash mismatch, unreadable file
            raise SeedHubError(
                f"The weights of torchvision:{rest} could not be loaded ({str(error).splitlines()[0][:200]}): "
                f"check the network, or use file:PATH?arch={name}."
            ) from error
        if not classifier:
            state = {k: v for k, v in state.items() if not k.startswith("fc.")}
        backbone.load_state_dict(state)  # strict
    transforms = weights.transforms()
    return Encoder(
        backbone,
        arch=name,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        input_size=transforms.crop_size[0],
        licence="bsd-3-clause",
    )
