"""The sections of the page: (title, what is seen, HTML) each."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.report import tables
from seed_hub.report.bars import draw_comparison
from seed_hub.report.curves import Curve, draw
from seed_hub.report.detections import draw_pictures, draw_precision_recall, open_pictures
from seed_hub.report.gallery import NEIGHBOURS, build_gallery, draw_gallery
from seed_hub.report.held_out import HeldOut, embed_held_out
from seed_hub.report.measurements import Comparison, compare, read_lines, weights_of
from seed_hub.report.record import RunRecord
from seed_hub.report.scatter import COLOURS, LEAST, draw_maps
from seed_hub.report.tables import code

Section = tuple[str, str, str]


def curves(run: RunRecord) -> Section:
    """Loss and looks over images seen."""
    # Step 1 meets an empty queue: its loss is no part of the story, and would squeeze the rest.
    losses = [(s["images"], s["loss"]) for s in run.steps if s["step"] > 1]
    queue = "queue_size" in run.method_settings
    note = "rises while the queue fills: the question gets harder" if queue else "lower is better"
    found = [Curve("Loss", note, losses, smooth=True)]
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
        found.append(_look_curve(run, key, meaning, unit, points))
    drawn = [figure for figure in map(draw, found) if figure]
    lead = f"Over images seen. Dashed: the student {run.before}. Ring: the look best/ was saved at."
    return "Curves", lead, _grid(drawn) if drawn else "<p>Nothing to draw yet.</p>"


def _look_curve(
    run: RunRecord, key: str, meaning: str, unit: str, points: list[tuple[float, float]]
) -> Curve:
    first: dict[str, Any] = run.first or {}
    title = {"knn": "k-NN"}.get(key, key.replace("_", " ").capitalize())
    best = run.best["images"] if run.best else None
    return Curve(title, meaning, points, unit, marked=best, first=first.get(key))


def measured(run: RunRecord, results: Sequence[Path], pictures: Path | None) -> list[Section]:
    """Evaluation, and where there is something to draw of it, detection.

    Raises:
        SeedHubError: a file of results or a picture is not there, or is something else.
    """
    lines = read_lines(results)
    try:
        weights = weights_of(run)
    except SeedHubError:
        if pictures is not None:  # asked for, and there is nothing they could be of
            raise
        return [("Evaluation", "", "<p>None yet: there are no weights in best/ that can be loaded.</p>")]
    found = compare(run, weights, lines)
    return [_evaluation(run, found), *_detection(found, weights, pictures)]


def _evaluation(run: RunRecord, found: Sequence[Comparison]) -> Section:
    from seed_hub.eval.budget import in_words

    if not found:
        command = f"seed-hub eval all --model {shlex.quote(str(run.path))} --data D"
        text = "<p>These weights have not been measured, or not in a results file that was looked at. "
        return (
            "Evaluation",
            "",
            f"{text}To measure them beside teacher and untrained student: {code(command)}</p>",
        )
    bars = [bar for comparison in found for bar in comparison.bars]
    ranks = any(comparison.line["metric"].endswith("rank") for comparison in found)
    lead = "These weights beside others with the same protocol, settings, images and results file. Scores in percent"
    lead += "; ranks in dimensions." if ranks else "."
    if any(bar.whisker and not bar.spread for bar in bars):
        lead += " Whiskers: 95 % intervals, by bootstrap over the test images."
    if any(bar.spread for bar in bars):
        lead += " ±: standard deviation over n trainings or trials, and whisker."
    if any(bar.whisker is None for bar in bars):
        lead += " No whisker: measured once, without an interval."
    notes = [in_words(comparison.line["shortened"]) for comparison in found if "shortened" in comparison.line]
    lead += "".join(f" †: not the whole measurement, {words}." for words in dict.fromkeys(notes))
    return "Evaluation", lead, _grid(map(draw_comparison, found))


def _detection(found: Sequence[Comparison], weights: Collection[str], pictures: Path | None) -> list[Section]:
    parts = []
    for curved in found:
        if drawn := draw_precision_recall(curved):
            test, settings = curved.line["data"]["test"], curved.line["settings"]
            text = (
                f"Precision over recall at IoU 0.5 on {test['images']:,} images of {test['source']}, after "
            )
            text += f"{settings['iterations']:,} steps. Dashed: from the untrained student, where it was measured alike."
            parts.append(f"<p class=lead>{escape(text)}</p>{drawn}")
    if pictures is not None:
        opened = open_pictures(pictures, weights)
        text = "Test images drawn at random. Dashed: true boxes. Solid, with class and score: found with a score of at "
        parts.append(f"<p class=lead>{text}least {opened.facts['threshold']:g}.</p>{draw_pictures(opened)}")
    return [("Detection", "", "".join(parts))] if parts else []


def seen_again(run: RunRecord) -> list[Section]:
    """What the held-out images show when they are embedded once more: neighbours and a map."""
    if not (run.path / "best" / "config.json").exists():
        return [
            ("Neighbours", "", "<p>None yet: the student is saved at its first look after the start.</p>")
        ]
    try:
        held_out = embed_held_out(run)
    except SeedHubError:
        # The reason may name places on this machine; the settings below say what was looked for.
        text = "No grid: the images of this run could not be opened again from where the settings say."
        return [("Neighbours", "", f"<p>{text}</p>")]
    return [_neighbours(run, held_out), *_map(run, held_out)]


def _neighbours(run: RunRecord, held_out: HeldOut) -> Section:
    among = f"{len(held_out.images):,} held-out images, which training never saw"
    text = f"Drawn at random among the {among}, each with the {NEIGHBOURS} nearest of them, nearest first."
    if run.settings.teacher and held_out.teacher is None:
        text += " The teacher could not be loaded again: these are the student's neighbours only."
    if held_out.teacher is not None:
        text += " Framed: found by teacher and student alike."
    return "Neighbours", text, draw_gallery(build_gallery(held_out, run.settings.seed))


def _map(run: RunRecord, held_out: HeldOut) -> list[Section]:
    drawn = draw_maps(held_out, run.settings.seed)
    if not drawn:
        return [("Map", "", f"<p>None: it takes {LEAST} held-out images or more.</p>")]
    text = "Each dot is a held-out image, placed by t-SNE: dots that touch are neighbours, distances between groups and "
    text += "the axes mean nothing."
    if held_out.images.labels is not None:
        text += f" Coloured: the {COLOURS} most frequent classes at most; labels are only shown, nothing saw them."
    return [("Map", text, drawn)]


def looks(run: RunRecord) -> Section:
    """The looks as a table."""
    content = tables.looks_table(run) if run.looks else "<p>None yet.</p>"
    return "Looks at the held-out images", _what_they_mean(run), content


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


def _grid(figures: Iterable[str]) -> str:
    return f"<div class=curves>{''.join(figures)}</div>"
