"""What a fine-tuned detector finds: precision over recall for each class, and its boxes on test images."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.report.measurements import Comparison

WIDTH, HEIGHT = 290, 200  # SVG units
LEFT, RIGHT, TOP, BOTTOM = 32, 8, 8, 30
MOST = 12  # classes drawn: the best and the worst, where there are more
PICTURE_SIDE = 800  # px of the long side in the page


@dataclass(frozen=True)
class Pictures:
    """What the detection protocol left in a folder."""

    folder: Path
    facts: dict[str, Any]


def open_pictures(folder: Path, weights: Collection[str]) -> Pictures:
    """The pictures in ``folder``.

    Raises:
        SeedHubError: there are none, or they are by other weights than ``weights``.
    """
    from seed_hub.eval.detection_pictures import INDEX

    try:
        facts = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        there = all((folder / entry["file"]).is_file() for entry in facts["pictures"])
        started, _ = facts["weights"], facts["threshold"]
    except (OSError, ValueError, KeyError, TypeError):
        there = False
    if not there:
        raise SeedHubError(
            f"There are no pictures in {folder}: name the folder that `seed-hub eval detection --pictures` filled."
        )
    if started not in weights:
        raise SeedHubError(
            f"The pictures in {folder} are by another model: make them by `seed-hub eval detection --model RUN`."
        )
    return Pictures(folder, facts)


def draw_precision_recall(comparison: Comparison) -> str:
    """A small curve per class; empty if the line has none."""
    curves: dict[str, list[float]] = comparison.line.get("curves", {})
    dashed = (comparison.untrained or {}).get("curves", {})
    names = sorted(curves, key=lambda name: fmean(curves[name]), reverse=True)
    shown = names if len(names) <= MOST else [*names[: MOST // 2], *names[-MOST // 2 :]]
    left_out = len(names) - len(shown)
    figures = "".join(_figure(name, curves[name], dashed.get(name)) for name in shown)
    more = f"<p class=lead>The {left_out} classes between them are left out.</p>" if left_out else ""
    return f"<div class=panels>{figures}</div>{more}" if figures else ""


def _figure(name: str, precision: list[float], untrained: list[float] | None) -> str:
    score = f"AP50 {100 * fmean(precision):.1f}"
    compared = "" if untrained is None else f", untrained {100 * fmean(untrained):.1f}"
    parts = [_grid()]
    if untrained is not None:
        parts.append(f'<path class=before d="{_path(untrained)}"/>')
    parts.append(f'<path class=line d="{_path(precision)}"/>')
    return (
        f"<figure class=curve><figcaption><b>{escape(name)}</b> {score}{compared}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(f"{name}: precision over recall, {score}")}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _at(recall: float, precision: float) -> tuple[float, float]:
    return (
        LEFT + (WIDTH - LEFT - RIGHT) * recall,
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * precision,
    )


def _path(precision: list[float]) -> str:
    last = len(precision) - 1
    points = (_at(i / last, value) for i, value in enumerate(precision))
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _grid() -> str:
    parts = []
    for tick in (0.0, 0.5, 1.0):
        x, y = _at(tick, tick)
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[tick]
        parts.append(f'<path class=grid d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f"<text x={LEFT - 5} y={y + 3.5:.1f} text-anchor=end>{tick:g}</text>")
        parts.append(f"<text x={x:.1f} y={HEIGHT - BOTTOM + 12} text-anchor={anchor}>{tick:g}</text>")
    middle = _at(0.5, 0)[0]
    return "".join(parts) + f"<text x={middle:.1f} y={HEIGHT - 4} text-anchor=middle>recall</text>"


def draw_pictures(pictures: Pictures) -> str:
    """The pictures with what is in them."""
    figures = "".join(_picture(pictures.folder, entry) for entry in pictures.facts["pictures"])
    return f"<div class=pictures>{figures}</div>"


def _picture(folder: Path, entry: dict[str, Any]) -> str:
    from PIL import Image

    with Image.open(folder / entry["file"]) as opened:
        image = opened.convert("RGB")
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85)
    text = base64.b64encode(file.getvalue()).decode()
    said = f"Test image {entry['image']:,}: {entry['true']} true, {entry['found']} found"
    return (
        f'<figure><img alt="{escape(said)}" src="data:image/jpeg;base64,{text}">'
        f"<figcaption>{escape(said)}</figcaption></figure>"
    )
