"""What every test gets: no network, no caches of the person who runs them, one thread."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest

# Before torch and the Hub client are imported: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small tests: threads cost more than they give
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="seed_hub_tests_")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ.pop("SEED_HUB_WEIGHTS", None)

_connect = socket.socket.connect


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine answers: a test that reaches out fails, whatever the reason."""

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])  # type: ignore[index]
            if not (host.startswith("127.") or host in ("localhost", "::1")):
                raise AssertionError(f"a test tried to connect to {address}")
        _connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(root: Path) -> Path:
    """The folder of real images beside the project, or the one that ``SEED_HUB_DATA`` names."""
    folder = Path(os.environ.get("SEED_HUB_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist; SEED_HUB_DATA may name another folder")
    return folder


@pytest.fixture(scope="session")
def golden(root: Path) -> Path:
    """The folder of reference numbers for every loss."""
    return root / "tests" / "golden"
