"""One file per method; the file's name is the method's name, and its one ``Method`` subclass is the method."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from seed_hub.errors import SeedHubError, nearest

if TYPE_CHECKING:
    from seed_hub.training.method import Method


def method_names() -> list[str]:
    """Every method there is: the files of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))


def method_class(name: str) -> type[Method]:
    """The :class:`~seed_hub.training.method.Method` of that name.

    Raises:
        SeedHubError: there is none; the nearest name is suggested.
    """
    from seed_hub.training.method import Method

    if name not in method_names():
        known = ", ".join(method_names())
        raise SeedHubError(
            f'There is no method "{name}"; there are: {known}.' + nearest(name, method_names())
        )
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__file__} must hold exactly one Method"
    return found[0]
