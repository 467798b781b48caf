"""How a run looks while it runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from torch import Tensor

from seed_hub.training.monitor import Look

REPORT_SECONDS = 20.0
SLOW = 0.25  # share of the time spent waiting for images from which it is said
T = TypeVar("T")


class Averages:
    """Means of what the steps return, since the last report.

    Values stay on the device until they are asked for, so that a step does not wait for the accelerator.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._last: Tensor | None = None

    def add(self, scalars: dict[str, Tensor]) -> None:
        """One step's scalars; "loss" among them."""
        for key, value in scalars.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._last = scalars["loss"]
        self._count += 1

    @property
    def last_loss(self) -> float:
        """The latest step's loss; waits for the accelerator."""
        return 0.0 if self._last is None else float(self._last)

    def take(self) -> dict[str, float]:
        """The means, and begin anew; waits for the accelerator."""
        means = {k: round(float(v) / max(1, self._count), 5) for k, v in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


class Progress:
    """Images per second, time left for the whole run, memory."""

    def __init__(self, steps: int, batch_size: int, *, first: int, show: bool) -> None:
        self.steps, self.batch_size, self.show = steps, batch_size, show
        self._step, self._reported = first, False
        self._since = self._start = time.monotonic()
        self._speed = self._waited = 0.0
        self._said_slow = False
        self._console = Console(stderr=True, highlight=False)
        self._bar: Bar | None = None
        if show and self._console.is_terminal:
            self._bar = Bar(BarColumn(30), TextColumn("{task.description}"), console=self._console)
            self._task = self._bar.add_task("starting", total=steps, completed=first)
            self._bar.start()

    def due(self) -> bool:
        """After the first step (to show life), then every few seconds."""
        wait = 1.0 if self._bar is not None else REPORT_SECONDS
        return not self._reported or time.monotonic() - self._since > wait

    def awaiting(self, batches: Iterable[T]) -> Iterator[T]:
        """``batches``; the time that each lets wait is counted."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def report(self, step: int, losses: list[float], *, queue_fills: bool = False) -> dict[str, Any]:
        """Where the run stands, shown with each student's mean loss and returned for the log.

        Args:
            queue_fills: why the losses rise, which would be taken for a run that goes wrong.
        """
        now = time.monotonic()
        rate = (step - self._step) * self.batch_size / max(1e-9, now - self._since)
        # The first interval holds the workers' start; later ones are smoothed.
        self._speed = rate if self._speed == 0 or not self._reported else 0.8 * self._speed + 0.2 * rate
        waiting = self._waited / max(1e-9, now - self._since)
        left = (self.steps - step) * self.batch_size / max(self._speed, 1e-9)
        line = {
            "images_per_second": round(rate, 1),
            "waiting": round(waiting, 3),
            "seconds_left": round(left),
            "memory_gb": round(_memory(), 2),
            "seconds": round(now - self._start, 1),
        }
        if self._reported and waiting > SLOW and not self._said_slow:
            self._said_slow = True
            self.say(
                f"The images come slower than they are learnt from: {waiting:.0%} of the time is spent waiting for them. Raise "
                "--workers, or decode them once with `seed-hub pack`."
            )
        self._step, self._since, self._reported, self._waited = step, now, True, 0.0
        shown = " ".join(f"{loss:.4f}" for loss in losses)
        shown += " (rises while the queue fills)" if queue_fills else ""
        text = (
            f"step {step}/{self.steps}  loss {shown}  {rate:,.0f} images/s  "
            f"{_duration(left)} left  {line['memory_gb']:.1f} GB"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
        else:
            self.say(text)
        return line

    def look(self, step: int, look: Look | None, name: str = "") -> None:
        """One line about the held-out images; ``name`` says whose, where there are several students."""
        if look is None:
            return
        parts = [f"view retrieval {look.view_retrieval:.1%}", f"effective rank {look.effective_rank:.0f}"]
        if look.agreement is not None:
            cosine = [] if look.cosine is None else [f"cosine {look.cosine:.3f}"]
            parts = [f"agreement with the teacher {look.agreement:.1%}", *cosine, *parts]
        if look.accuracy is not None:
            parts.append(f"accuracy {look.accuracy:.1%} (labels only shown)")
        if look.knn is not None:
            parts.append(f"k-NN {look.knn:.1f} % (labels only shown)")
        self.say(f"step {step}/{self.steps}  {name and name + ', '}held out: " + "  ".join(parts))

    def say(self, text: str) -> None:
        if not self.show:
            return
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()  # gives the terminal its cursor back


def _memory() -> float:
    """Peak memory in GB: the accelerator's if there is one, else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {int(seconds % 60):02d} s"
