"""``file:PATH?arch=NAME``: a safetensors file, or a checkpoint that loads without running code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from seed_hub.conversion import map_backbone, read_checkpoint
from seed_hub.conversion.reading import Checkpoint
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError, nearest
from seed_hub.teachers.families import family_of
from seed_hub.teachers.foreign import native_size, normalisation


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """The file is there, and timm has its architecture."""
    if not Path(rest).is_file():
        raise SeedHubError(f"There is no file {rest}: write file:PATH?arch=NAME with the checkpoint's path.")
    arch = options.get("arch", "")
    if not arch or not timm.is_model(arch):
        raise SeedHubError(
            f'file:{rest} needs ?arch=NAME, a timm architecture; "{arch}" is none.'
            + nearest(arch, timm.list_models())
        )


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """Options: ``arch`` (a timm name, needed), ``prefix`` (of the backbone's tensors, where it is not found), ``mean``,
    ``std`` (one number or three, comma-separated), ``size`` (its native side in pixels), ``licence``, ``pad_type`` and
    other strings or whole numbers the architecture takes. What is not said of the input is that of the family which the
    file's name tells, or assumed aloud."""
    arch = options.pop("arch")
    of_input: dict[str, str] = {
        name: options.pop(name) for name in ("mean", "std", "size") if name in options
    }
    licence, prefix = options.pop("licence", None), options.pop("prefix", None)
    options.pop("num_classes", None)  # the classifier is as wide as in the file, or left out
    kwargs: dict[str, Any] = {k: int(v) if v.isdigit() else v for k, v in options.items()}
    options.clear()
    checkpoint = read_checkpoint(Path(rest))
    classes = _classes_in(checkpoint, arch) if classifier else 0
    backbone = map_backbone(checkpoint, arch, options=kwargs, prefix=prefix, classes=classes).backbone
    spec = f"file:{rest}"  # what is assumed of its input is said of a file that could be read
    family = family_of(spec)
    mean, std = normalisation(spec, of_input, None, family)
    size = native_size(spec, of_input, None, family)
    return Encoder(backbone, arch=arch, mean=mean, std=std, input_size=size, licence=licence)


def _classes_in(checkpoint: Checkpoint, arch: str) -> int:
    """Rows of the classifier's weight; 0 if the file has none, or several."""
    name = f"{timm.get_pretrained_cfg_value(arch, 'classifier')}.weight"
    found = [v for k, v in checkpoint.tensors.items() if k == name or k.endswith("." + name)]
    return found[0].shape[0] if len(found) == 1 else 0
