"""Convolutions as products of matrices: the same numbers and gradients as torch's, where they are used and where not."""

import copy

import pytest
import timm
import torch
from torch import nn

from seed_hub import cpu_kernels
from seed_hub.cpu_kernels import SmallMapConv2d, prepare_for_cpu, use_products

SHAPES = [  # channels in, out, kernel, stride, padding, side
    (8, 16, 1, 1, 0, 3),
    (8, 16, 1, 2, 0, 5),
    (8, 16, 1, 1, 1, 2),
    (8, 16, 3, 1, 1, 3),
    (8, 16, 3, 2, 1, 4),
    (8, 16, 3, 2, 1, 5),
    (3, 4, 5, 3, 2, 7),
    (4, 4, (1, 3), (2, 1), (0, 1), 3),
    (4, 4, 3, 1, 0, 3),
]


@pytest.fixture
def products(monkeypatch):
    """Counts the products; every size is small enough."""
    calls = []
    real = cpu_kernels._MatrixConvolution.apply

    def counted(*args):
        calls.append(args[0].shape)
        return real(*args)

    monkeypatch.setattr(cpu_kernels._MatrixConvolution, "apply", counted)
    everything = {torch.bfloat16: (99, 99), torch.float32: (99, 99), torch.float64: (99, 99)}
    monkeypatch.setattr(cpu_kernels, "LARGEST_MAP", everything)
    return calls


@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_torch_in_value_and_gradient(shape, last, products):
    channels, out, kernel, stride, padding, side = shape
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    theirs = nn.Conv2d(channels, out, kernel, stride, padding).double().to(memory_format=layout)
    ours = copy.deepcopy(theirs)
    use_products(ours)
    assert type(ours) is SmallMapConv2d
    x = torch.randn(6, channels, side, side, dtype=torch.float64).to(memory_format=layout)
    results = []
    for layer in (theirs, ours):
        pixels = x.clone().requires_grad_()
        y = layer(pixels)
        (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
        results.append((y, pixels.grad, layer.weight.grad, layer.bias.grad))
    assert len(products) == 1
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_a_network_under_autocast_stays_as_near_to_float64_as_torchs(products):
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv3_large_100", num_classes=0).eval()
    ours = copy.deepcopy(network)
    prepare_for_cpu(ours, "bf16")
    x = torch.rand(4, 3, 64, 64)
    truth = copy.deepcopy(network).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        errors = [(run(x).double() - truth).norm() / truth.norm() for run in (network, ours)]
    assert len(products) > 20
    assert errors[1] < 1.5 * errors[0] < 0.2


def test_gradients_are_kept_in_the_weights_own_precision(products):
    layer = nn.Conv2d(8, 4, 3, padding=1)
    use_products(layer)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(2, 8, 2, 2))
    y.float().sum().backward()
    assert (y.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    assert products


def test_large_maps_and_other_precisions_are_left_to_onednn(monkeypatch):
    layer = nn.Conv2d(8, 4, 3, padding=1).half()
    use_products(layer)
    monkeypatch.setattr(cpu_kernels._MatrixConvolution, "apply", lambda *_: pytest.fail("a product"))
    layer(torch.randn(2, 8, 2, 2).half())
    layer.float()(torch.randn(2, 8, 32, 32))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3, dilation=2),
        nn.Conv2d(8, 6, 3, padding="same"),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding="same", groups=8),
        nn.Conv2d(8, 8, 3, dilation=2, padding=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
    ],
    ids=str,
)
def test_other_convolutions_are_left_to_torch(layer, products, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "_taps", lambda *_: pytest.fail("pair by pair"))
    x = torch.randn(2, 8, 5, 5)
    expected = layer(x)
    prepare_for_cpu(layer, "fp32")
    torch.testing.assert_close(layer(x), expected)
    assert not products


def test_subclasses_are_left_alone():
    other = type("Other", (nn.Conv2d,), {})
    layer = other(8, 8, 3)
    use_products(layer)
    assert type(layer) is other


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "side"), [(5, 1, 1), (5, 1, 2), (3, 1, 2), (5, 2, 4), (3, 2, 3), (3, 2, 2)]
)
def test_depthwise_pair_by_pair_is_the_same(kernel, stride, side, bias, monkeypatch):
    theirs = nn.Conv2d(12, 12, kernel, stride, kernel // 2, groups=12, bias=bias).double()
    ours = copy.deepcopy(theirs)
    prepare_for_cpu(ours, "bf16")
    used = []
    real = cpu_kernels._taps
    monkeypatch.setattr(cpu_kernels, "_taps", lambda *a: used.append(a) or real(*a))
    x = torch.randn(3, 12, side, side)
    results = []
    for layer in (theirs, ours.float()):
        pixels = x.to(layer.weight.dtype).requires_grad_()
        y = layer(pixels)
        (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum().backward()
        results.append((y, pixels.grad, *(p.grad for p in layer.parameters())))
    assert len(used) == 1
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_by_torch():
    layer = nn.Conv2d(8, 4, 1)
    use_products(layer)
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.randn(2, 6, 2, 2))


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_is_fused_only_where_that_is_faster(precision, fused):
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0)
    ours = copy.deepcopy(theirs)
    prepare_for_cpu(ours, precision)
    assert {m.fused_attn for m in ours.modules() if hasattr(m, "fused_attn")} == {fused}
    x = torch.rand(2, 3, 160, 160)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
