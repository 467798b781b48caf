"""The loop: build, resume, loop, save. Text order is time order."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.utils.data import DataLoader

from seed_hub.data import Images
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import save_model
from seed_hub.training.batches import StepBatches
from seed_hub.training.method import Batch, Method
from seed_hub.training.monitor import Look, Monitor, enlarge, verdict
from seed_hub.training.optimization import build_optimizer, lr_at, peak_lr
from seed_hub.training.precision import keep_depthwise_float32, resolve_precision
from seed_hub.training.progress import Progress
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings
from seed_hub.training.views import ViewsDataset


class Stopped(Exception):
    """The run was interrupted; everything is saved."""


def train(
    method: Method, images: Images, held_out: Images, teacher: Frozen | None, settings: RunSettings, folder: RunFolder, *, stop_at: int | None = None
) -> Look:
    """Train ``method`` to the end, or continue it from the folder's checkpoint; the best look is returned.

    Args:
        teacher: fills ``batch.teacher``; None for methods that learn alone.
        stop_at: act at this step as if the user had pressed Ctrl-C (for tests of resume).

    Raises:
        Stopped: interrupted, after saving.
        SeedHubError: the loss is not finite, a disk is full; the last checkpoint is whole.
    """
    # Build.
    accelerator = _accelerator(settings)
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # softmax tails of a cold teacher are denormals, and those are 25 x slower
        keep_depthwise_float32(method)
    if settings.batch_size % (world * settings.accumulate):
        raise SeedHubError(
            f"--batch-size {settings.batch_size} does not divide by {world} processes x --accumulate {settings.accumulate}: choose a multiple."
        )
    views = method.view_settings(settings.size)
    method.to(device, memory_format=torch.channels_last)
    if teacher is not None:
        teacher.to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(method, settings)
    model, optimizer = accelerator.prepare(method, optimizer)
    per_epoch = len(images) // settings.batch_size or 1
    steps = max(1, round(settings.epochs * per_epoch))
    warmup = max(1, round(min(settings.warmup_epochs * per_epoch, 0.1 * steps)))
    watch_every = round(settings.watch_every * per_epoch) or max(1, steps // 20)
    monitor = Monitor(
        held_out, teacher, method, size=settings.size, teacher_size=settings.teacher_size, seed=settings.seed, device=device,
        autocast=accelerator.autocast,
    )

    # Resume.
    state = folder.load_checkpoint()
    if state is None:
        step, best = 0, -1.0
        first_look = monitor.look(method)
        looks = [asdict(first_look)]
        _log(accelerator, folder, {"event": "look", "step": 0, "images": 0, **asdict(first_look)})
    else:
        step, best, looks = _restore(state, method, optimizer, settings)
        _log(accelerator, folder, {"event": "resume", "step": step})

    # Loop.
    batches = StepBatches(len(images), settings.batch_size, seed=settings.seed, first=step, last=steps, rank=rank, world=world)
    loader = _loader(ViewsDataset(images, views, settings.seed), batches, settings, device)
    progress = Progress(steps, settings.batch_size, first=step, show=accelerator.is_main_process)
    last_save, peak = time.monotonic(), peak_lr(settings)
    with _interrupts() as interrupted:
        for raw_views, index, labels in loader:
            lr = lr_at(step, steps, warmup, peak)
            for group in optimizer.param_groups:
                group["lr"] = lr
            model.train()
            parts = settings.accumulate
            outputs: dict[str, list[Tensor]] = {}
            for part in range(parts):
                batch = _batch(raw_views, index, labels, part, parts, teacher, settings.teacher_size, accelerator)
                with _synced(accelerator, model, last=part == parts - 1):
                    with accelerator.autocast():
                        result = model(batch)
                    accelerator.backward(result["loss"] / parts)
                for key, value in result.items():
                    outputs.setdefault(key, []).append(value.detach())
            if settings.clip:
                accelerator.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.after_step({k: torch.cat(v) for k, v in outputs.items() if v[0].ndim})
            step += 1
            progress.add({k: torch.stack(v).mean() for k, v in outputs.items() if not v[0].ndim})

            if progress.due() or step == steps:
                line = progress.report(step, lr)  # CPU-GPU sync
                _refuse_nan(line["loss"], step, folder)
                _log(accelerator, folder, {"event": "step", **line})
            if step % watch_every == 0 or step == steps:
                look = monitor.look(method)
                looks.append(asdict(look))
                _log(accelerator, folder, {"event": "look", "step": step, "images": step * settings.batch_size, **asdict(look)})
                progress.look(step, look)
                if look.score > best:
                    best = look.score
                    _ship(accelerator, folder.best, method, settings, teacher, step, look)
            stop = interrupted() or step == stop_at
            if stop or step == steps or time.monotonic() - last_save > 60 * settings.save_every:
                _refuse_nan(progress.last_loss(), step, folder)
                if accelerator.is_main_process:
                    folder.save_checkpoint(_state(method, optimizer, settings, step, best, looks))
                last_save = time.monotonic()
            if stop and step < steps:
                _ship(accelerator, folder.last, method, settings, teacher, step, None)
                raise Stopped(f"Stopped after step {step} of {steps}; everything is saved.")

    # Save.
    progress.close()
    _ship(accelerator, folder.last, method, settings, teacher, step, None)
    seen = [Look(**look) for look in looks]
    winner = max(seen[1:] or seen, key=lambda look: look.score)
    text = verdict(seen[0], winner, len(held_out))
    if accelerator.is_main_process:
        folder.write_json("verdict.json", {"verdict": text, "untrained": asdict(seen[0]), "best": asdict(winner)})
        progress.say(text)
    return winner


def _accelerator(settings: RunSettings) -> Accelerator:
    """Device, precision and processes, from accelerate and the launcher's environment."""
    cpu = settings.device == "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SeedHubError("--device cuda was asked for, but this torch sees no CUDA device: use --device auto.")
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "mps" if torch.backends.mps.is_available() and not cpu else "cpu")
    precision = resolve_precision(settings.precision, device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        # Running statistics follow rank 0's, so that every process holds the same student.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=True)],
    )


def _loader(dataset: ViewsDataset, batches: StepBatches, settings: RunSettings, device: torch.device) -> DataLoader:
    import os

    workers = settings.workers if settings.workers >= 0 else min(8, max(0, (os.cpu_count() or 1) - 1))
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        # The views are drawn from their own counter-based generators; this keeps the loader off torch's global state,
        # which would otherwise advance once per (re)start and make a resumed run differ.
        generator=torch.Generator().manual_seed(settings.seed),
    )


def _batch(raw: list[Tensor], index: Tensor, labels: Tensor, part: int, parts: int, teacher: Frozen | None, teacher_size: int, accelerator: Accelerator) -> Batch:
    """Part ``part`` of ``parts`` of a loaded batch, on the device, with the teacher's embeddings filled in."""
    device = accelerator.device
    own = slice(part * len(index) // parts, (part + 1) * len(index) // parts)
    views = [
        v[own].to(device, non_blocking=True).to(memory_format=torch.channels_last).float().div_(255) for v in raw
    ]
    embeddings = None
    if teacher is not None:
        with accelerator.autocast():
            embeddings = [teacher.embed(enlarge(v, teacher_size)).float() for v in views]
    return Batch(views, index[own].to(device, non_blocking=True), embeddings, labels[own].to(device, non_blocking=True))


@contextmanager
def _synced(accelerator: Accelerator, model: torch.nn.Module, *, last: bool) -> Iterator[None]:
    """Gradients travel between processes with the last part of a batch only."""
    if last:
        yield
    else:
        with accelerator.no_sync(model):
            yield


@contextmanager
def _interrupts() -> Iterator:
    """Ctrl-C and SIGTERM ask the loop to save and stop; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        pass  # not in the main thread: signals are the caller's business
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _refuse_nan(loss: float, step: int, folder: RunFolder) -> None:
    if loss != loss or loss in (float("inf"), float("-inf")):
        kept = f"The checkpoint in {folder.path} is from before; " if folder.checkpoint.exists() else ""
        raise SeedHubError(
            f"The loss is {loss} at step {step}. {kept}lower --lr, add --clip 1, or use --precision fp32, and start again."
        )


def _log(accelerator: Accelerator, folder: RunFolder, line: dict) -> None:
    if accelerator.is_main_process:
        folder.append_log(line)


def _ship(accelerator: Accelerator, path, method: Method, settings: RunSettings, teacher: Frozen | None, step: int, look: Look | None) -> None:
    """Save the student, and nothing of its training but the head beside it."""
    if not accelerator.is_main_process:
        return
    facts = {
        "name": settings.student,
        "method": settings.method,
        "teacher": _without_folders(teacher.name) if teacher else None,
        "teacher_licence": teacher.licence if teacher else None,
        "size": settings.size,
        "step": step,
        "images_seen": step * settings.batch_size,
    }
    if look is not None:
        facts["look"] = asdict(look)
    save_model(path, method.student, facts, method.head)


def _without_folders(spec: str) -> str:
    """``file:/home/me/teacher.safetensors?arch=x`` -> ``file:teacher.safetensors?arch=x``: a model says no one's paths."""
    source, _, rest = spec.partition(":")
    return f"{source}:{Path(rest).name}" if source in ("file", "seed") else spec


def _state(method: Method, optimizer, settings: RunSettings, step: int, best: float, looks: list[dict]) -> dict:
    return {
        "student": settings.student,
        "method": settings.method,
        "step": step,
        "best": best,
        "looks": looks,
        "state": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "cuda_random": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore(state: dict, method: Method, optimizer, settings: RunSettings) -> tuple[int, float, list[dict]]:
    """Put everything back where it was; (step, best score, looks)."""
    if (state["student"], state["method"]) != (settings.student, settings.method):
        raise SeedHubError(
            f"The checkpoint is of {state['student']} by {state['method']}, not {settings.student} by {settings.method}: "
            "resume with the run's own settings, or name another --out."
        )
    try:
        method.load_state_dict(state["state"])
    except RuntimeError as error:
        raise SeedHubError(f"The checkpoint does not fit {settings.student}: {str(error).splitlines()[-1].strip()}") from error
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["cuda_random"]:
        torch.cuda.set_rng_state_all(state["cuda_random"])
    return state["step"], state["best"], state["looks"]
