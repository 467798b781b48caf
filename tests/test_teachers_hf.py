"""Teachers out of transformers: pooled, normalised and completed as the library itself would, or refused."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers as tf
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import nn

from seed_hub.encoder import IMAGENET_MEAN, IMAGENET_STD, build_student
from seed_hub.errors import SeedHubError
from seed_hub.model_folder import save_model
from seed_hub.teachers import load_model, load_teacher
from seed_hub.teachers.description import describe
from tests.hub_server import HubServer

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MLP = {"intermediate_size": 64}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HALF = ((0.5,) * 3, (0.5,) * 3)
PIXELS = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def trained(network):
    """Every norm and position moved, as after training."""
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 or "position" in name or "cls_token" in name:
            nn.init.normal_(parameter, 0.8, 0.2)
    return network.eval()


def normalised(mean, std):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return (PIXELS - mean) / std


# name of the folder: network, what is expected of its own answer, tokens ahead of the patches, normalisation
FAMILIES = {
    "dinov2-small": (
        lambda: tf.Dinov2Model(tf.Dinov2Config(**SMALL, patch_size=14, image_size=56)),
        lambda out: out.pooler_output,
        1,
        (IMAGENET_MEAN, IMAGENET_STD),
    ),
    "dinov2-with-registers": (
        lambda: tf.Dinov2WithRegistersModel(
            tf.Dinov2WithRegistersConfig(**SMALL, patch_size=14, image_size=56, num_register_tokens=4)
        ),
        lambda out: out.last_hidden_state[:, 0],
        5,
        (IMAGENET_MEAN, IMAGENET_STD),
    ),
    "dinov3-vits16": (
        lambda: tf.DINOv3ViTModel(
            tf.DINOv3ViTConfig(**SMALL, **MLP, patch_size=16, image_size=64, num_register_tokens=4)
        ),
        lambda out: out.last_hidden_state[:, 5:].mean(1),
        5,
        (IMAGENET_MEAN, IMAGENET_STD),
    ),
    "dinov3-convnext": (
        lambda: tf.DINOv3ConvNextModel(tf.DINOv3ConvNextConfig(**STAGES, image_size=64)),
        lambda out: out.pooler_output,
        1,
        (IMAGENET_MEAN, IMAGENET_STD),
    ),
    "siglip2-base": (
        lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**SMALL, **MLP, patch_size=16, image_size=64)),
        lambda out: out.pooler_output,
        0,
        HALF,
    ),
    "aimv2-large": (
        lambda: tf.Aimv2VisionModel(tf.Aimv2VisionConfig(**SMALL, **MLP, patch_size=16, image_size=64)),
        lambda out: out.last_hidden_state.mean(1),
        0,
        ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ),
    "tipsv2-b14": (
        lambda: tf.Tipsv2VisionModel(
            tf.Tipsv2VisionConfig(**SMALL, patch_size=14, image_size=56, num_register_tokens=1)
        ),
        lambda out: out.last_hidden_state[:, 0],
        2,
        ((0.0,) * 3, (1.0,) * 3),
    ),
    "nobody-knows-it": (
        lambda: tf.ResNetModel(tf.ResNetConfig(embedding_size=8, **STAGES)),
        lambda out: out.pooler_output.flatten(1),
        None,
        (IMAGENET_MEAN, IMAGENET_STD),
    ),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_pooled_and_normalised_its_own_way(tmp_path, name):
    build, expected, prefix, stated = FAMILIES[name]
    network = trained(build())
    network.save_pretrained(tmp_path / name)
    teacher = load_teacher(f"hf:{tmp_path / name}", image_size=64)
    with torch.no_grad():
        want = expected(network(pixel_values=normalised(*stated)))
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)
    about = describe(teacher)
    assert (about.prefix, about.width, about.input_size) == (prefix, 32, 64)
    assert (about.mean, about.std) == stated
    features = teacher(PIXELS, stages=True)
    assert features.tokens.shape[::2] == (3, 32)
    assert features.stages[-1].flatten(2).shape[2] == features.tokens.shape[1]


def test_mae_sees_the_whole_image_whatever_the_chance(tmp_path):
    network = trained(tf.ViTMAEModel(tf.ViTMAEConfig(**SMALL, **MLP, patch_size=16, image_size=64)))
    network.save_pretrained(tmp_path / "vit-mae")
    teacher = load_teacher(f"hf:{tmp_path / 'vit-mae'}", image_size=64)
    network.config.mask_ratio = 0.0
    with torch.no_grad():  # its class token, over all patches in a random order
        want = network(normalised(IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)
    assert teacher(PIXELS).tokens.shape == (3, 16, 32)
    assert teacher.licence == "cc-by-nc-4.0"


def vit(folder: Path, **options):
    network = trained(tf.ViTModel(tf.ViTConfig(**SMALL, **MLP, patch_size=16, image_size=64), **options))
    network.save_pretrained(folder)
    return network


def test_what_is_unknown_is_inspected_and_said_aloud(tmp_path, caplog):
    network = vit(tmp_path / "m")
    about = describe(load_teacher(f"hf:{tmp_path}/m"))
    assert (about.pooling, about.family, about.licence, about.input_size) == ("pooler", None, None, 64)
    assert "no known family: by inspection" in caplog.text
    assert "ImageNet's mean and std are assumed" in caplog.text
    caplog.clear()
    teacher = load_teacher(f"hf:{tmp_path}/m?pool=avg&mean=0.5&std=0.5&licence=mit")
    with torch.no_grad():
        want = network(normalised(*HALF)).last_hidden_state[:, 1:].mean(1)
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)
    assert teacher.licence == "mit"
    assert not caplog.records


def test_a_pooling_layer_that_was_never_saved_is_not_used(tmp_path):
    network = vit(tmp_path / "m", add_pooling_layer=False)
    teacher = load_teacher(f"hf:{tmp_path}/m")
    with torch.no_grad():
        want = network(normalised(IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)
    assert describe(teacher).pooling == "token"
    with pytest.raises(SeedHubError, match=r"lacks 2 tensors .*pooler\.dense"):
        load_teacher(f"hf:{tmp_path}/m?pool=pooler")


def test_its_own_preprocessing_is_read(tmp_path):
    network = vit(tmp_path / "m")
    for facts, mean, std in (
        ({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3}, (0.1, 0.2, 0.3), (0.5,) * 3),
        ({"image_mean": [127.5] * 3, "image_std": [255.0] * 3, "do_rescale": False}, (0.5,) * 3, (1.0,) * 3),
        ({"image_mean": [0.1] * 3, "image_std": [0.5] * 3, "do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
    ):
        (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(facts))
        teacher = load_teacher(f"hf:{tmp_path}/m?pool=token")
        with torch.no_grad():
            want = network(normalised(mean, std)).last_hidden_state[:, 0]
        torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)


def test_of_an_image_text_pair_the_image_half_is_taken(tmp_path):
    text = {**SMALL, **MLP, "vocab_size": 20, "max_position_embeddings": 8}
    vision = {**SMALL, **MLP, "patch_size": 16, "image_size": 64}
    network = trained(tf.SiglipModel(tf.SiglipConfig(text_config=text, vision_config=vision)))
    network.save_pretrained(tmp_path / "siglip2")
    teacher = load_teacher(f"hf:{tmp_path}/siglip2")
    with torch.no_grad():
        want = network.vision_model(normalised(*HALF)).pooler_output
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)


def test_a_folder_in_timms_format_is_loaded_by_timm(tmp_path):
    encoder = build_student("test_resnet").eval()
    trained(encoder.backbone)
    save_model(tmp_path / "m", encoder, {})
    teacher = load_teacher(f"hf:{tmp_path}/m")
    with torch.no_grad():
        torch.testing.assert_close(teacher.embed(PIXELS), encoder(PIXELS).pooled)


def test_what_is_no_whole_trained_image_network_is_refused(tmp_path):
    vit(tmp_path / "m")
    with pytest.raises(SeedHubError, match="choose one of token, avg, map, pooler"):
        load_teacher(f"hf:{tmp_path}/m?pool=max")
    with pytest.raises(SeedHubError, match="options nobody reads: colour"):
        load_teacher(f"hf:{tmp_path}/m?colour=blue")
    with pytest.raises(SeedHubError, match='"big" is no number of pixels'):
        load_teacher(f"hf:{tmp_path}/m?size=big")
    weights = tmp_path / "m" / "model.safetensors"
    tensors = load_file(weights)
    gone = next(
        key for key in tensors if key.endswith("mlp.fc1.weight") or "intermediate.dense.weight" in key
    )
    save_file({k: v for k, v in tensors.items() if k != gone}, weights, {"format": "pt"})
    with pytest.raises(SeedHubError, match="lacks 1 tensors that its embedding depends on"):
        load_teacher(f"hf:{tmp_path}/m")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(SeedHubError, match="could not be loaded"):
        load_teacher(f"hf:{tmp_path}/m")
    tf.ViTModel(tf.ViTConfig(**SMALL, **MLP, patch_size=16, image_size=64)).save_pretrained(
        tmp_path / "random"
    )
    with pytest.raises(SeedHubError, match="random weights"):
        load_teacher(f"hf:{tmp_path}/random")
    siglip = tf.SiglipVisionConfig(**SMALL, **MLP, patch_size=16, image_size=64)
    trained(tf.SiglipVisionModel(siglip)).save_pretrained(tmp_path / "s")
    with pytest.raises(SeedHubError, match="no class token: choose pool=avg"):
        load_teacher(f"hf:{tmp_path}/s?pool=token")
    words = tf.BertConfig(**SMALL, **MLP, vocab_size=20)
    tf.BertModel(words).save_pretrained(tmp_path / "words")
    with pytest.raises(SeedHubError, match="BertModel, which takes no images"):
        load_teacher(f"hf:{tmp_path}/words")


def test_code_of_a_repository_is_not_run(tmp_path):
    (tmp_path / "m").mkdir()
    facts = {"model_type": "hostile", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(facts))
    (tmp_path / "m" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(SeedHubError, match="code of its own, which is not run here"):
        load_teacher(f"hf:{tmp_path}/m")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback that the client of this process asks, nobody being logged in."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer() as server:
        ask(server.address, monkeypatch)
        yield server


def ask(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", address)


def files_of(folder: Path, card: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} | {"README.md": card.encode()}


CARD = "---\nlicense: other\nlicense_name: our-terms\n---\n# A network\n"


@torch.no_grad()
def test_a_repository_of_transformers_with_its_commit_and_terms(tmp_path, hub):
    network = vit(tmp_path / "m")
    commit = hub.commit("people/vit", files_of(tmp_path / "m", CARD))
    hub.commit("people/vit", {"model.safetensors": b"spoilt since"})
    teacher = load_teacher(f"hf:people/vit@{commit}?pool=token")
    want = network(normalised(IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 0]
    torch.testing.assert_close(teacher.embed(PIXELS), want, rtol=1e-4, atol=1e-5)
    about = describe(teacher)
    assert (about.revision, about.licence) == (commit, "our-terms")


@torch.no_grad()
def test_a_repository_of_timm_with_its_commit_and_terms(tmp_path, hub):
    encoder = build_student("test_vit").eval()
    trained(encoder.backbone)
    save_model(tmp_path / "m", encoder, {})
    commit = hub.commit("people/small", files_of(tmp_path / "m", CARD))
    size = encoder.input_size
    pixels = torch.rand(2, 3, size, size)
    for spec in ("hf-hub:people/small", "hf:people/small", f"hf-hub:people/small@{commit}"):
        teacher = load_teacher(spec)
        torch.testing.assert_close(teacher.embed(pixels), encoder(pixels).pooled, rtol=1e-4, atol=1e-5)
        about = describe(teacher)
        assert (about.revision, about.licence) == (commit, "our-terms")


def test_terms_that_its_authors_did_not_give_are_doubted_aloud(tmp_path, hub, caplog):
    encoder = build_student("test_resnet")
    trained(encoder.backbone)
    save_model(tmp_path / "m", encoder, {})
    hub.commit("people/barlowtwins-small", files_of(tmp_path / "m", "---\nlicense: apache-2.0\n---\n"))
    assert load_teacher("hf-hub:people/barlowtwins-small").licence == "apache-2.0"
    assert "its terms are apache-2.0, and those of Barlow Twins are cc-by-nc-4.0" in caplog.text


@pytest.mark.parametrize("source", ["hf", "hf-hub"])
def test_what_the_hub_refuses_says_what_to_do(source, hub):
    hub.commit("people/gated", {"config.json": b"{}"})
    hub.commit("people/there", {"README.md": b"words"})
    hub.gated.add("people/gated")
    for words, said in (
        ("people/gated", f"is gated: accept its terms on {hub.address}/people/gated, log in"),
        ("people/there@v9", 'has no revision "v9"'),
        ("people/missing", "does not exist or is private"),
        ("people/there", "could not be loaded"),
    ):
        with pytest.raises(SeedHubError) as error:
            load_teacher(f"{source}:{words}")
        assert said in str(error.value)


@pytest.mark.parametrize("source", ["hf", "hf-hub"])
def test_offline_and_not_cached_says_so(source):
    with pytest.raises(SeedHubError, match="not in the cache and the Hub cannot be reached"):
        load_teacher(f"{source}:nobody/nothing")


@pytest.mark.parametrize(
    "spec", ["hf:org/name", "hf-hub:org/name", "timm:vit_small_patch14_dinov2.lvd142m", "org/name"]
)
def test_a_hub_that_nobody_reaches_is_not_waited_for(spec, tmp_path, monkeypatch):
    """The clients of two libraries would each try again for 20 s and more."""
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        ask(f"http://127.0.0.1:{taken.getsockname()[1]}", monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        began = time.monotonic()
        with pytest.raises(SeedHubError, match="not in the cache and the Hub cannot be reached") as error:
            load_model(spec)
    assert time.monotonic() - began < 5
    assert "\n" not in str(error.value)
