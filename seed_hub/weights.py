"""Released weights: the table, and how a file of it is found and checked. No torch.

A weight ``arch.tag`` is a folder ``model_cards/arch.tag/`` and a Hugging Face repository ``seed-hub/arch.tag``; both
hold ``model.safetensors``. Where it is looked for, first found first taken:

1. ``$SEED_HUB_WEIGHTS/arch.tag/model.safetensors``, for machines without network,
2. ``model_cards/`` of the checkout this package runs from,
3. the Hugging Face cache, without network,
4. the Hub.

Whatever is found must have the sha256 of the table: downloads over HTTP are checked for their size only.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from seed_hub.errors import SeedHubError, nearest
from seed_hub.project import HUB_ORGANISATION

FILE_NAME = "model.safetensors"
FOLDER_VARIABLE = "SEED_HUB_WEIGHTS"


class WeightsError(SeedHubError, RuntimeError):
    """Weights that are not there, or not what they should be; a ``RuntimeError`` too, as callers of timm expect."""


@dataclass(frozen=True)
class Weight:
    """One released weight."""

    name: str
    """``arch.tag``: also its folder under ``model_cards/`` and its Hub repository's name."""
    sha256: str
    """Of ``model.safetensors``, 64 hex digits."""
    licence: str
    """What teacher, data and code together allow, as an identifier of the Hub's list."""
    description: str
    """One line: method, teacher, data, images seen."""
    revision: str | None = None
    """Commit of the Hub repository; None until it is pushed: such a weight is found in folders only."""
    input_size: int = 224
    """Side in pixels of the images it was trained on."""

    @property
    def arch(self) -> str:
        """The student, ``seed_...``."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """Teacher and data, ``<teacher>_<data>``."""
        return self.name.partition(".")[2]

    @property
    def repository(self) -> str:
        """On the Hugging Face Hub."""
        return f"{HUB_ORGANISATION}/{self.name}"


WEIGHTS: tuple[Weight, ...] = ()
"""Every released weight; a student's first one is its default."""


def weights_of(arch: str) -> list[Weight]:
    """The released weights of a student, the default one first."""
    return [weight for weight in WEIGHTS if weight.arch == arch]


def find_weight(name: str) -> Weight:
    """The weight called ``arch.tag``.

    Raises:
        WeightsError: there is none; what there is, is listed.
    """
    for weight in WEIGHTS:
        if weight.name == name:
            return weight
    arch = name.partition(".")[0]
    raise WeightsError(
        f'There is no weight "{name}". {advice(arch)}{nearest(name, [w.name for w in WEIGHTS])}'
    )


def advice(arch: str) -> str:
    """What there is instead, and what to do: the second half of every message about a weight that does not exist."""
    known = [weight.name for weight in weights_of(arch) or WEIGHTS]
    there_is = f"Released: {', '.join(known)}; take one of these" if known else "No student has one yet"
    return (
        f"{there_is}, train one with `seed-hub distill --data D --teacher T --student {arch} --out RUN`, "
        "or pass pretrained=False for random weights."
    )


def locate(weight: Weight, *, cache_dir: str | Path | None = None) -> Path:
    """The path of a weight's file, its sha256 checked.

    Args:
        cache_dir: of the Hugging Face Hub, instead of its own default.

    Raises:
        WeightsError: it is nowhere, or a file has another sha256. A damaged file in a folder is an error, not a reason
            to look elsewhere: whoever put it there believes that it is used. One in the cache is downloaded again.
    """
    for folder in _folders():
        path = folder / weight.name / FILE_NAME
        if path.is_file():
            return _verified(path, weight)
    if weight.revision is None:
        raise WeightsError(
            f"{weight.name} is not on the Hugging Face Hub and in no folder here: put its {FILE_NAME} into "
            f"{weight.name}/ of a folder, and name that folder in the environment variable {FOLDER_VARIABLE}."
        )
    return _from_hub(weight, cache_dir)


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file, 64 digits; about 1 ms per MB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _folders() -> list[Path]:
    folders = []
    stated = os.environ.get(FOLDER_VARIABLE)
    if stated:
        if not Path(stated).is_dir():
            raise WeightsError(
                f'{FOLDER_VARIABLE} names "{stated}", which is not a folder: correct or unset it.'
            )
        folders.append(Path(stated))
    root = Path(__file__).resolve().parents[1]
    if (root / "hubconf.py").is_file():  # a checkout (or torch.hub's copy of one), not site-packages
        folders.append(root / "model_cards")
    return folders


def _verified(path: Path, weight: Weight) -> Path:
    found = sha256_of(path)
    if found != weight.sha256:
        raise WeightsError(
            f"{path} is not {weight.name}: its sha256 begins {found[:12]}, the released file's {weight.sha256[:12]}; "
            "delete it and get the file again (a file of about 100 bytes is a git LFS pointer)."
        )
    return path


def _from_hub(weight: Weight, cache_dir: str | Path | None) -> Path:
    """Cache first: without network, an uncached request would take 20 s of retries to fail."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = _download(weight, cache_dir, local_files_only=True)
    except LocalEntryNotFoundError:
        cached = False
    else:
        cached = True
        if sha256_of(path) == weight.sha256:
            return path
    try:
        # A cached file of the right size and the wrong content stays as it is unless the download is forced.
        path = _download(weight, cache_dir, force_download=cached)
    except (OSError, ValueError) as cause:  # every error of the Hub client and its connection is one of these
        reason = " ".join(str(cause).split()).rstrip(".")
        raise WeightsError(
            f"{weight.repository} (revision {weight.revision}) could not be downloaded: {reason}. Without network, put "
            f"{FILE_NAME} into {weight.name}/ of a folder, and name that folder in {FOLDER_VARIABLE}."
        ) from cause
    return _verified(path, weight)


def _download(
    weight: Weight,
    cache_dir: str | Path | None,
    *,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(
        hf_hub_download(
            weight.repository,
            FILE_NAME,
            revision=weight.revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    )
