"""``card`` and ``push``: a run becomes a page of the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.published import publication_of_run
from seed_hub.cli.terminal import show
from seed_hub.errors import SeedHubError
from seed_hub.settings import read_settings


@dataclass(frozen=True)
class CardSettings:
    """What ``card`` can be told, and ``push`` as well."""

    repo: str = ""
    """the repository on the Hub, ORG/NAME"""
    out: str = ""
    """folder to write (default: RUN/card; of push: one that is removed afterwards)"""
    images_licence: str = ""
    """terms of the images: an identifier such as cc-by-4.0, own, or research-only as for ImageNet"""
    images_name: str = ""
    """what the page calls the images (default: the last part of the run's --data)"""
    teacher_licence: str = ""
    """terms of the teacher's weights, where the run does not know them"""
    teacher_labels: bool = False
    """the teacher learnt from labels: the page says so, and does not call the student self-supervised"""
    start_licence: str = ""
    """terms of the weights that the student started from, where they are not recorded"""
    licence: str = ""
    """licence of the student (default: what teacher and images ask for)"""
    licence_file: str = ""
    """text of the licence of student or teacher, to go along where one asks for it"""
    override_licence: str = ""
    """reason to publish under a licence that teacher or images do not allow; it is printed on the card"""
    size: int = 0
    """side in pixels of the images that the student is published for, such as the one it was measured at (default: the one
    it was trained at)"""
    watts: float = 0.0
    """mean power of the whole machine while it trained, for an estimate of the energy; 0: none is made"""
    dataset: tuple[str, ...] = ()
    """Hub ids of the images, for the page's metadata"""
    base_model: str = ""
    """Hub id of the teacher, for the page's metadata; the Hub knows no distillation and will call it a fine-tune"""
    results: tuple[str, ...] = ()
    """results files that hold the run's measurements (default: where `seed-hub eval` puts them)"""


@dataclass(frozen=True)
class PushSettings(CardSettings):
    """What ``push`` can be told besides."""

    private: bool = False
    """create the repository as a private one"""
    message: str = ""
    """of the commit (default: Upload ORG/NAME)"""


def card(argv: list[str]) -> dict[str, Any]:
    run, settings = parse(
        "card", "Write the page of a run, with all that its repository holds; no network.", argv
    )
    out = Path(settings.out or run / "card")
    publication = publication_of_run(run, settings)

    from seed_hub.publishing.publication import CARD, write_folder

    write_folder(publication, out)
    show(f"{out / CARD}: {publication.repository}, {publication.lineage.licence.identifier}")
    return {"folder": str(out), "repo": publication.repository, "licence": publication.lineage.as_json()}


def push(argv: list[str]) -> dict[str, Any]:
    run, settings = parse("push", "Publish a run on the Hugging Face Hub, with its card.", argv)
    assert isinstance(settings, PushSettings)

    from seed_hub.publishing.publication import write_folder
    from seed_hub.publishing.push import check_can_push, push_folder

    check_can_push()
    publication = publication_of_run(run, settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(publication, Path(settings.out or temporary))
        pushed = push_folder(
            folder, publication.repository, private=settings.private, message=settings.message
        )
    show(f"{pushed.repository} at revision {pushed.revision}, weights sha256 {pushed.sha256}")
    return asdict(pushed) | {"licence": publication.lineage.as_json()}


def parse(command: str, summary: str, argv: list[str]) -> tuple[Path, CardSettings]:
    """The run that was named, and the rest."""
    parser = Parser(command, summary)
    parser.add_argument("run", metavar="RUN", nargs="?", help="folder of a run")
    kind = PushSettings if command == "push" else CardSettings
    needed = ("repo", "images_licence") if command == "push" else ("images_licence",)
    options = read_settings(Path(__file__), kind.__name__).options
    parser.add_options(command, options, required=needed)
    given = parser.parse(argv)
    if "run" not in given:
        raise SeedHubError(f"Name the folder of a run: `seed-hub {command} RUN`.")
    parser.need(given, *needed)
    return Path(given.pop("run")), kind(**given)
