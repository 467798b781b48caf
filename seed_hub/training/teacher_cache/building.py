"""Making a cache: every image of M epochs through the teacher, in the order and the batches of training.

Legend: N images, V views, D width, M epochs, B images the teacher is asked about at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.encoder import Frozen
from seed_hub.machine import loading_processes
from seed_hub.training.batches import EpochRows
from seed_hub.training.checks import (
    check_batch,
    check_cacheable,
    check_settings,
    check_teachers,
    resolve_method_settings,
)
from seed_hub.training.device import build_accelerator, leave_stopping_to_the_run, stop_requests
from seed_hub.training.live_teacher import ask, ask_all, ready
from seed_hub.training.methods import method_class
from seed_hub.training.run import check_specs, images_of, load_teachers
from seed_hub.training.settings import RunSettings
from seed_hub.training.teacher_cache.claiming import (
    check_folder,
    check_options,
    claim,
    contents,
    in_bytes,
    refuse_full_disk,
    refuse_other,
    share_done,
)
from seed_hub.training.teacher_cache.manifest import FILE, Manifest, key_of, views_of
from seed_hub.training.teacher_cache.shards import Shards, ShardWriter, encode
from seed_hub.training.view_loading import on_device, views_dataset
from seed_hub.training.views import ViewSettings

WARM_UP, MEASURED = 1, 3  # batches: the first is slow, the next ones tell how long the rest takes


def build_cache(
    settings: RunSettings,
    method_settings: dict[str, Any],
    *,
    epochs: int,
    dtype: str,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    checking: Callable[[int, int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Store in ``settings.out`` what the teacher says of every view of ``epochs`` epochs of the run that ``settings`` and
    ``method_settings`` describe. What an earlier call left unfinished is gone on with, to the same bytes.

    Args:
        epochs: M; more than a finished cache of the same key holds are added to it.
        dtype: of what is stored, one of :data:`~seed_hub.training.teacher_cache.shards.DTYPES`.
        overwrite: replace the cache that is there.
        say: told in a sentence how large it will be, and soon after the start how long it takes.
        checking: called with (images checked, images in all) while they are read for the first time.
        progress: called with (rows done, rows in all).

    Raises:
        SeedHubError: bad settings, another cache in the folder, too little space.
        KeyboardInterrupt: stopped; what is done is kept.
    """
    check_options(epochs, dtype)
    say = say or (lambda _: None)
    cls = method_class(settings.method)
    own = resolve_method_settings(cls, settings.method, method_settings)
    check_settings(cls, settings)
    check_cacheable(cls, cls.reads(own), settings)
    check_specs(settings)
    accelerator = build_accelerator(settings)
    check_batch(settings, 1)
    folder = Path(settings.out)
    check_folder(folder)
    images, held_out = images_of(settings, checking, only_labelled=cls.needs_labels)
    (teacher,) = load_teachers(settings, cls.reads(own))
    check_teachers([teacher], held_out, settings)
    views = views_of(cls, own, settings)
    key = key_of(settings, views, teacher, images, accelerator)
    batch = settings.batch_size // settings.accumulate
    teacher = ready(teacher, settings, accelerator)
    width = _width(teacher, settings, accelerator)
    manifest = Manifest(key, len(images), width, dtype, epochs, batch)
    shards = Shards(folder, manifest)
    if overwrite:
        (folder / FILE).unlink(missing_ok=True)
        shards.remove()
    else:
        refuse_other(folder, manifest)
    left = [epoch for epoch in range(epochs) if not shards.whole(epoch)]
    if left:
        refuse_full_disk(folder, shards, left)
        claim(folder, manifest)
        size = in_bytes(epochs * shards.shard_bytes)
        say(f"{folder}: {contents(manifest)}, {size} in all; {share_done(shards, manifest)} is there")
        _fill(shards, manifest, left, _Asking(teacher, images, views, settings, accelerator), say, progress)
    return manifest


class _Asking:
    """Batches of views, and what the teacher says of them."""

    def __init__(
        self,
        teacher: Frozen,
        images: Images,
        views: list[ViewSettings],
        settings: RunSettings,
        accelerator: Accelerator,
    ) -> None:
        self.teacher, self.settings, self.accelerator = teacher, settings, accelerator
        self.data, self.collate = views_dataset(images, views, settings, accelerator.device)

    def embeddings(self, starts: list[tuple[int, int]], batch: int) -> Iterator[Tensor]:
        """float32 ``[<= B, V, D]`` for the rest of each epoch of ``starts``, (epoch, first row)."""
        workers = loading_processes(self.settings.workers)
        device = self.accelerator.device
        loader = DataLoader(
            self.data,
            collate_fn=self.collate,
            batch_sampler=EpochRows(len(self.data), batch, seed=self.settings.seed, starts=starts),
            num_workers=workers,
            worker_init_fn=leave_stopping_to_the_run,
            prefetch_factor=4 if workers else None,
            pin_memory=device.type == "cuda",
        )
        for views, _, _ in loader:
            said = ask_all(
                self.teacher, [on_device(v, device) for v in views], self.settings, self.accelerator
            )
            yield torch.stack([each.embedding for each in said], dim=1)


def _fill(
    shards: Shards,
    manifest: Manifest,
    left: list[int],
    asking: _Asking,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write the epochs ``left``, each from where it was left, at a whole batch: to the bytes of an undisturbed run."""
    n, batch = manifest.images, manifest.batch
    starts = [(epoch, shards.rows(epoch) // batch * batch) for epoch in left]
    total = manifest.epochs * n
    done = total - sum(n - first for _, first in starts)
    clock = _Clock(total - done, say)
    queue = iter(starts)
    writer = ShardWriter(shards, *next(queue))
    if asking.accelerator.device.type == "cpu":
        torch.set_flush_denormal(True)  # as in training, whose bits these are to be
    try:
        with stop_requests() as stop_requested:
            for embeddings in asking.embeddings(starts, batch):
                writer.append(encode(embeddings, manifest.dtype))
                done += len(embeddings)
                clock.count(len(embeddings))
                if progress is not None:
                    progress(done, total)
                if writer.done == n:
                    writer.finish()
                    following = next(queue, None)
                    if following is None:
                        return
                    writer = ShardWriter(shards, *following)
                if stop_requested():
                    raise KeyboardInterrupt(
                        f"Stopped at {done / total:.1%} of the rows; what is done is kept: give the same command again to go on."
                    )
    finally:
        writer.close()


class _Clock:
    """Says once how long the rest takes, from the first batches after the warm-up."""

    def __init__(self, rows: int, say: Callable[[str], None]) -> None:
        self.rows, self.say, self.batches, self.since, self.measured = rows, say, 0, 0.0, 0

    def count(self, rows: int) -> None:
        self.batches += 1
        self.rows -= rows
        if self.batches == WARM_UP:
            self.since = time.monotonic()
        elif self.batches <= WARM_UP + MEASURED:
            self.measured += rows
            if self.batches == WARM_UP + MEASURED:
                rate = self.measured / max(time.monotonic() - self.since, 1e-9)
                self.say(f"about {_duration(self.rows / rate)} to go, at {rate:,.0f} images per second")


def _width(teacher: Frozen, settings: RunSettings, accelerator: Accelerator) -> int:
    """D"""
    pixels = torch.zeros(1, 3, settings.size, settings.size, device=accelerator.device)
    return ask(teacher, pixels, settings, accelerator).embedding.shape[1]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
