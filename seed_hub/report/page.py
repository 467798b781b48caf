"""The page: verdict, numbers, sections; one file, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from seed_hub.errors import SeedHubError
from seed_hub.report import sections as sections_of
from seed_hub.report import tables
from seed_hub.report.record import RunRecord, duration, read_run
from seed_hub.report.tables import code


def write_report(
    run_folder: Path,
    out: Path | None = None,
    *,
    results: Sequence[Path] = (),
    pictures: Path | None = None,
) -> Path:
    """Write the page about the run in ``run_folder``; its path is returned.

    Args:
        out: where; default ``run_folder/report.html``.
        results: files in which to look for measurements of the run.
        pictures: the folder that the detection protocol filled.

    Raises:
        SeedHubError: ``run_folder`` is no run, a file of results or a picture is not there, or ``out`` cannot be written.
    """
    from seed_hub.model_folder import replace_file

    out = run_folder / "report.html" if out is None else out
    text = page(read_run(run_folder), results, pictures)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise SeedHubError(f"Cannot write {out} ({error.strerror}): name another file with --out.") from error
    return out


def page(run: RunRecord, results: Sequence[Path] = (), pictures: Path | None = None) -> str:
    """The whole HTML document."""
    word, rest, tone = run.closing
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    sections = [
        sections_of.curves(run),
        *sections_of.measured(run, results, pictures),
        *sections_of.seen_again(run),
        sections_of.looks(run),
        ("Cost", "", tables.cost_table(run)),
        ("Skipped images", "", tables.skipped_images(run)),
        ("Settings", "Bold: chosen, not the default.", _folded("All settings", tables.settings_table(run))),
        ("Environment", "", _folded("Versions and machine", tables.environment_table(run))),
    ]
    body = "".join(_section(*section) for section in sections)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1"><meta name=color-scheme content="light dark">'
        f"<title>{escape(run.settings.student)} · {escape(run.path.resolve().name)}</title><style>\n{style}</style></head>\n"
        f"<body><main>\n<header class={tone}>{_title(run)}"
        f"<p class=verdict><strong>{escape(word)}</strong> {escape(rest)}</p></header>\n"
        f"{_tiles(run)}\n{body}"
        f"<footer>{_version()}</footer></main></body></html>\n"
    )


def _title(run: RunRecord) -> str:
    settings = run.settings
    by = f"{escape(settings.method)}{'' if settings.teacher else ', without a teacher'}"
    facts = {"Method": by, "Teacher": code(settings.teacher) if settings.teacher else ""}
    facts |= {"Images": code(settings.data), "Run": code(str(run.path))}
    # A name and its value wrap together.
    shown = "".join(f"<div><dt>{name}</dt> <dd>{text}</dd></div>" for name, text in facts.items() if text)
    return f"<h1>{escape(settings.student)}</h1><dl>{shown}</dl>"


def _tiles(run: RunRecord) -> str:
    """The key numbers: now beside before."""
    shown = run.best or run.first
    tiles: list[tuple[str, str, str]] = []
    if shown:
        names = [("agreement", "Agreement", "{:.1%}"), ("cosine", "Cosine to the teacher", "{:.3f}")]
        if shown["agreement"] is None and shown.get("accuracy") is None:
            names = [("view_retrieval", "View retrieval", "{:.1%}")]
        names += [
            ("accuracy", "Accuracy", "{:.1%}"),
            ("effective_rank", "Effective rank", "{:.0f}"),
            ("knn", "k-NN, labels only shown", "{:.1f}%"),
        ]
        for key, title, form in names:
            if shown.get(key) is not None:
                before = f"{run.before} {form.format(run.first[key])}" if run.first else ""
                tiles.append((title, form.format(shown[key]), before))
    seconds = run.seconds
    rate = f"{run.images_seen / seconds:,.0f} images/s" if seconds else ""
    tiles += [
        ("Images seen", f"{run.images_seen:,}", rate),
        ("Training time", duration(seconds), _steps(run)),
    ]
    return (
        "<ul class=tiles>"
        + "".join(
            f"<li><span>{escape(title)}</span><b>{escape(value)}</b><small>{escape(note)}</small></li>"
            for title, value, note in tiles
        )
        + "</ul>"
    )


def _steps(run: RunRecord) -> str:
    last = max((line.get("step", 0) for line in run.log), default=0)
    return f"{last:,} steps of {run.settings.batch_size}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _section(title: str, text: str, content: str) -> str:
    lead = f"<p class=lead>{escape(text)}</p>" if text else ""
    return f"<section><h2>{title}</h2>{lead}{content}</section>\n"


def _version() -> str:
    from seed_hub import __version__

    return f"seed-hub {__version__} · everything in this page is from the run's folder and images, and its measurements"
