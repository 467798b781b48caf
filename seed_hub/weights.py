"""Released weights: the table, and how a file of it is found and checked. No torch.

A weight ``arch.tag`` is a folder ``model_cards/arch.tag/`` and a Hugging Face repository ``seed-hub/arch.tag``; both
hold ``model.safetensors``. The table is ``released.json``, which goes with the package and which ``training/release.py``
writes. Where a weight is looked for, first found first taken:

1. ``$SEED_HUB_WEIGHTS/arch.tag/model.safetensors``, for machines without network,
2. ``model_cards/`` of the checkout this package runs from,
3. the Hugging Face cache, without network,
4. the Hub.

Whatever is found must have the sha256 of the table: the Hub client checks downloads over HTTP for their size only. Its
environment variables count: ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``, ``HF_TOKEN``, and ``HTTP_PROXY`` and its like.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
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
    """Side in pixels of the images it is published for."""
    tensors: str = ""
    """sha256 over the tensors: how lines of results name these weights."""
    replaced_in: str | None = None
    """The version of this package that was the last to put another file under this name; None: it is the first."""

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


def read_table(path: Path) -> tuple[Weight, ...]:
    """The weights of a ``released.json``, in its order.

    Raises:
        WeightsError: the file is not there, or no such table.
    """
    try:
        return tuple(Weight(**row) for row in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{path} is no table of weights ({error}): install seed-hub again.") from error


def table_text(table: tuple[Weight, ...]) -> str:
    """What :func:`read_table` reads."""
    return json.dumps([asdict(weight) for weight in table], indent=2) + "\n"


WEIGHTS = read_table(Path(__file__).with_name("released.json"))
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
            to look elsewhere: whoever put it there believes that it is used. One in the cache, or just downloaded, is
            removed and downloaded once more.
    """
    for folder in _folders():
        path = folder / weight.name / FILE_NAME
        if path.is_file():
            return _verified(path, weight)
    if weight.revision is None:
        raise WeightsError(
            f"{weight.name} is not on the Hugging Face Hub and in no folder here: {_by_hand(weight)}"
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
    """From the cache, which asks nobody, else from the Hub. A damaged file is removed and fetched once more."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(weight.repository, FILE_NAME, cache_dir, weight.revision)
    path = Path(cached) if isinstance(cached, str) else None  # it may also be a mark that there is none
    found = ""
    for _ in range(2):
        try:
            path = path or _download(weight, cache_dir)
            found = sha256_of(path)
            if found == weight.sha256:
                return path
            for file in (path.resolve(), path):  # the cache links a commit's file to its content
                file.unlink(missing_ok=True)
            path = None
        except Exception as cause:  # of two HTTP libraries, the file system, and the Hub client
            raise WeightsError(_explained(cause, weight)) from cause
    raise WeightsError(
        f"{FILE_NAME} of {weight.repository} came damaged twice (its sha256 begins {found[:12]}, the released file's "
        f"{weight.sha256[:12]}) and was removed: try another network, or {_by_hand(weight)}"
    )


def _download(weight: Weight, cache_dir: str | Path | None) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    # The download alone would try a Hub that cannot be reached for 20 s and more; a question of its own is not repeated.
    try:
        get_hf_file_metadata(hf_hub_url(weight.repository, FILE_NAME, revision=weight.revision))
    except HfHubHTTPError as answer:
        status = answer.response.status_code
        if status < 500 and status != 429:  # a Hub that is only busy is worth the client's patience
            raise
    return Path(hf_hub_download(weight.repository, FILE_NAME, revision=weight.revision, cache_dir=cache_dir))


def _explained(error: Exception, weight: Weight) -> str:
    """What the Hub client says at length, as one sentence and what to do."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{weight.repository}"
    log_in = "set HF_TOKEN to a token that may read it (or run `hf auth login`)"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{weight.repository} is gated: accept its terms on {page}, then {log_in}."
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return f"{weight.repository} is private or does not exist: open {page}; if it is there, {log_in}."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{page} has no revision {weight.revision}: upgrade seed-hub, whose table of weights names it."
    if isinstance(error, errors.EntryNotFoundError) and status == 404:
        return f"{page} holds no {FILE_NAME} at revision {weight.revision}: it is not, or no longer, an image model of ours."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{weight.repository} is not in the cache, and HF_HUB_OFFLINE is set: unset it, or {_by_hand(weight)}"
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return (
        f"{weight.repository} (revision {weight.revision}) could not be downloaded ({reason}): check the network, or "
        f"{_by_hand(weight)}"
    )


def _by_hand(weight: Weight) -> str:
    return (
        f"put {FILE_NAME} into {weight.name}/ of a folder, and name that folder in the environment variable "
        f"{FOLDER_VARIABLE}."
    )
