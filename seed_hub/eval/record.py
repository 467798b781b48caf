"""One JSON line per measurement: what was measured, on what, how, by which code, on which machine.

``eval/results/*.jsonl`` is made of these, and every number in a table or card comes from there.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from seed_hub.errors import SeedHubError
from seed_hub.eval.provenance import commit, machine, versions
from seed_hub.eval.results_file import as_json

if TYPE_CHECKING:
    from torch import nn

    from seed_hub.data import Images

_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")  # the Hub's names of a split's files


def result_line(
    protocol: str,
    values: Iterable[tuple[str, Any]],
    *,
    headline: str,
    spec: str,
    encoder: nn.Module,
    train: Images,
    test: Images,
    settings: Any,
    seconds: float,
    facts: dict[str, Any] | None = None,
    shortened: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The line of one run of a protocol.

    Args:
        values: what ``evaluate`` yielded; a name that came n times is summarised by mean and deviation, and of
            ``correct``, which test images the headline counts, comes its 95 % interval; ``curves`` stays as it is.
        headline: the metric to put first (the protocol's ``HEADLINE``); the first of ``values`` if it is not there.
        spec: the model as it was asked for; paths are cut to their last part.
        encoder: whose weights were measured.
        settings: the protocol's frozen dataclass.
        shortened: what was left out to fit a time (:func:`seed_hub.eval.budget.shortened`).
        facts: anything a table should know of the model (method, teacher, images seen, cost).
    """
    from seed_hub.eval.intervals import interval, pack  # numpy: `seed-hub info` reads results without it

    grouped: dict[str, list[float]] = {}
    correct, curves = [], {}
    for name, value in values:
        if name == "correct":
            correct.append(value.numpy())
        elif name == "curves":
            curves = {"curves": value}
        else:
            grouped.setdefault(name, []).append(float(value))
    if not grouped:
        raise SeedHubError(f"The protocol {protocol} gave no value: there is nothing to record.")
    summary = {name: _summary(found) for name, found in grouped.items()}
    metric = headline if headline in summary else next(iter(summary))
    return {
        "protocol": protocol,
        "metric": metric,
        **summary[metric],
        **(
            {"interval": list(interval(correct)), "correct": [pack(each) for each in correct]}
            if correct
            else {}
        ),
        **curves,
        "values": summary,
        "model": {
            "spec": without_folders(spec),
            "name": without_folders(getattr(encoder, "name", spec)),
            "sha256": weights_sha256(_measured(encoder, settings)),
            "facts": {k: without_folders(v) if isinstance(v, str) else v for k, v in (facts or {}).items()},
        },
        "data": {"train": _data(train), "test": _data(test)},
        "settings": _settings(settings, encoder),
        **({"shortened": shortened} if shortened else {}),
        **commit(),
        "seconds": round(seconds, 1),
        "machine": machine(getattr(settings, "device", "cpu")),
        "versions": versions(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _summary(found: list[float]) -> dict[str, Any]:
    """``value`` and ``mean`` agree; ``std`` is that of a sample, and unknown for one run."""
    mean = fmean(found)
    return {"value": mean, "n": len(found), "mean": mean, "std": stdev(found) if len(found) > 1 else None}


def _settings(settings: Any, encoder: nn.Module) -> dict[str, Any]:
    """As JSON holds them, with the input size that 0 stands for."""
    resolved = {
        name: without_folders(value) if isinstance(value, str) else value
        for name, value in asdict(settings).items()
    }
    if resolved.get("size") == 0:
        resolved["size"] = getattr(encoder, "input_size", 0)
    return {name: as_json(value) for name, value in resolved.items()}


def _data(images: Images) -> dict[str, Any]:
    return {
        "source": without_folders(images.source),
        "split": images.split,
        "images": len(images),
        "fingerprint": images.fingerprint,
    }


def without_folders(name: str) -> str:
    """A path becomes its last part, so that no line tells how someone's disk is laid out; other names stay.

    ``file:/home/me/moco.pth?arch=resnet50`` -> ``file:moco.pth?arch=resnet50``; what says nothing alone keeps the folder
    it is in: of a run, ``runs/a/best`` -> ``a/best``, and of a shard, ``b/train-00000-of-00005.parquet``; ``org/name`` on
    the Hub, where no such file is, stays.
    """
    found = re.match(
        r"((?:file|seed|hf|torchhub|timm:local-dir|hf-hub|timm):)?(.*?)(\?.*)?$", name, re.DOTALL
    )
    prefix, path, options = (part or "" for part in found.groups())  # type: ignore[union-attr]
    is_path = prefix == "file:" or re.match(r"[/~.\\]|[A-Za-z]:[/\\]", path) or os.path.exists(path)
    if is_path:
        parts = [part for part in re.split(r"[/\\]", os.path.abspath(os.path.expanduser(path))) if part]
        of_folder = parts[-1] in ("best", "last") or _SHARD.search(parts[-1])
        path = "/".join(parts[-3 if parts[-2:-1] == ["looks"] else -2 if of_folder else -1 :])
    return prefix + path + options


def _measured(encoder: nn.Module, settings: Any) -> nn.Module:
    """The part whose weights decide the number: a run and its published, headless model are one for pooled features."""
    from seed_hub.projection import hidden_layers  # torch: `seed-hub info` reads results without it

    encoder = getattr(encoder, "encoder", encoder)  # Frozen or Encoder
    keeps = getattr(settings, "head_layer", "none") != "none" and getattr(settings, "mode", "") == "finetune"
    if keeps and hidden_layers(getattr(encoder, "head", None)):
        return encoder  # the head's first layer takes part
    return (
        encoder if getattr(settings, "features", "") == "projected" else getattr(encoder, "backbone", encoder)
    )


def weights_sha256(module: nn.Module) -> str:
    """sha256 over the names, types, shapes and bytes of the weights, 64 hex digits: the same from any file."""
    import torch

    state = module.state_dict()
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
