"""What is kept of a run between its steps, and what is shipped of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from seed_hub.encoder import Frozen
from seed_hub.errors import SeedHubError
from seed_hub.eval.record import without_folders
from seed_hub.model_folder import save_model
from seed_hub.teachers.description import describe
from seed_hub.training.method import Method
from seed_hub.training.monitor import Look
from seed_hub.training.settings import RunSettings


def state_of(
    method: Method, optimizer: Any, settings: RunSettings, data: str, step: int, looks: list[Look]
) -> dict[str, Any]:
    """Everything needed to continue exactly: weights, queue, averages, optimiser, random state, place. No teacher."""
    return {
        "student": settings.student,
        "method": settings.method,
        "data": data,
        "step": step,
        "looks": [asdict(look) for look in looks],
        "state": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        **random_state(),
    }


def random_state() -> dict[str, Any]:
    """Of torch's global generators: the CPU's and this process's own GPU's; the others belong to other processes."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {"random": torch.get_rng_state(), "cuda_random": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Undo what was drawn since :func:`random_state`."""
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["cuda_random"] is not None:
        torch.cuda.set_rng_state(state["cuda_random"])


def restore(
    state: dict[str, Any], method: Method, optimizer: Any, settings: RunSettings, data: str
) -> tuple[int, list[Look]]:
    """Put everything back where it was; (step, looks so far).

    Args:
        data: fingerprint of the training images.

    Raises:
        SeedHubError: the checkpoint is of another student, method or set of images, or does not fit.
    """
    if (state["student"], state["method"]) != (settings.student, settings.method):
        raise SeedHubError(
            f"The checkpoint is of {state['student']} by {state['method']}, not {settings.student} by {settings.method}: "
            "resume with the run's own settings, or name another --out."
        )
    if state["data"] != data:
        raise SeedHubError(
            f"{settings.data} has other images than when the run in {settings.out} began: put them back, or start a new run."
        )
    try:
        method.load_state_dict(state["state"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise SeedHubError(
            f"The checkpoint in {settings.out} does not fit {settings.student} ({reason}): name another --out."
        ) from error
    optimizer.load_state_dict(state["optimizer"])
    set_random_state(state)
    return state["step"], [Look(**look) for look in state["looks"]]


def ship(
    path: Path, method: Method, settings: RunSettings, teachers: list[Frozen], step: int, look: Look | None
) -> None:
    """Save the student for use, and nothing of its training but the head beside it."""
    facts = {
        "name": settings.student,
        "method": settings.method,
        "teacher": " + ".join(without_folders(teacher.name) for teacher in teachers) or None,
        "teacher_revision": " + ".join(describe(t).revision or "unknown" for t in teachers) or None,
        "teacher_licence": " + ".join(teacher.licence or "unknown" for teacher in teachers) or None,
        "start_licence": (method.student.licence or "unknown") if settings.start else None,
        "size": settings.size,
        "step": step,
        "images_seen": step * settings.batch_size,
        "look": asdict(look) if look else None,
        "head_gives_classes": method.head_gives_classes,
    }
    save_model(path, method.student, facts, method.head)
    for name, (peer, head) in method.peers().items():
        save_model(path / name, peer, facts | {"name": name, "look": None}, head)
