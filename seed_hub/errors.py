"""The one kind of error a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SeedHubError(Exception):
    """Bad input. The text is one sentence: what is wrong, where, and what to do about it.

    The command line prints it to stderr without a traceback and exits with status 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """``' Did you mean "x" or "y"?'`` for the names of ``known`` closest to ``word``, else an empty string."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.55)
    if not close:
        return ""
    return " Did you mean " + " or ".join(f'"{name}"' for name in close) + "?"
