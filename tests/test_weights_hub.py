"""Weights on a Hub of loopback: what is asked of it and how often, what is damaged, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save

from seed_hub import weights
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import load_model_folder, save_model
from seed_hub.teachers import load_teacher
from seed_hub.weights import FILE_NAME, Weight, WeightsError, locate, sha256_of
from tests.hub_files import flipped, sha256
from tests.hub_server import TOKEN, HubServer

NAME = "seed_resnet18.made_up"
CONTENT = save({"weight": torch.arange(1000.0)})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process's client talks to, nobody being logged in."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        ask(server.address, monkeypatch)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield server


def ask(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def pushed(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weight:
    """A made-up weight on that Hub; the real ``model_cards/`` is out of the way."""
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site-packages" / "seed_hub" / "weights.py"))
    revision = hub.commit(f"seed-hub/{NAME}", {FILE_NAME: CONTENT})
    return Weight(NAME, sha256(CONTENT), licence="mit", description="made up", revision=revision)


def downloads(hub: HubServer) -> int:
    return sum(request.startswith("GET ") and "/resolve/" in request for request in hub.requests)


def test_the_four_places_in_their_order(
    pushed: Weight, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find() -> Path:
        return locate(pushed, cache_dir=tmp_path / "cache")

    cached = find()
    assert sha256_of(cached) == pushed.sha256 and downloads(hub) == 1
    checkout = tmp_path / "checkout"
    monkeypatch.setattr(weights, "__file__", str(checkout / "seed_hub" / "weights.py"))
    mine, card = (folder / NAME / FILE_NAME for folder in (tmp_path / "mine", checkout / "model_cards"))
    for path in (mine, card):
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    (checkout / "hubconf.py").touch()
    monkeypatch.setenv("SEED_HUB_WEIGHTS", str(tmp_path / "mine"))
    before = len(hub.requests)
    assert find() == mine
    mine.unlink()
    assert find() == card
    card.unlink()
    assert find() == cached
    assert len(hub.requests) == before  # none of the three costs a request
    shutil.rmtree(tmp_path / "cache")
    assert find() == cached and downloads(hub) == 2


def damaged_in_cache(weight: Weight, hub: HubServer, cache: Path) -> None:
    path = locate(weight, cache_dir=cache)
    path.resolve().write_bytes(flipped(CONTENT))


def damaged_once(weight: Weight, hub: HubServer, cache: Path) -> None:
    hub.damaged[weight.repository, FILE_NAME] = 1


def cut_in_cache(weight: Weight, hub: HubServer, cache: Path) -> None:
    path = locate(weight, cache_dir=cache)
    path.resolve().write_bytes(CONTENT[:1000])


@pytest.mark.parametrize("damage", [damaged_once, damaged_in_cache, cut_in_cache])
def test_a_damaged_file_is_fetched_once_more(
    damage: Callable[[Weight, HubServer, Path], None], pushed: Weight, hub: HubServer, tmp_path: Path
) -> None:
    damage(pushed, hub, tmp_path / "cache")
    assert sha256_of(locate(pushed, cache_dir=tmp_path / "cache")) == pushed.sha256
    assert downloads(hub) == 2


def test_a_second_damaged_file_is_refused_and_none_is_left(
    pushed: Weight, hub: HubServer, tmp_path: Path
) -> None:
    hub.damaged[pushed.repository, FILE_NAME] = 2
    with pytest.raises(
        WeightsError, match=f"{FILE_NAME} of seed-hub/{NAME} came damaged twice.*another network"
    ):
        locate(pushed, cache_dir=tmp_path / "cache")
    assert downloads(hub) == 2
    left = [
        path
        for path in (tmp_path / "cache").rglob("*")
        if path.is_file() and path.stat().st_size >= len(CONTENT)
    ]
    assert left == []
    assert sha256_of(locate(pushed, cache_dir=tmp_path / "cache")) == pushed.sha256  # the Hub is right again


def test_what_is_gated_names_its_page_until_a_token_that_may_is_sent(
    pushed: Weight, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated.add(pushed.repository)
    hub.admitted.add(TOKEN)
    said = f"is gated: accept its terms on {hub.address}/{pushed.repository}, then set HF_TOKEN"
    for token in ("", "hf_of_someone_else"):  # the Hub says 401 without a token and 403 with one
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(WeightsError, match=said):
            locate(pushed, cache_dir=tmp_path / "cache")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert sha256_of(locate(pushed, cache_dir=tmp_path / "cache")) == pushed.sha256


def test_what_the_hub_does_not_have_is_one_sentence(pushed: Weight, hub: HubServer, tmp_path: Path) -> None:
    absent = "0" * 40
    empty = hub.commit("seed-hub/seed_resnet18.other", {"README.md": b"words"})
    for wrong, said in (
        (
            {"revision": absent},
            f"{hub.address}/seed-hub/{NAME} has no revision {absent}: upgrade seed-hub",
        ),
        ({"name": "seed_resnet18.gone"}, f"does not exist: open {hub.address}/seed-hub/seed_resnet18.gone;"),
        ({"name": "seed_resnet18.other", "revision": empty}, f"holds no {FILE_NAME} at revision {empty}"),
    ):
        with pytest.raises(WeightsError, match=said) as error:
            locate(dataclasses.replace(pushed, **wrong), cache_dir=tmp_path / "cache")
        assert "\n" not in str(error.value)


def test_a_busy_hub_is_asked_again(pushed: Weight, hub: HubServer, tmp_path: Path) -> None:
    hub.busy = 1
    assert sha256_of(locate(pushed, cache_dir=tmp_path / "cache")) == pushed.sha256


def test_a_hub_that_nobody_reaches_is_not_waited_for(
    pushed: Weight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody said that this machine is offline: the Hub client alone would try again for 20 s and more."""
    import huggingface_hub.hf_api  # noqa: F401  (not what is measured)

    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        ask(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch)
        began = time.monotonic()
        with pytest.raises(
            WeightsError, match="could not be downloaded .*check the network, or put model.safe"
        ) as error:
            locate(pushed, cache_dir=tmp_path / "cache")
    assert time.monotonic() - began < 1
    assert "\n" not in str(error.value)


def elsewhere(weight: Weight, cache: Path, **environment: str) -> dict[str, Any]:
    """What ``locate`` says in a process of its own, which reads these variables when it starts."""
    code = (
        "import json, sys, time\n"
        "import huggingface_hub.hf_api, seed_hub.weights as w\n"
        f"weight = w.Weight({weight.name!r}, {weight.sha256!r}, 'mit', '', {weight.revision!r})\n"
        "began, said = time.monotonic(), ''\n"
        "try: said = str(w.locate(weight))\n"
        "except w.WeightsError as error: said = str(error)\n"
        "print(json.dumps({'said': said, 'seconds': time.monotonic() - began, 'torch': 'torch' in sys.modules}))\n"
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "SEED_HUB_"))}
    inherited = {key: value for key, value in inherited.items() if not key.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_variables_of_the_hub_client_count(pushed: Weight, hub: HubServer, tmp_path: Path) -> None:
    hub.gated.add(pushed.repository)
    hub.admitted.add(TOKEN)
    nowhere = "hub.invalid"  # no resolver knows this name: whoever gets an answer got it through the proxy
    through = {"HF_ENDPOINT": f"http://{nowhere}", "HTTP_PROXY": hub.address, "HF_TOKEN": TOKEN}
    found = elsewhere(pushed, tmp_path / "home", **through)
    assert sha256_of(found["said"]) == pushed.sha256
    assert Path(found["said"]).is_relative_to(tmp_path / "home")
    assert not found["torch"]
    assert hub.proxied == [nowhere] * len(hub.requests)
    asked = len(hub.requests)
    assert elsewhere(pushed, tmp_path / "home", **through)["said"] == found["said"]
    assert len(hub.requests) == asked  # cached: another process asks nothing either
    secure = {"HF_ENDPOINT": f"https://{nowhere}", "HTTPS_PROXY": hub.address}
    assert "could not be downloaded" in elsewhere(pushed, tmp_path / "other", **secure)["said"]
    assert set(hub.proxied[asked:]) == {f"{nowhere}:443"}


def test_offline_and_uncached_fails_at_once(pushed: Weight, hub: HubServer, tmp_path: Path) -> None:
    found = elsewhere(pushed, tmp_path, HF_HUB_OFFLINE="1", HF_ENDPOINT=hub.address)
    said = (
        f"seed-hub/{NAME} is not in the cache, and HF_HUB_OFFLINE is set: unset it, or put {FILE_NAME} into"
    )
    assert found["said"].startswith(said)
    assert found["seconds"] < 1
    assert hub.requests == []


@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_damaged_file_that_nothing_pins_is_refused_too(
    damage: str, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any repository and folder: half a file, and one whose header claims 2^60 bytes."""
    save_model(tmp_path / "m", build_student("test_resnet"), {})
    whole = (tmp_path / "m" / FILE_NAME).read_bytes()
    broken = whole[: len(whole) // 2] if damage == "cut" else struct.pack("<Q", 2**60) + whole[8:]
    (tmp_path / "m" / FILE_NAME).write_bytes(broken)
    repository = f"people/{damage}"
    hub.commit(repository, {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()})
    for load, said in (
        (lambda: load_model_folder(tmp_path / "m"), f"{FILE_NAME} is missing or damaged"),
        (lambda: load_teacher(f"hf-hub:{repository}"), f"{repository} could not be loaded"),
    ):
        with pytest.raises(SeedHubError, match=said) as error:
            load()
        assert "\n" not in str(error.value)
