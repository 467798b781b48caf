"""What a person sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

SHOW_AFTER, SHOW_EVERY = 2.0, 20.0  # seconds: a short wait needs no progress, a log file not many lines


def is_first_process() -> bool:
    """Under ``accelerate launch`` or ``torchrun`` one process of many speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A message on stderr, from the first process only."""
    if is_first_process():
        print(f"seed-hub: {text}", file=sys.stderr, flush=True)


def show(text: str) -> None:
    """A result on stdout, from the first process only."""
    if is_first_process():
        print(text, flush=True)


class Count:
    """``count(done, total)``: a live line on a terminal, now and then a plain line elsewhere; nothing for a short wait."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._live = sys.stderr.isatty()
        self._start = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        due = now - self._shown > (0.2 if self._live else SHOW_EVERY) and now - self._start > SHOW_AFTER
        shown_before = self._shown > self._start
        if not is_first_process() or not (due or (done == total and shown_before)):
            return
        self._shown = now
        rate = done / max(now - self._start, 1e-9)
        text = f"{self.what}: {done:,} of {total:,}, {rate:,.0f} per second"
        if self._live:
            print(f"\r{text}\033[K", end="\n" if done == total else "", file=sys.stderr, flush=True)
        else:
            say(text)
        if done == total:  # the next count starts afresh
            self._start = self._shown = time.monotonic()


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Aligned columns; those that hold only numbers to the right."""
    lines = [list(header), *rows] if header else [list(row) for row in rows]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [all(_is_number(cell) for cell in column[bool(header) :]) for column in columns]
    text = []
    for line in lines:
        cells = [
            cell.rjust(width) if numeric else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, right, strict=True)
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """``name   value`` lines; a value of several lines is indented as one block."""
    width = max(len(name) for name, _ in rows)
    indent = "\n" + " " * (width + 3)
    return "\n".join(f"{name.ljust(width)}   {value}".rstrip().replace("\n", indent) for name, value in rows)


def _is_number(cell: str) -> bool:
    return not cell or cell[0].isdigit() or cell[0] in "-–"
