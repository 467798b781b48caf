"""What is refused before a run begins, one clear sentence each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from seed_hub.data import Images
from seed_hub.data.center import CenterViews
from seed_hub.data.remote import is_remote
from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError, nearest
from seed_hub.teachers.check import IMAGES, LEAST_IMAGES, check_teacher
from seed_hub.training.compiling import compiles
from seed_hub.training.method import Method, Shapes, shapes_of
from seed_hub.training.optimization import peak_lr
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings
from seed_hub.training.view_loading import made_on_device
from seed_hub.training.views import whole_view

NOT_COMPARED = frozenset("out device workers save_every views_on data cache allow_bad student method".split())
"""settings of a run that goes on which decide no number, or are looked at otherwise: the images by their fingerprint, a cache by
its manifest, student and method by the checkpoint"""
NEVER_NONE = ("head_layers", "embedding_width", "out_dim", "bottleneck_width", "predictor_width")
"""counts and widths of which a method needs one at least"""
MOST = {"crop_least": 1, "jitter": 2.5}
"""a share of the image; a jitter's fifth is the hue's, which goes all the way round at 0.5"""


def check_teachers(teachers: Sequence[Frozen], held_out: Images, settings: RunSettings) -> None:
    """Refuse a teacher that says nothing of some held-out images, as the run will show them to it; a few seconds.

    Raises:
        SeedHubError: see :func:`seed_hub.teachers.check.check_teacher`.
    """
    if settings.allow_random_teacher or len(held_out) < LEAST_IMAGES:
        return
    spread = range(0, len(held_out), max(1, len(held_out) // IMAGES))
    views = CenterViews(held_out, settings.teacher_size or settings.size)
    pixels = torch.stack([views[i][0] for i in spread[:IMAGES]])
    for teacher in teachers:
        check_teacher(teacher, pixels, flips=settings.flip > 0)


def check_settings(cls: type[Method], settings: RunSettings) -> None:
    """Refuse what cannot be meant, one sentence each."""
    for name, wanted in (("data", settings.data), ("out", settings.out)):
        if not wanted:
            raise SeedHubError(
                f"--{name} is missing: {'name the images' if name == 'data' else 'name a folder for the run'}."
            )
    if is_remote(settings.out):
        raise SeedHubError(
            f"--out is {settings.out}: runs and caches are written to a folder of this machine; name one, and copy it."
        )
    if cls.needs_teacher and not settings.teacher:
        raise SeedHubError(
            f'The method "{settings.method}" needs a --teacher; without one, use `seed-hub pretrain --method moco`.'
        )
    if not cls.needs_teacher and settings.teacher:
        raise SeedHubError(
            f'The method "{settings.method}" learns without a teacher: drop --teacher, or use --method seed.'
        )
    if settings.more_teachers and not cls.takes_teachers:
        raise SeedHubError(
            f'The method "{settings.method}" learns from one teacher: give --teacher once, or use --method seed or simreg.'
        )
    if len({settings.teacher, *settings.more_teachers}) < 1 + len(settings.more_teachers):
        raise SeedHubError("The same teacher is given twice: name each once.")
    for name, value in asdict(settings).items():
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            continue
        above = name in ("size", "batch_size", "accumulate", "epochs")
        free = name == "workers" or (name == "weight_decay_end" and value == -1)
        if not math.isfinite(value) or (value <= 0 if above else value < 0 and not free):
            wanted = "above 0" if above else "0 or more"
            raise SeedHubError(f"--{name.replace('_', '-')} is {value}: it must be {wanted}.")
    for name in ("crop_min", "flip", "share", "label_share"):
        value = getattr(settings, name)
        if value > 1 or (value == 0 and name != "flip"):
            least = "" if name == "flip" else "above 0 and "
            raise SeedHubError(f"--{name.replace('_', '-')} is {value}: it must be {least}at most 1.")
    if settings.batch_size < 2:
        raise SeedHubError("--batch-size 1 leaves batch norm nothing to average: use 2 or more.")
    made_on_device(settings, torch.device("cpu"))
    compiles(settings.compile, "")  # refuses what it does not know
    peak_lr(settings)  # refuses an unknown optimiser


def check_cacheable(cls: type[Method], reads: frozenset[str], settings: RunSettings) -> None:
    """A cache holds the embeddings of one teacher."""
    if not cls.needs_teacher:
        raise SeedHubError(
            f'The method "{settings.method}" learns without a teacher, and a cache holds what one says: leave out --cache.'
        )
    more = {"logits": "class scores", "stages": "feature maps"}
    for name in sorted(reads & more.keys()):
        raise SeedHubError(
            f'The method "{settings.method}" reads its teacher\'s {more[name]}, and a cache holds embeddings only: ask the '
            "teacher in the run (no --cache), or use a method on embeddings, such as --method seed."
        )
    if settings.more_teachers:
        raise SeedHubError(
            f"A cache holds what one teacher says, and {1 + len(settings.more_teachers)} are named: name one, or ask them in "
            "the run (no --cache)."
        )


def check_batch(settings: RunSettings, processes: int) -> None:
    """A batch is shared out evenly: over processes, then over parts."""
    if settings.batch_size % (processes * settings.accumulate):
        raise SeedHubError(
            f"--batch-size {settings.batch_size} does not divide into {processes} processes x {settings.accumulate} parts "
            "(--accumulate): choose a multiple of both."
        )
    if settings.accumulate > 1 and settings.batch_size < 2 * processes * settings.accumulate:
        raise SeedHubError(
            f"--accumulate {settings.accumulate} leaves parts of one image, and batch norm nothing to average: use fewer parts."
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
        _check_value(key, value, known[key].default)
    return cls.Settings(**overrides)


def _check_value(key: str, value: Any, default: Any) -> None:
    """Refuse what a setting of this name cannot mean, in any method."""
    flag = f"--{key.replace('_', '-')}"
    if "temperature" in key and value <= 0:
        raise SeedHubError(f"{flag} is {value}: a temperature must be above 0.")
    if key.endswith("scale") and not (len(value) == 2 and 0 < value[0] <= value[1] <= 1):
        raise SeedHubError(
            f"{flag} is {' '.join(map(str, value))}: it must be two shares of an image's area, least "
            "and most, above 0 and at most 1."
        )
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    # A size may be 0 where that means "choose for me".
    least = 1 if key in NEVER_NONE else min(1, default) if key.endswith("size") else 0
    if not math.isfinite(value) or value < least:
        raise SeedHubError(f"{flag} is {value}: it must be {f'at least {least}' if least else '0 or more'}.")
    most = 1 if key.endswith("momentum") else MOST.get(key, math.inf)
    if value > most:
        raise SeedHubError(f"{flag} is {value}: it must be at most {most}.")


def check_views(method: Method, settings: RunSettings, teachers: Sequence[Frozen]) -> None:
    """No crop is larger than the whole view, and student and teachers take the smaller ones."""
    sizes = {view.size for view in method.view_settings(whole_view(settings))} - {settings.size}
    largest = max(sizes, default=0)
    if largest > settings.size:
        raise SeedHubError(
            f"Crops of {largest} px are larger than the whole view of {settings.size} px: lower --small-size or --local-size, "
            "or raise --size."
        )
    flag = "--small-size or --local-size"
    training = method.student.training
    method.student.eval()
    for size in sorted(sizes):
        shapes_of(method.student, size, f'The student "{settings.student}"', flag)
        for teacher in teachers:
            seen = round(settings.teacher_size * size / settings.size) or size
            shapes_of(teacher, seen, f'The teacher "{teacher.name}"', flag)
    method.student.train(training)


def teacher_shapes(reads: frozenset[str], teacher: Frozen, settings: RunSettings) -> Shapes:
    flag = "--teacher-size" if settings.teacher_size else "--size"
    shapes = shapes_of(teacher, settings.teacher_size or settings.size, f'The teacher "{teacher.name}"', flag)
    if "logits" in reads and not shapes.classes:
        raise SeedHubError(
            f'The method "{settings.method}" compares class scores, and the teacher "{teacher.name}" has no classifier: '
            "name one that was trained with labels, such as timm:resnet50.a1_in1k, or use --method seed."
        )
    need_stages(reads, shapes, settings, f'the teacher "{teacher.name}"')
    return shapes


def need_stages(reads: frozenset[str], shapes: Shapes, settings: RunSettings, what: str) -> None:
    if "stages" in reads and not shapes.stages:
        raise SeedHubError(
            f'The method "{settings.method}" compares feature maps, and {what} has none at {settings.size} px: name another '
            "network, or use a method on embeddings, such as --method seed."
        )


def known_labels(reads: frozenset[str], images: Images, settings: RunSettings) -> torch.Tensor | None:
    """The images' labels; None for methods that do not ask."""
    if "labels" not in reads:
        return None
    if images.labels is None or images.labels.max() < 0:
        raise SeedHubError(
            f'The method "{settings.method}" learns from labels and {settings.data} has none: put the images into one '
            "folder per class, or use a method without labels, such as --method seed."
        )
    return torch.as_tensor(images.labels)


def class_count(images: Images, labels: torch.Tensor | None) -> int:
    """C: the classes that the data name, so that one that happens to be held out as a whole keeps its score; 0 without
    labels."""
    return 0 if labels is None else max(len(images.classes or ()), int(labels.max()) + 1)


def check_resumed(folder: RunFolder, settings: RunSettings, own: Any) -> None:
    """Refuse to go on with other settings: half of the run would be by these, and its config.json say the others.

    Args:
        own: the method's, resolved.
    """
    began, began_own = folder.settings()
    before, now = _placeless(asdict(began) | began_own), _placeless(asdict(settings) | asdict(own))
    for name in before.keys() & now.keys() - NOT_COMPARED:
        if before[name] != now[name]:
            raise SeedHubError(
                f"The run in {folder.path} began with {name} {before[name]}, not {now[name]}: go on with its own settings, "
                "or name another --out."
            )


def _placeless(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON has them; of networks the last part of their path, as their folders may have moved."""
    named: dict[str, Any] = {name: re.split(r"[/\\]", settings[name])[-1] for name in ("teacher", "start")}
    named["more_teachers"] = [re.split(r"[/\\]", each)[-1] for each in settings["more_teachers"]]
    return json.loads(json.dumps(settings | named))


def check_together(runs: Sequence[RunSettings]) -> None:
    """Runs that share one loop may differ in the student and the folder only."""
    first = runs[0]
    for other in runs[1:]:
        if replace(other, student=first.student, out=first.out) != first:
            raise SeedHubError("Students that are trained together differ in --student and --out only.")
    for name in ("student", "out"):
        values = [getattr(run, name) for run in runs]
        if len(set(values)) < len(values):
            raise SeedHubError(f"--{name} {max(values, key=values.count)} is given twice: name each once.")
