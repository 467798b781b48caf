"""A run, assembled: what its loop works with, and the batches it learns from."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.data.streamed import Stream
from seed_hub.encoder import Frozen
from seed_hub.machine import loading_processes
from seed_hub.training.batches import StepBatches
from seed_hub.training.device import leave_stopping_to_the_run
from seed_hub.training.live_teacher import ask_all
from seed_hub.training.method import Batch
from seed_hub.training.pupil import Pupil
from seed_hub.training.resident import ResidentLoader, images_that_fit
from seed_hub.training.settings import RunSettings
from seed_hub.training.stream_batches import StreamBatches
from seed_hub.training.teacher_cache.claiming import in_bytes
from seed_hub.training.teacher_cache.reading import TeacherCache
from seed_hub.training.view_loading import in_parts, views_dataset
from seed_hub.training.views import whole_view

PREFETCH = 4  # batches that each loading process has ready
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a loop works with."""

    pupils: list[Pupil]
    images: Images | Stream
    held_out: Images
    teachers: list[Frozen]
    """fill ``batch.teachers``; none for methods that learn alone"""
    accelerator: Accelerator
    cache: TeacherCache | None = None
    """fills ``batch.teachers`` instead of the only teacher"""

    @property
    def settings(self) -> RunSettings:
        """The pupils' own differ in ``student`` and ``out`` only."""
        return self.pupils[0].settings

    @property
    def per_epoch(self) -> int:
        """Steps of a pass over the images; of a stream, whose end nobody knows, the run counts as one."""
        if isinstance(self.images, Stream):
            return self.settings.steps
        return len(self.images) // self.settings.batch_size


def load_views(job: Job, first: int, last: int, *, free: int | None = None) -> DataLoader:
    """This process's share of every batch from step ``first`` to ``last``.

    Args:
        free: bytes of the device's memory, half of which may hold images; None: what it has free.
    """
    settings, accelerator = job.settings, job.accelerator
    workers = loading_processes(settings.workers)
    views = job.pupils[0].method.view_settings(whole_view(settings))
    options: dict[str, Any] = {
        "batch_sampler": _batches(job, first, last),
        "num_workers": workers,
        "worker_init_fn": leave_stopping_to_the_run,
        "prefetch_factor": PREFETCH if workers else None,
        "pin_memory": accelerator.device.type == "cuda",
        # Views have generators of their own. Without this the loader would draw from torch's global state at every
        # start, and a resumed run would differ from an uninterrupted one.
        "generator": torch.Generator().manual_seed(settings.seed),
    }
    resident = images_that_fit(job.images, settings, accelerator.device, free)
    if resident is None:
        dataset, collate = views_dataset(job.images, views, settings, accelerator.device)
        return DataLoader(dataset, collate_fn=collate, **options)
    loader = ResidentLoader(resident, views, settings.seed, accelerator.device, **options)
    if accelerator.is_main_process:
        size = in_bytes(loader.pixels.nbytes)
        _log.warning(
            "The store of %s lives on the device (%s): it is not read again.", size, accelerator.device
        )
    return loader


def _batches(job: Job, first: int, last: int) -> StepBatches | StreamBatches:
    settings = job.settings
    share: dict[str, int] = {
        "seed": settings.seed,
        "first": first,
        "last": last,
        "rank": job.accelerator.process_index,
        "world": job.accelerator.num_processes,
    }
    if isinstance(job.images, Stream):
        return StreamBatches(job.images, settings.batch_size, **share, folder=job.pupils[0].folder.path)
    view_epochs = job.cache.epochs if job.cache else None
    return StepBatches(len(job.images), settings.batch_size, **share, view_epochs=view_epochs)


def parts_of(job: Job, epoch: int, views: Any, index: Tensor, labels: Tensor) -> Iterator[Batch]:
    """A batch of ``epoch`` on the device, part by part, with what the teachers say of it filled in."""
    device = job.accelerator.device
    size = len(index) // job.settings.accumulate
    parts = [slice(start, start + size) for start in range(0, len(index), size)]
    for own, pixels in zip(parts, in_parts(views, parts, device), strict=True):
        yield batch_of(job, epoch, pixels, index[own], labels[own])


def batch_of(job: Job, epoch: int, pixels: list[Tensor], index: Tensor, labels: Tensor) -> Batch:
    """Views on the device, and what the teachers say of them."""
    device, method = job.accelerator.device, job.pupils[0].method
    stages = "stages" in method.reads(method.settings)
    if job.cache is not None:
        said = [job.cache.say(index, epoch, device)]
    else:
        said = [
            ask_all(teacher, pixels, job.settings, job.accelerator, stages=stages) for teacher in job.teachers
        ]
    return Batch(pixels, index.to(device, non_blocking=True), said, labels.to(device, non_blocking=True))
