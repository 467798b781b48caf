"""torch.hub as a user has it: a copy of the repository in the hub folder, nothing installed, another folder current."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seed_hub.catalog import list_students, students
from seed_hub.project import GITHUB_REPOSITORY


@pytest.fixture(scope="module")
def hub(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<hub>/<owner>_<repository>_main``: where torch.hub unpacks what it downloads."""
    folder = tmp_path_factory.mktemp("hub")
    copy = folder / (GITHUB_REPOSITORY.replace("/", "_") + "_main")
    shutil.copytree(root / "seed_hub", copy / "seed_hub", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "hubconf.py", copy)
    return folder


def run(hub: Path, code: str) -> str:
    prelude = (
        "import torch\n"
        f"torch.hub.set_dir({str(hub)!r})\n"
        f"repo = '{GITHUB_REPOSITORY}:main'\n"
        "here = dict(trust_repo=True, skip_validation=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", prelude + code],
        cwd=hub,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_list_help_and_load(hub: Path) -> None:
    out = run(
        hub,
        "print(*torch.hub.list(repo, **here))\n"
        "print(torch.hub.help(repo, 'seed_resnet18', **here))\n"
        "model = torch.hub.load(repo, 'seed_resnet18', num_classes=5, in_chans=1, **here)\n"
        "print('shape', tuple(model.eval()(torch.rand(1, 1, 64, 64)).shape))\n"
        "import seed_hub, timm\n"
        "print('from', seed_hub.__file__)\n"
        "print('timm', *timm.list_models('seed_*'))\n"
        "try: torch.hub.load(repo, 'seed_resnet18', pretrained=True, **here)\n"
        "except RuntimeError as error: print('error', error)\n",
    )
    lines = [line for line in out.splitlines() if line.strip()]
    assert sorted(lines[0].split()) == list_students()
    assert (students()["seed_resnet18"].entrypoint.__doc__ or "").splitlines()[0] in lines
    assert "shape (1, 5)" in lines
    assert f"from {hub.resolve()}" in out or f"from {hub}" in out
    assert "timm " + " ".join(list_students()) in lines
    assert any(line.startswith("error seed_resnet18 has no released weight") for line in lines)


def test_no_stray_names_and_only_what_loading_needs(root: Path) -> None:
    namespace: dict[str, object] = {"__name__": "hubconf"}
    exec((root / "hubconf.py").read_text(), namespace)
    public = {name for name in namespace if not name.startswith("_")}
    assert public == {*list_students(), "dependencies"}
    assert all(getattr(namespace[name], "__doc__", "") for name in public)
    assert namespace["dependencies"] == ["torch", "timm", "safetensors", "huggingface_hub"]
