"""What a folder must be for a cache to be made in it, and how large the cache will be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from seed_hub.errors import SeedHubError, nearest
from seed_hub.training.teacher_cache.manifest import FILE, Manifest, refuse_differences
from seed_hub.training.teacher_cache.shards import DTYPES, Shards


def check_options(epochs: int, dtype: str) -> None:
    if epochs < 1:
        raise SeedHubError(f"--views is {epochs}: it must be at least 1.")
    if dtype not in DTYPES:
        raise SeedHubError(f'Unknown --dtype "{dtype}": choose {", ".join(DTYPES)}.' + nearest(dtype, DTYPES))
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SeedHubError("A cache is made by one process: start `seed-hub cache` without a launcher.")


def check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise SeedHubError(f"{folder} is a file: name another folder with --out.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).exists():
        raise SeedHubError(
            f"{folder} holds something else than a cache: name another, or an empty, folder with --out."
        )


def refuse_other(folder: Path, manifest: Manifest) -> None:
    """Only what was begun with the same key, dtype and batch is gone on with."""
    if not (folder / FILE).exists():
        return
    there, instead = Manifest.read(folder), "replace it with --overwrite, or name another --out"
    refuse_differences(folder, there.key, manifest.key, remedy=instead)
    for name, flag in (("dtype", "--dtype"), ("batch", "--batch-size and --accumulate")):
        was, now = getattr(there, name), getattr(manifest, name)
        if was != now:
            raise SeedHubError(
                f"The cache {folder} was begun with {name} {was}, not {now} ({flag}): give the same to go on, {instead}."
            )
    if there.epochs > manifest.epochs:
        raise SeedHubError(
            f"The cache {folder} was begun with --views {there.epochs}, not {manifest.epochs}: give as many or more to go "
            f"on, {instead}."
        )


def claim(folder: Path, manifest: Manifest) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SeedHubError(
            f"Cannot make the folder {folder} ({error.strerror}): name another with --out."
        ) from error
    manifest.save(folder)


def refuse_full_disk(folder: Path, shards: Shards, left: list[int]) -> None:
    there = sum(p.stat().st_size for e in left if (p := shards.partial(e)).exists())
    needed = len(left) * shards.shard_bytes - there
    exists = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(exists).free
    if needed > free:
        raise SeedHubError(
            f"The cache needs {in_bytes(needed)} more and {folder} has {in_bytes(free)} free: free some space, store fewer --views, "
            "or use --dtype int8."
        )


def contents(manifest: Manifest) -> str:
    m = manifest
    return (
        f"{m.images:,} images x {m.views} view{'s' if m.views > 1 else ''} x {m.epochs} epoch{'s' if m.epochs > 1 else ''} x "
        f"{m.width:,} numbers in {m.dtype}"
    )


def share_done(shards: Shards, manifest: Manifest) -> str:
    rows = sum(shards.rows(epoch) for epoch in range(manifest.epochs))
    return f"{rows / (manifest.epochs * manifest.images):.1%}" if rows else "nothing yet"


def in_bytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
