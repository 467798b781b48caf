"""Teachers out of torch.hub: what will be run is said, nothing untrusted is run, and the embedding is the network's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from seed_hub.errors import SeedHubError
from seed_hub.teachers import load_teacher
from seed_hub.teachers.description import describe

HUBCONF = """
dependencies = ["torch", "timm"]
import timm as _timm
import torch as _torch
from torch import nn as _nn

def _trained(network):
    _torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, _nn.BatchNorm2d):
            _nn.init.uniform_(module.weight, 0.5, 1.5)
            _nn.init.normal_(module.running_mean, std=0.1)
    return network

class _Ssl(_nn.Module):
    def __init__(self, classes):
        super().__init__()
        _torch.manual_seed(0)
        self.body = _timm.create_model("test_resnet", num_classes=0)
        self.fc = _nn.Linear(self.body.num_features, classes) if classes else _nn.Identity()
    def forward(self, x):
        return self.fc(self.body(x))

class _Vit(_nn.Module):
    def __init__(self):
        super().__init__()
        self.body = _timm.create_model("test_vit", num_classes=0, img_size=32)
        for parameter in self.body.parameters():
            _nn.init.normal_(parameter, std=0.3)
    def forward_features(self, x):
        tokens = self.body.forward_features(x)
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 1:]}
    def forward(self, x):
        return self.forward_features(x)["x_norm_clstoken"]

def small(pretrained=True, classes=0):
    print("hello from the repository")
    network = _Ssl(classes)
    return _trained(network) if pretrained else network

def dinov2_toy():
    return _Vit()

def dinov3_toy():
    return _Vit()

def swav_w2():
    return small()

def boxes():
    class Boxes(_nn.Module):
        def forward(self, x):
            return [x]
    return Boxes()

def word():
    return "no network"

def broken():
    raise RuntimeError("the weights have moved")
"""
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "hubconf.py").write_text(HUBCONF)
    return folder


def itself(repository: Path, entry: str, **arguments: object) -> nn.Module:
    return torch.hub.load(str(repository), entry, source="local", **arguments).eval()


@torch.no_grad()
def test_a_local_repository_is_run_aloud(repository, caplog, capfd):
    teacher = load_teacher(f"torchhub:{repository}/small?mean=0.5&std=0.25&size=32&licence=mit")
    network = itself(repository, "small")
    torch.testing.assert_close(teacher.embed(PIXELS), network((PIXELS - 0.5) / 0.25), rtol=1e-4, atol=1e-5)
    assert f"runs small() of {repository}/hubconf.py" in caplog.text
    about = describe(teacher)
    assert (about.pooling, about.width, about.licence, about.input_size) == (
        "its own forward pass",
        network.body.num_features,
        "mit",
        32,
    )
    assert "assumed" not in caplog.text


def test_what_it_prints_is_no_result(repository, capfd):
    load_teacher(f"torchhub:{repository}/small?size=32")
    said = capfd.readouterr()
    assert "hello" not in said.out
    assert "hello" in said.err


@torch.no_grad()
def test_its_classifier_is_taken_off_aloud(repository, caplog):
    teacher = load_teacher(f"torchhub:{repository}/small?classes=7&mean=0&std=1&size=32")
    torch.testing.assert_close(teacher.embed(PIXELS), itself(repository, "small", classes=7).body(PIXELS))
    assert 'its last layer "fc"' in caplog.text
    assert "-> 7] is left out" in caplog.text
    assert teacher(PIXELS).logits is None


@torch.no_grad()
@pytest.mark.parametrize(
    ("entry", "query", "pooling"),
    [("dinov2_toy", "", "token"), ("dinov3_toy", "", "avg"), ("dinov2_toy", "&pool=avg", "avg")],
)
def test_tokens_are_pooled_as_the_family_says(repository, entry, query, pooling):
    teacher = load_teacher(f"torchhub:{repository}/{entry}?size=32&mean=0&std=1{query}")
    tokens = teacher.encoder.backbone.network.body.forward_features(PIXELS)
    want = tokens[:, 0] if pooling == "token" else tokens[:, 1:].mean(1)
    torch.testing.assert_close(teacher.embed(PIXELS), want)
    torch.testing.assert_close(teacher(PIXELS).tokens, tokens[:, 1:])
    assert describe(teacher).pooling == pooling


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("small?pretrained=false&size=32", "random weights"),
        ("smal", "could not be loaded.*Cannot find callable smal"),
        ("broken", "the weights have moved"),
        ("word", "gave a str and no network"),
        ("boxes", "answers an image with a list"),
        ("small?colour=blue", "could not be loaded.*colour"),
        ("small?size=0", '"0" is no number of pixels'),
        ("small?pool=max", "choose pool=token or pool=avg"),
        ("swav_w2?size=32", "is no SwAV w2: its embedding is .* wide, and 4096 was expected"),
        ("", "names no entry point"),
    ],
)
def test_what_gives_no_teacher_is_refused(repository, words, said):
    with pytest.raises(SeedHubError, match=said):
        load_teacher(f"torchhub:{repository}/{words}")


def test_a_stranger_is_not_run_without_consent(repository, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked, network = [], itself(repository, "small")

    def load(repo, entry, **options):
        asked.append((repo, options["trust_repo"], options["source"]))
        return network

    monkeypatch.setattr(torch.hub, "load", load)
    with pytest.raises(
        SeedHubError, match=r"would run code of the GitHub repository stranger/things .*trust=yes"
    ):
        load_teacher("torchhub:stranger/things/small")
    assert not asked
    load_teacher("torchhub:stranger/things/small?trust=yes&size=32")
    assert asked == [("stranger/things", True, "github")]
    assert "names no revision and may be another network tomorrow" in caplog.text
    (tmp_path / "trusted_list").write_text("stranger_things\n")
    teacher = load_teacher("torchhub:stranger/things:v1/small?size=32")
    assert describe(teacher).revision == "v1"
    load_teacher("torchhub:facebookresearch/anything:main/small?size=32")  # an owner on torch's own list
    assert len(asked) == 3


def test_a_folder_without_hubconf_is_refused(tmp_path):
    with pytest.raises(SeedHubError, match="there is no hubconf.py in"):
        load_teacher(f"torchhub:{tmp_path}/small")
