"""Where what was worked out or fetched once is kept, for any run of this person on this machine."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/seed_hub/<name>``; it need not exist. What lies in it can be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "seed_hub" / name


def remember(file: Path, write: Callable[[IO[bytes]], object]) -> None:
    """What ``write`` puts into a stream, as ``file``: whole, or not at all where the disk is read-only or full; the next
    one to ask then pays again, no more."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                write(stream)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
