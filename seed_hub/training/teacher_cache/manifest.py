"""cache.json: what the embeddings of a cache were computed from. Whatever differs is refused by name.

Legend: N images, V views of an image in an epoch, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from seed_hub.data import Images
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import replace_file
from seed_hub.training.live_teacher import precision_of
from seed_hub.training.method import Method
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_loading import transform_version
from seed_hub.training.views import ViewSettings, whole_view

FORMAT = 1
FILE = "cache.json"


@dataclass(frozen=True)
class Key:
    """What decides every number in a cache; each field is a value of JSON."""

    teacher: str
    """as the user named it: pooling and head are options of the name"""
    weights: str
    """sha256 of the teacher's parameters and buffers"""
    transform: str
    """version of the views' arithmetic"""
    views: list[dict[str, Any]]
    """the recipe of each of the V views"""
    seed: int
    size: int
    teacher_size: int
    images: str
    """fingerprint of the N training images, held-out and unshared ones taken away"""
    precision: str
    """fp32 or bf16, as resolved"""
    versions: dict[str, str]
    """of the libraries that decode, transform and compute: major.minor"""


# How a difference is told, and what to do about it.
_TOLD = {
    "teacher": ("teacher", "name the same with --teacher"),
    "weights": ("weights of the teacher (sha256)", "they changed under the same name: bring them back"),
    "transform": ("version of the views", "use the seed_hub it was made with"),
    "seed": ("seed", "pass its --seed"),
    "size": ("size", "pass its --size"),
    "teacher_size": ("teacher size", "pass its --teacher-size"),
    "images": (
        "images to train on (fingerprint)",
        "give the same --data, --split, --held-out, --share and --seed",
    ),
    "precision": ("precision", "pass its --precision"),
}


@dataclass(frozen=True)
class Manifest:
    """The content of cache.json."""

    key: Key
    images: int
    """N"""
    width: int
    """D"""
    dtype: str
    """float16, float32 or int8"""
    epochs: int
    """M"""
    batch: int
    """images the teacher was asked about at once; a run that asks about as many gets the same bits"""

    @property
    def views(self) -> int:
        """V"""
        return len(self.key.views)

    def save(self, folder: Path) -> None:
        content = {"format": FORMAT, **asdict(self)}
        replace_file(folder / FILE, (json.dumps(content, indent=2) + "\n").encode())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises:
        SeedHubError: there is no cache in ``folder``, or cache.json is damaged or of another format.
        """
        path = folder / FILE
        if not path.is_file():
            raise SeedHubError(f"There is no cache in {folder} (no {FILE}): make one with `seed-hub cache`.")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = content.pop("format")
            if found != FORMAT:
                raise SeedHubError(
                    f"{path} is of format {found}, and this seed_hub reads {FORMAT}: make the cache again."
                )
            return cls(**{**content, "key": Key(**content["key"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SeedHubError(
                f"{path} is damaged ({type(error).__name__}: {error}): make the cache again with --overwrite."
            ) from error

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def key_of(
    settings: RunSettings,
    views: list[ViewSettings],
    teacher: Frozen,
    images: Images,
    accelerator: Accelerator,
) -> Key:
    """The key of what a run with ``settings`` would ask its teacher."""
    return Key(
        teacher=teacher.name,
        weights=weights_of(teacher),
        transform=transform_version(settings, accelerator.device),
        # Through JSON, as it is compared with what was read from a file: tuples are lists there.
        views=json.loads(json.dumps([asdict(view) for view in views])),
        seed=settings.seed,
        size=settings.size,
        teacher_size=settings.teacher_size,
        images=images.fingerprint,
        precision=precision_of(accelerator),
        versions=library_versions(),
    )


def views_of(cls: type[Method], own: Any, settings: RunSettings) -> list[ViewSettings]:
    """The recipes of a method's views; they depend on its settings alone, so it needs no student to tell them."""
    method = cls.__new__(cls)
    nn.Module.__init__(method)
    method.settings = own
    return method.view_settings(whole_view(settings))


def weights_of(teacher: Frozen) -> str:
    """sha256 of every parameter and buffer, normalisation included."""
    digest = hashlib.sha256()
    encoder = teacher.encoder
    for name, tensor in sorted([*encoder.named_parameters(), *encoder.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def library_versions() -> dict[str, str]:
    """major.minor of what decodes, transforms and computes."""
    import cv2
    import PIL
    import simplejpeg
    import timm
    import torchvision

    modules = {
        "torch": torch,
        "torchvision": torchvision,
        "timm": timm,
        "pillow": PIL,
        "opencv": cv2,
        "simplejpeg": simplejpeg,
    }
    return {name: ".".join(module.__version__.split(".")[:2]) for name, module in modules.items()}


def refuse_differences(folder: Path, made: Key, wanted: Key, *, remedy: str) -> None:
    """Raises SeedHubError with both values of every field that differs."""
    found = []
    for field in fields(Key):
        theirs, ours = getattr(made, field.name), getattr(wanted, field.name)
        if theirs == ours:
            continue
        if field.name == "versions":
            found += [
                f"{name} {theirs.get(name)} there, {ours.get(name)} here (install that one)"
                for name in sorted({**theirs, **ours})
                if theirs.get(name) != ours.get(name)
            ]
        elif field.name == "views":
            found += _different_views(theirs, ours)
        else:
            what, do = _TOLD[field.name]
            found.append(f"{what} {_short(theirs)} there, {_short(ours)} here ({do})")
    if found:
        raise SeedHubError(f"The cache {folder} was not made for this: {'; '.join(found)}; or {remedy}.")


def _different_views(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[str]:
    if len(theirs) != len(ours):
        do = "pass its method and view flags, such as --symmetric or --small-patches"
        return [f"{len(theirs)} views of an image there, {len(ours)} here ({do})"]
    return [
        f"{name} of view {number} {a.get(name)} there, {b.get(name)} here (pass its view flags)"
        for number, (a, b) in enumerate(zip(theirs, ours, strict=True))
        for name in sorted({**a, **b})
        if a.get(name) != b.get(name) and name != "size"
    ]


def _short(value: Any) -> str:
    """Of a sha256 what tells it apart."""
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
