"""Where a run computes, in what precision, on how many processes, and how it is asked to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Thread

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState

from seed_hub.errors import SeedHubError
from seed_hub.machine import resolve_precision
from seed_hub.training.settings import RunSettings

DEVICES = ("auto", "cpu", "cuda", "mps")
# How long processes wait for each other. The first one checks every image while the others wait: a million of them on a
# network file system take longer than NCCL's ten minutes, after which the others would give up.
PATIENCE = timedelta(hours=6)


def build_accelerator(settings: RunSettings) -> Accelerator:
    """Device, precision and processes, from the settings and the launcher's environment."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise SeedHubError(
            "Students are trained whole on every process, not by FSDP: launch without --use_fsdp."
        )
    if settings.device not in DEVICES:
        raise SeedHubError(f'Unknown --device "{settings.device}": choose {", ".join(DEVICES)}.')
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not there.get(settings.device, True):
        raise SeedHubError(
            f"--device {settings.device} was asked for, but this torch sees none: use --device auto."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # accelerate keeps one state for the life of the process: a second run may want another device or precision.
        AcceleratorState._reset_state(reset_partial_state=True)
    kind = settings.device if settings.device != "auto" else next(k for k, usable in there.items() if usable)
    return Accelerator(
        cpu=kind == "cpu",
        mixed_precision="bf16" if resolve_precision(settings.precision, kind) == "bf16" else "no",
        # Buffers stay each process's own: queues are the same everywhere already, and would cost 33 MB a step.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a question, "has anyone asked to stop?"; Ctrl-C and SIGTERM ask, a Ctrl-C after that stops at once."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        # Not at a second SIGTERM: `timeout` sends one to its child and one to the group that the child is in.
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:
        pass  # not the main thread: signals are the caller's business
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def leave_stopping_to_the_run(_worker: int) -> None:
    """For the processes that load images: what asks a whole process group to stop (a terminal, ``timeout``, Slurm, systemd)
    reaches them too, and a run whose images stop coming cannot save. It ends them itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        # Not ignored: by SIGTERM Python ends what an uncaught exception leaves behind, and waits for it for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_by, args=(os.getppid(),), daemon=True).start()


def _end_by(run: int) -> None:
    """End this process when SIGTERM comes from the process ``run``."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
        pass
    os._exit(0)
