"""What there is: the table of students, without torch.

Each student's facts stand beside its definition in ``seed_hub/students/seed_<family>.py``; this file only gathers them.
A test recomputes parameters, MACs and width and fails on a difference.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path

from seed_hub.errors import SeedHubError, nearest
from seed_hub.students.student import REGISTERED, Student


@cache
def students() -> dict[str, Student]:
    """Every student by name, in the order of the files and of their lines."""
    for path in sorted((Path(__file__).parent / "students").glob("seed_*.py")):
        import_module(f"seed_hub.students.{path.stem}")
    return dict(REGISTERED)


def list_students() -> list[str]:
    """The names of the zoo, sorted: what ``timm.list_models("seed_*")`` says once timm is imported."""
    return sorted(students())


def find_student(name: str) -> Student:
    """The student called ``name``, with or without a weight's tag.

    Raises:
        SeedHubError: there is none; the nearest names are suggested.
    """
    arch = name.split(".")[0]
    if arch not in students():
        raise SeedHubError(
            f'There is no student "{name}" in the zoo: it has {", ".join(list_students())}.'
            + nearest(arch, students())
        )
    return students()[arch]
