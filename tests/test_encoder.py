"""The seam: pixels in [0, 1] in, the network's own pooled features out."""

from __future__ import annotations

import pytest
import timm
import torch

from seed_hub import catalog
from seed_hub.encoder import Encoder, Frozen, build_student
from seed_hub.errors import SeedHubError
from seed_hub.teachers.foreign import ForeignEncoder, Reader


class Pooled(torch.nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.encoder(pixels).pooled


@pytest.mark.parametrize(
    "name", ["seed_resnet18", "seed_mobilenetv3_large", "seed_efficientnet_b0", "seed_vit_tiny"]
)
def test_pooled_is_what_timm_gives_for_normalised_pixels(name):
    torch.manual_seed(0)
    encoder = build_student(name).eval()
    side = 224 if "vit" in name else 64
    pixels = torch.rand(2, 3, side, side)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features = encoder(pixels)
    torch.testing.assert_close(features.pooled, encoder.backbone((pixels - mean) / std), rtol=1e-4, atol=1e-5)
    assert features.pooled.shape == (2, encoder.width) == (2, catalog.find_student(name).width)
    assert features.tokens is not None
    assert features.tokens.shape[:1] == (2,)
    assert features.logits is None and features.projected is None


def test_tokens_leave_out_the_class_token():
    encoder = build_student("seed_vit_tiny").eval()
    tokens = encoder(torch.rand(1, 3, 224, 224)).tokens
    assert tokens is not None and tokens.shape == (1, 14 * 14, 192)


def test_stages_are_feature_maps_shallow_to_deep():
    stages = build_student("seed_resnet18").eval()(torch.rand(1, 3, 64, 64), stages=True).stages
    assert [s.shape[1] for s in stages][-4:] == [64, 128, 256, 512]
    assert [s.shape[-1] for s in stages][-4:] == [16, 8, 4, 2]


@pytest.mark.parametrize(
    ("pixels", "given"),
    [
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), r"uint8 \[2, 3, 32, 32\]"),
        (torch.zeros(2, 1, 32, 32), r"float32 \[2, 1, 32, 32\]"),
        (torch.zeros(2, 32, 32, 3), r"float32 \[2, 32, 32, 3\]"),
        (torch.zeros(3, 32, 32), r"float32 \[3, 32, 32\]"),
    ],
)
def test_other_pixels_are_refused(pixels: torch.Tensor, given: str) -> None:
    said = rf"it was given {given}: give it a batch of floats \[B, 3, H, W\] in \[0, 1\]"
    encoder = Encoder(timm.create_model("test_resnet", num_classes=0), arch="test_resnet", name="it")
    foreign = ForeignEncoder(Reader(encoder.backbone, pooling="avg"), arch="test_resnet", name="it")
    for ask in (encoder, foreign, Frozen(encoder), Frozen(encoder).embed):
        with pytest.raises(SeedHubError, match=said):
            ask(pixels)
    assert Frozen(encoder).embed(torch.rand(1, 3, 32, 32)).shape == (1, encoder.width)


def test_the_look_at_the_pixels_is_captured_and_compiled_away() -> None:
    encoder = Encoder(timm.create_model("test_resnet", num_classes=0), arch="test_resnet").eval()
    pixels = torch.rand(2, 3, 32, 32)
    program = torch.export.export(
        Pooled(encoder), (pixels,), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    more = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program.module()(more), encoder(more).pooled)
    compiled = torch.compile(Pooled(encoder), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(pixels), encoder(pixels).pooled)


def test_logits_where_there_is_a_classifier():
    backbone = timm.create_model("resnet18", num_classes=7)
    features = Encoder(backbone, arch="resnet18").eval()(torch.rand(2, 3, 32, 32))
    assert features.logits is not None and features.logits.shape == (2, 7)


def test_frozen_stays_frozen():
    frozen = Frozen(build_student("seed_resnet18"))
    frozen.train()
    assert not any(m.training for m in frozen.encoder.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    before = frozen.encoder.backbone.bn1.running_mean.clone()
    assert not frozen.embed(torch.rand(2, 3, 32, 32)).requires_grad
    assert torch.equal(before, frozen.encoder.backbone.bn1.running_mean)


def test_an_unknown_student_is_refused_with_the_nearest_name():
    with pytest.raises(SeedHubError, match='Did you mean "seed_mobilenetv3_large"'):
        build_student("seed_mobilenet_v3_large")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_transformer_takes_images_of_any_side_and_keeps_its_weights_shapes(name: str) -> None:
    encoder = build_student(name).eval()
    features = encoder(torch.rand(1, 3, 96, 96))
    assert features.pooled.shape == (1, encoder.width)
    assert features.tokens is not None
    assert features.tokens.shape[1] == {"vit": 6 * 6, "swin": 3 * 3}[name.split("_")[0]]
    encoder.backbone.load_state_dict(timm.create_model(name, num_classes=0).state_dict())


@pytest.mark.parametrize("name", ["seed_mobilenetv3_large", "seed_efficientnet_b0", "mobilenetv4_conv_small"])
def test_an_untrained_students_residual_branches_start_closed(name: str) -> None:
    blocks = [m for m in build_student(name).eval().backbone.modules() if getattr(m, "has_skip", False)]
    assert blocks
    for block in blocks:
        width = next(m for m in block.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
        x = torch.rand(1, width, 8, 8)
        assert torch.equal(block(x), x)
