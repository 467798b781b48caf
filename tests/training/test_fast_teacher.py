"""A teacher rewritten for speed says what it said before."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import timm
import torch
from torch import nn

from seed_hub.encoder import Encoder, Frozen
from seed_hub.training.fast_teacher import at_its_limit, fold_batch_norms

BF16 = torch.bfloat16


def frozen(arch: str, **kwargs) -> Frozen:
    """With batch norms that do something."""
    torch.manual_seed(0)
    network = timm.create_model(arch, num_classes=0, **kwargs)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return Frozen(Encoder(network, arch=arch))


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "test_resnet"])
def test_every_batch_norm_is_folded_and_nothing_changes(arch):
    teacher, pixels = frozen(arch), torch.rand(3, 3, 64, 64)
    fast = at_its_limit(teacher, pixels, nullcontext, torch.float32)
    assert norms(teacher) > 0 and norms(fast) == 0
    torch.testing.assert_close(fast.embed(pixels), teacher.embed(pixels), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arch", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "convnext_atto"]
)
def test_weights_in_bf16_keep_the_direction_of_the_embedding(arch):
    teacher, pixels = frozen(arch), torch.rand(2, 3, 224, 224)
    autocast = lambda: torch.autocast("cpu", BF16)  # noqa: E731
    fast = at_its_limit(teacher, pixels, autocast, BF16)
    assert fast is not teacher
    stored = {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Linear)}
    stored |= {m.weight.dtype for m in fast.modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    assert stored == {BF16}
    with autocast():
        said = fast.embed(pixels).float()
    assert torch.cosine_similarity(said, teacher.embed(pixels)).min() > 0.999
    assert all(p.dtype == torch.float32 for p in teacher.parameters())


class Shared(nn.Module):
    """Its convolution's output goes to a norm, and past it; a second norm follows something else."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.other = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(3)
        self.num_features, self.num_classes = 4, 0
        for norm in (self.norm, self.other):
            norm.running_mean.fill_(0.5)
            nn.init.constant_(norm.weight, 2.0)

    def forward_features(self, x):
        made = self.convolution(self.other(x))
        return self.norm(made) + made

    def forward_head(self, x, pre_logits):
        return x.mean((2, 3))


def test_what_cannot_be_folded_is_found_out_and_used_as_it_is(caplog):
    teacher, pixels = Frozen(Encoder(Shared(), arch="shared")), torch.rand(2, 3, 8, 8)
    fast = at_its_limit(teacher, pixels, nullcontext, torch.float32)
    torch.testing.assert_close(fast.embed(pixels), teacher.embed(pixels))
    assert norms(fast) == 2


def test_a_norm_after_something_else_stays():
    teacher = Frozen(Encoder(Shared(), arch="shared"))
    assert fold_batch_norms(teacher, torch.rand(1, 3, 8, 8)) == 1
    assert norms(teacher) == 1


class Stubborn(Shared):
    """Refuses weights that are not float32."""

    def forward_features(self, x):
        if self.convolution.weight.dtype != torch.float32:
            raise RuntimeError("float32 only")
        return super().forward_features(x)


def test_a_network_that_cannot_be_rewritten_is_used_as_it_is_and_that_is_said(caplog):
    teacher = Frozen(Encoder(Stubborn(), arch="stubborn"))
    assert at_its_limit(teacher, torch.rand(2, 3, 8, 8), lambda: torch.autocast("cpu", BF16), BF16) is teacher
    assert "used as it is" in caplog.text
