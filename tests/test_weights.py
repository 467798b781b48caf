"""Finding and checking weights, with a made-up one and a Hub that is a folder of this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from seed_hub import weights
from seed_hub.weights import (
    FILE_NAME,
    WEIGHTS,
    Weight,
    WeightsError,
    find_weight,
    locate,
    sha256_of,
    weights_of,
)

NAME = "seed_mobilenetv3_small.made_up"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("mobilenetv3_small_100", num_classes=0)


@pytest.fixture
def file(network: torch.nn.Module, tmp_path: Path) -> Path:
    save_file(network.state_dict(), tmp_path / "source.safetensors", metadata={"format": "pt"})
    return tmp_path / "source.safetensors"


@pytest.fixture
def weight(file: Path, monkeypatch: pytest.MonkeyPatch) -> Weight:
    """A released weight, in the table, at no place yet."""
    made_up = Weight(
        NAME, sha256=sha256_of(file), licence="apache-2.0", description="made up", revision=COMMIT
    )
    monkeypatch.setattr(weights, "WEIGHTS", (made_up,))
    return made_up


def put(file: Path, folder: Path) -> Path:
    """The weight's file where a folder of weights has it."""
    path = folder / NAME / FILE_NAME
    path.parent.mkdir(parents=True)
    shutil.copy(file, path)
    return path


def flipped(data: bytes) -> bytes:
    """The same size, one bit different: what a download over HTTP does not notice."""
    return data[:-1] + bytes([data[-1] ^ 1])


def test_every_released_weight_names_a_student_and_matches_its_card_folder(root: Path) -> None:
    assert len({weight.name for weight in WEIGHTS}) == len(WEIGHTS)
    for weight in WEIGHTS:
        assert weight.arch in timm.list_models("seed_*")
        assert weight.tag
        assert re.fullmatch("[0-9a-f]{64}", weight.sha256)
        card = root / "model_cards" / weight.name / FILE_NAME
        if card.exists():
            assert sha256_of(card) == weight.sha256


def test_the_table(weight: Weight) -> None:
    assert (weight.arch, weight.tag, weight.repository) == (
        "seed_mobilenetv3_small",
        "made_up",
        f"seed-hub/{NAME}",
    )
    assert find_weight(NAME) is weight
    assert weights_of("seed_mobilenetv3_small") == [weight]
    with pytest.raises(WeightsError, match=f"Released: {NAME}.*Did you mean"):
        find_weight(NAME + "s")


def test_sha256_is_that_of_the_whole_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than two blocks
    (tmp_path / "f").write_bytes(content)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_stated_folder_comes_first(
    weight: Weight, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEED_HUB_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(WeightsError, match='SEED_HUB_WEIGHTS names ".*mine", which is not a folder'):
        locate(weight)
    path = put(file, tmp_path / "mine")
    assert locate(weight) == path


def test_damaged_file_in_a_folder_is_refused(
    weight: Weight, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(file, tmp_path / "mine")
    path.write_bytes(flipped(path.read_bytes()))
    monkeypatch.setenv("SEED_HUB_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(WeightsError, match=f"{path} is not {NAME}: its sha256 begins"):
        locate(weight)


def test_checkout(weight: Weight, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``model_cards/`` counts beside ``hubconf.py`` only, not beside an installed package."""
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "seed_hub" / "weights.py"))
    path = put(file, tmp_path / "model_cards")
    unpushed = dataclasses.replace(weight, revision=None)
    with pytest.raises(
        WeightsError, match="not on the Hugging Face Hub and in no folder here.*SEED_HUB_WEIGHTS"
    ):
        locate(unpushed)
    (tmp_path / "hubconf.py").touch()
    assert locate(unpushed) == path


def test_timm_loads_it_by_name(
    weight: Weight, file: Path, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(file, tmp_path / "mine")
    monkeypatch.setenv("SEED_HUB_WEIGHTS", str(tmp_path / "mine"))
    for name in (NAME, "seed_mobilenetv3_small"):
        model = timm.create_model(name, pretrained=True)
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in model.state_dict().items())
        assert model.pretrained_cfg["hf_hub_id"] == f"seed-hub/{NAME}"
        assert model.pretrained_cfg["tag"] == "made_up"
    grey = timm.create_model(NAME, pretrained=True, in_chans=1, num_classes=10)
    stem = network.get_parameter("conv_stem.weight").sum(1, keepdim=True)
    torch.testing.assert_close(grey.get_parameter("conv_stem.weight"), stem)
    assert grey.get_classifier().out_features == 10
    stages = timm.create_model(NAME, pretrained=True, features_only=True)
    assert torch.equal(stages.state_dict()["conv_stem.weight"], network.state_dict()["conv_stem.weight"])


def test_timm_lists_it(root: Path, file: Path) -> None:
    code = (
        "import seed_hub.weights as w\n"
        f"w.WEIGHTS = (w.Weight({NAME!r}, sha256='', licence='mit', description='made up'),)\n"
        "import timm\n"
        "cfg = timm.get_pretrained_cfg('seed_mobilenetv3_small')\n"
        "print(*timm.list_pretrained('seed_*'), cfg.tag, cfg.hf_hub_id, cfg.license)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [NAME, "made_up", f"seed-hub/{NAME}", "mit"], done.stderr


class Hub(BaseHTTPRequestHandler):
    """Just enough of the Hugging Face Hub: one file of one revision."""

    protocol_version = "HTTP/1.1"
    content: bytes | None = None
    requests: list[str]

    def _answer(self, with_body: bool) -> None:
        type(self).requests.append(f"{self.command} {self.path}")
        found = self.content if self.path == f"/seed-hub/{NAME}/resolve/{COMMIT}/{FILE_NAME}" else None
        body = found or b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        if found:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"made-up"')
        else:
            self.send_header("X-Error-Code", "RevisionNotFound")
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: object) -> None:
        """Silence."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants

    Hub.content, Hub.requests = None, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield Hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about made-up weights: the real ``model_cards/`` is out of the way."""
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site-packages" / "seed_hub" / "weights.py"))


def test_hub_then_cache(weight: Weight, file: Path, hub: type[Hub], tmp_path: Path) -> None:
    hub.content = file.read_bytes()
    first = locate(weight, cache_dir=tmp_path / "cache")
    assert sha256_of(first) == weight.sha256
    asked = len(hub.requests)
    assert asked >= 1
    assert locate(weight, cache_dir=tmp_path / "cache") == first
    assert len(hub.requests) == asked  # a cached file costs no request


def test_damaged_download_is_refused_and_healed(
    weight: Weight, file: Path, hub: type[Hub], tmp_path: Path
) -> None:
    hub.content = flipped(file.read_bytes())
    for _ in range(2):
        with pytest.raises(WeightsError, match=f"is not {NAME}: its sha256 begins"):
            locate(weight, cache_dir=tmp_path / "cache")
    hub.content = file.read_bytes()
    assert sha256_of(locate(weight, cache_dir=tmp_path / "cache")) == weight.sha256


def test_revision_that_the_hub_does_not_have(weight: Weight, hub: type[Hub], tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=f"seed-hub/{NAME} .* could not be downloaded: 404.*SEED_HUB_WEIGHTS"
    ):
        locate(weight, cache_dir=tmp_path / "cache")


def test_offline_without_a_cached_file(weight: Weight, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"could not be downloaded.*Without network, put model.safetensors into"
    ):
        locate(weight, cache_dir=tmp_path / "cache")
