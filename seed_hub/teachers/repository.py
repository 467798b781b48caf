"""A repository of the Hugging Face Hub: what went wrong with it in one sentence, its commit, and the terms its card names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "config.json")


def refusal(error: Exception, spec: str, repo: str, revision: str | None) -> SeedHubError:
    """``error`` of the Hub client, or of a library around it, as what to do about it.

    Args:
        spec: the teacher as the user wrote it.
        repo: ``ORG/NAME``.
    """
    from huggingface_hub import constants, errors

    causes = list(_chain(error))

    def found(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    page = f"{constants.ENDPOINT}/{repo}"
    if found(errors.GatedRepoError):
        what = f"is gated: accept its terms on {page}, log in with `hf auth login` (or set HF_TOKEN), and try again"
    elif found(errors.RevisionNotFoundError):
        what = f'has no revision "{revision}": {page} lists its branches, tags and commits'
    elif found(errors.RepositoryNotFoundError):
        what = f"does not exist or is private: compare its name with {page}, or log in with `hf auth login`"
    elif found(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        what = "is not in the cache and the Hub cannot be reached: connect, unset HF_HUB_OFFLINE, or name a folder that has it"
    else:
        what = f"could not be loaded ({first_line(error)})"
    return SeedHubError(f"{spec} {what}.")


def ask_once(repo: str, revision: str | None) -> None:
    """One question to the Hub, if nothing of ``repo`` is in the cache: the client's own is repeated for 20 s and more where
    nobody answers.

    Raises:
        Exception: of the Hub client: nobody answers, or it refuses; what a busy Hub says is left to the client's patience.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE or Path(repo).is_dir() or cached_commit(repo, revision):
        return
    try:
        get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision))
    except Exception as error:  # of two HTTP libraries, and the Hub client
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is None:
            raise LocalEntryNotFoundError("nobody answers") from error
        if status < 500 and status != 429 and not isinstance(error, EntryNotFoundError):
            raise  # what it lacks is said by whoever loads it


def first_line(error: Exception, most: int = 200) -> str:
    """Kind and first line of an error, at most ``most`` characters."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:most]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Libraries wrap the client's errors in their own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def cached_commit(repo: str, revision: str | None = None) -> str | None:
    """The commit of ``repo`` that lies in the Hub's cache under ``revision`` (default: its main branch); no request."""
    from huggingface_hub import try_to_load_from_cache

    for name in _WEIGHTS:
        path = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(path, str):
            parts = Path(path).parts
            return parts[parts.index("snapshots") + 1]
    return None


def card_licence(repo: str, revision: str | None) -> str | None:
    """The licence that the card of a repository, or of a folder, names; None if it has no card or the card none."""
    from huggingface_hub import ModelCard, hf_hub_download

    try:
        folder = Path(repo)
        card = (
            folder / "README.md" if folder.is_dir() else hf_hub_download(repo, "README.md", revision=revision)
        )
        data: Any = ModelCard.load(card, ignore_metadata_errors=True).data
    except (OSError, ValueError):  # no card, or none within reach
        return None
    named = data.license_name if data.license == "other" else data.license
    return named if isinstance(named, str) else None
