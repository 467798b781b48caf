"""Every image decoded once, before a run depends on it; the verdict is remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL

from seed_hub.data.cache_folder import cache_folder, remember
from seed_hub.data.decode import MIN_SIDE, BadImage, decode
from seed_hub.data.images import Store
from seed_hub.errors import SeedHubError
from seed_hub.machine import cores

_BLOCK = 256  # images per task: a task per image would cost a gigabyte of futures at a million images

Progress = Callable[[int, int], None]  # (images done, images in all)
Bad = list[tuple[int, str]]  # (position, reason)


def find_bad(store: Store, *, progress: Progress | None = None, threads: int | None = None) -> Bad:
    """The images of ``store`` that cannot be used, from the cache if they were checked before.

    The cache is ``$XDG_CACHE_HOME/seed_hub/checked/<fingerprint>.json``; another Pillow checks again.
    """
    file = cache_folder("checked") / f"{store.fingerprint}.json"
    known = {"pillow": PIL.__version__, "min_side": MIN_SIDE, "stamp": store.stamp, "count": len(store)}
    remembered = _remembered(file, known)
    if remembered is not None:
        return remembered
    bad, lasting = _check(store, progress, threads or min(8, cores()))
    if lasting:
        remember(file, lambda stream: stream.write(json.dumps({**known, "bad": bad}).encode()))
    return bad


def refuse_too_many(store: Store, bad: Bad, allow_bad: float, where: str) -> None:
    """Raises ``SeedHubError`` if more than the fraction ``allow_bad`` of the images is bad, or all are."""
    count = len(store)
    if len(bad) < count and len(bad) <= allow_bad * count:
        return
    examples = ", ".join(f"{store.name(position)} ({reason})" for position, reason in bad[:3])
    more = ", ..." if len(bad) > 3 else ""
    what = f'{len(bad):,} of {count:,} images of "{where}" cannot be used: {examples}{more}'
    if len(bad) == count:
        raise SeedHubError(f"{what}; none is left.")
    raise SeedHubError(
        f"{what}; that is more than the allowed {allow_bad:.2%}: repair or remove them, "
        f"or go on without them with --allow-bad {_round_up(len(bad) / count)}."
    )


def _check(store: Store, progress: Progress | None, threads: int) -> tuple[Bad, bool]:
    count = len(store)
    blocks = [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    bad: Bad = []
    lasting = True
    pool = ThreadPoolExecutor(threads)  # Pillow decodes outside the interpreter's lock
    try:
        done = 0
        verdicts = pool.map(lambda block: _check_block(store, block), blocks)
        for block, found in zip(blocks, verdicts, strict=True):
            bad += [(position, str(reason)) for position, reason in found]
            lasting = lasting and all(reason.lasting for _, reason in found)
            done += len(block)
            if progress is not None:
                progress(done, count)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the rest
    return bad, lasting


def _check_block(store: Store, block: range) -> list[tuple[int, BadImage]]:
    bad = []
    for position in block:
        try:
            decode(store.read(position), draft=True)
        except BadImage as reason:
            bad.append((position, reason))
    return bad


def _remembered(file: Path, known: dict) -> Bad | None:
    try:
        record = json.loads(file.read_text())
        bad = [(int(position), str(reason)) for position, reason in record["bad"]]
    except (OSError, ValueError, KeyError, TypeError):  # absent or damaged: check again
        return None
    return bad if all(record.get(key) == value for key, value in known.items()) else None


def _round_up(fraction: float) -> str:
    """The smallest two-digit-per-cent fraction that would let these images pass."""
    per_cent = min(100, int(fraction * 100) + 1)
    return f"{per_cent / 100:.2f}"
