"""``card`` and ``push``: a run becomes a page of the Hugging Face Hub."""

from __future__ import annotations

import json
import shlex
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import say, show
from seed_hub.errors import SeedHubError
from seed_hub.project import HUB_ORGANISATION
from seed_hub.settings import read_settings

if TYPE_CHECKING:
    from seed_hub.publishing.licences import Lineage, Source
    from seed_hub.publishing.publication import Curve, Measured, Publication
    from seed_hub.report.record import RunRecord


@dataclass(frozen=True)
class CardSettings:
    """What ``card`` can be told, and ``push`` as well."""

    repo: str = ""
    """the repository on the Hub, ORG/NAME"""
    out: str = ""
    """folder to write (default: RUN/card; of push: one that is removed afterwards)"""
    images_licence: str = ""
    """terms of the images: an identifier such as cc-by-4.0, own, or research-only as for ImageNet"""
    teacher_licence: str = ""
    """terms of the teacher's weights, where the run does not know them"""
    start_licence: str = ""
    """terms of the weights that the student started from, if it did"""
    licence: str = ""
    """licence of the student (default: what teacher and images ask for)"""
    licence_file: str = ""
    """text of the licence of student or teacher, to go along where one asks for it"""
    override_licence: str = ""
    """reason to publish under a licence that teacher or images do not allow; it is printed on the card"""
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
    run, settings = _parse(
        "card", "Write the page of a run, with all that its repository holds; no network.", argv
    )
    out = Path(settings.out or run / "card")
    publication = _publication(run, settings)

    from seed_hub.publishing.publication import CARD, write_folder

    write_folder(publication, out)
    show(f"{out / CARD}: {publication.repository}, {publication.lineage.licence.identifier}")
    return {"folder": str(out), "repo": publication.repository, "licence": publication.lineage.as_json()}


def push(argv: list[str]) -> dict[str, Any]:
    run, settings = _parse("push", "Publish a run on the Hugging Face Hub, with its card.", argv)
    assert isinstance(settings, PushSettings)

    from seed_hub.publishing.publication import write_folder
    from seed_hub.publishing.push import check_can_push, push_folder

    check_can_push()
    publication = _publication(run, settings)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(publication, Path(settings.out or temporary))
        pushed = push_folder(
            folder, publication.repository, private=settings.private, message=settings.message
        )
    show(f"{pushed.repository} at revision {pushed.revision}, weights sha256 {pushed.sha256}")
    return asdict(pushed) | {"licence": publication.lineage.as_json()}


def _parse(command: str, summary: str, argv: list[str]) -> tuple[Path, CardSettings]:
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


def _publication(run: Path, settings: CardSettings) -> Publication:
    """All that a card says, read from the run's folder and the results files."""
    from seed_hub.publishing.publication import Publication
    from seed_hub.publishing.push import check_repository
    from seed_hub.report.record import read_run

    repository = settings.repo or f"{HUB_ORGANISATION}/{run.resolve().name}"
    check_repository(repository)
    if not settings.repo:
        say(f"the card says {repository}; name your repository with --repo ORG/NAME")
    if settings.watts < 0:
        raise SeedHubError(f"--watts {settings.watts:g} is no power: give the machine's mean draw in watts.")
    record = read_run(run)
    terms = Path(settings.licence_file) if settings.licence_file else None
    if terms is not None and not terms.is_file():
        raise SeedHubError(f"There is no file {terms}: --licence-file names the text of the licence.")
    values = asdict(record.settings) | record.method_settings
    values = {name: _plain(value) for name, value in values.items() if name != "out"}
    return Publication(
        repository=repository,
        model=run / "best",
        lineage=_lineage(record, settings),
        settings=values,
        command=shlex.join(_without_folders(word) for word in record.environment.get("command") or []),
        environment=record.environment,
        hours=record.seconds / 3600,
        images_seen=record.images_seen,
        labelled=_learns_from_labels(record),
        verdict=record.verdict or "",
        measured=_measured(record, settings),
        curves=_curves(record),
        watts=settings.watts,
        datasets=settings.dataset,
        base_model=settings.base_model,
        terms=terms,
    )


def _learns_from_labels(record: RunRecord) -> bool:
    from seed_hub.training.methods import method_class

    cls = method_class(record.settings.method)
    known = cls.Settings.__dataclass_fields__
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.method_settings.items()
        if name in known  # a run of an earlier version may have had others
    }
    return "labels" in cls.reads(cls.Settings(**own))


def _lineage(record: RunRecord, settings: CardSettings) -> Lineage:
    from seed_hub.publishing.licences import Source, decide

    start = record.settings.start
    if settings.start_licence and not start:
        raise SeedHubError(f"{record.path} started from no other weights: leave --start-licence out.")
    sources = [
        *_teachers(record, settings.teacher_licence),
        Source("images", _plain(record.settings.data), settings.images_licence),
        *([Source("start", _plain(start), settings.start_licence)] if start else []),
    ]
    return decide(sources, settings.licence, settings.override_licence)


def _teachers(record: RunRecord, stated: str) -> list[Source]:
    """With the terms that the run found at its teachers; ``stated`` are those of the ones it found none at."""
    from seed_hub.publishing.licences import Source

    specs = [spec for spec in (record.settings.teacher, *record.settings.more_teachers) if spec]
    recorded = _recorded_licences(record.path, len(specs))
    if stated and "unknown" not in recorded:
        known = " + ".join(recorded)
        raise SeedHubError(
            f"The run knows the terms of its teacher ({known}): leave --teacher-licence out."
            if recorded
            else f"{record.path} had no teacher: leave --teacher-licence out."
        )
    return [
        Source("teacher", _plain(spec), stated if stated and licence == "unknown" else licence)
        for spec, licence in zip(specs, recorded, strict=True)
    ]


def _recorded_licences(run: Path, teachers: int) -> list[str]:
    """One for each teacher; "unknown" where the run wrote none."""
    try:
        facts = json.loads((run / "best" / "config.json").read_text(encoding="utf-8"))["seed_hub"]
    except (OSError, ValueError, KeyError) as error:
        raise SeedHubError(
            f"{run} holds no trained model: a run has one in best/ after its first look at held-out images."
        ) from error
    found = (facts.get("teacher_licence") or "").split(" + ")
    return found if teachers and len(found) == teachers else ["unknown"] * teachers


def _measured(record: RunRecord, settings: CardSettings) -> tuple[Measured, ...]:
    """Lines that hold the sha256 of the published weights: of the trunk, as nobody else loads the head."""
    from seed_hub.cli.pages import results_of
    from seed_hub.eval.record import weights_sha256
    from seed_hub.model_folder import load_model_folder
    from seed_hub.publishing.publication import Measured, Score
    from seed_hub.report.measurements import compare, read_lines

    encoder = load_model_folder(record.path / "best", head=False)
    files = [Path(file) for file in settings.results] or results_of(record.path)
    found = compare(record, {weights_sha256(encoder.backbone)}, read_lines(files))
    return tuple(
        Measured(
            each.line, tuple(Score(bar.name, bar.value, bar.whisker) for bar in each.bars if not bar.own)
        )
        for each in found
    )


def _curves(record: RunRecord) -> tuple[Curve, ...]:
    """What was looked at of the held-out images, and the loss; none of what was asked about only once."""
    from seed_hub.publishing.publication import Curve
    from seed_hub.report.record import headline_metric

    found = [Curve("loss", tuple((step["images"], step["loss"]) for step in record.steps))]
    if record.looks:
        key, meaning = headline_metric(record.looks[-1])
        points = tuple((look["images"], look[key]) for look in record.looks if look.get(key) is not None)
        untrained = record.untrained.get(key) if record.untrained else None
        best = record.best["images"] if record.best else None
        found.insert(0, Curve(key.replace("_", " "), points, f"share {meaning}", untrained, best, share=True))
    return tuple(curve for curve in found if len(curve.points) > 1)


def _plain(value: Any) -> Any:
    """No one's folders are published."""
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return _without_folders(value) if isinstance(value, str) else value


def _without_folders(word: str) -> str:
    """``--data=/home/me/photos`` -> ``--data=photos``."""
    from seed_hub.eval.record import without_folders

    flag, equals, value = word.partition("=")
    return (
        flag + equals + without_folders(value) if flag.startswith("--") and equals else without_folders(word)
    )
