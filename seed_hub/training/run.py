"""From settings to a finished run: images, teacher, student, method, engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator

from seed_hub.data import Images, open_images, split_held_out
from seed_hub.encoder import Encoder, Frozen, build_student
from seed_hub.errors import SeedHubError, nearest
from seed_hub.teachers import load_teacher
from seed_hub.training.device import build_accelerator
from seed_hub.training.engine import train
from seed_hub.training.method import Method, Shapes, Task
from seed_hub.training.methods import method_class
from seed_hub.training.monitor import Look
from seed_hub.training.optimization import peak_lr
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings


def run(
    settings: RunSettings,
    method_settings: dict[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Look | None:
    """Train as ``settings`` say, into ``settings.out``; the best look at the held-out images is returned
    (by the main process; None by the others).

    Args:
        method_settings: overrides of the method's own settings.
        resume: continue the run in ``settings.out``.
        overwrite: replace it.
        stop_at: stop after this step as Ctrl-C would (tests).
        say: told in a sentence what the run works with.
        progress: called with (images checked, images in all) while they are read for the first time.
    """
    cls = method_class(settings.method)
    own = resolve_method_settings(cls, settings.method, method_settings or {})
    check_settings(cls, settings)
    reads = cls.reads(own)
    accelerator = build_accelerator(settings)
    check_batch(settings, accelerator.num_processes)
    # Everything that can be refused is refused before the folder is claimed: a failed start leaves nothing behind.
    folder = RunFolder(settings.out)
    if accelerator.is_main_process:
        folder.check(resume=resume, overwrite=overwrite)
    torch.manual_seed(settings.seed)
    student = build_student(settings.student)
    student.input_size = settings.size  # what it is trained at is what it is for
    student_shapes = _shapes(student.eval(), settings.size, f'The student "{settings.student}"', "--size")
    _need_stages(reads, student_shapes, settings, f'the student "{settings.student}"')
    with accelerator.main_process_first():  # the others find its check of the images done
        images, held_out = _images(settings, progress)
    teachers = [_teacher(settings)] if cls.needs_teacher else []
    task = Task(
        student=student_shapes,
        teachers=tuple(_teacher_shapes(reads, teacher, settings) for teacher in teachers),
        images=len(images),
        classes=_classes(reads, images, settings),
        seed=settings.seed,
    )
    method = cls(student.train(), own, task)
    if accelerator.is_main_process and not resume:
        folder.claim(overwrite)
        folder.save_settings(settings, own)
        images.save_bad(folder.path / "bad_images.txt")
    if say is not None and accelerator.is_main_process:
        say(_summary(settings, images, held_out, accelerator))
    accelerator.wait_for_everyone()
    try:
        return train(method, images, held_out, teachers, settings, folder, accelerator, stop_at=stop_at)
    except BaseException:
        if accelerator.is_main_process and not resume and not folder.log.exists():
            folder.release()  # it never got to look at an image: a failed start as well
        raise


def _summary(settings: RunSettings, images: Images, held_out: Images, accelerator: Accelerator) -> str:
    """What the run works with, in one line."""
    bad = f" ({len(images.bad)} unreadable, see bad_images.txt)" if images.bad else ""
    source = f"taught by {settings.teacher}" if settings.teacher else "without a teacher"
    where = f"{accelerator.num_processes} x {accelerator.device.type}"
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return (
        f"{settings.student} by {settings.method}, {source}: {len(images):,} images{bad}, {len(held_out):,} held out, "
        f"{settings.size} px, {settings.epochs:g} epochs, {where} in {precision}, into {settings.out}"
    )


def check_settings(cls: type[Method], settings: RunSettings) -> None:
    """Refuse what cannot be meant, one sentence each."""
    for name, wanted in (("data", settings.data), ("out", settings.out)):
        if not wanted:
            raise SeedHubError(
                f"--{name} is missing: {'name the images' if name == 'data' else 'name a folder for the run'}."
            )
    if cls.needs_teacher and not settings.teacher:
        raise SeedHubError(
            f'The method "{settings.method}" needs a --teacher; without one, use `seed-hub pretrain --method moco`.'
        )
    if not cls.needs_teacher and settings.teacher:
        raise SeedHubError(
            f'The method "{settings.method}" learns without a teacher: drop --teacher, or use --method seed.'
        )
    for name, value in asdict(settings).items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        above = name in ("size", "batch_size", "accumulate", "epochs")
        if not math.isfinite(value) or (value <= 0 if above else value < 0 and name != "workers"):
            wanted = "above 0" if above else "0 or more"
            raise SeedHubError(f"--{name.replace('_', '-')} is {value}: it must be {wanted}.")
    for name, share in (("crop-min", settings.crop_min), ("flip", settings.flip)):
        if share > 1 or (share == 0 and name == "crop-min"):
            raise SeedHubError(
                f"--{name} is {share}: it must be {'above 0 and ' * (name == 'crop-min')}at most 1."
            )
    if settings.batch_size < 2:
        raise SeedHubError("--batch-size 1 leaves batch norm nothing to average: use 2 or more.")
    peak_lr(settings)  # refuses an unknown optimiser


def check_batch(settings: RunSettings, processes: int) -> None:
    """A batch is shared out evenly: over processes, then over parts."""
    if settings.batch_size % (processes * settings.accumulate):
        raise SeedHubError(
            f"--batch-size {settings.batch_size} does not divide into {processes} processes x {settings.accumulate} parts "
            "(--accumulate): choose a multiple of both."
        )


def resolve_method_settings(cls: type[Method], name: str, overrides: dict[str, Any]) -> Any:
    """The method's frozen settings with ``overrides``; unknown ones are refused with the method's own list."""
    known = cls.Settings.__dataclass_fields__
    for key, value in overrides.items():
        if key not in known:
            options = ", ".join("--" + k.replace("_", "-") for k in known)
            raise SeedHubError(
                f'The method "{name}" has no option --{key.replace("_", "-")}; it has: {options}.'
                + nearest(key, known)
            )
        if "temperature" in key and value <= 0:
            raise SeedHubError(f"--{key.replace('_', '-')} is {value}: a temperature must be above 0.")
        if key.endswith("size") and value < 1:
            raise SeedHubError(f"--{key.replace('_', '-')} is {value}: it must be at least 1.")
    return cls.Settings(**overrides)


def _images(settings: RunSettings, progress: Callable[[int, int], None] | None) -> tuple[Images, Images]:
    """(training images, held-out images)."""
    images = open_images(
        settings.data, split=settings.split or None, allow_bad=settings.allow_bad, progress=progress
    )
    training, held_out = split_held_out(images, settings.held_out, settings.seed)
    if len(held_out) < 2:
        raise SeedHubError(
            f"{settings.data} has {len(images)} images and --held-out is {settings.held_out}: at least 20 images are needed, and 2 "
            "held out (a tenth at most), to see whether training works."
        )
    if len(training) < settings.batch_size:
        raise SeedHubError(
            f"{settings.data} has {len(training)} images to train on ({len(held_out)} are held out), fewer than one batch of "
            f"{settings.batch_size}: pass --batch-size {max(2, len(training) // 2)} or less."
        )
    return training, held_out


def _teacher(settings: RunSettings) -> Frozen:
    return load_teacher(
        settings.teacher,
        allow_random=settings.allow_random_teacher,
        image_size=settings.teacher_size or settings.size,
    )


def _teacher_shapes(reads: frozenset[str], teacher: Frozen, settings: RunSettings) -> Shapes:
    flag = "--teacher-size" if settings.teacher_size else "--size"
    shapes = _shapes(teacher, settings.teacher_size or settings.size, f'The teacher "{teacher.name}"', flag)
    if "logits" in reads and not shapes.classes:
        raise SeedHubError(
            f'The method "{settings.method}" compares class scores, and the teacher "{teacher.name}" has no classifier: '
            "name one that was trained with labels, such as timm:resnet50.a1_in1k, or use --method seed."
        )
    _need_stages(reads, shapes, settings, f'the teacher "{teacher.name}"')
    return shapes


def _need_stages(reads: frozenset[str], shapes: Shapes, settings: RunSettings, what: str) -> None:
    if "stages" in reads and not shapes.stages:
        raise SeedHubError(
            f'The method "{settings.method}" compares feature maps, and {what} has none at {settings.size} px: name another '
            "network, or use a method on embeddings, such as --method seed."
        )


def _classes(reads: frozenset[str], images: Images, settings: RunSettings) -> int:
    """How many classes the labels name; 0 for methods that do not ask."""
    if "labels" not in reads:
        return 0
    if images.labels is None:
        raise SeedHubError(
            f'The method "{settings.method}" learns from labels and {settings.data} has none: put the images into one '
            "folder per class, or use a method without labels, such as --method seed."
        )
    return int(torch.as_tensor(images.labels).max()) + 1


@torch.no_grad()
def _shapes(network: Encoder | Frozen, size: int, what: str, flag: str) -> Shapes:
    """What ``network`` says of an empty image of ``size`` pixels; a network that cannot take one is refused."""
    pixels = torch.zeros(1, 3, size, size)
    try:
        features = network(pixels)
        with suppress(Exception):  # a network without maps: for the method that reads them to say
            features.stages = network(pixels, stages=True).stages
        return Shapes.of(features)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise SeedHubError(
            f"{what} does not take images of {size} px ({reason}): choose another {flag}."
        ) from error
