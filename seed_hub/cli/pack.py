"""``pack``: images decoded and shrunk once, into a folder that every ``--data`` takes and that is read fast."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say, show
from seed_hub.errors import SeedHubError
from seed_hub.machine import cores
from seed_hub.settings import read_settings

if TYPE_CHECKING:
    from seed_hub.data import Images
    from seed_hub.data.packing import Packing


@dataclass(frozen=True)
class PackSettings:
    """What ``pack`` can be told."""

    data: str = ""
    """images: a folder, parquet file or folder, webdataset shards ("train-{000..099}.tar"), either by URL too, or a Hub data set id; may be left out to --check a store"""
    split: str = ""
    """split of the data; empty: the data set's train split, or all of it"""
    out: str = ""
    """folder to write, or to go on with; several splits: STORE/train, STORE/validation, and --data STORE reads them"""
    side: int = 256
    """px of the short side, to which larger images are shrunk; 0 keeps every size"""
    format: str = "jpeg"
    """jpeg: small; raw: pixels, read without decoding, many times as large"""
    quality: int = 90
    """of JPEG, 1 to 100"""
    shard_mb: int = 256
    """size of the files, in 10^6 bytes; what a killed pack loses is less than one"""
    workers: int = -1
    """threads; -1: one for each core"""
    allow_bad: float = 0.01
    """largest share of unreadable images to go on without"""
    check: bool = False
    """compare every sha256 of the store and read every image"""


def pack(argv: list[str]) -> dict[str, Any]:
    parser = Parser(
        "pack", "Decode and shrink every image once, into a folder that is read fast. Killed, it goes on."
    )
    parser.add_options("pack", read_settings(Path(__file__), "PackSettings").options, required=("out",))
    given = parser.parse(argv)
    parser.need(given, "out")
    if not given.get("check"):
        parser.need(given, "data")
    if given.get("format") == "raw" and "quality" in given:
        raise SeedHubError("--quality is of JPEG: leave it out with --format raw.")
    settings = PackSettings(**given)
    if settings.workers < 1 and settings.workers != -1:
        raise SeedHubError(f"--workers is 1 or more, or -1 for one on each core, not {settings.workers}.")
    threads = cores() if settings.workers == -1 else settings.workers
    images = _pack(settings, threads) if settings.data else None
    return {
        **_result(settings, threads),
        "left_out": len(images.bad) if images else 0,
        "ignored": images.ignored if images else 0,
    }


def _pack(settings: PackSettings, threads: int) -> Images:
    """The images that are packed."""
    from seed_hub.data import open_images
    from seed_hub.data.packing import BAD, Packing
    from seed_hub.data.shrinking import Recipe

    quality = settings.quality if settings.format != "raw" else None
    recipe = Recipe(settings.side, settings.format, quality, settings.shard_mb)
    images = open_images(
        settings.data,
        split=settings.split or None,
        allow_bad=settings.allow_bad,
        progress=Count("checking images"),
        threads=threads,
    )
    packing = Packing(images, Path(settings.out), recipe)
    if packing.finished:
        say(f"{settings.out} is finished already")
        return images
    if images.bad:
        say(f"{len(images.bad)} images cannot be read and are left out, see {BAD}")
    if images.passed_over:
        say(images.passed_over)
    _announce(packing, images, threads)
    try:
        packing.run(threads, Count("packing"))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(
            f"Interrupted: {packing.done:,} of {len(images):,} images are packed; the same command goes on with the rest."
        ) from stop
    return images


def _announce(packing: Packing, images: Images, threads: int) -> None:
    from seed_hub.report.record import duration

    left, size, seconds = packing.estimate(threads)
    before = f"; {packing.done:,} are packed already" if packing.done else ""
    say(
        f"packing {left:,} of {len(images):,} images{before}: about {size / 1e9:.3g} GB and {duration(seconds)} "
        "by what a sample took"
    )


def _result(settings: PackSettings, threads: int) -> dict[str, Any]:
    from seed_hub.data.pack_check import find_damage
    from seed_hub.data.packed import open_packed

    store, _ = open_packed(settings.out, settings.split or None)
    if settings.check and (damage := find_damage(store, progress=Count("checking"), threads=threads)):
        more = f", and {len(damage) - 3} more" if len(damage) > 3 else ""
        raise SeedHubError(
            f'Packed store "{settings.out}" is not as it was packed: {", ".join(damage[:3])}{more}; copy it again from '
            "where it is whole, or pack the images again into another folder."
        )
    manifest = store.manifest
    shards = manifest["shards"]
    size = sum(shard["bytes"] + shard["index_bytes"] for shard in shards)
    checked = ", every byte as it was packed" if settings.check else ""
    show(f"{settings.out}: {len(store):,} images in {len(shards)} shards, {size / 1e9:.3g} GB{checked}")
    show(f"use it with --data {shlex.quote(settings.out)}")
    return {
        "store": settings.out,
        "images": len(store),
        "shards": len(shards),
        "bytes": size,
        "fingerprint": store.fingerprint,
        "checked": settings.check,
        **{key: manifest[key] for key in ("format", "side", "quality", "split")},
    }
