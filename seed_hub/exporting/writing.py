"""One kind of file, written and opened: what is missing or not supported becomes one sentence."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from torch.export import ExportedProgram

from seed_hub.errors import SeedHubError, nearest
from seed_hub.exporting import FORMATS

# How the libraries quote an operator: OpOverload(op='aten.svd'), aten::svd, "convert function for op 'svd'",
# "Unsupported fx node svd".
_OPERATOR = re.compile(
    r"op(?:erator)?s?[= :]+'([\w.:]+)'|\b((?:aten|torchvision)(?:::|\.)\w+)|Unsupported fx node (\w+)"
)


def format_module(name: str) -> ModuleType:
    """``to_NAME.py``.

    Raises:
        SeedHubError: no such format, or what it needs is not installed.
    """
    if name not in FORMATS:
        raise SeedHubError(
            f'There is no format "{name}"; there are: {", ".join(FORMATS)}.' + nearest(name, FORMATS)
        )
    module = import_module(f"seed_hub.exporting.to_{name}")
    need(module.NEEDS, f"--format {name}")
    return module


def need(modules: tuple[str, ...], what: str) -> None:
    """Raises SeedHubError with the pip command if one of ``modules`` is not installed."""
    absent = [each for each in modules if find_spec(each) is None]
    if absent:
        raise SeedHubError(
            f"{what} needs {' and '.join(absent)}, not installed here: pip install {' '.join(absent)}."
        )


def refuse_place(out: Path, module: ModuleType, overwrite: bool) -> None:
    """Raises SeedHubError, before anything is computed, where ``out`` cannot become the file."""
    if out.suffix != module.SUFFIX:
        raise SeedHubError(
            f'--out {out} ends in "{out.suffix}": this format\'s files end in {module.SUFFIX}.'
        )
    if not out.parent.is_dir():
        raise SeedHubError(f"--out {out}: there is no folder {out.parent}, so create it first.")
    if out.is_dir() and module.SUFFIX != ".mlpackage":
        raise SeedHubError(f"--out {out} is a folder: name a file.")
    there = [each for each in (out, *map(out.with_suffix, module.BESIDE)) if each.exists()]
    if there and not overwrite:
        raise SeedHubError(f"{there[0]} exists already: replace it with --overwrite, or name another --out.")


@contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """A path in a folder of its own; all that was written there goes beside ``out`` when all went well, ``out`` last."""
    folder = Path(tempfile.mkdtemp(prefix=out.name + ".", suffix=".partial", dir=out.parent))
    try:
        yield folder / out.name
        for path in sorted(folder.iterdir(), key=lambda each: each.name == out.name):
            final = out.parent / path.name
            if final.is_dir():  # an .mlpackage, which no rename replaces
                shutil.rmtree(final)
            os.replace(path, final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write(module: ModuleType, program: ExportedProgram, path: Path) -> None:
    """``program`` as a file of the kind of ``module``.

    Raises:
        SeedHubError: it has an operator that the format has not.
    """
    try:
        module.write(program, path)
    except (SeedHubError, OSError):
        raise
    except Exception as error:  # each library has its own kinds
        name = module.__name__.rpartition("to_")[2]
        operators = unsupported(error)
        if not operators:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise SeedHubError(
                f"The conversion to {name} failed ({reason}): try another --format."
            ) from error
        raise SeedHubError(
            f"{name} has no counterpart of the operator {', '.join(operators)} of this network: try another "
            "--format, or a network without it."
        ) from error


def unsupported(error: BaseException) -> list[str]:
    """The operators that an error, or what caused it, names; the first cause that names any decides."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    for each in reversed(chain):
        found = dict.fromkeys("".join(groups) for groups in _OPERATOR.findall(str(each)))
        if found:
            return list(found)
    return []
