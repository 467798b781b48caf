"""What ``card`` and ``push`` publish: of a run, or of a folder that was published before."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.terminal import say
from seed_hub.errors import SeedHubError
from seed_hub.project import HUB_ORGANISATION
from seed_hub.weights import WEIGHTS

if TYPE_CHECKING:
    from seed_hub.cli.publish import CardSettings
    from seed_hub.licences import Lineage, Source
    from seed_hub.publishing.publication import Curve, Measured, Publication
    from seed_hub.report.record import RunRecord

MADE_ON = ("packages", "commit", "cpu", "cores", "gpu")  # of environment.json, what a card says


def publication_of_run(run: Path, settings: CardSettings) -> Publication:
    """All that a card says, read from the run's folder and the results files."""
    from seed_hub.cli.pages import results_of
    from seed_hub.golden import LEAST_SIDE
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
    if settings.size and settings.size < LEAST_SIDE:
        raise SeedHubError(
            f"--size {settings.size} is no side of a picture: name one of {LEAST_SIDE} pixels or more."
        )
    if settings.teacher_labels and not record.settings.teacher:
        raise SeedHubError(f"{run} had no teacher: leave --teacher-labels out.")
    terms = Path(settings.licence_file) if settings.licence_file else None
    if terms is not None and not terms.is_file():
        raise SeedHubError(f"There is no file {terms}: --licence-file names the text of the licence.")
    files = [Path(file) for file in settings.results] or results_of(run)
    values = asdict(record.settings) | record.method_settings
    values = {name: _plain(value) for name, value in values.items() if name != "out"}
    values["data"] = settings.images_name or values["data"]
    return Publication(
        repository=repository,
        model=run / "best",
        lineage=_lineage(record, settings),
        settings=values,
        command=shlex.join(_without_folders(word) for word in record.environment.get("command") or []),
        environment={name: record.environment[name] for name in MADE_ON if name in record.environment},
        hours=record.seconds / 3600,
        images_seen=record.images_seen,
        labelled=_learns_from_labels(record),
        teacher_labelled=settings.teacher_labels,
        verdict=record.verdict or "",
        measured=_measured(record, run / "best", files),
        curves=_curves(record),
        size=settings.size,
        watts=settings.watts,
        datasets=settings.dataset,
        base_model=settings.base_model or _repository_of(record.settings.teacher),
        terms=terms,
    )


def _repository_of(teacher: str) -> str:
    """ORG/NAME of a teacher that is named by it; empty for others, and for folders."""
    from seed_hub.data.hub import looks_like_hub_id

    source, _, rest = teacher.partition(":")
    repository = rest.partition("?")[0].partition("@")[0]
    named = source in ("hf", "hf-hub") and looks_like_hub_id(repository) and not Path(repository).exists()
    return repository if named else ""


def publication_of_folder(folder: Path, files: Sequence[Path]) -> Publication:
    """The same from a folder that it was written to, and from results files as they are now."""
    from seed_hub.publishing.publication import read_folder
    from seed_hub.report.record import RunRecord
    from seed_hub.training.settings import RunSettings

    publication = read_folder(folder)
    known = {field.name for field in fields(RunSettings)}
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in publication.settings.items()
        if name in known
    }
    record = RunRecord(folder, RunSettings(**settings), {}, [], publication.verdict, {}, [])
    return replace(publication, measured=_measured(record, folder, files))


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
    from seed_hub.licences import Source, decide

    sources = [
        *_teachers(record, settings.teacher_licence),
        Source("images", settings.images_name or _plain(record.settings.data), settings.images_licence),
        *_start(record, settings.start_licence),
    ]
    return decide(sources, settings.licence, settings.override_licence)


def _start(record: RunRecord, stated: str) -> list[Source]:
    """The weights that the run started from, if it did, under the terms that are recorded of them; ``stated`` are others
    where none are, or stricter ones: the terms of their images may not be recorded."""
    from seed_hub.licences import KNOWN, Source, most_restrictive

    start = record.settings.start
    if stated and not start:
        raise SeedHubError(f"{record.path} started from no other weights: leave --start-licence out.")
    if not start:
        return []
    recorded = _recorded_start(record.path, start)
    if stated and recorded in KNOWN and most_restrictive((recorded, stated)) != stated:
        raise SeedHubError(
            f"The terms of the start {_plain(start)} are known ({recorded}): leave --start-licence out, or name stricter ones."
        )
    return [Source("start", _plain(start), stated or recorded)]


def _recorded_start(run: Path, start: str) -> str:
    """By the run itself, or where it started; empty if by neither."""
    from seed_hub.model_folder import licence_in

    recorded = _facts(run).get("start_licence") or "unknown"
    if recorded == "unknown":  # of an earlier version, or before the start had a card
        released = {weight.name: weight.licence for weight in WEIGHTS}
        recorded = (licence_in(Path(start)) if Path(start).exists() else released.get(start)) or ""
    return recorded


def _teachers(record: RunRecord, stated: str) -> list[Source]:
    """With the terms that the run found at its teachers; ``stated`` are those of the ones it found none at."""
    from seed_hub.licences import Source

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
    found = (_facts(run).get("teacher_licence") or "").split(" + ")
    return found if teachers and len(found) == teachers else ["unknown"] * teachers


def _facts(run: Path) -> dict[str, Any]:
    """What the run wrote of its best model."""
    try:
        return json.loads((run / "best" / "config.json").read_text(encoding="utf-8"))["seed_hub"]
    except (OSError, ValueError, KeyError) as error:
        raise SeedHubError(
            f"{run} holds no trained model: a run has one in best/ after its first look at held-out images."
        ) from error


def _measured(record: RunRecord, model: Path, files: Sequence[Path]) -> tuple[Measured, ...]:
    """Lines that hold the sha256 of the published weights: of the trunk, as nobody else loads the head."""
    from seed_hub.eval.record import weights_sha256
    from seed_hub.eval.results_file import departures
    from seed_hub.model_folder import load_model_folder
    from seed_hub.publishing.publication import Measured, Score
    from seed_hub.report.measurements import compare, read_lines

    encoder = load_model_folder(model, head=False)
    found = compare(record, {weights_sha256(encoder.backbone)}, read_lines(files))
    return tuple(
        Measured(
            each.line,
            tuple(Score(bar.name, bar.value, bar.whisker) for bar in each.bars if not bar.own),
            each.gap_closed,
            departures(each.line),
        )
        for each in found
    )


def _curves(record: RunRecord) -> tuple[Curve, ...]:
    """What was looked at of the held-out images, and the loss; none of what was asked about only once."""
    from seed_hub.publishing.publication import Curve
    from seed_hub.report.record import headline_metric

    found = [Curve("loss", tuple((step["images"], step["loss"]) for step in record.steps))]
    if record.looks:
        key, share, does = headline_metric(record.looks[-1])
        points = tuple((look["images"], look[key]) for look in record.looks if look.get(key) is not None)
        first = record.first.get(key) if record.first else None
        best = record.best["images"] if record.best else None
        found.insert(
            0, Curve(key.replace("_", " "), points, f"share {share} that {does}", first, best, share=True)
        )
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
