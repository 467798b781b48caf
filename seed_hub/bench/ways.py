"""The ways of a distillation step that are compared, and its stages: each a function that does it once.

Legend: B batch, S side of a view in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seed_hub.bench.ground import Ground, fill_queues
from seed_hub.bench.reference import ReferenceSeed, ReferenceViews
from seed_hub.data import open_images
from seed_hub.encoder import build_student
from seed_hub.teachers import load_teacher
from seed_hub.training.engine import prepare, take_steps
from seed_hub.training.job import Job, load_views
from seed_hub.training.live_teacher import ask
from seed_hub.training.methods.seed import seed_loss

Way = Callable[[], object]


def step_of(job: Job) -> Way:
    """One whole step of the engine: images in, weights changed."""
    schedule = prepare(job)
    fill_queues(job)
    steps = take_steps(job, schedule)
    return lambda: next(steps)


def reference_step(ground: Ground, device: torch.device) -> Way:
    """One step of :mod:`seed_hub.bench.reference`, in the state a plain script finds torch in."""
    asked = ground.asked
    teacher = load_teacher(ground.teacher, allow_random=True, image_size=asked.size).encoder
    width = teacher.width if teacher.head is None else asked.embedding_width
    network: nn.Module = teacher.backbone
    if teacher.head is not None:
        network = nn.Sequential(teacher.backbone, teacher.head)
    student = build_student(asked.student)
    model = ReferenceSeed(network, student.backbone, width, student.width, asked.queue_size).to(device)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.03, momentum=0.9, weight_decay=1e-4
    )
    views = ReferenceViews(open_images(ground.data, split=asked.split or None), asked.size)
    batches = iter(
        DataLoader(
            views,
            asked.batch_size,
            sampler=torch.utils.data.RandomSampler(views, replacement=True, num_samples=10**9),
            num_workers=asked.workers,
            pin_memory=device.type == "cuda",
        )
    )

    def step() -> None:
        with _denormals():
            loss = model(next(batches).to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # the published code reads it in every step

    return step


class _denormals(AbstractContextManager):
    """Denormal numbers as torch has them unless told: the engine flushes them to zero in the whole process."""

    def __enter__(self) -> None:
        torch.set_flush_denormal(False)

    def __exit__(self, *exc: object) -> None:
        torch.set_flush_denormal(True)


def stages_of(job: Job) -> dict[str, Way]:
    """The parts of a live step alone, of a job that is prepared; ``floor`` is the student's forward and backward pass."""
    (pupil,), (teacher,) = job.pupils, job.teachers
    settings, accelerator, method = job.settings, job.accelerator, pupil.method
    device = accelerator.device
    shape = (settings.batch_size, 3, settings.size, settings.size)
    pixels = torch.rand(shape, device=device).to(memory_format=torch.channels_last)
    batches = iter(load_views(job, 0, 10**9))
    queue = method.queues[0].get()  # type: ignore[index, union-attr]
    z_s, z_t = (torch.randn(len(pixels), queue.shape[1], device=device) for _ in range(2))
    z_s.requires_grad_()

    def floor() -> None:
        method.zero_grad()  # not to add up what nobody reads
        method.train()
        with accelerator.autocast():
            pooled = method.student(pixels).pooled
        pooled.sum().backward()

    def loss() -> None:
        temperatures = {
            name: getattr(method.settings, name) for name in ("student_temperature", "teacher_temperature")
        }
        seed_loss(z_s, z_t, queue, **temperatures, queue_precision=method.settings.queue_precision).backward()

    return {
        "input": lambda: next(batches),
        "teacher": lambda: ask(teacher, pixels, settings, accelerator),
        "floor": floor,
        "loss": loss,
        "optimizer": _optimizer_step(method, pupil.optimizer),
    }


def _optimizer_step(method: nn.Module, optimizer: torch.optim.Optimizer) -> Way:
    gradients: dict[nn.Parameter, Tensor] = {p: torch.zeros_like(p) for p in method.parameters()}

    def step() -> None:
        for parameter, gradient in gradients.items():
            if parameter.requires_grad:
                parameter.grad = gradient
        optimizer.step()

    return step
