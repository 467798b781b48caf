"""Curves over images seen, as inline SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from seed_hub.report.record import short_count

WIDTH, HEIGHT = 420, 210  # in SVG units, near the CSS pixels of a phone, so that text stays readable there
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 14, 26
Points = Sequence[tuple[float, float]]
Place = Callable[[float, float], tuple[float, float]]  # (images seen, value) -> where on the drawing
SMOOTHED_FROM = 40  # points; fewer are drawn as they are


@dataclass(frozen=True)
class Curve:
    """One quantity over images seen."""

    title: str
    note: str
    points: Points
    """(images seen, value)"""
    unit: str = ""
    """written behind a value; "%" for shares, which are given from 0 to 1"""
    marked: float | None = None
    """images seen at the best look"""
    first: float | None = None
    """value before the first step: a dashed line"""
    smooth: bool = False
    """draw a moving average over the raw line, where there are many points"""

    def text(self, value: float, step: float) -> str:
        """``value`` with the digits that tell it from a value one ``step`` away."""
        scale = 100 if self.unit == "%" else 1
        digits = max(0, -math.floor(math.log10(step * scale) + 1e-9))
        return f"{value * scale:.{digits}f}{self.unit}"


def draw(curve: Curve) -> str:
    """``<figure>`` with the curve; empty without at least one point."""
    if not curve.points:
        return ""
    values = [y for _, y in curve.points] + ([] if curve.first is None else [curve.first])
    last_x = max(x for x, _ in curve.points) or 1.0
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - RIGHT) * x / last_x,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low),
        )

    parts = [_grid(curve, ticks, last_x, at)]
    if curve.first is not None:
        (x1, y), (x2, _) = at(0, curve.first), at(last_x, curve.first)
        parts.append(f'<path class="before" d="M{x1:.1f} {y:.1f}H{x2:.1f}"/>')
    smoothed = curve.smooth and len(curve.points) >= SMOOTHED_FROM
    if smoothed:
        parts.append(_line(curve.points, at, "raw"))
    shown = moving_average(curve.points) if smoothed else curve.points
    parts.append(_line(shown, at, "line"))
    parts.append(_marks(curve, shown, at, (high - low) / 1000))
    return (
        f"<figure class=curve><figcaption><b>{escape(curve.title)}</b> {escape(curve.note)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(_spoken(curve, shown, (high - low) / 1000))}">'
        f"{''.join(parts)}</svg></figure>"
    )


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers, evenly spaced, that enclose [low, high]: about ``wanted`` steps of 1, 2 or 5 x 10^n."""
    span = (high - low) or abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def moving_average(points: Points) -> list[tuple[float, float]]:
    """Each value averaged with its neighbours, a fortieth of the curve to each side."""
    reach = max(1, len(points) // 40)
    values = [y for _, y in points]
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [(x, sum(w) / len(w)) for (x, _), w in zip(points, windows, strict=True)]


def _grid(curve: Curve, ticks: list[float], last_x: float, at: Place) -> str:
    parts = []
    for tick in ticks:
        x, y = at(0, tick)
        parts.append(f'<path class=grid d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f"<text x={x - 6:.1f} y={y + 3.5:.1f} text-anchor=end>{curve.text(tick, ticks[1] - ticks[0])}</text>"
        )
    for tick in nice_ticks(0, last_x):
        if tick > last_x:
            continue
        x, _ = at(tick, ticks[0])
        anchor = "end" if x > WIDTH - RIGHT - 8 else "middle"
        parts.append(f"<text x={x:.1f} y={HEIGHT - 8} text-anchor={anchor}>{short_count(tick)}</text>")
    return "".join(parts)


def _line(points: Points, at: Place, kind: str) -> str:
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(*p) for p in points))
    return f'<path class={kind} d="M{path}"/>'


def _marks(curve: Curve, shown: Points, at: Place, step: float) -> str:
    """A dot with a tooltip per point where there are few, and a ring around the best."""
    parts = []
    for images, value in shown if len(shown) <= SMOOTHED_FROM else ():
        x, y = at(images, value)
        best = images == curve.marked
        text = f"{curve.text(value, step)} after {short_count(images)} images{', the best' if best else ''}"
        parts.append(
            f'<circle class="{"best" if best else "dot"}" cx={x:.1f} cy={y:.1f} r={4.5 if best else 2.2}>'
            f"<title>{escape(text)}</title></circle>"
        )
    return "".join(parts)


def _spoken(curve: Curve, shown: Points, step: float) -> str:
    """The curve in words, for those who do not see it."""
    first, last = (curve.text(value, step) for value in (shown[0][1], shown[-1][1]))
    return f"{curve.title}: from {first} to {last} after {short_count(shown[-1][0])} images"
