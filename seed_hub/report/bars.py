"""Scores of several models side by side: horizontal bars with whiskers, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from seed_hub.report.curves import nice_ticks
from seed_hub.report.measurements import Bar, Comparison

WIDTH, ROW, BAR = 360, 23, 11  # SVG units: narrower than a curve, for there is more to read
TOP, BOTTOM, GAP, EDGE = 4, 20, 6, 10
LETTER = 6.7  # units, of text of 11 px: about the mean of a wide face's letters
LONGEST = 24  # letters of a name


def draw_comparison(comparison: Comparison) -> str:
    """``<figure>``: a bar per row, the run's own accented."""
    line = comparison.line
    test, size = line["data"]["test"], line["settings"].get("size")
    split = f" {test['split']}" if test["split"] else ""
    where = f"{line['metric']}{f' at {size} px' if size else ''}, {test['images']:,} images of {test['source']}{split}"
    rest = comparison.left_out
    more = f"; {rest} more {'rows are' if rest > 1 else 'row is'} left out" if rest else ""
    return (
        f"<figure class=curve><figcaption><b>{escape(line['protocol'])}</b> {escape(where + more)}</figcaption>"
        f"{draw_bars(comparison.bars, line['protocol'])}</figure>"
    )


def draw_bars(bars: Sequence[Bar], title: str) -> str:
    """``<svg>``; the axis starts at 0."""
    ends = [end for bar in bars for end in (bar.value, *(bar.whisker or ()))]
    ticks = nice_ticks(min(0.0, *ends), max(ends))
    left = GAP + LETTER * max(len(_short(bar.name)) for bar in bars)
    low, high = ticks[0], ticks[-1]
    # As wide as leaves every bar the place for what is written behind it.
    room = [
        (max(bar.value, *(bar.whisker or (bar.value,))), WIDTH - left - GAP - LETTER * len(_text(bar)))
        for bar in bars
    ]
    unit = min((WIDTH - left - EDGE) / (high - low), *(w / (end - low) for end, w in room if end > low))

    def at(value: float) -> float:
        return left + unit * (value - low)

    height = TOP + ROW * len(bars) + BOTTOM
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    parts = []
    for tick in ticks:
        parts.append(f'<path class=grid d="M{at(tick):.1f} {TOP}V{height - BOTTOM}"/>')
        parts.append(f"<text x={at(tick):.1f} y={height - 5} text-anchor=middle>{tick:.{digits}f}</text>")
    parts += [_row(bar, left - GAP, TOP + ROW * (number + 0.5), at) for number, bar in enumerate(bars)]
    spoken = f"{title}: " + ", ".join(f"{bar.name} {_text(bar)}" for bar in bars)
    return (
        f'<svg class=bars viewBox="0 0 {WIDTH} {height}" role=img aria-label="{escape(spoken)}">'
        f"{''.join(parts)}</svg>"
    )


def _row(bar: Bar, edge: float, y: float, at: Callable[[float], float]) -> str:
    start, end = sorted((at(0.0), at(bar.value)))
    own = " own" if bar.own else ""
    whisker, reach, told = "", end, _text(bar)
    if bar.whisker is not None:
        low, high = map(at, bar.whisker)
        reach = max(end, high)
        whisker = f'<path class=whisker d="M{low:.1f} {y - 3:.1f}v6m0 -3H{high:.1f}m0 -3v6"/>'
        told += "" if bar.spread else f" (95 %: {bar.whisker[0]:.2f} to {bar.whisker[1]:.2f})"
    return (
        f"<g><title>{escape(f'{bar.name}: {told}')}</title>"
        f'<text class="name{own}" x={edge:.1f} y={y + 4:.1f} text-anchor=end>{escape(_short(bar.name))}</text>'
        f'<rect class="bar{own}" x={start:.1f} y={y - BAR / 2:.1f} width={end - start:.1f} height={BAR} />'
        f'{whisker}<text class="value{own}" x={reach + GAP:.1f} y={y + 4:.1f}>{escape(_text(bar))}</text></g>'
    )


def _text(bar: Bar) -> str:
    return f"{bar.value:.2f} {bar.spread}".strip()


def _short(name: str) -> str:
    """Its end tells more than its middle: ``a_very_lo…teacher``."""
    if len(name) <= LONGEST:
        return name
    kept = LONGEST // 2
    return f"{name[: LONGEST - kept - 1]}…{name[-kept:]}"
