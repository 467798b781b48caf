"""Patterns of shard names."""

from __future__ import annotations

import re

_BRACES = re.compile(r"\{(\d+\.\.\d+|[^{}]*,[^{}]*)\}")


def expand_braces(pattern: str) -> list[str]:
    """``{000..002}`` and ``{a,b}`` as the shell expands them; leading zeros keep their width."""
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    inside = braces[1]
    if "," in inside:
        words = inside.split(",")
    else:
        first, last = inside.split("..")
        width = (
            max(len(first), len(last)) if "0" in (first[0], last[0]) and max(len(first), len(last)) > 1 else 0
        )
        step = 1 if int(first) <= int(last) else -1
        words = [str(number).zfill(width) for number in range(int(first), int(last) + step, step)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return list(dict.fromkeys(each for word in words for each in expand_braces(before + word + after)))
