"""Settings dataclasses as text: names, types, defaults and docstrings, read without importing the file.

``seed-hub distill --help`` documents every option of a method, and must not wait seconds for torch: a settings class is
plain enough to be read from the syntax tree of its file. What is plain enough is a rule, and a test walks all of them:
each field has a type out of :data:`TYPES` (or ``tuple[T, ...]``), a literal default, and a docstring below it. A base
class stands in the same file, or is imported by name from another of this package.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}


@dataclass(frozen=True)
class Option:
    """One field of a settings class."""

    name: str
    """as in the class, with underscores"""
    kind: type
    """str, int, float or bool: of the value, or of each of several"""
    several: bool
    """the field is a tuple"""
    default: Any
    """as written in the class"""
    help: str
    """its docstring, on one line"""

    @property
    def flag(self) -> str:
        """As typed: ``--queue-size``; of a switch that is on by default the one that turns it off, ``--no-flip``."""
        return flag_of(f"no_{self.name}" if self.default is True else self.name)


@dataclass(frozen=True)
class Declared:
    """What a file declares."""

    name: str
    """the file's name without ``.py``: the registered name of a method or protocol"""
    summary: str
    """first line of the file's docstring"""
    options: tuple[Option, ...]
    """fields of its settings class, its own in order and then those of its bases"""
    constants: dict[str, Any]
    """literals assigned in the file and in its classes, by name: ``PRESETS``, ``needs_teacher``, ..."""


def flag_of(name: str) -> str:
    """``--queue-size`` of ``queue_size``."""
    return "--" + name.replace("_", "-")


def as_typed(name: str, value: Any) -> str:
    """A setting as words of a command line: ``--queue-size 8``; a switch takes no value: ``--symmetric``, ``--no-flip``."""
    if isinstance(value, bool):
        return flag_of(name if value else f"no_{name}")
    return f"{flag_of(name)} {value}"


@cache
def read_settings(path: Path, class_name: str = "Settings") -> Declared:
    """What the file at ``path`` declares in its class ``class_name``.

    Raises:
        TypeError: there is no such class, or a field breaks the rule above.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    if class_name not in classes:
        raise TypeError(f"{path} has no class {class_name}")
    bodies = [tree.body, *(node.body for node in classes.values() if node.name != class_name)]
    return Declared(
        name=path.stem,
        summary=(ast.get_docstring(tree) or path.stem).partition("\n")[0],
        options=tuple(_with_bases(classes[class_name], classes, tree, path)),
        constants={name: value for body in bodies for name, value in _constants(body)},
    )


def declared_in(folder: Path, class_name: str = "Settings") -> dict[str, Declared]:
    """Every file of ``folder`` that has a class ``class_name``, by name, sorted."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        if f"\nclass {class_name}" in path.read_text(encoding="utf-8"):
            found[path.stem] = read_settings(path, class_name)
    return found


def _with_bases(
    node: ast.ClassDef, classes: dict[str, ast.ClassDef], tree: ast.Module, path: Path
) -> list[Option]:
    """Own fields first: what is special to a protocol is read before what all share."""
    options = {option.name: option for option in _fields(node, path)}
    for base in map(ast.unparse, node.bases):
        if base in classes:
            inherited = _with_bases(classes[base], classes, tree, path)
        else:
            inherited = list(read_settings(_imported_from(base, tree, path), base).options)
        options = options | {each.name: each for each in inherited if each.name not in options}
    return list(options.values())


def _imported_from(name: str, tree: ast.Module, path: Path) -> Path:
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in (each.name for each in node.names):
            package, *rest = (node.module or "").split(".")
            if package == PACKAGE.name:
                return PACKAGE.joinpath(*rest).with_suffix(".py")
    raise TypeError(f"{path}: the base class {name} is not imported from a file of {PACKAGE.name}")


def _fields(node: ast.ClassDef, path: Path) -> list[Option]:
    options = []
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            options.append(_option(field, field.target.id, below, f"{path}:{field.lineno}"))
    return options


def _option(field: ast.AnnAssign, name: str, below: ast.stmt | None, where: str) -> Option:
    kind, several = _type(field.annotation, where)
    if field.value is None:
        raise TypeError(f"{where}: {name} has no default")
    try:
        default = ast.literal_eval(field.value)
    except ValueError as error:
        raise TypeError(f"{where}: the default of {name} is not a literal") from error
    text = (
        below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
    )
    if not isinstance(text, str) or not text.strip():
        raise TypeError(f"{where}: {name} has no docstring below it")
    return Option(name, kind, several, default, " ".join(text.split()))


def _type(annotation: ast.expr, where: str) -> tuple[type, bool]:
    """(type, several) of ``float`` or ``tuple[float, ...]``."""
    text = ast.unparse(annotation)
    several = text.startswith("tuple[") and text.endswith(", ...]")
    word = text[len("tuple[") : -len(", ...]")] if several else text
    if word not in TYPES:
        raise TypeError(f"{where}: {text} is none of {', '.join(TYPES)}, or a tuple[one of them, ...]")
    return TYPES[word], several


def _constants(body: list[ast.stmt]) -> list[tuple[str, Any]]:
    found = []
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if (
            isinstance(node, (ast.Assign, ast.AnnAssign))
            and isinstance(target, ast.Name)
            and value is not None
        ):
            try:
                found.append((target.id, ast.literal_eval(value)))
            except ValueError:
                continue  # computed: nobody reads it as text
    return found
