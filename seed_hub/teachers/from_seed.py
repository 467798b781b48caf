"""``seed:``: a run folder of ours (its best/ student and head), a model folder, or a zoo name."""

from __future__ import annotations

from pathlib import Path

from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import CONFIG, load_model_folder


def load(
    rest: str, options: dict[str, str], *, image_size: int | None, allow_random: bool, classifier: bool
) -> Encoder:
    """``head=none`` takes the pooled features of a run that has a projection head; ``which=last`` its last weights."""
    head = options.pop("head", "yes") != "none"
    which = options.pop("which", "best")
    if which not in ("best", "last"):
        raise SeedHubError(f"seed:{rest}?which={which}: choose which=best or which=last.")
    if not rest:
        raise SeedHubError("seed: names no model: write seed:RUN, or a model of the zoo (`seed-hub list`).")
    folder = Path(rest)
    if folder.is_file():
        raise SeedHubError(f"{folder} is a file: name the folder that holds it, {folder.parent}.")
    if (folder / which / CONFIG).exists():
        return load_model_folder(folder / which, head=head)
    if (folder / CONFIG).exists() and not (folder / "environment.json").exists():
        return load_model_folder(folder, head=head)
    if folder.exists():
        raise SeedHubError(
            f"{folder} holds no trained model: a run has one in {which}/ after its first look at held-out images."
        )
    if "/" in rest or rest.startswith("."):
        raise SeedHubError(
            f"There is no folder {folder}: name a run folder or a model of the zoo (`seed-hub list`)."
        )
    return build_student(rest, pretrained=True)
