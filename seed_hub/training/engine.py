"""The loop: build, resume, loop, save. Text order is time order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from seed_hub.cpu_kernels import prepare_for_cpu
from seed_hub.training.device import stop_requests
from seed_hub.training.feature_queue import queue_fills
from seed_hub.training.job import Job, load_views, parts_of
from seed_hub.training.live_teacher import precision_of, ready
from seed_hub.training.memory import memory_told
from seed_hub.training.monitor import Look
from seed_hub.training.optimization import Schedule
from seed_hub.training.processes import asked_of_any
from seed_hub.training.progress import Progress
from seed_hub.training.pupil import Pupil

AGREE_EVERY = 10  # steps


class Stopped(Exception):
    """The run was interrupted; everything is saved."""


def train(job: Job, *, stop_at: int | None = None) -> list[Look | None]:
    """Train the pupils to the end, or continue from their folders' checkpoints; each one's best look is returned
    (by the main process; None by the others).

    Each batch and what the teachers say of it are made once, and every pupil learns from them; each comes out as it
    would alone. After a kill between two saves, the one that is behind catches up while the others wait.

    Args:
        stop_at: act at this step as if the user had pressed Ctrl-C (for tests of resume).

    Raises:
        Stopped: interrupted, after saving.
        SeedHubError: the loss is not finite, or a disk is full; the last checkpoint is whole.
    """
    # Build, and resume.
    schedule = prepare(job)
    pupils, settings = job.pupils, job.settings
    step = min(pupil.step for pupil in pupils)

    # Loop.
    show = job.accelerator.is_main_process
    progress = Progress(schedule.steps, settings.batch_size, first=step, show=show)
    saved = time.monotonic()
    with progress, memory_told(job), stop_requests() as stop_requested:
        for learning in take_steps(job, schedule, progress.awaiting):
            step += 1
            last, stop = step == schedule.steps, step == stop_at
            # One process that stops would leave the others waiting for its gradients for ever, so they agree on it; not in
            # every step, which would have to wait for the accelerator.
            if job.accelerator.num_processes == 1 or step % AGREE_EVERY == 0:
                stop |= asked_of_any(stop_requested(), job.accelerator.device)
            if progress.due() or last:
                _report(learning, progress, step, schedule.lr(step - 1))  # CPU-GPU sync
            if step % schedule.watch_every == 0 or last:
                for pupil in learning:
                    pupil.refuse_nan()
                    progress.look(step, pupil.look(), pupil.settings.student if len(pupils) > 1 else "")
            if stop or last or time.monotonic() - saved > 60 * settings.save_every:
                for pupil in learning:
                    pupil.refuse_nan()
                    pupil.save()
                saved = time.monotonic()
            if stop and not last:
                where = " and ".join(str(pupil.folder.path) for pupil in pupils)
                raise Stopped(
                    f"Stopped after step {step} of {schedule.steps}; everything is saved in {where}."
                )

    # Say.
    return [pupil.finish() for pupil in pupils]


def prepare(job: Job) -> Schedule:
    """Everything to its device, and every pupil to where it was."""
    live, on_cpu = job.cache is None, job.accelerator.device.type == "cpu"
    if on_cpu:
        # The tails of a cold teacher's softmax are denormal numbers, and those made the loss 25 times slower.
        torch.set_flush_denormal(True)
    job.teachers[:] = [ready(t, job.settings, job.accelerator, for_long=live) for t in job.teachers]
    for pupil in job.pupils:
        if on_cpu:
            prepare_for_cpu(pupil.method, precision_of(job.accelerator))
        pupil.prepare(job.accelerator, job.teachers, job.held_out, job.images.fingerprint)
    if not live:
        for teacher in job.teachers:
            teacher.to("meta")  # the pupils have what it says of the held-out images: free its memory
    settings = job.settings
    if settings.steps:
        settings = replace(settings, epochs=settings.steps / job.per_epoch)
    return Schedule.of(settings, job.per_epoch * settings.batch_size)


def take_steps(
    job: Job, schedule: Schedule, awaiting: Callable[[DataLoader], Iterable[Any]] = iter
) -> Iterator[list[Pupil]]:
    """Take the steps that are left, one for each ``next``; yields the pupils that took it: all but those ahead.

    Args:
        awaiting: goes between the loader and the steps, as :meth:`Progress.awaiting`.
    """
    step, settings = min(pupil.step for pupil in job.pupils), job.settings
    for views, index, labels in awaiting(load_views(job, step, schedule.steps)):
        learning = [pupil for pupil in job.pupils if pupil.step == step]
        for pupil in learning:
            pupil.model.train()
            pupil.method.step, pupil.method.steps = step, schedule.steps
        parts = parts_of(job, step // job.per_epoch, views, index, labels)
        for number, batch in enumerate(parts, 1):
            for pupil in learning:
                pupil.learn(batch, 1 / settings.accumulate, last=number == settings.accumulate)
        for pupil in learning:
            pupil.take_step(schedule)
        step += 1
        yield learning


def _report(pupils: list[Pupil], progress: Progress, step: int, lr: float) -> None:
    means = []
    for pupil in pupils:
        pupil.refuse_nan()
        means.append(pupil.averages.take())
    fills = any(queue_fills(pupil.method) for pupil in pupils)
    state = progress.report(step, [mean["loss"] for mean in means], queue_fills=fills)
    for pupil, mean in zip(pupils, means, strict=True):
        place = {"step": step, "images": step * pupil.settings.batch_size}
        pupil.log({"event": "step", **place, **mean, "lr": lr, **state})
