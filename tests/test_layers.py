"""The house rules that a walk over the files can check: which layer may import which, and what a module may be called."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "seed_hub"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# Whoever imports a layer, and what it may import. `zoo` is everything that is not named here.
ALLOWED = {
    "zoo": {"zoo"},
    "eval": {"zoo", "eval"},
    "training": {"zoo", "training", "eval"},  # of eval, functions of features only (eval.knn)
    "report": {"zoo", "eval", "training", "report"},
    "demo": {"zoo", "eval", "training", "demo"},
    "publishing": {"zoo", "publishing"},
    "exporting": {"zoo", "eval", "exporting"},
    "bench": {"zoo", "training", "bench"},
    "cli": {"zoo", "eval", "training", "report", "demo", "publishing", "exporting", "bench", "cli"},
}
# Read without torch: the command line's start, the table of students, the settings.
TORCH_FREE = (
    "__init__",
    "catalog",
    "errors",
    "project",
    "registration",
    "weights",
    "settings",
    "machine",
    "network_settings",
    "students/student",
    "cli",
)
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "accelerate",
    "matplotlib",
    "sklearn",
    "PIL",
}
BANNED = {"utils", "util", "helpers", "helper", "common", "misc"}


def layer(module: str) -> str:
    """``seed_hub.eval.knn`` -> ``eval``."""
    second = [*module.split("."), ""][1]
    return second if second in ALLOWED else "zoo"


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that the file imports, and whether that happens when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]

    def visit(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, at_import
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:  # `from seed_hub import eval` names a layer only in its last word
                yield f"{origin}.{alias.name}", at_import
        elif isinstance(node, ast.Call) and _is_import_call(node):
            yield str(node.args[0].value), at_import  # type: ignore[attr-defined]
        deferred = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _for_types_only(
            node
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import and not deferred)

    yield from visit(tree, True)


def _is_import_call(node: ast.Call) -> bool:
    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
    literal = (
        bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    )
    return literal and called in ("import_module", "__import__")


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layers_point_one_way(path: Path) -> None:
    here = layer(name_of(path))
    for module, at_import in imports(path):
        if module.split(".")[0] != "seed_hub":
            continue
        there = layer(module)
        assert there in ALLOWED[here], f"{name_of(path)} ({here}) imports {module} ({there})"
        if here == "cli" and there in ("eval", "training"):
            assert not at_import, f"{name_of(path)} must import {module} inside the command that needs it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_must_start_fast_imports_nothing_heavy(path: Path) -> None:
    inside = path.relative_to(PACKAGE).with_suffix("").as_posix()
    if not any(inside == name or inside.startswith(name + "/") for name in TORCH_FREE):
        return
    heavy = {module for module, at_import in imports(path) if at_import and module.split(".")[0] in HEAVY}
    assert not heavy, f"{name_of(path)} imports {sorted(heavy)} when it is imported"


def test_names() -> None:
    """No module is called like one of the standard library's (a script's folder comes first on the path), or nothing."""
    folders = [PACKAGE, ROOT / "training", ROOT / "eval", ROOT / "tests"]
    for path in (p for folder in folders for p in folder.rglob("*.py")):
        for word in {path.stem, *path.relative_to(ROOT).parts[:-1]} - {"__init__", "__main__"}:
            assert word not in sys.stdlib_module_names, (
                f"{path}: a module of the standard library is called {word}"
            )
            assert word not in BANNED, f"{path}: call it after what it holds"


def test_every_folder_of_the_package_is_a_package() -> None:
    for path in MODULES:
        assert (path.parent / "__init__.py").exists(), path.parent


def test_the_walk_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above are only as good as the walk: plant each kind of import and look for it."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "seed_hub" / "data" / "planted.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from typing import TYPE_CHECKING\nfrom seed_hub import eval\nfrom . import center\nfrom ..training import run\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    import seed_hub.cli\n    import_module('seed_hub.eval.knn')\n"
    )
    assert set(imports(path)) == {
        ("typing.TYPE_CHECKING", True),
        ("seed_hub.eval", True),
        ("seed_hub.data.center", True),
        ("seed_hub.training.run", True),
        ("torch", False),
        ("seed_hub.cli", False),
        ("seed_hub.eval.knn", False),
    }
    with pytest.raises(AssertionError, match="zoo.*imports seed_hub.eval"):
        test_layers_point_one_way(path)
