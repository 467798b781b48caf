"""Tables of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(heads: Sequence[str], body: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Rows below ``heads``; the first ``words`` columns are words, the others numbers, on the right."""
    rule = [*["---"] * words, *["---:"] * (len(heads) - words)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *body))
