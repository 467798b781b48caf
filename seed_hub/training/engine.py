"""The loop: build, resume, loop, save. Text order is time order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.encoder import Features, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.training.batches import StepBatches
from seed_hub.training.checkpoint import restore, ship, state_of
from seed_hub.training.device import prepare_for_cpu, stop_requests
from seed_hub.training.method import Batch, Method
from seed_hub.training.monitor import Look, Monitor, enlarge, verdict
from seed_hub.training.optimization import Schedule, build_optimizer
from seed_hub.training.progress import Progress
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings
from seed_hub.training.views import ViewsDataset, whole_view


class Stopped(Exception):
    """The run was interrupted; everything is saved."""


def train(
    method: Method,
    images: Images,
    held_out: Images,
    teachers: list[Frozen],
    settings: RunSettings,
    folder: RunFolder,
    accelerator: Accelerator,
    *,
    stop_at: int | None = None,
) -> Look | None:
    """Train ``method`` to the end, or continue it from the folder's checkpoint; the best look is returned
    (by the main process; None by the others).

    Args:
        teachers: fill ``batch.teachers``; none for methods that learn alone.
        stop_at: act at this step as if the user had pressed Ctrl-C (for tests of resume).

    Raises:
        Stopped: interrupted, after saving.
        SeedHubError: the loss is not finite, or a disk is full; the last checkpoint is whole.
    """
    # Build.
    if accelerator.device.type == "cpu":
        prepare_for_cpu(method)
    method.to(accelerator.device).to(memory_format=torch.channels_last)
    for teacher in teachers:
        teacher.to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(method, settings)
    model, optimizer = accelerator.prepare(method, optimizer)
    schedule = Schedule.of(settings, len(images))
    run = _Run(method, teachers, settings, folder, accelerator, held_out, images.fingerprint)

    # Resume.
    state = folder.load_checkpoint()
    if state is None:
        step = 0
        run.look(step)
    else:
        step, run.looks = restore(state, method, optimizer, settings, images.fingerprint)
        run.log({"event": "resume", "step": step})

    # Loop.
    loader = _loader(method, images, settings, step, schedule.steps, accelerator)
    progress = Progress(schedule.steps, settings.batch_size, first=step, show=accelerator.is_main_process)
    saved = time.monotonic()
    with progress, stop_requests() as stop_requested:
        for views, index, labels in loader:
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr(step)
            model.train()
            method.step, method.steps = step, schedule.steps
            outputs = _accumulate(model, method, views, index, labels, teachers, settings, accelerator)
            method.before_step()
            if settings.clip:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step({k: torch.cat(v) for k, v in outputs.items() if v[0].ndim})
            step += 1
            progress.add({k: torch.stack(v).mean() for k, v in outputs.items() if not v[0].ndim})

            last, stop = step == schedule.steps, stop_requested() or step == stop_at
            if progress.due() or last:
                run.log({"event": "step", **progress.report(step, schedule.lr(step - 1))})  # CPU-GPU sync
                run.refuse_nan(progress.last_loss, step)
            if step % schedule.watch_every == 0 or last:
                run.refuse_nan(progress.last_loss, step)
                progress.look(step, run.look(step))
            if stop or last or time.monotonic() - saved > 60 * settings.save_every:
                run.refuse_nan(progress.last_loss, step)
                run.save(optimizer, step)
                saved = time.monotonic()
            if stop and not last:
                raise Stopped(
                    f"Stopped after step {step} of {schedule.steps}; everything is saved in {folder.path}."
                )

    # Say.
    return run.finish()


@dataclass
class _Run:
    """What the loop writes down; only the main process does."""

    method: Method
    teachers: list[Frozen]
    settings: RunSettings
    folder: RunFolder
    accelerator: Accelerator
    held_out: Images
    data: str
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.writes = self.accelerator.is_main_process
        if self.writes:
            self.monitor = Monitor(
                self.held_out,
                self.teachers,
                self.method,
                self.settings,
                self.accelerator.device,
                self.accelerator.autocast,
            )

    def log(self, line: dict[str, Any]) -> None:
        if self.writes:
            self.folder.append_log(line)

    def look(self, step: int) -> Look | None:
        """Ask the held-out images; ``best/`` follows the best answer after the untrained one."""
        if not self.writes:
            return None
        look = self.monitor.look(self.method)
        best = max((earlier.score for earlier in self.looks[1:]), default=-1.0)
        if step and look.score > best:
            ship(self.folder.best, self.method, self.settings, self.teachers, step, look)
        self.looks.append(look)
        self.log({"event": "look", "step": step, "images": step * self.settings.batch_size, **asdict(look)})
        return look

    def save(self, optimizer: Any, step: int) -> None:
        if self.writes:
            ship(self.folder.last, self.method, self.settings, self.teachers, step, None)
            self.folder.save_checkpoint(
                state_of(self.method, optimizer, self.settings, self.data, step, self.looks)
            )

    def refuse_nan(self, loss: float, step: int) -> None:
        """Stop before a broken state is saved over a sound one."""
        if isfinite(loss):
            return
        kept = (
            f"the checkpoint in {self.folder.path} is from before it; "
            if self.folder.checkpoint.exists()
            else ""
        )
        raise SeedHubError(
            f"The loss is {loss} at step {step}; {kept}lower --lr, add --clip 1 or use --precision fp32, and start again."
        )

    def finish(self) -> Look | None:
        """The best look, and the verdict in words in verdict.json."""
        if not self.writes:
            return None
        untrained, best = self.looks[0], max(self.looks[1:], key=lambda look: look.score)
        text = verdict(untrained, best, len(self.held_out))
        self.folder.write_json(
            "verdict.json", {"verdict": text, "untrained": asdict(untrained), "best": asdict(best)}
        )
        return best


def _accumulate(
    model: torch.nn.Module,
    method: Method,
    views: list[Tensor],
    index: Tensor,
    labels: Tensor,
    teachers: list[Frozen],
    settings: RunSettings,
    accelerator: Accelerator,
) -> dict[str, list[Tensor]]:
    """Gradients of one batch, part by part; everything the method returned for each part, detached."""
    outputs: dict[str, list[Tensor]] = {}
    stages = "stages" in method.reads(method.settings)
    parts = settings.accumulate
    for part, own in enumerate(torch.arange(len(index)).chunk(parts)):
        # uint8 travels, a quarter of float32; normalisation is the encoders' business.
        pixels = [_to_device(v[own], accelerator.device) for v in views]
        said = [[_ask(teacher, v, settings, stages, accelerator) for v in pixels] for teacher in teachers]
        batch = Batch(
            pixels,
            index[own].to(accelerator.device, non_blocking=True),
            said,
            labels[own].to(accelerator.device, non_blocking=True),
        )
        with _gradients_travel(accelerator, model, part == parts - 1):
            with accelerator.autocast():
                result = model(batch)
            accelerator.backward(result["loss"] / parts)
        for key, value in result.items():
            outputs.setdefault(key, []).append(value.detach())
    return outputs


def _to_device(pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 -> float in [0, 1] on the device."""
    there = pixels.to(device, non_blocking=True)
    return there.to(memory_format=torch.channels_last).float().div_(255)


def _ask(
    teacher: Frozen, pixels: Tensor, settings: RunSettings, stages: bool, accelerator: Accelerator
) -> Features:
    """What the teacher says of one view, in float32."""
    # Small crops keep their proportion to the whole view.
    size = round(settings.teacher_size * pixels.shape[-1] / settings.size)
    with accelerator.autocast():
        return teacher(enlarge(pixels, size), stages=stages).float()


@contextmanager
def _gradients_travel(accelerator: Accelerator, model: torch.nn.Module, last: bool) -> Iterator[None]:
    """Gradients go between processes with the last part of a batch only."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


def _loader(
    method: Method, images: Images, settings: RunSettings, first: int, last: int, accelerator: Accelerator
) -> DataLoader:
    """This process's share of every batch from step ``first`` to ``last``."""
    batches = StepBatches(
        len(images),
        settings.batch_size,
        seed=settings.seed,
        first=first,
        last=last,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    workers = settings.workers if settings.workers >= 0 else min(8, (os.cpu_count() or 1) - 1)
    return DataLoader(
        ViewsDataset(images, method.view_settings(whole_view(settings)), settings.seed),
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=accelerator.device.type == "cuda",
        # Views have generators of their own. Without this the loader would draw from torch's global state at every
        # start, and a resumed run would differ from an uninterrupted one.
        generator=torch.Generator().manual_seed(settings.seed),
    )
