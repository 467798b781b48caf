"""A model as a folder that timm (``local-dir:``), transformers and the Hub load without this package.

``config.json`` names the plain timm architecture, headless; our own facts stand under a ``"seed_hub"`` key.
``projection_head.safetensors`` beside it is for those who distil from this model; nobody else needs it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from seed_hub import weights as released
from seed_hub.encoder import Encoder, Frozen, build_student, create_flexible
from seed_hub.errors import SeedHubError
from seed_hub.licences import recorded_licence
from seed_hub.projection import describe, rebuild

WEIGHTS, CONFIG, HEAD = "model.safetensors", "config.json", "projection_head.safetensors"


def save_model(
    folder: str | os.PathLike[str],
    encoder: Encoder | Frozen,
    facts: dict[str, Any] | None = None,
    head: nn.Sequential | None = None,
) -> None:
    """Write ``encoder`` (float32, headless) and, apart, its projection head.

    Each file is replaced in one step, weights before the config that names them; an interrupted save leaves the old
    files.

    Args:
        facts: go under ``"seed_hub"`` and must be JSON.
        head: None: the encoder's own, if it has one.

    Raises:
        SeedHubError: the network is not timm's, or a file cannot be written.
    """
    encoder = encoder.encoder if isinstance(encoder, Frozen) else encoder
    folder, facts = Path(folder), facts or {}
    if not hasattr(encoder.backbone, "pretrained_cfg"):
        raise SeedHubError(f"{encoder.name} is no network of timm's, which model folders hold: save another.")
    if head is None and isinstance(encoder.head, nn.Sequential):
        head = encoder.head
    folder.mkdir(parents=True, exist_ok=True)
    if head is not None:
        _replace_tensors(folder / HEAD, head)
        facts = facts | {"projection_head": describe(head)}
    _replace_tensors(folder / WEIGHTS, encoder.backbone)
    text = json.dumps(hub_config(encoder, facts), indent=2) + "\n"
    replace_file(folder / CONFIG, text.encode())


def hub_config(encoder: Encoder, facts: dict[str, Any]) -> dict[str, Any]:
    """timm's config.json for ``encoder``: plain architecture, no classes; timm and transformers both need ``model_args``."""
    cfg = encoder.backbone.pretrained_cfg
    keep = ["interpolation", "crop_pct", "fixed_input_size", "pool_size", "first_conv", "classifier"]
    args: dict[str, Any] = {}
    if getattr(encoder.backbone, "dynamic_img_size", False):
        # The position embeddings stay as they are and are interpolated for any side. Left to itself timm would fit them to
        # the side of `input_size` once and refuse others, or fit them to another side than their own.
        args = {"img_size": encoder.backbone.patch_embed.img_size[0], "dynamic_img_size": True}
        keep.remove("fixed_input_size")
    pretrained = {k: cfg[k] for k in keep if cfg.get(k) is not None} | {
        "tag": facts.get("tag", "untagged"),
        "input_size": [3, encoder.input_size, encoder.input_size],
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "num_classes": 0,
    }
    if encoder.licence and (licence := recorded_licence(encoder.licence, facts)):
        pretrained["license"] = licence
    return {
        "architecture": encoder.arch,
        "num_classes": 0,
        "num_features": encoder.backbone.num_features,
        "global_pool": cfg.get("global_pool") or _pool_of(encoder.backbone),
        "model_args": args,
        "pretrained_cfg": pretrained,
        "seed_hub": facts,
    }


def load_model_folder(folder: Path, *, head: bool = True) -> Encoder:
    """The encoder saved in ``folder``, strictly: every tensor is found and none is left over.

    Raises:
        SeedHubError: a file is missing or damaged, or does not fit the architecture.
    """
    config_path = folder / CONFIG
    try:
        config = json.loads(config_path.read_text())
        arch, pretrained = config["architecture"], config["pretrained_cfg"]
    except (OSError, ValueError, KeyError) as error:
        raise SeedHubError(
            f"{config_path} is missing or no model config ({error}): name a folder with best/ in it."
        ) from error
    if not timm.is_model(arch):
        raise SeedHubError(
            f'{config_path} names the architecture "{arch}", which this timm does not have: upgrade timm.'
        )
    backbone = create_flexible(arch, num_classes=0, **config.get("model_args") or {})
    _load_strictly(backbone, folder / WEIGHTS)
    # What timm knows of the name is of its own weights: saved again, these would be fed otherwise.
    backbone.pretrained_cfg |= {k: tuple(v) if isinstance(v, list) else v for k, v in pretrained.items()}
    facts = config.get("seed_hub", {})
    projection = None
    if head and (folder / HEAD).exists() and facts.get("projection_head"):
        projection = rebuild(facts["projection_head"])
        _load_strictly(projection, folder / HEAD)
    scores = bool(facts.get("head_gives_classes"))
    return Encoder(
        backbone,
        arch=arch,
        name=facts.get("name", folder.name),
        mean=tuple(pretrained["mean"]),
        std=tuple(pretrained["std"]),
        input_size=pretrained["input_size"][-1],
        head=None if scores else projection,
        classifier=projection if scores else None,
        licence=recorded_licence(pretrained.get("license"), facts),
    )


def model_in(folder: Path) -> Path:
    """The model folder of a run, or ``folder`` itself."""
    return folder / "best" if (folder / "best" / CONFIG).exists() else folder


def licence_in(folder: Path) -> str | None:
    """What the config.json of a run or model folder says of its terms; None if it, or the folder, does not."""
    try:
        config = json.loads((model_in(folder) / CONFIG).read_text(encoding="utf-8"))
        return recorded_licence(config["pretrained_cfg"].get("license"), config.get("seed_hub", {}))
    except (OSError, ValueError, KeyError):
        return None


def start_from(path: str, student: Encoder) -> nn.Sequential | None:
    """Give ``student`` the weights, and with them the licence, of the run or model folder at ``path``, or of the released
    weight of that name; the head that lies beside them is returned.

    Raises:
        SeedHubError: there is no such folder or weight, or it holds another architecture.
    """
    folder = Path(path)
    if not folder.exists() and path in {weight.name for weight in released.WEIGHTS}:
        found = build_student(path, pretrained=True)
    else:
        found = load_model_folder(model_in(folder))
    if found.arch != student.arch:
        raise SeedHubError(
            f"{path} holds a {found.arch}, and the student is a {student.arch}: name the student it was trained as."
        )
    student.backbone.load_state_dict(found.backbone.state_dict())
    student.licence = found.licence
    head = found.head or found.classifier
    return head if isinstance(head, nn.Sequential) else None


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` beside ``path``, force it to disk, then rename over it: there is always one whole file."""
    partial = path.with_name(path.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SeedHubError(
            f"Could not write {path} ({error.strerror}); what was there before is kept."
        ) from error


def _replace_tensors(path: Path, module: nn.Module) -> None:
    tensors = {
        k: v.detach().cpu().float().contiguous() if v.is_floating_point() else v.cpu()
        for k, v in module.state_dict().items()
    }
    # One metadata key only: with two or more the file's bytes are not reproducible. Not save_file: nobody else might read
    # what it writes, whatever the umask says.
    replace_file(path, save(tensors, metadata={"format": "pt"}))


def _load_strictly(module: nn.Module, path: Path) -> None:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SeedHubError(
            f"{path} is missing or damaged ({error}): copy it again or use another model."
        ) from error
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or extra or shapes:
        raise SeedHubError(
            f"{path} does not fit its architecture: missing {missing[:4]}, unexpected {extra[:4]}, "
            f"of another shape {sorted(shapes)[:4]}; it was saved from another network."
        )
    module.load_state_dict(tensors)


def _pool_of(backbone: nn.Module) -> str:
    pool = getattr(backbone, "global_pool", None)
    kind = getattr(pool, "pool_type", pool)
    return kind if isinstance(kind, str) else "avg"
