"""A student in training: its method and optimiser, and what is written down of it in its run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from seed_hub.data import Images
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.training.checkpoint import random_state, restore, set_random_state, ship, state_of
from seed_hub.training.compiling import compile_trained, compiles
from seed_hub.training.method import Batch, Method
from seed_hub.training.monitor import Look, Monitor, verdict
from seed_hub.training.optimization import Schedule, build_optimizer
from seed_hub.training.progress import Averages
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings


class Pupil:
    """One of the students that a loop trains; only the main process writes.

    Args:
        method: owns the student; freshly made, with torch's random state as it left it.
        settings: of this student's run; several pupils differ in ``student`` and ``out`` only.
    """

    def __init__(self, method: Method, settings: RunSettings, folder: RunFolder) -> None:
        self.method, self.settings, self.folder = method, settings, folder
        self.step = 0
        self.looks: list[Look] = []
        self.averages = Averages()
        self._outputs: dict[str, list[Tensor]] = {}
        # Its own random numbers: a pupil in company draws what it would draw alone.
        self._random = random_state()

    def prepare(
        self, accelerator: Accelerator, teachers: list[Frozen], held_out: Images, fingerprint: str
    ) -> None:
        """Move to the device, and continue from the folder's checkpoint if there is one.

        Args:
            fingerprint: of the training images.
        """
        self.accelerator, self.teachers, self.fingerprint = accelerator, teachers, fingerprint
        self.writes = accelerator.is_main_process
        self.method.to(accelerator.device).to(memory_format=torch.channels_last)
        if compiles(self.settings.compile, "student"):
            self._compile(accelerator)
        optimizer = build_optimizer(self.method, self.settings)
        self.model, self.optimizer = accelerator.prepare(self.method, optimizer)
        if self.writes:
            self.monitor = Monitor(
                held_out, teachers, self.method, self.settings, accelerator.device, accelerator.autocast
            )
        state = self.folder.load_checkpoint()
        if state is None:
            self.look()
            return
        with self._own_random_numbers():
            self.step, self.looks = restore(
                state, self.method, self.optimizer, self.settings, self.fingerprint
            )
        self.log({"event": "resume", "step": self.step})

    def _compile(self, accelerator: Accelerator) -> None:
        settings = self.settings
        batch = settings.batch_size // accelerator.num_processes // settings.accumulate
        pixels = torch.zeros(batch, 3, settings.size, settings.size, device=accelerator.device)
        compile_trained(
            self.method.student, pixels.to(memory_format=torch.channels_last), accelerator.autocast
        )

    def learn(self, batch: Batch, share: float, *, last: bool) -> None:
        """Add the gradients of a part of a batch.

        Args:
            share: of the batch.
            last: gradients go between processes with the last part of a batch only.
        """
        with self._own_random_numbers(), self._gradients_travel(last):
            with self.accelerator.autocast():
                result = self.model(batch)
            self.accelerator.backward(result["loss"] * share)
        for key, value in result.items():
            self._outputs.setdefault(key, []).append(value.detach())

    def take_step(self, schedule: Schedule) -> None:
        """Use the gradients of all parts."""
        schedule.set(self.optimizer, self.step)
        self.method.before_step()
        if self.settings.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step({k: torch.cat(v) for k, v in self._outputs.items() if v[0].ndim})
        self.averages.add({k: torch.stack(v).mean() for k, v in self._outputs.items() if not v[0].ndim})
        self._outputs = {}
        self.step += 1

    def log(self, line: dict[str, Any]) -> None:
        if self.writes:
            self.folder.append_log(line)

    def look(self) -> Look | None:
        """Ask the held-out images; ``best/`` follows the best answer after the untrained one."""
        if not self.writes:
            return None
        look = self.monitor.look(self.method)
        best = max((earlier.score for earlier in self.looks[1:]), default=-1.0)
        if self.step and look.score > best:
            ship(self.folder.best, self.method, self.settings, self.teachers, self.step, look)
        self.looks.append(look)
        place = {"step": self.step, "images": self.step * self.settings.batch_size}
        self.log({"event": "look", **place, **asdict(look)})
        if self.step and self.settings.keep_looks:
            kept = self.folder.looks / str(self.step)
            ship(kept, self.method, self.settings, self.teachers, self.step, look)
        return look

    def save(self) -> None:
        if self.writes:
            ship(self.folder.last, self.method, self.settings, self.teachers, self.step, None)
            with self._own_random_numbers():
                state = state_of(
                    self.method, self.optimizer, self.settings, self.fingerprint, self.step, self.looks
                )
            self.folder.save_checkpoint(state)

    def refuse_nan(self) -> None:
        """Stop before a broken state is saved over a sound one."""
        loss = self.averages.last_loss
        if isfinite(loss):
            return
        kept = (
            f"the checkpoint in {self.folder.path} is from before it; "
            if self.folder.checkpoint.exists()
            else ""
        )
        raise SeedHubError(
            f"The loss is {loss} at step {self.step}; {kept}lower --lr, add --clip 1 or use --precision fp32, and start again."
        )

    def finish(self) -> Look | None:
        """The best look, and the verdict in words in verdict.json."""
        if not self.writes:
            return None
        untrained, best = self.looks[0], max(self.looks[1:], key=lambda look: look.score)
        text = verdict(untrained, best, len(self.monitor.pixels), start=self.settings.start)
        self.folder.write_json(
            "verdict.json", {"verdict": text, "untrained": asdict(untrained), "best": asdict(best)}
        )
        return best

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        outside = random_state()
        set_random_state(self._random)
        try:
            yield
        finally:
            self._random = random_state()
            set_random_state(outside)

    @contextmanager
    def _gradients_travel(self, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield
