"""Teachers: never silently random, incomplete, mis-normalised or mis-pooled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from seed_hub.encoder import Encoder, build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import load_model_folder, save_model
from seed_hub.projection import projection_head
from seed_hub.settings import read_settings
from seed_hub.teachers import SOURCES, check_spec, load_model, load_teacher


@pytest.fixture(scope="module")
def trained():
    """A ResNet-18 whose norms have moved, as after training."""
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=5)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return net.eval()


def _pooled(net, pixels, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (mean, std))
    return net.forward_head(net.forward_features((pixels - mean) / std), pre_logits=True)


LAYOUTS = {
    "plain": lambda s: s,
    "nested": lambda s: {"state_dict": s, "epoch": 3, "arch": "resnet18"},
    "moco": lambda s: {
        "state_dict": {f"module.encoder_q.{k}": v for k, v in s.items()}
        | {f"module.encoder_k.{k}": 0 * v for k, v in s.items()}
        | {"module.queue": torch.zeros(4, 8), "module.encoder_q.fc.0.weight": torch.zeros(8, 512)}
    },
    "without a batch count": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoint_files_load_completely(tmp_path, trained, layout):
    path = tmp_path / "teacher.pth"
    torch.save(LAYOUTS[layout](trained.state_dict()), path)
    teacher = load_teacher(f"file:{path}?arch=resnet18")
    pixels = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(teacher.embed(pixels), _pooled(trained, pixels), rtol=1e-4, atol=1e-5)


def test_a_safetensors_file_with_its_own_normalisation(tmp_path, trained):
    save_file({k: v.contiguous() for k, v in trained.state_dict().items()}, tmp_path / "teacher.safetensors")
    teacher = load_teacher(
        f"file:{tmp_path}/teacher.safetensors?arch=resnet18&mean=0.5&std=0.5&licence=mit&size=64"
    )
    pixels = torch.rand(2, 3, 64, 64)
    expected = _pooled(trained, pixels, (0.5,) * 3, (0.5,) * 3)
    torch.testing.assert_close(teacher.embed(pixels), expected, rtol=1e-4, atol=1e-5)
    assert (teacher.licence, teacher.input_size) == ("mit", 64)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.1.conv2")},
            "layer4.1.conv2.weight",
        ),
        (lambda s: s | {"layer1.0.conv1.weight": torch.zeros(3, 3)}, "layer1.0.conv1.weight"),
        (lambda s: s | {"layer9.conv.weight": torch.zeros(3, 3)}, "layer9.conv.weight"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_and_says_what_is_missing(tmp_path, trained, change, said):
    torch.save(change(trained.state_dict()), tmp_path / "t.pth")
    with pytest.raises(SeedHubError, match="not a complete resnet18") as error:
        load_teacher(f"file:{tmp_path}/t.pth?arch=resnet18")
    assert said in str(error.value)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_random_weights_are_refused(tmp_path, arch):
    torch.save(timm.create_model(arch, num_classes=0).state_dict(), tmp_path / "t.pth")
    with pytest.raises(SeedHubError, match="random weights"):
        load_teacher(f"file:{tmp_path}/t.pth?arch={arch}")
    load_teacher(f"file:{tmp_path}/t.pth?arch={arch}", allow_random=True)


class _Hostile:
    def __reduce__(self):
        return os.system, ("echo hostile",)


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint at all", pickle.dumps(_Hostile()), pickle.dumps({"a": 1})]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused_in_one_sentence(tmp_path, content, suffix, capfd):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises(SeedHubError):
        load_teacher(f"file:{path}?arch=resnet18")
    assert "hostile" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet50", "SOURCE:NAME"),
        ("tim:resnet50", 'Did you mean "timm"'),
        ("timm:resnet5000", 'Did you mean "resnet'),
        ("timm:resnet18.nonsense", "timm has no weights"),
        ("torchvision:resnet5", 'Did you mean "resnet50"'),
        ("torchvision:resnet50/IMAGENET1K_V9", "IMAGENET1K_V2"),
        ("file:nowhere.pth?arch=resnet18", "no file nowhere.pth"),
        ("seed:nowhere/run", "no folder"),
        ("seed:seed_resnet50", "seed_resnet50"),  # too large to be released here
    ],
)
def test_wrong_names_are_refused_with_what_to_do(spec, said):
    for refuses in (check_spec, load_teacher):
        with pytest.raises(SeedHubError) as error:
            refuses(spec)
        assert said in str(error.value)


def test_every_source_is_named_where_a_run_is_told_its_teacher(root):
    said = next(
        o
        for o in read_settings(root / "seed_hub/training/settings.py", "RunSettings").options
        if o.name == "teacher"
    )
    assert [source for source in SOURCES if f" {source}:" not in said.help] == []


def test_a_file_without_arch_is_refused(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "t.pth")
    with pytest.raises(SeedHubError, match=r"needs \?arch=NAME"):
        load_teacher(f"file:{tmp_path}/t.pth")
    with pytest.raises(SeedHubError, match="does not take these options"):
        load_teacher(f"file:{tmp_path}/t.pth?arch=resnet18&colour=blue")


def test_timm_offline_says_so():
    with pytest.raises(SeedHubError, match="not in the cache and the Hub cannot be reached"):
        load_teacher("timm:resnet18.a1_in1k")


def test_torchvision_weights_are_torchvisions(trained, monkeypatch):
    weights = torchvision.models.get_model_weights("resnet18").DEFAULT
    state = {k: v for k, v in trained.state_dict().items() if not k.startswith("fc")}
    full = state | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: full)
    teacher = load_teacher("torchvision:resnet18")
    theirs = torchvision.models.resnet18().eval()
    theirs.load_state_dict(full)
    theirs.fc = torch.nn.Identity()
    pixels = torch.rand(2, 3, 64, 64)
    transforms = weights.transforms()
    normalised = torchvision.transforms.functional.normalize(pixels, transforms.mean, transforms.std)
    torch.testing.assert_close(teacher.embed(pixels), theirs(normalised), rtol=1e-4, atol=1e-5)


def test_a_model_folder_round_trip_with_its_head(tmp_path):
    torch.manual_seed(0)
    encoder, head = build_student("seed_mobilenetv3_small"), projection_head(1024, 32, 16)
    encoder.backbone.bn1.running_mean.normal_()
    save_model(tmp_path / "m", encoder, {"name": "seed_mobilenetv3_small"}, head)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder.eval()(pixels).pooled
        projected = head(expected)
    torch.testing.assert_close(load_teacher(f"seed:{tmp_path}/m").embed(pixels), projected)
    torch.testing.assert_close(load_teacher(f"seed:{tmp_path}/m?head=none").embed(pixels), expected)
    torch.testing.assert_close(load_model(f"{tmp_path}/m")(pixels).pooled, expected)


def test_a_path_is_a_folder_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = build_student("test_resnet")
    encoder.backbone.bn1.running_mean.normal_()
    save_model(tmp_path / "m", encoder, {})
    for load in (load_model, load_teacher):
        assert load(tmp_path / "m").name == f"seed:{tmp_path}/m"
        with pytest.raises(SeedHubError, match="There is no folder org/name"):
            load(Path("org/name"))
    monkeypatch.chdir(tmp_path / "m")
    with pytest.raises(SeedHubError, match='"" is no model'):
        load_model("")
    with pytest.raises(SeedHubError, match="seed: names no model: write seed:RUN"):
        load_teacher("seed:")
    with pytest.raises(SeedHubError, match=f"is a file: name the folder that holds it, {tmp_path}/m"):
        load_model(f"{tmp_path}/m/model.safetensors")


def test_timm_and_transformers_load_a_model_folder_without_this_package(tmp_path):
    torch.manual_seed(0)
    encoder = build_student("seed_resnet18").eval()
    save_model(tmp_path / "m", encoder, {})
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder.backbone(pixels)
        ours = timm.create_model(f"local-dir:{tmp_path}/m", pretrained=True).eval()
        torch.testing.assert_close(ours(pixels), expected)
        from transformers import AutoModel

        theirs = AutoModel.from_pretrained(tmp_path / "m").eval()
        torch.testing.assert_close(theirs(pixels).pooler_output, expected)


def test_damaged_model_folders_are_refused(tmp_path):
    save_model(tmp_path / "m", build_student("seed_resnet18"), {})
    weights = tmp_path / "m" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SeedHubError, match="missing or damaged"):
        load_model_folder(tmp_path / "m")
    save_model(tmp_path / "other", build_student("seed_resnet34"), {})
    Path(weights).write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(SeedHubError, match="does not fit its architecture"):
        load_model_folder(tmp_path / "m")


def test_the_imagenet_mobilenetv2_is_loaded_as_its_terms_say(shared_data):
    path = shared_data / "teachers" / "mobilenetv2_100.in1k_supervised.safetensors"
    teacher = load_teacher(
        f"file:{path}?arch=mobilenetv2_100&pad_type=same&mean=0.5&std=0.5&licence=apache-2.0"
    )
    assert isinstance(teacher.encoder, Encoder)
    assert teacher.embed(torch.rand(1, 3, 96, 96)).shape == (1, 1280)


def test_a_classifier_is_kept_for_those_who_ask(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=7).eval()
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)  # no random teacher
    save_file(network.state_dict(), tmp_path / "t.safetensors")
    spec = f"file:{tmp_path / 't.safetensors'}?arch=test_efficientnet&mean=0&std=1"
    x = torch.rand(2, 3, 32, 32)
    said = load_teacher(spec, classifier=True)(x)
    torch.testing.assert_close(said.logits, network(x))
    plain = load_teacher(spec)(x)
    assert plain.logits is None
    torch.testing.assert_close(said.pooled, plain.pooled)
