"""A packed store read from end to end: is it what was packed?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from seed_hub.data.check import Progress
from seed_hub.data.decode import BadImage, decode
from seed_hub.data.packed import LABELS, PackedStore, part_names


def find_damage(store: PackedStore, *, progress: Progress | None = None, threads: int = 1) -> list[str]:
    """What is not as it was packed, a few words each: every sha256 is compared, and every image read."""
    found = []
    if store.labels is not None and _sha256(store, LABELS) != store.manifest["labels"]:
        found.append(f"{LABELS} has changed")
    pool = ThreadPoolExecutor(threads)  # hashing and decoding both leave the interpreter's lock
    try:
        damages = pool.map(lambda number: _damage_of(store, number), range(len(store.ends)))
        for end, damage in zip(store.ends, damages, strict=True):
            found += damage
            if progress is not None:
                progress(end, len(store))
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the rest
    return found


def _damage_of(store: PackedStore, number: int) -> list[str]:
    written = store.manifest["shards"][number]
    pairs = zip(part_names(number), (written["sha256"], written["index_sha256"]), strict=True)
    changed = [f"{part} has changed" for part, sha256 in pairs if _sha256(store, part) != sha256]
    return changed or list(_unreadable(store, number))  # an index that lies could point anywhere


def _unreadable(store: PackedStore, number: int) -> Iterator[str]:
    end = store.ends[number]
    for position in range(end - store.manifest["shards"][number]["images"], end):
        try:
            image = decode(store.read(position))
        except (BadImage, ValueError) as reason:
            yield f'image {position} "{store.name(position)}" cannot be read ({reason})'
            continue
        if (image.height, image.width) != store.size(position):
            yield f'image {position} "{store.name(position)}" is not of the size in the index'


def _sha256(store: PackedStore, part: str) -> str:
    digest = hashlib.sha256()
    with open(os.path.join(store.root, part), "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
