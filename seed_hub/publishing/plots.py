"""The pictures of a card: the run's curves, and its scores beside those of other models.

PNG on white paper of their own: a page of the Hub is light or dark, and shows no styled SVG. What they show stands in their
alternative text too, and every number in the card's table or the run's log.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from seed_hub.publishing.publication import Curve, Measured, Publication, Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES, BARS = "curves.png", "scores.png"
INK, SOFT, RULE, ACCENT, OTHERS = "#1c1d21", "#55575f", "#dfddd5", "#0b7a75", "#a9a79f"
DPI = 160  # sharp at twice the width a card gives it, on a screen of two dots per pixel
COLUMNS, PANEL, ROW = (
    2,
    4.6,
    0.34,
)  # panels beside each other; their width, and the height of a bar, in inches
SMOOTHED_FROM = 40  # points; fewer are drawn as they are
LETTERS, LETTERS_ABOVE = 26, 36  # of a name and above a panel, before it is continued on the next line


def pictures(publication: Publication) -> dict[str, bytes]:
    """PNG files by name; none of what there is nothing to show of."""
    found = {}
    if publication.curves:
        found[CURVES] = _png(_draw_curves(publication.curves))
    if publication.measured:
        found[BARS] = _png(_draw_scores(publication.measured))
    return found


def curves_in_words(curves: Sequence[Curve], before: str) -> str:
    """For those who do not see them. ``before``: what the student was before the first step."""
    return _plain(
        "; ".join(
            f"{curve.title} from {_value(curve, curve.points[0][1])} to {_value(curve, curve.points[-1][1])}"
            + ("" if curve.first is None else f", {before} {_value(curve, curve.first)}")
            for curve in curves
        )
        + f"; over {curves[0].points[-1][0]:,.0f} images seen"
    )


def scores_in_words(measured: Sequence[Measured]) -> str:
    """For those who do not see them."""
    return _plain("; ".join(f"{_title(each)}: {', '.join(map(_score, _ranked(each)))}" for each in measured))


def _draw_curves(curves: Sequence[Curve]) -> Figure:
    from matplotlib.ticker import EngFormatter, PercentFormatter

    figure, panels = _panels([2.6] * len(curves))
    for curve, axes in zip(curves, panels, strict=True):
        seen, values = ([point[i] for point in curve.points] for i in (0, 1))
        smoothed = len(values) >= SMOOTHED_FROM
        axes.plot(seen, values, color=ACCENT, lw=1 if smoothed else 1.8, alpha=0.3 if smoothed else 1)
        if smoothed:
            from scipy.ndimage import uniform_filter1d

            axes.plot(seen, uniform_filter1d(values, len(values) // 20, mode="nearest"), color=ACCENT, lw=1.8)
        if curve.first is not None:
            axes.axhline(curve.first, color=SOFT, lw=1.2, ls=(0, (4, 3)))
        if curve.marked in seen:
            axes.plot(
                curve.marked, values[seen.index(curve.marked)], "o", mfc="white", mec=ACCENT, ms=7, mew=1.8
            )
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        if curve.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("images seen", color=SOFT)
        axes.grid(color=RULE, lw=0.8)
        axes.set_title(curve.title, loc="left", color=INK, size=10)
    return figure


def _draw_scores(measured: Sequence[Measured]) -> Figure:
    ranked = [_ranked(each) for each in measured]
    figure, panels = _panels([1.1 + ROW * len(scores) for scores in ranked])
    for each, scores, axes in zip(measured, ranked, panels, strict=True):
        for place, score in enumerate(scores):
            low, high = score.interval or (score.value, score.value)
            own = score == each.own
            axes.barh(place, score.value, color=ACCENT if own else OTHERS, height=0.62)
            if score.interval:
                reach = [[score.value - low], [high - score.value]]
                axes.errorbar(score.value, place, xerr=reach, color=INK, capsize=2.5, lw=1.1, fmt="none")
            told = axes.annotate(
                f"{score.value:.2f}",
                (max(score.value, high, 0), place),
                (5, 0),
                textcoords="offset points",
                va="center",
            )
            told.set(color=INK, weight="bold" if own else "normal", size=9)
        axes.set_yticks(range(len(scores)), [fill(score.name, LETTERS) for score in scores], color=INK)
        axes.invert_yaxis()
        axes.margins(x=0.16)  # where the values are written
        axes.axvline(0, color=SOFT, lw=0.8)
        axes.grid(axis="x", color=RULE, lw=0.8)
        what, _, where = _title(each).partition(", ")
        axes.set_title(f"{what}\n{fill(where, LETTERS_ABOVE)}", loc="left", color=INK, size=9.5)
    return figure


def _panels(heights: Sequence[float]) -> tuple[Figure, list[Any]]:
    """A figure with one set of axes for each of ``heights``, in inches, in rows of :data:`COLUMNS`."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(heights))
    rows = [max(heights[i : i + columns]) for i in range(0, len(heights), columns)]
    figure = Figure(figsize=(PANEL * columns, sum(rows)), facecolor="white", layout="constrained")
    grid = list(figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": rows}).flat)
    for axes in grid:
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=9, labelcolor=SOFT)
    for axes in grid[len(heights) :]:
        axes.set_visible(False)
    return figure, grid[: len(heights)]


def _png(figure: Figure) -> bytes:
    """In 256 colours, a third of the bytes: cards' pictures are part of every clone."""
    from PIL import Image

    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(file, "PNG", optimize=True)  # without matplotlib's version, which savefig writes
    return file.getvalue()


def _ranked(measured: Measured) -> list[Score]:
    """The best first."""
    return sorted([measured.own, *measured.beside], key=lambda score: score.value, reverse=True)


def _title(measured: Measured) -> str:
    line = measured.line
    test = line["data"]["test"]
    unit = f" in {measured.unit}" if measured.unit else ""
    mark = " †" if "shortened" in line else ""
    return f"{measured.protocol} {line['metric']}{unit}, {test['images']:,} images of {test['source']}{mark}"


def _score(score: Score) -> str:
    reach = "" if score.interval is None else f" ({score.interval[0]:.2f} to {score.interval[1]:.2f})"
    return f"{score.name} {score.value:.2f}{reach}"


def _value(curve: Curve, value: float) -> str:
    if curve.share:
        return f"{value:.1%}"
    return f"{value:.3g}" if math.isfinite(value) else "not a number"


def _plain(text: str) -> str:
    """Brackets would end the alternative text of a Markdown image."""
    return text.translate(str.maketrans("[]\n", "() "))
