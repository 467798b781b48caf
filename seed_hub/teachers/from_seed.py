"""``seed:``: a run folder of ours (its best/ student and head), a model folder, or a zoo name."""

from __future__ import annotations

from pathlib import Path

import timm

from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError, nearest
from seed_hub.model_folder import CONFIG, load_model_folder
from seed_hub.weights import find_weight, weights_of


def check(rest: str, options: dict[str, str], *, allow_random: bool) -> None:
    """There is such a folder with a model in it, or such a weight."""
    which = options.get("which", "best")
    if which not in ("best", "last"):
        raise SeedHubError(f"seed:{rest}?which={which}: choose which=best or which=last.")
    if not rest:
        raise SeedHubError("seed: names no model: write seed:RUN, or a model of the zoo (`seed-hub list`).")
    folder = Path(rest)
    if folder.is_file():
        raise SeedHubError(f"{folder} is a file: name the folder that holds it, {folder.parent}.")
    if _model_of(folder, which):
        return
    if folder.exists():
        raise SeedHubError(
            f"{folder} holds no trained model: a run has one in {which}/ after its first look at held-out images."
        )
    if "/" in rest or rest.startswith("."):
        raise SeedHubError(
            f"There is no folder {folder}: name a run folder or a model of the zoo (`seed-hub list`)."
        )
    if not timm.is_model(rest):
        raise SeedHubError(
            f'There is no model "{rest}": name a run folder or a model of the zoo (`seed-hub list`).'
            + nearest(rest.split(".")[0], timm.list_models("seed_*"))
        )
    if rest.startswith("seed_") and ("." in rest or not weights_of(rest)):
        find_weight(rest)


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """``head=none`` takes the pooled features of a run that has a projection head; ``which=last`` its last weights."""
    head = options.pop("head", "yes") != "none"
    folder = _model_of(Path(rest), options.pop("which", "best"))
    return load_model_folder(folder, head=head) if folder else build_student(rest, pretrained=True)


def _model_of(folder: Path, which: str) -> Path | None:
    """The model folder of a run, or the one that ``folder`` is itself; None if it is neither."""
    if (folder / which / CONFIG).exists():
        return folder / which
    if (folder / CONFIG).exists() and not (folder / "environment.json").exists():
        return folder
    return None
