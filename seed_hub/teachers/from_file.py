"""``file:PATH?arch=NAME``: a safetensors file, or a checkpoint that loads without running code."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from seed_hub.errors import SeedHubError, nearest

# Where published checkpoints keep a backbone; the prefix under which most tensors fit is taken.
_CONTAINERS = ("state_dict", "model", "teacher", "student", "model_state_dict")
# Parts of a checkpoint that are another network's, or no backbone's.
_NOT_THE_BACKBONE = (
    "encoder_k.",
    "momentum_",
    "key_",
    "predictor",
    "projector",
    "projection_head",
    "prototypes",
    "queue",
)
_HEADS = ("fc.", "head.", "classifier.", "heads.", "head_drop.")


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """Options: ``arch`` (a timm name, needed), ``mean``, ``std`` (one number or three, comma-separated), ``size`` (its
    native side in pixels), ``licence``, ``pad_type`` and other strings or whole numbers the architecture takes."""
    path = Path(rest)
    if not path.is_file():
        raise SeedHubError(f"There is no file {path}: write file:PATH?arch=NAME with the checkpoint's path.")
    arch = options.pop("arch", "")
    if not arch or not timm.is_model(arch):
        raise SeedHubError(
            f'file:{rest} needs ?arch=NAME, a timm architecture; "{arch}" is none.'
            + nearest(arch, timm.list_models())
        )
    mean = _triple(options.pop("mean", None), IMAGENET_MEAN)
    std = _triple(options.pop("std", None), IMAGENET_STD)
    size, licence = int(options.pop("size", 224)), options.pop("licence", None)
    options.pop("num_classes", None)  # the classifier is as wide as in the file, or left out
    kwargs: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in options.items()}
    options.clear()
    if image_size and "img_size" in inspect.signature(timm.model_entrypoint(arch)).parameters:
        kwargs.setdefault("img_size", image_size)
    try:
        backbone: Any = timm.create_model(arch, num_classes=0, **kwargs)
    except TypeError as error:
        raise SeedHubError(f"file:{rest}: {arch} does not take these options ({error}).") from error
    tensors = read_tensors(path)
    if classifier:
        classes = _classes_in(tensors, backbone.pretrained_cfg.get("classifier"))
        backbone = timm.create_model(arch, num_classes=classes, **kwargs)
    backbone.load_state_dict(match_backbone(tensors, backbone.state_dict(), str(path), arch))
    return Encoder(backbone, arch=arch, mean=mean, std=std, input_size=size, licence=licence)


def _classes_in(tensors: dict[str, Tensor], name: str | None) -> int:
    """Rows of the classifier's weight, which timm calls ``name``; 0 if the file has none."""
    found = [
        v for k, v in tensors.items() if name and (k == f"{name}.weight" or k.endswith(f".{name}.weight"))
    ]
    return found[0].shape[0] if len(found) == 1 else 0


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, nested dictionaries unwrapped. Never runs code from the file."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise SeedHubError(f"{path} is no whole safetensors file ({error}): copy it again.") from error
    try:
        # Published checkpoints keep their arguments.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SeedHubError(
            f"{path} is damaged, or cannot be loaded without running code from it ({_first_line(error)}): "
            "copy it again, or convert it to safetensors where you trust it."
        ) from error
    while isinstance(content, dict) and not any(isinstance(v, Tensor) for v in content.values()):
        inner = next((content[k] for k in _CONTAINERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            raise SeedHubError(
                f"{path} holds no tensors under {', '.join(_CONTAINERS)}: its keys are {list(content)[:6]}."
            )
        content = inner
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


def match_backbone(
    tensors: dict[str, Tensor], wanted: dict[str, Tensor], where: str, arch: str
) -> dict[str, Tensor]:
    """The tensors of ``arch`` among ``tensors``, under the one prefix that holds all of them.

    Raises:
        SeedHubError: none holds all, or the rest under the best prefix is no classifier or projection head.
    """
    candidates = {k[: len(k) - len(w)] for w in wanted for k in tensors if k.endswith(w)} or {""}
    usable = [p for p in candidates if not any(bad in p for bad in _NOT_THE_BACKBONE)]

    def fitting(prefix: str) -> int:
        return sum(prefix + k in tensors and tensors[prefix + k].shape == v.shape for k, v in wanted.items())

    prefix = max(usable, key=lambda p: (fitting(p), -len(p)), default="")
    missing = [
        k for k, v in wanted.items() if prefix + k not in tensors or tensors[prefix + k].shape != v.shape
    ]
    # A checkpoint from before PyTorch counted batches lacks this one, and nothing in a frozen network reads it.
    missing = [k for k in missing if not k.endswith("num_batches_tracked")]
    extra = [k[len(prefix) :] for k in tensors if k.startswith(prefix) and k[len(prefix) :] not in wanted]
    extra = (
        [k for k in extra if not k.startswith((*_HEADS, *_NOT_THE_BACKBONE))]
        if prefix
        else [k for k in extra if not k.startswith(_HEADS)]
    )
    if missing or (extra and not prefix):
        raise SeedHubError(
            f"{where} is not a complete {arch}: {len(missing)} tensors missing or of another shape {missing[:4]}, "
            f"{len(extra)} left over {extra[:4]}; name the right ?arch=."
        )
    return {k: tensors.get(prefix + k, v) for k, v in wanted.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:160]


def _triple(text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return default
    try:
        values = tuple(float(v) for v in text.split(","))
    except ValueError as error:
        raise SeedHubError(
            f'"{text}" is no number or three numbers, as in mean=0.5 or mean=0.485,0.456,0.406.'
        ) from error
    return values * 3 if len(values) == 1 else values
