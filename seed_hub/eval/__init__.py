"""Evaluation: one protocol per file, each turning (encoder, data) into (name, value) pairs.

A protocol file is recognised by its ``evaluate``; beside it stand ``Settings`` (frozen, its field docstrings are
the command line's help) and ``HEADLINE`` (the metric a table shows first). Nothing here imports torch.
"""

from __future__ import annotations

import re
from pathlib import Path


def protocols() -> list[str]:
    """Names of the protocols: the files of this folder that define ``evaluate``."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return [
        file.stem for file in files if re.search(r"^def evaluate\(", file.read_text("utf-8"), re.MULTILINE)
    ]
