"""What a wheel holds: ``seed_hub`` with all of its subpackages, and nothing else of the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

import seed_hub

IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy (a build leaves files behind), with the setuptools at hand and no network."""
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed; `make setup` installs it")
    copy = tmp_path_factory.mktemp("checkout")
    for path in root.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for folder in ("seed_hub", "training", "eval", "tests"):
        if (root / folder).is_dir():
            shutil.copytree(root / folder, copy / folder, ignore=IGNORED)
        else:
            (copy / folder).mkdir()
            (copy / folder / "stray.py").touch()
    code = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=copy, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_it_holds_the_package_and_nothing_else(wheel: Path, root: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    ours = {name for name in names if ".dist-info/" not in name}
    tree = {
        path.relative_to(root).as_posix()
        for path in (root / "seed_hub").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert ours == tree
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        dist_info = next(name for name in archive.namelist() if name.endswith("/METADATA")).rpartition("/")[0]
        metadata = Parser().parsestr(archive.read(f"{dist_info}/METADATA").decode())
        entry_points = archive.read(f"{dist_info}/entry_points.txt").decode()
    assert metadata["Name"] == "seed-hub"
    assert metadata["Version"] == seed_hub.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "seed-hub = seed_hub.cli:main" in entry_points


def test_it_registers_the_students_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    """From the wheel alone, without the checkout's folder on the path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "import seed_hub, timm\n"
        "print(seed_hub.__file__, len(timm.list_models('seed_*')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    file, count = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path / "site")
    assert int(count) == len(seed_hub.list_students())


def test_the_licence_is_whole(root: Path) -> None:
    text = (root / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "9. Accepting Warranty or Additional Liability" in text
