"""From settings to a finished run: images, teacher, student, method, engine."""

from __future__ import annotations

from typing import Any

import torch

from seed_hub.data import Images, open_images, split_held_out

from seed_hub.encoder import Frozen, build_student
from seed_hub.errors import SeedHubError, nearest
from seed_hub.teachers import load_teacher
from seed_hub.training.engine import train
from seed_hub.training.methods import method_class
from seed_hub.training.monitor import Look
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings


def run(
    settings: RunSettings, method_settings: dict[str, Any] | None = None, *, resume: bool = False, overwrite: bool = False, stop_at: int | None = None
) -> Look:
    """Train as ``settings`` say, into ``settings.out``; the best look at the held-out images is returned.

    Args:
        method_settings: overrides of the method's own settings.
        resume: continue the run in ``settings.out``.
        overwrite: replace it.
        stop_at: stop after this step as Ctrl-C would (tests).
    """
    cls = method_class(settings.method)
    own = resolve_method_settings(cls, settings.method, method_settings or {})
    check_settings(cls, settings)
    torch.manual_seed(settings.seed)
    folder = RunFolder(settings.out, resume=resume, overwrite=overwrite, create=False)
    # Everything that can be refused is refused before the folder is claimed: a failed start leaves nothing behind.
    student = build_student(settings.student)
    images, held_out = _images(settings)
    teacher = _teacher(settings) if cls.needs_teacher else None
    method = cls(student, own, None if teacher is None else _width(teacher, settings))
    if len(images) < settings.batch_size:
        raise SeedHubError(
            f"There are {len(images)} training images, fewer than one batch of {settings.batch_size}: "
            f"pass --batch-size {max(2, len(images) // 2)} or less."
        )
    folder = RunFolder(settings.out, resume=resume, overwrite=overwrite)
    folder.save_settings(settings, own)
    images.save_bad(folder.path / "bad_images.txt")
    return train(method, images, held_out, teacher, settings, folder, stop_at=stop_at)


def check_settings(cls: type, settings: RunSettings) -> None:
    """Refuse what cannot be meant, one sentence each."""
    for name, wanted in (("data", settings.data), ("out", settings.out)):
        if not wanted:
            raise SeedHubError(f"--{name} is missing: {'name the images' if name == 'data' else 'name a folder for the run'}.")
    if cls.needs_teacher and not settings.teacher:
        raise SeedHubError(f'The method "{settings.method}" needs a --teacher; without one, use `seed-hub pretrain --method moco`.')
    if not cls.needs_teacher and settings.teacher:
        raise SeedHubError(f'The method "{settings.method}" learns without a teacher: drop --teacher, or use --method seed.')
    for name in ("size", "batch_size", "accumulate", "epochs"):
        if getattr(settings, name) <= 0:
            raise SeedHubError(f"--{name.replace('_', '-')} is {getattr(settings, name)}: it must be above 0.")
    if settings.batch_size < 2:
        raise SeedHubError("--batch-size 1 leaves batch norm nothing to average: use 2 or more.")


def resolve_method_settings(cls: type, name: str, overrides: dict[str, Any]) -> Any:
    """The method's frozen settings with ``overrides``; unknown ones are refused with the method's own list."""
    known = cls.Settings.__dataclass_fields__
    for key, value in overrides.items():
        if key not in known:
            options = ", ".join("--" + k.replace("_", "-") for k in known)
            raise SeedHubError(f'The method "{name}" has no option --{key.replace("_", "-")}; it has: {options}.' + nearest(key, known))
        if "temperature" in key and value <= 0:
            raise SeedHubError(f"--{key.replace('_', '-')} is {value}: a temperature must be above 0.")
        if key.endswith("size") and value < 1:
            raise SeedHubError(f"--{key.replace('_', '-')} is {value}: it must be at least 1.")
    return cls.Settings(**overrides)


def _images(settings: RunSettings) -> tuple[Images, Images]:
    """(training images, held-out images)."""
    images = open_images(settings.data, split=settings.split or None, allow_bad=settings.allow_bad)
    return split_held_out(images, settings.held_out, settings.seed)


def _teacher(settings: RunSettings) -> Frozen:
    return load_teacher(settings.teacher, allow_random=settings.allow_random_teacher, image_size=settings.teacher_size or settings.size)


def _width(teacher: Frozen, settings: RunSettings) -> int:
    """Width of the teacher's embedding, seen rather than looked up."""
    size = settings.teacher_size or settings.size
    return teacher.embed(torch.zeros(1, 3, size, size)).shape[1]
