"""Finding and checking weights, with a made-up one in folders of this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
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
    read_table,
    sha256_of,
    table_text,
    weights_of,
)
from tests.hub_files import flipped

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


def test_every_released_weight_names_a_student_and_matches_its_card_folder(root: Path) -> None:
    assert len({weight.name for weight in WEIGHTS}) == len(WEIGHTS)
    for weight in WEIGHTS:
        assert weight.arch in timm.list_models("seed_*")
        assert weight.tag
        assert re.fullmatch("[0-9a-f]{64}", weight.sha256)
        assert weight.revision is None or re.fullmatch("[0-9a-f]{40}", weight.revision)
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


def test_the_table_is_read_as_it_was_written(weight: Weight, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(table_text((weight, dataclasses.replace(weight, revision=None))))
    assert read_table(tmp_path / "t.json") == (weight, dataclasses.replace(weight, revision=None))
    for text in ("[{", '[{"nme": "x"}]'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(WeightsError, match=r"t\.json is no table of weights .*install seed-hub again"):
            read_table(tmp_path / "t.json")


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
    first = dataclasses.replace(weight, name="seed_mobilenetv3_small.first", description="another")
    monkeypatch.setattr(weights, "WEIGHTS", (first, weight))
    overlay = {"hf_hub_id": weight.repository}  # as a card names one of several
    other = timm.create_model("seed_mobilenetv3_small", pretrained=True, pretrained_cfg_overlay=overlay)
    assert other.pretrained_cfg["tag"] == "made_up" and other.pretrained_cfg["description"] == "made up"
    for named in ("made_up", NAME):  # its tag, and as `seed-hub list` prints it
        other = timm.create_model("seed_mobilenetv3_small", pretrained=True, pretrained_cfg=named)
        assert other.pretrained_cfg["tag"] == "made_up"
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


@pytest.fixture(autouse=True)
def no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about made-up weights: the real ``model_cards/`` is out of the way."""
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site-packages" / "seed_hub" / "weights.py"))
