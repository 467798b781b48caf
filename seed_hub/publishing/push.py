"""Upload of a finished folder, in one commit, and the check that it arrived."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seed_hub.errors import SeedHubError
from seed_hub.model_folder import HEAD, WEIGHTS
from seed_hub.publishing.publication import CARD
from seed_hub.weights import sha256_of


@dataclass(frozen=True)
class Pushed:
    """Where it is now: what a table of weights pins."""

    repository: str
    revision: str
    """commit"""
    sha256: str
    """of the weights, as the Hub has them and as they are here"""


def check_repository(repository: str) -> None:
    """Raises:
    SeedHubError: not of the form ORG/NAME that the Hub takes.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
        formed = repository.count("/") == 1
    except HFValidationError:
        formed = False
    if not formed:
        raise SeedHubError(
            f'"{repository}" is no repository of the Hub: write --repo ORG/NAME, of letters, digits, "-", "_" and ".".'
        )


def check_can_push() -> None:
    """Before anything is computed.

    Raises:
        SeedHubError: offline, or nobody is logged in.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise SeedHubError(
            "HF_HUB_OFFLINE is set, and a push needs the network: unset it, or use `seed-hub card`."
        )
    if not get_token():
        raise SeedHubError(
            "There is no Hub token to push with: run `hf auth login`, or set HF_TOKEN to one that may write."
        )


def push_folder(folder: Path, repository: str, *, private: bool = False, message: str = "") -> Pushed:
    """Create the repository if it is not there, and put the files of ``folder`` into it in one commit; others stay.

    Raises:
        SeedHubError: no token, no right to write, no network, or other weights arrived than were sent.
    """
    check_repository(repository)
    check_can_push()
    if not (folder / CARD).is_file() or not (folder / WEIGHTS).is_file():
        raise SeedHubError(f"{folder} holds no {CARD} and {WEIGHTS}: write them with `seed-hub card`.")
    sent = {name: sha256_of(folder / name) for name in (WEIGHTS, HEAD) if (folder / name).exists()}
    try:
        commit, arrived = _upload(folder, repository, private, message or f"Upload {repository}", list(sent))
    except (
        Exception
    ) as error:  # of two HTTP libraries, the file system, and half a dozen of the Hub client's own
        raise SeedHubError(_explained(error, repository)) from error
    wrong = [name for name, sha256 in sent.items() if arrived.get(name) != sha256]
    if wrong:
        raise SeedHubError(
            f"{repository} now holds another {wrong[0]} than was sent (sha256 {str(arrived.get(wrong[0]))[:12]}, not "
            f"{sent[wrong[0]][:12]}): push again before anyone uses it."
        )
    return Pushed(repository, commit, sent[WEIGHTS])


def _upload(
    folder: Path, repository: str, private: bool, message: str, large: list[str]
) -> tuple[str, dict[str, str]]:
    """(commit, sha256 of the ``large`` files as the Hub has them)."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    hub = HfApi()
    # None leaves an existing repository, and the default of the organisation, as they are.
    hub.create_repo(repository, private=private or None, exist_ok=True)
    commit = hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    revision = str(commit.oid)
    found = hub.get_paths_info(repository, large, revision=revision)
    return revision, {file.path: file.lfs.sha256 for file in found if isinstance(file, RepoFile) and file.lfs}


def _explained(error: Exception, repository: str) -> str:
    error = (
        error.__cause__ if isinstance(error.__cause__, Exception) else error
    )  # of one file's upload: why it failed
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")[:200]
    advice = {
        401: "log in again with `hf auth login`",
        403: f"the token needs the right to write to {repository.partition('/')[0]}",
        404: "check the name, and that the token may see it",
    }.get(status or 0, "check the network, and push again: what arrived is not uploaded twice")
    return f"{repository} could not be pushed ({reason}): {advice}."
