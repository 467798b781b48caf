"""The start-up check: it passes what was trained, and refuses each thing that it says it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.teachers.check import check_teacher, effective_rank, flip_agreement, generated_images
from seed_hub.teachers.foreign import ForeignEncoder, Reader

IMAGES = generated_images(12, 32)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return net


def teacher(net: nn.Module) -> Frozen:
    return Frozen(Encoder(net, arch="test_resnet", name="file:t.pth"))


class Says(Reader):
    """A teacher that says what a function says."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(nn.Identity(), pooling="none")
        self.function, self.num_features = function, 8

    def read(self, x: Tensor, *, stages: bool = False) -> Features:
        return Features(self.function(x))


def saying(function: Callable[[Tensor], Tensor]) -> Frozen:
    return Frozen(ForeignEncoder(Says(function), arch="says", name="it"))


def test_what_was_trained_passes() -> None:
    verdict = check_teacher(teacher(network()), IMAGES)
    assert verdict.images == 12
    assert 2 < verdict.effective_rank <= 11
    assert verdict.flip_agreement is not None
    assert f"flip agreement {verdict.flip_agreement:.2f}" in str(verdict)
    in_bytes = check_teacher(teacher(network()), (IMAGES * 255).round().byte(), flips=False)
    assert in_bytes.effective_rank == pytest.approx(verdict.effective_rank, rel=0.05)
    assert in_bytes.flip_agreement is None
    assert check_teacher(teacher(network())) == check_teacher(
        teacher(network())
    )  # generated, and always the same


def test_a_network_loaded_in_part_is_refused() -> None:
    net = network()
    norm = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)][3]
    norm.reset_parameters()
    with pytest.raises(SeedHubError, match="loaded in part: 1 of its normalisation layers"):
        check_teacher(teacher(net), IMAGES)


def test_a_norm_that_says_nothing_is_not_judged() -> None:
    net = network()
    net.unused_norm = nn.LayerNorm(4)  # a head's, left behind
    check_teacher(teacher(net), IMAGES)


def test_weights_that_are_no_numbers_are_refused() -> None:
    net = network()
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = math.nan
    with pytest.raises(SeedHubError, match=r"weights that are not finite numbers \(conv1"):
        check_teacher(teacher(net), IMAGES)


def test_weights_that_are_not_there_are_refused() -> None:
    with torch.device("meta"):
        net = timm.create_model("test_resnet", num_classes=0)
    with pytest.raises(SeedHubError, match="its weights were not loaded"):
        check_teacher(teacher(net), IMAGES)


def test_embeddings_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SeedHubError, match="embeddings that are not finite"):
        check_teacher(saying(lambda x: x.flatten(1)[:, :8].log().sqrt()), IMAGES)


def test_a_teacher_that_says_the_same_of_all_images_is_refused() -> None:
    def nearly_constant(x: Tensor) -> Tensor:
        return torch.ones(len(x), 8) + 1e-8 * x.flatten(1)[:, :8]

    def on_a_line(x: Tensor) -> Tensor:
        return torch.arange(1.0, 9.0) * x.mean((1, 2, 3))[:, None]

    for function in (nearly_constant, on_a_line):
        with pytest.raises(SeedHubError, match=r"nearly the same of 12 images \(effective rank 1.0"):
            check_teacher(saying(function), IMAGES)


def test_a_teacher_whose_neighbours_are_chance_is_refused() -> None:
    def hashed(x: Tensor) -> Tensor:
        seeds = (x.double() * torch.arange(x[0].numel()).view(x.shape[1:])).sum((1, 2, 3))
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(int(s * 1e6) % 2**31)) for s in seeds]
        return torch.stack(rows)

    with pytest.raises(SeedHubError, match="does not know 12 images again when they are mirrored"):
        check_teacher(saying(hashed), IMAGES)
    check_teacher(saying(hashed), IMAGES, flips=False)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(SeedHubError, match="2 images are too few"):
        check_teacher(teacher(network()), IMAGES[:2])


def test_effective_rank_of_known_spectra() -> None:
    corners = torch.cat([torch.eye(6), -torch.eye(6)])  # six directions, all alike
    assert effective_rank(corners + 5) == pytest.approx(6)
    assert effective_rank(torch.ones(4, 3)) == 1
    line = torch.outer(torch.arange(5.0), torch.rand(3) + 1)
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)


def test_flip_agreement_of_known_cases() -> None:
    z = torch.eye(5)
    assert flip_agreement(z, 3 * z) == 1
    assert flip_agreement(z, torch.ones(5, 5)) == 0.5
    rolled = flip_agreement(z, z.roll(1, 0))  # of 4 others, the one that it was taken for is nearer, 3 tie
    assert rolled == pytest.approx((0 + 3 / 2) / 4)


def test_info_says_what_will_be_used_of_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    from seed_hub.cli import main

    save_file(network().state_dict(), tmp_path / "vicreg.safetensors")
    spec = f"file:{tmp_path / 'vicreg.safetensors'}?arch=test_resnet&mean=0.5&std=0.25&size=48"
    assert main(["info", spec, "--json"]) == 0
    said = capsys.readouterr().out
    for line in ("VICReg", "mean 0.5 0.5 0.5, std 0.25 0.25 0.25", "[B, 3, 48, 48]", "avg", "effective rank"):
        assert line in said
    assert '"input_size": 48' in said.splitlines()[-1]
    assert "not known: ask its authors" in said
    assert main(["info", "nowhere:resnet50"]) == 2
