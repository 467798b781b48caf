"""torch.hub as a user has it: the archive that GitHub serves, nothing installed, another folder current, no Hub."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from seed_hub.catalog import find_student, list_students, students
from seed_hub.project import GITHUB_REPOSITORY
from tests.github_archive import archive, serving
from tests.hub_files import sha256

WEIGHT = "seed_mobilenetv3_small.made_up"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return find_student(WEIGHT).entrypoint().eval()


@pytest.fixture(scope="module")
def github(
    root: Path, network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """(start of a script, its folder): GitHub has this checkout, with one released weight in its table and beside it."""
    folder = tmp_path_factory.mktemp("hub")
    files = archive(root, folder / "scratch")
    content = save(network.state_dict(), metadata={"format": "pt"})
    files[f"model_cards/{WEIGHT}/model.safetensors"] = content
    row = f"Weight({WEIGHT!r}, sha256={sha256(content)!r}, licence='mit', description='made up')"
    files["seed_hub/weights.py"] += f"\nWEIGHTS = ({row},)\n".encode()
    with serving(files, folder / "github") as prelude:
        yield prelude + f"torch.hub.set_dir({str(folder / 'hub')!r})\n", folder


def run(github: tuple[str, Path], code: str) -> str:
    prelude, folder = github
    prelude += f"repo, here = '{GITHUB_REPOSITORY}:main', dict(trust_repo=True)\n"
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", prelude + code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_list_help_and_load(github: tuple[str, Path], network: torch.nn.Module) -> None:
    pixels = np.random.default_rng(0).random((2, 3, 64, 64), dtype=np.float32)
    np.save(github[1] / "pixels.npy", pixels)
    out = run(
        github,
        "print(*torch.hub.list(repo, **here))\n"
        "print(torch.hub.help(repo, 'seed_resnet18', **here))\n"
        "model = torch.hub.load(repo, 'seed_resnet18', pretrained=False, num_classes=5, in_chans=1, **here)\n"
        "print('shape', tuple(model.eval()(torch.rand(1, 1, 64, 64)).shape))\n"
        "import numpy, seed_hub, timm\n"
        "print('from', seed_hub.__file__)\n"
        "print('timm', *timm.list_models('seed_*'))\n"
        "trained = torch.hub.load(repo, 'seed_mobilenetv3_small', pretrained=True, **here).eval()\n"
        "with torch.no_grad(): found = trained(torch.from_numpy(numpy.load('pixels.npy')))\n"
        "numpy.save('found.npy', found.numpy())\n"
        "print('tag', trained.pretrained_cfg['tag'])\n"
        "try: torch.hub.load(repo, 'seed_resnet18', pretrained=True, **here)\n"
        "except RuntimeError as error: print('error', error)\n",
    )
    lines = [line for line in out.splitlines() if line.strip()]
    assert lines[0].startswith('Downloading: "http://127.0.0.1:')
    assert out.count("Downloading: ") == 1
    assert sorted(lines[1].split()) == list_students()
    assert (students()["seed_resnet18"].entrypoint.__doc__ or "").splitlines()[0] in lines
    assert "shape (1, 5)" in lines
    copy = github[1] / "hub" / (GITHUB_REPOSITORY.replace("/", "_") + "_main")
    assert f"from {copy.resolve()}" in out or f"from {copy}" in out
    assert "timm " + " ".join(list_students()) in lines
    assert "tag made_up" in lines
    assert any(line.startswith("error seed_resnet18 has no released weight") for line in lines)
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels))
    torch.testing.assert_close(
        torch.from_numpy(np.load(github[1] / "found.npy")), expected, rtol=0, atol=1e-5
    )


def test_no_stray_names_and_only_what_loading_needs(root: Path) -> None:
    namespace: dict[str, object] = {"__name__": "hubconf"}
    exec((root / "hubconf.py").read_text(), namespace)
    public = {name for name in namespace if not name.startswith("_")}
    assert public == {*list_students(), "dependencies"}
    assert all(getattr(namespace[name], "__doc__", "") for name in public)
    assert namespace["dependencies"] == ["torch", "timm", "safetensors", "huggingface_hub"]
