"""The page: verdict, numbers, curves, neighbours, tables; one file, nothing fetched."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.report import tables
from seed_hub.report.curves import Curve, draw
from seed_hub.report.gallery import NEIGHBOURS, build_gallery, draw_gallery
from seed_hub.report.record import RunRecord, duration, read_run


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write the page about the run in ``run_folder``; its path is returned.

    Args:
        out: where; default ``run_folder/report.html``.

    Raises:
        SeedHubError: ``run_folder`` is no run, or ``out`` cannot be written.
    """
    from seed_hub.model_folder import replace_file

    out = run_folder / "report.html" if out is None else out
    text = page(read_run(run_folder))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise SeedHubError(f"Cannot write {out} ({error.strerror}): name another file with --out.") from error
    return out


def page(run: RunRecord) -> str:
    """The whole HTML document."""
    word, rest, tone = run.closing
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    sections = [
        (
            "Curves",
            "Over images seen. Dashed: the untrained student. Ring: the look best/ was saved at.",
            _curves(run),
        ),
        ("Neighbours", *_neighbours(run)),
        (
            "Looks at the held-out images",
            _what_they_mean(run),
            tables.looks_table(run) if run.looks else "<p>None yet.</p>",
        ),
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
    teacher = f"<dt>Teacher</dt><dd>{_code(settings.teacher)}</dd>" if settings.teacher else ""
    return (
        f"<h1>{escape(settings.student)}</h1><dl><dt>Method</dt><dd>{by}</dd>{teacher}"
        f"<dt>Images</dt><dd>{_code(settings.data)}</dd><dt>Run</dt><dd>{_code(str(run.path))}</dd></dl>"
    )


def _code(text: str) -> str:
    """Long names break after a slash, a colon or an underscore."""
    return "<code>" + re.sub(r"([/:_?&])", r"\1<wbr>", escape(text)) + "</code>"


def _tiles(run: RunRecord) -> str:
    """The key numbers: trained beside untrained."""
    shown = run.best or run.untrained
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
                before = f"untrained {form.format(run.untrained[key])}" if run.untrained else ""
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


def _curves(run: RunRecord) -> str:
    # Step 1 meets an empty queue: its loss is no part of the story, and would squeeze the rest.
    losses = [(s["images"], s["loss"]) for s in run.steps if s["step"] > 1]
    queue = "queue_size" in run.method_settings
    note = "rises while the queue fills: the question gets harder" if queue else "lower is better"
    curves = [Curve("Loss", note, losses, smooth=True)]
    wanted = [
        ("agreement", f"share of the teacher's {NEIGHBOURS} nearest neighbours found", "%"),
        ("cosine", "to the teacher's embedding", ""),
        ("effective_rank", "dimensions in use; a fall to a few is a collapse", ""),
        ("view_retrieval", "share found again from another view", "%"),
        ("accuracy", "share of held-out images that get their class", "%"),
        ("knn", "accuracy in percent on the labels of held-out images", ""),
    ]
    for key, meaning, unit in wanted:
        points = [(look["images"], look[key]) for look in run.looks if look.get(key) is not None]
        curves.append(_look_curve(run, key, meaning, unit, points))
    drawn = [figure for figure in map(draw, curves) if figure]
    return f"<div class=curves>{''.join(drawn)}</div>" if drawn else "<p>Nothing to draw yet.</p>"


def _look_curve(
    run: RunRecord, key: str, meaning: str, unit: str, points: list[tuple[float, float]]
) -> Curve:
    untrained: dict[str, Any] = run.untrained or {}
    title = {"knn": "k-NN"}.get(key, key.replace("_", " ").capitalize())
    best = run.best["images"] if run.best else None
    return Curve(title, meaning, points, unit, marked=best, untrained=untrained.get(key))


def _neighbours(run: RunRecord) -> tuple[str, str]:
    """(what is seen, the grid), or why there is none."""
    if not (run.path / "best" / "config.json").exists():
        return "", "<p>None yet: the student is saved at its first look after the start.</p>"
    try:
        gallery = build_gallery(run)
    except SeedHubError:
        # The reason may name places on this machine; the settings below say what was looked for.
        return (
            "",
            "<p>No grid: the images of this run could not be opened again from where the settings say.</p>",
        )
    among = f"{len(gallery.images):,} held-out images, which training never saw"
    text = f"Drawn at random among the {among}, each with the {NEIGHBOURS} nearest of them, nearest first."
    if run.settings.teacher and gallery.teacher is None:
        text += " The teacher could not be loaded again: these are the student's neighbours only."
    if gallery.teacher is not None:
        text += " Framed: found by teacher and student alike."
    return text, draw_gallery(gallery)


def _what_they_mean(run: RunRecord) -> str:
    parts = []
    if run.settings.teacher:
        parts.append(
            f"Agreement: share of the teacher's {NEIGHBOURS} nearest neighbours that are also the student's."
        )
    parts.append("View retrieval: share of images found again among all from another view.")
    parts.append("Effective rank: how many dimensions the features spread over.")
    if any(look.get("accuracy") is not None for look in run.looks):
        parts.append(
            "Accuracy: share of held-out images whose class its own scores name; never used for selection."
        )
    if any(look.get("knn") is not None for look in run.looks):
        parts.append(
            "k-NN: leave-one-out accuracy on the labels of held-out images, never used for training or selection."
        )
    return " ".join(parts)


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>"


def _section(title: str, text: str, content: str) -> str:
    lead = f"<p class=lead>{escape(text)}</p>" if text else ""
    return f"<section><h2>{title}</h2>{lead}{content}</section>\n"


def _version() -> str:
    from seed_hub import __version__

    return f"seed-hub {__version__} · everything in this page is from the run's own folder and images"
