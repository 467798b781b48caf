"""``embed``: the embeddings of images, in a file. Memory does not grow with the number of images.

Legend: N images, D width.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.embedding_files import FORMATS, Unfinished, becoming, write_names
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say, show
from seed_hub.errors import SeedHubError, nearest
from seed_hub.network_settings import FeatureSettings
from seed_hub.settings import read_settings

if TYPE_CHECKING:
    import numpy as np

    from seed_hub.data import Images

BLOCK = 8192  # images between two writes: 64 MB at 2,048 numbers each


@dataclass(frozen=True)
class EmbedSettings(FeatureSettings):
    """What ``embed`` can be told."""

    model: str = ""
    """run folder, name of the zoo, untrained:NAME, or a teacher such as timm:NAME"""
    data: str = ""
    """images: a folder, parquet file or folder, webdataset shards ("train-{000..099}.tar"), either by URL too, or a Hub data set id"""
    split: str = ""
    """split of the data; empty: the data set's train split, or all of it"""
    out: str = ""
    """file to write: .parquet (name, label if there is one, embedding), .npy or .safetensors (embeddings [N, D], with the names in a .names.txt beside it)"""
    allow_bad: float = 0.01
    """largest share of unreadable images to go on with"""
    overwrite: bool = False
    """replace the file"""


def embed(argv: list[str]) -> dict[str, Any]:
    parser = Parser("embed", "Write the embeddings of images to a file, in the order of their names.")
    needed = ("model", "data", "out")
    parser.add_options("embed", read_settings(Path(__file__), "EmbedSettings").options, required=needed)
    given = parser.parse(argv)
    parser.need(given, *needed)
    return _embed(EmbedSettings(**given))


def _embed(settings: EmbedSettings) -> dict[str, Any]:
    out = Path(settings.out)
    _refuse_out(out, settings.overwrite)

    from seed_hub.data import open_images
    from seed_hub.eval.features import with_precision
    from seed_hub.teachers import load_model

    settings = with_precision(settings)
    images = open_images(
        settings.data,
        split=settings.split or None,
        allow_bad=settings.allow_bad,
        progress=Count("checking images"),
    )
    encoder = load_model(settings.model, image_size=settings.size or None)
    if images.bad:
        say(
            f"{len(images.bad)} images cannot be read and are left out, such as {images.bad[0][0]} ({images.bad[0][1]})"
        )
    if images.passed_over:
        say(images.passed_over)
    out.parent.mkdir(parents=True, exist_ok=True)
    done = Unfinished(out, _key(encoder, images, settings))
    if done.count:
        say(f"{done.count:,} embeddings are there from before; going on behind them")
    for rows in _blocks(encoder, images, settings, done.count):
        done.add(rows)
    width = done.width
    with becoming(out) as partial, open(partial, "wb") as file:
        write = FORMATS[out.suffix](file, images, width)
        for first in range(0, len(images), BLOCK):
            write.add(first, done.rows(first, first + BLOCK))
        write.close()
        file.flush()
        os.fsync(file.fileno())
    done.remove()
    if out.suffix != ".parquet":
        write_names(out.with_suffix(".names.txt"), images)
    show(f"{out}: {len(images):,} embeddings of width {width}")
    left_out = {"left_out": len(images.bad), "ignored": images.ignored}
    return {"file": str(out), "images": len(images), "width": width, **left_out}


def _refuse_out(out: Path, overwrite: bool) -> None:
    """Before anything is computed."""
    if out.suffix not in FORMATS:
        known = ", ".join(FORMATS)
        raise SeedHubError(
            f'--out {out} ends in "{out.suffix}": name a file that ends in {known}.'
            + nearest(out.suffix, FORMATS)
        )
    if out.is_dir():
        raise SeedHubError(f"--out {out} is a folder: name a file.")
    if out.exists() and not overwrite:
        raise SeedHubError(f"{out} exists already: replace it with --overwrite, or name another --out.")


def _key(encoder: Any, images: Images, settings: EmbedSettings) -> dict[str, Any]:
    """What must be the same for rows of an earlier call to be those of this one."""
    from seed_hub.eval.record import weights_sha256

    how = {name: getattr(settings, name) for name in ("model", "size", "precision", "features")}
    return how | {"weights": weights_sha256(encoder), "images": images.fingerprint}


def _blocks(encoder: Any, images: Images, settings: EmbedSettings, done: int) -> Iterator[np.ndarray]:
    """float32 ``[<= BLOCK, D]`` of the images from number ``done`` on, in order."""
    from seed_hub.eval.features import extract

    count = Count("embedding")
    for first in range(done, len(images), BLOCK):
        some = images.subset(range(first, min(first + BLOCK, len(images))))
        rows = extract(
            encoder,
            some,
            progress=lambda done, _, first=first: count(first + done, len(images)),  # type: ignore[misc]
            **settings.extraction(),
        )
        yield rows.numpy()
