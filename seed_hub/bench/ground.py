"""What all ways of a measurement share: images, a teacher, and the settings of a run on them.

Legend: D embedding width, K queue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from seed_hub.bench.photos import write_photos
from seed_hub.bench.settings import BenchSettings
from seed_hub.data import open_images
from seed_hub.data.packing import Packing
from seed_hub.data.shrinking import Recipe
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.machine import cores
from seed_hub.model_folder import save_model
from seed_hub.projection import projection_head
from seed_hub.training.job import Job
from seed_hub.training.run import assemble
from seed_hub.training.settings import RunSettings
from seed_hub.training.teacher_cache.building import build_cache

STEPS_PER_EPOCH = 4
"""of the photographs: how many there are matters only to the cache, which is built for all of them"""
LEAST_PHOTOS = 32  # a run wants twenty, some to look at
ENDLESS = 1e6  # epochs: the schedule never comes to its end within a measurement
STORE_SIDE = {True: 256, False: 96}
"""short side of packed images for views above 96 px, and for smaller ones"""


@dataclass(frozen=True)
class Ground:
    """Where a measurement takes place.

    Attributes:
        asked: what was asked for.
        folder: temporary.
        data, teacher: as a run names them.
    """

    asked: BenchSettings
    folder: Path
    data: str
    teacher: str

    @property
    def run(self) -> RunSettings:
        """A run on the data as they are, with the teacher asked in every step."""
        asked = self.asked
        return RunSettings(
            data=self.data,
            split=asked.split,
            student=asked.student,
            teacher=self.teacher,
            size=asked.size,
            batch_size=asked.batch_size,
            epochs=ENDLESS,
            precision=asked.precision,
            workers=asked.workers,
            compile=asked.compile,
            held_out=2,
            device=asked.device,
            allow_random_teacher=True,
        )

    @property
    def method(self) -> dict[str, Any]:
        """Overrides of SEED's settings."""
        return {"queue_size": self.asked.queue_size}

    def job(self, name: str, settings: RunSettings, students: tuple[str, ...] = ()) -> Job:
        """A run in a folder called ``name``, of its own student or of several."""
        runs = [
            replace(settings, student=student, out=str(self.folder / f"{name}-{student}"))
            for student in students or (settings.student,)
        ]
        return assemble(runs, self.method)

    def packed(self, form: str) -> RunSettings:
        """The same run on the images packed as ``form``, jpeg or raw."""
        out = self.folder / form
        side = STORE_SIDE[self.asked.size > STORE_SIDE[False]]
        images = open_images(self.data, split=self.asked.split or None)
        recipe = Recipe(side, form, 90 if form == "jpeg" else None, 256)
        Packing(images, out, recipe).run(cores())
        return replace(self.run, data=str(out), split="")

    def cached(self, settings: RunSettings, name: str) -> RunSettings:
        """The same run with what the teacher says of one epoch's views read from a cache."""
        out = str(self.folder / f"cache-{name}")
        build_cache(replace(settings, out=out), self.method, epochs=1, dtype="float16")
        return replace(settings, cache=out)


def lay_ground(asked: BenchSettings, folder: Path) -> Ground:
    """Images and teacher, made where none are named.

    Raises:
        SeedHubError: bad data or teacher.
    """
    data = asked.data or str(
        write_photos(folder / "photos", max(LEAST_PHOTOS, STEPS_PER_EPOCH * asked.batch_size + 2))
    )
    teacher = asked.teacher
    if teacher.startswith("untrained:"):
        teacher = f"seed:{_stand_in(asked, folder / 'teacher')}"
    return Ground(asked, folder, data, teacher)


def _stand_in(asked: BenchSettings, folder: Path) -> Path:
    """A model folder with an untrained network of the teacher's architecture and a head that gives D numbers."""
    torch.manual_seed(0)
    encoder = build_student(asked.teacher.removeprefix("untrained:"))
    if encoder.arch is None:
        raise SeedHubError(f"{asked.teacher} is no architecture of timm's own.")
    save_model(folder, encoder, {}, projection_head(encoder.width, 2048, asked.embedding_width, 2))
    return folder


def fill_queues(job: Job) -> None:
    """As after many steps: random rows in place of earlier embeddings."""
    for pupil in job.pupils:
        for queue in pupil.method.queues:  # type: ignore[union-attr]
            queue.push(normalize(torch.randn_like(queue.rows), dim=1))
