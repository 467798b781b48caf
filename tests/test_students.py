"""The zoo through timm: every student is tested because it is in the table."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch.utils.flop_counter import FlopCounterMode

import seed_hub
from seed_hub.catalog import find_student, list_students, students
from seed_hub.data.center import center_pixels
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError

NAMES = list_students()
CONTRACT = {
    "seed_resnet18",
    "seed_resnet34",
    "seed_resnet50",
    "seed_mobilenetv3_large",
    "seed_mobilenetv3_small",
    "seed_efficientnet_b0",
    "seed_efficientnet_b1",
    "seed_vit_tiny",
}
SOURCES = ("url", "file", "hf_hub_id", "hf_hub_filename", "state_dict", "source")


def python(code: str, cwd: Path, *flags: str) -> str:
    """What a fresh interpreter prints; its failure is the test's."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ["import seed_hub, timm", "import timm, seed_hub"])
def test_timm_knows_the_students_in_either_import_order(order: str, root: Path) -> None:
    out = python(
        f"{order}\nimport timm\nprint(*timm.list_models('seed_*'))", root, "-W", "error::UserWarning"
    )
    assert out.split() == NAMES


def test_looking_timm_up_without_importing_it_does_not_use_the_hook_up(root: Path) -> None:
    code = (
        "import seed_hub, importlib.util as u, sys\n"
        "assert u.find_spec('timm') and u.find_spec('timm') and 'timm' not in sys.modules\n"
        "import timm.models, inspect\n"
        "assert inspect.getsource(timm)\n"
        "print(len(timm.list_models('seed_*')))"
    )
    assert python(code, root) == str(len(NAMES))


def test_import_loads_neither_torch_nor_timm(root: Path) -> None:
    code = "import sys, seed_hub, seed_hub.weights; seed_hub.list_students(); print({'torch', 'timm', 'numpy'} & {*sys.modules})"
    assert python(code, root) == "set()"


def test_every_public_name_is_there() -> None:
    for name in seed_hub.__all__:
        assert getattr(seed_hub, name) is not None
    assert set(seed_hub.__all__) <= set(dir(seed_hub))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = seed_hub.nonsense


def test_the_names_of_the_contract_are_in_the_zoo() -> None:
    assert set(NAMES) >= CONTRACT
    assert timm.list_models("seed_*") == sorted(NAMES)


def test_our_families_do_not_land_among_timms() -> None:
    for name, student in students().items():
        family = student.entrypoint.__module__.rsplit(".", 1)[-1]
        assert family.startswith("seed_")
        assert timm.models.is_model_in_modules(name, [family])


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_network_is(name: str) -> None:
    """Parameters, MACs (half the counter's operations) and width, on shapes alone; attention written out to be counted."""
    student = students()[name]
    fused = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(False)
    try:
        model = timm.create_model(name).eval().to("meta")
    finally:
        timm.layers.set_fused_attn(bool(fused))
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        pooled = model(torch.empty(1, 3, 224, 224, device="meta"))
    measured = (
        sum(p.numel() for p in model.parameters()),
        counter.get_total_flops() // 2,
        tuple(pooled.shape),
    )
    assert measured == (student.parameters, student.macs, (1, student.width))
    assert model.pretrained_cfg["first_conv"] + ".weight" in model.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_timms_network_under_our_configuration(name: str) -> None:
    ours = timm.create_model(name, num_classes=10)
    theirs = timm.create_model(students()[name].base, num_classes=10)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    cfg = ours.pretrained_cfg
    assert cfg["architecture"] == students()[name].base
    assert cfg["num_classes"] == 0
    assert cfg["first_conv"] == theirs.pretrained_cfg["first_conv"]
    assert cfg["classifier"] == theirs.pretrained_cfg["classifier"]
    assert not cfg.get("fixed_input_size", False)  # a ViT's position embeddings are interpolated
    for field in SOURCES:
        assert not str(cfg.get(field) or "").startswith(("timm", "http")), field


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("given", [{}, {"pretrained_cfg": {}}, {"pretrained_cfg": ""}, {"num_classes": 1000}])
def test_pretrained_never_falls_back_to_supervised_weights(
    name: str, given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No student has a weight here, so every way to ask for one must end in our error, before any request."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"timm went looking for weights: {args}")

    import timm.models._builder as builder

    monkeypatch.setattr("seed_hub.weights.WEIGHTS", ())
    for loader in (
        "load_state_dict_from_hf",
        "load_state_dict_from_url",
        "load_custom_from_hf",
        "download_cached_file",
    ):
        monkeypatch.setattr(builder, loader, refuse)
    with pytest.raises(
        SeedHubError, match=f"{name} has no released weight.*No student has one.*seed-hub distill"
    ) as caught:
        timm.create_model(name, pretrained=True, **given)
    assert isinstance(caught.value, RuntimeError)


def test_an_unknown_tag_says_what_there_is() -> None:
    with pytest.raises(SeedHubError, match='no weight "seed_resnet18.imagenet"'):
        timm.create_model("seed_resnet18.imagenet")


@pytest.mark.parametrize("name", NAMES)
def test_classes_channels_and_pooling_are_timms(name: str) -> None:
    model = timm.create_model(name, num_classes=7, in_chans=1).eval()
    pixels = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert model(pixels).shape == (2, 7)
        model.reset_classifier(3)
        assert model(pixels).shape == (2, 3)
        model.reset_classifier(0)
        assert model(pixels).shape == (2, students()[name].width)
        model.reset_classifier(0, "")
        assert model(pixels).ndim in (3, 4)  # tokens or a map


@pytest.mark.parametrize("name", NAMES)
def test_global_pool_and_features_only(name: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad(), caplog.at_level(logging.ERROR):
        assert timm.create_model(name, global_pool="avg").eval()(pixels).shape == (
            1,
            students()[name].width,
        )
        stages = timm.create_model(name, features_only=True, out_indices=(1, 2)).eval()
        maps = stages(pixels)
    assert [m.shape[1] for m in maps] == stages.feature_info.channels()
    assert (stages.pretrained_cfg.get("hf_hub_id") or "seed-hub/").startswith(
        "seed-hub/"
    )  # a weight of ours, or none


def test_a_file_that_the_caller_names_is_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = timm.create_model("seed_mobilenetv3_small")
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    overlay = {"file": str(tmp_path / "mine.safetensors")}
    again = timm.create_model("seed_mobilenetv3_small", pretrained=True, pretrained_cfg_overlay=overlay)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])


def test_find_student_suggests() -> None:
    assert find_student("seed_resnet18.some_tag").name == "seed_resnet18"
    with pytest.raises(SeedHubError, match='Did you mean "seed_resnet18"'):
        find_student("seed_resnt18")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_the_facts(name: str) -> None:
    student = students()[name]
    doc = student.entrypoint.__doc__ or ""
    for fact in (student.base, f"{student.parameters / 1e6:.1f} M", f"[B, {student.width}]", student.licence):
        assert fact in doc
    assert student.summary


@pytest.mark.parametrize("first", ["seed_hub.encoder", "seed_hub.conversion"])
def test_any_module_may_be_imported_first(first: str) -> None:
    """timm's import registers our networks: what that loads must need nothing that is being imported."""
    code = f"import seed_hub, {first}, timm; assert timm.is_model('mobilenetv3_large_100_se_first')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["seed_resnet18", "seed_mobilenetv3_large", "resnet10t"])
def test_timms_transform_is_what_was_measured(name):
    """Of a wide and of a small image: the numbers on a card are those of whoever follows its config."""
    encoder = build_student(name)  # resnet10t's own config: 0.95 of the side, bicubic
    how = resolve_data_config(encoder.backbone.pretrained_cfg)
    transform = create_transform(**how | {"input_size": (3, 64, 64)}, is_training=False)
    rng = np.random.default_rng(0)
    for width, height in ((150, 101), (40, 40)):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (encoder.mean, encoder.std))
        theirs = transform(image) * std + mean
        torch.testing.assert_close(theirs, center_pixels(image, 64) / 255, rtol=0, atol=2 / 255)
