"""How timm gets to know the students: at once if timm is there, else right after somebody imports it.

timm has no plugin discovery, and importing it costs seconds that ``seed-hub list`` must not pay. So ``import seed_hub``
leaves a note on ``sys.meta_path`` that waits for ``import timm``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from seed_hub.catalog import students
from seed_hub.weights import weights_of

_registered: set[str] = set()


def register() -> None:
    """Make every student known to timm's registry, with one entry per released weight. Harmless when repeated.

    timm reads the weights of a model from ``default_cfgs`` of the module that defines it, hence the attribute set here.
    """
    from timm.models import generate_default_cfgs, register_model

    from seed_hub.students.student import our_cfg

    for name, student in students().items():
        if name in _registered:  # timm warns when a name is registered twice
            continue
        tagged: dict[str, Any] = {weight.name: our_cfg(student, weight) for weight in weights_of(name)}
        module = sys.modules[student.entrypoint.__module__]
        module.__dict__.setdefault("default_cfgs", {}).update(
            generate_default_cfgs(tagged or {name: our_cfg(student, None)})
        )
        register_model(student.entrypoint)
        _registered.add(name)
    import_module("seed_hub.published_variants")  # what published checkpoints were trained as and timm lacks
    import_module("seed_hub.small_image_variants")


def register_with_timm() -> None:
    """Register now if timm is imported already, else as soon as it is."""
    if "timm" in sys.modules:
        register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm:
    """Finds timm by asking the other finders, and adds our registration to the end of its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                self._extend(spec)
                return spec
        return None

    def _extend(self, spec: ModuleSpec) -> None:
        """Only looking timm up (``importlib.util.find_spec``, as transformers does) must not use the hook up."""
        loader = spec.loader
        if loader is None:
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == "timm" and self in sys.meta_path:
                sys.meta_path.remove(self)
                register()

        # On the instance, not in a wrapper: resource readers, inspect and pickle keep seeing timm's own loader.
        loader.exec_module = exec_module  # type: ignore[method-assign]
