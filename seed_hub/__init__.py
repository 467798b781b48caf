"""SEED Hub: small vision models that learned, without labels, from a large teacher.

Importing it makes the students known to timm, in either import order, and loads neither torch nor timm:

    import seed_hub, timm
    model = timm.create_model("seed_resnet18")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from seed_hub.catalog import list_students
from seed_hub.errors import SeedHubError
from seed_hub.project import GITHUB_REPOSITORY, HUB_ORGANISATION
from seed_hub.registration import register_with_timm

if TYPE_CHECKING:
    from seed_hub.data import Images, open_images
    from seed_hub.encoder import Encoder, Features, Frozen, build_student
    from seed_hub.model_folder import save_model
    from seed_hub.teachers import load_model, load_teacher

__version__ = "0.1.0"

__all__ = [
    "GITHUB_REPOSITORY",
    "HUB_ORGANISATION",
    "Encoder",
    "Features",
    "Frozen",
    "Images",
    "SeedHubError",
    "__version__",
    "build_student",
    "list_students",
    "load_model",
    "load_teacher",
    "open_images",
    "save_model",
]

# These need torch (seconds); they are imported when first asked for.
_LAZY = {
    "Encoder": "seed_hub.encoder",
    "Features": "seed_hub.encoder",
    "Frozen": "seed_hub.encoder",
    "build_student": "seed_hub.encoder",
    "Images": "seed_hub.data",
    "open_images": "seed_hub.data",
    "load_model": "seed_hub.teachers",
    "load_teacher": "seed_hub.teachers",
    "save_model": "seed_hub.model_folder",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


register_with_timm()
