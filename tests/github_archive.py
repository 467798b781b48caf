"""What GitHub serves to torch.hub: the checkout as a zip, without what git ignores or cannot carry."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from seed_hub.project import GITHUB_REPOSITORY

REF = "main"
TOP = GITHUB_REPOSITORY.replace("/", "-") + "-0123456"  # owner, repository and the commit's first digits


def archive(root: Path, scratch: Path) -> dict[str, bytes]:
    """The files of the checkout ``root``, as ``git archive`` would pack them if all were committed now; by path.

    Index and objects are written to ``scratch``: the checkout stays as it is.
    """
    if not (root / ".git").exists():
        pytest.skip("this is no git checkout: there is nothing to archive")
    scratch.mkdir()
    environment = os.environ | {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(
            root / _git(root, "rev-parse", "--git-path", "objects").decode().strip()
        ),
    }
    _git(root, "add", "--all", environment=environment)
    tree = _git(root, "write-tree", environment=environment).decode().strip()
    packed = zipfile.ZipFile(io.BytesIO(_git(root, "archive", "--format=zip", tree, environment=environment)))
    links = [each.filename for each in packed.infolist() if each.external_attr >> 28 == 0o12]
    assert not links, f"torch.hub unpacks a symbolic link as a text file: {links}"
    return {each.filename: packed.read(each) for each in packed.infolist() if not each.is_dir()}


def _git(root: Path, *words: str, environment: dict[str, str] | None = None) -> bytes:
    return subprocess.run(
        ["git", *words], cwd=root, env=environment, stdout=subprocess.PIPE, check=True
    ).stdout


@contextmanager
def serving(files: dict[str, bytes], folder: Path) -> Iterator[str]:
    """The start of a script for which GitHub is a server on loopback, where ``files`` are the repository's main branch."""
    path = folder / GITHUB_REPOSITORY / "zipball" / REF
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{TOP}/", b"")  # torch.hub takes the first entry for the name of the folder
        for name, data in files.items():
            packed.writestr(f"{TOP}/{name}", data)
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        yield (
            "import torch\n"
            f"torch.hub._git_archive_link = lambda *where: '{address}/{{}}/{{}}/zipball/{{}}'.format(*where)\n"
            "torch.hub._validate_not_a_forked_repo = lambda *where: None  # asks GitHub for its branches\n"
        )
        server.shutdown()
        thread.join()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Silence."""
