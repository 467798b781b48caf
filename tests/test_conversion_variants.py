"""SEED's own students and the wide ResNets, against forward passes written here from the papers and with their names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seed_hub.conversion import convert
from seed_hub.errors import SeedHubError
from seed_hub.teachers import load_teacher

State = dict[str, Tensor]
# MobileNetV3-Large, table 1 of the paper: kernel, expanded channels, out, squeeze-and-excite, h-swish, stride
MOBILENETV3_LARGE = [
    *((3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2)),
    *((5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1)),
    *((3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1)),
    *((5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1), (5, 960, 160, 1, 1, 1)),
]
# EfficientNet-B0, table 1 of the paper: kernel, expansion, out, blocks, stride of the first
EFFICIENTNET = [
    *((3, 1, 16, 1, 1), (3, 6, 24, 2, 2), (5, 6, 40, 2, 2), (3, 6, 80, 3, 2)),
    *((5, 6, 112, 3, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1)),
]


class Made:
    """Random weights by name, drawn when a layer first asks for them; then the layer's output."""

    def __init__(self, eps: float) -> None:
        self.state: State = {}
        self.eps = eps
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, name: str, *shape: int, mean: float = 0.0, std: float = 0.1) -> Tensor:
        if name not in self.state:
            self.state[name] = mean + std * torch.randn(*shape, generator=self.generator)
        return self.state[name]

    def conv(
        self, x: Tensor, name: str, out: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> Tensor:
        """Without padding."""
        fan = x.shape[1] // groups * kernel**2
        weight = self.draw(
            f"{name}.weight", out, x.shape[1] // groups, kernel, kernel, std=math.sqrt(2 / fan)
        )
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(self, x: Tensor, name: str) -> Tensor:
        c = x.shape[1]
        self.state.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        mean, variance = (
            self.draw(f"{name}.running_mean", c),
            self.draw(f"{name}.running_var", c, mean=1.0).abs(),
        )
        self.state[f"{name}.running_var"] = variance
        weight, bias = self.draw(f"{name}.weight", c, mean=1.0), self.draw(f"{name}.bias", c)
        view = (1, -1, 1, 1)
        scale = weight / (variance + self.eps).sqrt()
        return (x - mean.view(view)) * scale.view(view) + bias.view(view)

    def linear(self, x: Tensor, name: str, out: int, *, as_conv: bool = False) -> Tensor:
        shape = (out, x.shape[1], 1, 1) if as_conv else (out, x.shape[1])
        weight = self.draw(f"{name}.weight", *shape, std=1 / math.sqrt(x.shape[1]))
        return x @ weight.flatten(1).T + self.draw(f"{name}.bias", out)


def eight(channels: float) -> int:
    """The nearest multiple of 8, or the next one where that would lose more than a tenth."""
    nearest = int(channels + 4) // 8 * 8
    return nearest + 8 if nearest < 0.9 * channels else nearest


def mobilenetv3(made: Made, x: Tensor) -> Tensor:
    """``[B, 3, H, W]`` -> ``[B, 1280]``: norm, squeeze-and-excite, activation in this order."""
    x = F.hardswish(made.norm(made.conv(F.pad(x, (1, 1, 1, 1)), "features.0.0", 16, 3, 2), "features.0.1"))
    for i, (kernel, middle, out, excite, hard, stride) in enumerate(MOBILENETV3_LARGE, start=1):
        act, p, before, at = F.hardswish if hard else F.relu, kernel // 2, x, f"features.{i}.conv."
        step = 0
        if x.shape[1] != middle:
            x, step = act(made.norm(made.conv(x, at + "0", middle), at + "1")), 3
        x = made.conv(F.pad(x, (p, p, p, p)), f"{at}{step}", middle, kernel, stride, middle)
        x = made.norm(x, f"{at}{step + 1}")
        if excite:
            gate = F.relu(made.linear(x.mean((2, 3)), at + "5.fc.0", eight(middle / 4)))
            gate = F.relu6(made.linear(gate, at + "5.fc.2", middle) + 3) / 6
            x = x * gate[:, :, None, None]
        x, last = act(x), 7 if step else 4
        x = made.norm(made.conv(x, f"{at}{last}", out), f"{at}{last + 1}")
        x = x + before if stride == 1 and before.shape == x.shape else x
    x = F.hardswish(made.norm(made.conv(x, "conv.0", 960), "conv.1")).mean((2, 3))
    return F.hardswish(made.linear(x, "classifier.0", 1280))


def efficientnet(made: Made, x: Tensor, side: int, depth: float) -> Tensor:
    """``[B, 3, H, W]`` -> ``[B, 1280]``, padded as images of ``side`` px need to halve to the ceiling."""

    def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
        nonlocal side
        after = -(-side // stride)
        total = max((after - 1) * stride + kernel - side, 0)
        side = after
        return F.pad(x, (total // 2, total - total // 2, total // 2, total - total // 2))

    x = F.silu(made.norm(made.conv(padded(x, 3, 2), "_conv_stem", 32, 3, 2), "_bn0"))
    number = 0
    for kernel, expansion, out, blocks, first in EFFICIENTNET:
        for block in range(math.ceil(blocks * depth)):
            before, into, at = x, x.shape[1], f"_blocks.{number}."
            stride = first if block == 0 else 1
            if expansion > 1:
                x = F.silu(made.norm(made.conv(x, at + "_expand_conv", into * expansion), at + "_bn0"))
            c = x.shape[1]
            x = made.conv(padded(x, kernel, stride), at + "_depthwise_conv", c, kernel, stride, c)
            x = F.silu(made.norm(x, at + "_bn1"))
            gate = F.silu(made.linear(x.mean((2, 3)), at + "_se_reduce", into // 4, as_conv=True))
            gate = torch.sigmoid(made.linear(gate, at + "_se_expand", c, as_conv=True))
            x = made.norm(made.conv(x * gate[:, :, None, None], at + "_project_conv", out), at + "_bn2")
            x = x + before if stride == 1 and before.shape == x.shape else x
            number += 1
    return F.silu(made.norm(made.conv(x, "_conv_head", 1280), "_bn1")).mean((2, 3))


STUDENTS = {
    "mobilenetv3_large_100_se_first": (lambda made, x: mobilenetv3(made, x), 1e-5),
    "efficientnet_b0_static_same": (lambda made, x: efficientnet(made, x, 224, 1.0), 1e-3),
    "efficientnet_b1_static_same": (lambda made, x: efficientnet(made, x, 240, 1.1), 1e-3),
}


@torch.no_grad()
@pytest.mark.parametrize("arch", STUDENTS)
def test_seeds_students_compute_what_they_were_trained_to(arch: str, tmp_path: Path) -> None:
    run, eps = STUDENTS[arch]
    made = Made(eps)
    # 224 px, where B1's static padding differs from SAME, and an odd side, where B0's does.
    images = [torch.rand(1, 3, side, side, generator=made.generator) for side in (224, 125)]
    expected = [run(made, x) for x in images]
    head = nn.Sequential(nn.Linear(1280, 1280), nn.ReLU(), nn.Linear(1280, 128))
    state = made.state | {f"fc.{key}": value for key, value in head.state_dict().items()}
    content = {f"module.student.{key}": value for key, value in state.items()}
    content |= {"module.teacher.conv1.weight": torch.ones(3), "module.queue": torch.ones(128, 4)}
    torch.save({"epoch": 200, "state_dict": content}, tmp_path / "c.pth")
    found = convert(tmp_path / "c.pth", tmp_path / "out")
    assert (found["architecture"], found["converted"]["format"]) == (arch, "SEED")
    encoder = load_teacher(f"seed:{tmp_path}/out").encoder
    plain = timm.create_model(
        arch.removesuffix("_se_first").removesuffix("_static_same"), num_classes=0
    ).eval()
    plain.load_state_dict(encoder.backbone.state_dict())
    for x, wanted in zip(images, expected, strict=True):
        torch.testing.assert_close(encoder.backbone(x), wanted, rtol=1e-3, atol=1e-4)
        assert (plain(x) - wanted).abs().max() > 0.01  # timm's own network is another function
        assert encoder.head is not None
        torch.testing.assert_close(encoder.head(wanted), head(wanted))
    with pytest.raises(SeedHubError, match=f"computes something else than.*name .*{arch}"):
        convert(tmp_path / "c.pth", tmp_path / "other", arch=plain.pretrained_cfg["architecture"])


@pytest.mark.parametrize(
    ("arch", "width", "millions"), [("x2", 4096, 94), ("x4", 8192, 375), ("x5", 10240, 586)]
)
def test_wide_resnets_are_swavs(arch: str, width: int, millions: int) -> None:
    """As wide as SwAV's README says, from the stem on, and with as many parameters."""
    with torch.device("meta"):
        network = timm.create_model("resnet50" + arch, num_classes=0).eval()
        assert network(torch.rand(1, 3, 64, 64)).shape == (1, width)
    assert network.conv1.out_channels == width // 32
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
