"""From settings to a finished run: images, teacher, student, method, engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from seed_hub.data import Images, choose_share, hide_labels, open_images, open_stream, split_held_out
from seed_hub.data.streamed import Stream
from seed_hub.encoder import Encoder, Frozen, build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import start_from
from seed_hub.teachers import check_spec, load_teacher
from seed_hub.training.checkpoint import random_state, set_random_state
from seed_hub.training.checks import (
    check_batch,
    check_cacheable,
    check_resumed,
    check_settings,
    check_teachers,
    check_together,
    check_views,
    class_count,
    known_labels,
    need_stages,
    resolve_method_settings,
    teacher_shapes,
)
from seed_hub.training.device import build_accelerator
from seed_hub.training.engine import train
from seed_hub.training.job import Job
from seed_hub.training.live_teacher import precision_of
from seed_hub.training.method import Shapes, Task, shapes_of
from seed_hub.training.methods import method_class
from seed_hub.training.monitor import Look
from seed_hub.training.pupil import Pupil
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings
from seed_hub.training.stream_batches import check_counting
from seed_hub.training.teacher_cache.reading import TeacherCache, open_cache


def run(settings: RunSettings, method_settings: dict[str, Any] | None = None, **options: Any) -> Look | None:
    """Train as ``settings`` say, into ``settings.out``; the best look at the held-out images is returned
    (by the main process; None by the others).

    Args:
        method_settings: overrides of the method's own settings.
        options: see :func:`run_together`.
    """
    (look,) = run_together([settings], method_settings, **options)
    return look


def run_together(
    runs: Sequence[RunSettings],
    method_settings: dict[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop_at: int | None = None,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Look | None]:
    """Train several students at once, each as it would be alone: the images are read, the views made and the teachers
    asked once for all of them.

    Args:
        runs: one for each student; they differ in ``student`` and ``out`` only.
        method_settings: overrides of the method's own settings, for all.
        resume: continue the runs.
        overwrite: replace them.
        stop_at: stop after this step as Ctrl-C would (tests).
        say: told in a sentence what each run works with.
        progress: called with (images checked, images in all) while they are read for the first time.
    """
    job = assemble(runs, method_settings, resume=resume, overwrite=overwrite, say=say, progress=progress)
    try:
        return train(job, stop_at=stop_at)
    except BaseException:
        for folder in [pupil.folder for pupil in job.pupils]:
            if job.accelerator.is_main_process and not resume and not folder.log.exists():
                folder.release()  # it never got to look at an image: a failed start as well
        raise


def assemble(
    runs: Sequence[RunSettings],
    method_settings: dict[str, Any] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Job:
    """All that :func:`run_together` needs, checked, and the runs' folders claimed; its arguments."""
    settings = runs[0]
    check_together(runs)
    cls = method_class(settings.method)
    own = resolve_method_settings(cls, settings.method, method_settings or {})
    check_settings(cls, settings)
    check_counting(settings)
    reads = cls.reads(own)
    if settings.cache:
        check_cacheable(cls, reads, settings)
    check_specs(settings)
    accelerator = build_accelerator(settings)
    check_batch(settings, accelerator.num_processes)
    # Everything that can be refused is refused before a folder is claimed: a failed start leaves nothing behind.
    folders = [RunFolder(each.out) for each in runs]
    if accelerator.is_main_process:
        for each, folder in zip(runs, folders, strict=True):
            folder.check(resume=resume, overwrite=overwrite)
            if resume:
                check_resumed(folder, each, own)
    students = [_student(each, reads) for each in runs]
    with accelerator.main_process_first():  # the others find its check of the images done
        images, held_out = (
            stream_of(settings, reads)
            if settings.stream
            else images_of(settings, progress, only_labelled=cls.needs_labels)
        )
    with (
        accelerator.local_main_process_first()
    ):  # on each machine one fetches them, the others find them there
        teachers = load_teachers(settings, reads) if cls.needs_teacher else []
    taught = tuple(teacher_shapes(reads, teacher, settings) for teacher in teachers)
    check_teachers(teachers, held_out, settings)
    cache = labels = None
    count = classes = 0
    if settings.cache and isinstance(images, Images):
        before = folders[0].read_json("config.json").get("cache_manifest") if resume else None
        cache = open_cache(
            settings, cls, own, teacher=teachers[0], images=images, accelerator=accelerator, before=before
        )
    if isinstance(images, Images):
        labels = known_labels(reads, images, settings)
        count, classes = len(images), class_count(images, labels)
    pupils = []
    for each, folder, (student, start_head, shapes, random) in zip(runs, folders, students, strict=True):
        task = Task(shapes, taught, count, classes, settings.seed, labels, start_head)
        set_random_state(random)
        method = cls(student.train(), own, task)
        check_views(method, each, teachers)
        pupils.append(Pupil(method, each, folder))
    if accelerator.is_main_process:
        for each, folder in zip(runs, folders, strict=True):
            if not resume:
                folder.claim(overwrite)
                folder.save_settings(each, own)
                if cache is not None:
                    config = folder.read_json("config.json")
                    folder.write_json("config.json", config | {"cache_manifest": cache.facts()})
                images.save_bad(folder.path / "bad_images.txt")
            if say is not None:
                say(_summary(each, images, held_out, teachers, accelerator, cache))
    accelerator.wait_for_everyone()
    return Job(pupils, images, held_out, teachers, accelerator, cache)


def _student(
    settings: RunSettings, reads: frozenset[str]
) -> tuple[Encoder, nn.Sequential | None, Shapes, dict[str, Any]]:
    """The student before training, the head of the run it starts from, what it gives, and the random state it leaves:
    its own heads are drawn from there, whatever is loaded in between."""
    torch.manual_seed(settings.seed)
    student = build_student(settings.student)
    head = start_from(settings.start, student) if settings.start else None
    random = random_state()
    student.input_size = settings.size  # what it is trained at is what it is for
    what = f'the student "{settings.student}"'
    shapes = shapes_of(student.eval(), settings.size, what.replace("the", "The", 1), "--size")
    need_stages(reads, shapes, settings, what)
    return student, head, shapes, random


def _summary(
    settings: RunSettings,
    images: Images | Stream,
    held_out: Images,
    teachers: Sequence[Frozen],
    accelerator: Accelerator,
    cache: TeacherCache | None,
) -> str:
    """What the run works with, in one line."""
    left_out = [f"{len(images.bad)} unreadable, see bad_images.txt"] if images.bad else []
    # Their terms bind the student too: to be known before hours of training, not when it is published.
    taught = " and ".join(f"{teacher.name} (licence {teacher.licence or 'unknown'})" for teacher in teachers)
    source = f"taught by {taught}" if taught else "without a teacher"
    where = f"{accelerator.num_processes} x {accelerator.device.type}"
    answers = ""
    if isinstance(images, Images):
        what = f"{len(images):,} images"
        left_out += [images.passed_over] if images.passed_over else []
        epochs = settings.steps / (len(images) // settings.batch_size) or settings.epochs
        if cache is not None:
            answers = f"; {cache.summary(replace(settings, epochs=epochs))}"
    else:
        what = f"a stream of {images.files:,} files read {images.lanes} at a time"
    but = f" ({'; '.join(left_out)})" if left_out else ""
    length = f"{settings.steps:,} steps" if settings.steps else f"{settings.epochs:g} epochs"
    return (
        f"{settings.student} by {settings.method}, {source}: {what}{but}, {len(held_out):,} held out, "
        f"{settings.size} px, {length}, {where} in {precision_of(accelerator)}, into {settings.out}{answers}"
    )


def images_of(
    settings: RunSettings, progress: Callable[[int, int], None] | None = None, *, only_labelled: bool
) -> tuple[Images, Images]:
    """(training images, held-out images).

    Args:
        only_labelled: leave out what has no label, or a hidden one.

    Raises:
        SeedHubError: there are too few.
    """
    images = open_images(
        settings.data, split=settings.split or None, allow_bad=settings.allow_bad, progress=progress
    )
    training, held_out = split_held_out(images, settings.held_out, settings.seed)
    if settings.share < 1:
        training = choose_share(training, settings.share, settings.seed)
    if settings.label_share < 1:  # after the share: a subset has its labels from the source, hidden ones too
        training = hide_labels(training, settings.label_share, settings.seed)
    if only_labelled and training.labels is not None and training.labels.max() >= 0:
        training = training.subset(np.flatnonzero(training.labels >= 0))
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


def stream_of(settings: RunSettings, reads: frozenset[str]) -> tuple[Stream, Images]:
    """(training images, held-out images), read in order.

    Raises:
        SeedHubError: labels are learnt from, or there are too few images.
    """
    if "labels" in reads:
        raise SeedHubError(
            f'The method "{settings.method}" learns from labels, and of a stream the images only are read: leave out --stream, or '
            "use a method without labels, such as --method seed."
        )
    if settings.held_out < 2:
        raise SeedHubError(
            f"--held-out is {settings.held_out}: at least 2 images of a stream are needed to see whether training works."
        )
    return open_stream(
        settings.data,
        held_out=settings.held_out,
        split=settings.split or None,
        allow_bad=settings.allow_bad,
    )


def load_teachers(settings: RunSettings, reads: frozenset[str]) -> list[Frozen]:
    """The networks that ``settings`` name, with classifiers where the method reads class scores."""
    return [
        load_teacher(
            spec,
            allow_random=settings.allow_random_teacher,
            image_size=settings.teacher_size or settings.size,
            classifier="logits" in reads,
        )
        for spec in _specs(settings)
    ]


def check_specs(settings: RunSettings) -> None:
    """Refuse a misspelt teacher before the images are looked through, which can take many minutes."""
    for spec in _specs(settings):
        check_spec(spec, allow_random=settings.allow_random_teacher)


def _specs(settings: RunSettings) -> tuple[str, ...]:
    """The teachers' names; none for methods that learn alone."""
    return (settings.teacher, *settings.more_teachers) if settings.teacher else ()
