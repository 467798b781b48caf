"""Training on CPUs: the same sums in an order that takes less time.

oneDNN's kernels are made for large pictures. On the small maps at the end of a network, and of small pictures nearly
everywhere, its gradient of the weights was measured at 15 GFLOP/s, where a product of matrices reaches hundreds; and its bf16
backward pass of depthwise convolutions is many times slower than the one in float32.

    rows = patches(x)                  [B * H' * W', k * k * C]
    y    = rows W^T,   dW = dy^T rows,   dx = sum over the patches of dy W

    depthwise: y_q = sum over p of x_p w_pq,   w_pq the tap that position q has over position p

Legend: B images, C and C' channels in and out, H x W and H' x W' positions in and out, k side of the kernel, s stride, p padding.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

# Positions of the output, H' * W', up to which a product of matrices takes less time than oneDNN, forward and backward
# together: of (k = 1, k > 1), by the precision it is computed in. In others it is oneDNN's.
LARGEST_MAP = {torch.bfloat16: (64, 16), torch.float32: (9, 9)}
MOST_PAIRS = (
    64  # of positions, H W H' W', up to which the same holds of a depthwise convolution taken pair by pair
)


class Float32DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that computes in float32 under autocast, and gives what came in: bf16 for bf16.

    On CPUs oneDNN's bf16 backward of 5 x 5 depthwise convolutions is up to 18 times slower than float32; norms and
    activations after it are memory traffic, half as much in bf16 (a MobileNetV3-Large's step at 64 px: 1.1 times faster).
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            pairs = _positions(self, x) * math.prod(x.shape[2:])
            small = 0 < pairs <= MOST_PAIRS and self.out_channels == self.in_channels
            return (self._pair_by_pair if small else super().forward)(x.float()).to(x.dtype)

    def _pair_by_pair(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        find = (
            _find_taps if torch.compiler.is_compiling() else _taps
        )  # Dynamo warns of caches, and needs none
        taps, shape = find((height, width), self.kernel_size, self.stride, self.padding)
        weight = pad(self.weight.flatten(1).t(), (0, 0, 0, 1))  # [k * k + 1, C]: no tap is zero
        pairs = weight[taps].view(math.prod(shape), height * width, channels)
        y = (x.permute(0, 2, 3, 1).reshape(batch, 1, -1, channels) * pairs).sum(2)  # [B, H' * W', C]
        y = y.view(batch, *shape, channels).permute(0, 3, 1, 2)
        return y if self.bias is None else y + self.bias[:, None, None]


class SmallMapConv2d(nn.Conv2d):
    """A convolution that is a product of matrices where its output is small, and oneDNN's elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        pointwise, others = LARGEST_MAP.get(dtype, (0, 0))
        largest = pointwise if self.kernel_size == (1, 1) else others
        if x.device.type != "cpu" or not 0 < _positions(self, x) <= largest:
            return super().forward(x)
        y = _MatrixConvolution.apply(x.to(dtype), self.weight.to(dtype), self.stride, self.padding)
        return y if self.bias is None else y + self.bias.to(dtype)[:, None, None]


def prepare_for_cpu(module: nn.Module, precision: str) -> None:
    """Make ``module`` train well on a CPU in ``precision``, fp32 or bf16, in place; its parameters and their names are
    untouched."""
    for child in module.modules():
        if type(child) is nn.Conv2d and is_depthwise(child):
            child.__class__ = Float32DepthwiseConv2d
        elif precision == "bf16" and getattr(child, "fused_attn", False):
            # torch's fused attention has a backward pass in bf16 that takes twice (197 tokens) to six times (10) as long as
            # timm's own lines of matrix products.
            child.fused_attn = False  # type: ignore[assignment]
    use_products(module)


def use_products(network: nn.Module) -> None:
    """Let the convolutions of all channels together be :class:`SmallMapConv2d`, in place; parameters and their names are
    untouched. Subclasses are left alone: they may do something else."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == 1:
            module.__class__ = SmallMapConv2d


def is_depthwise(module: nn.Module) -> bool:
    """A convolution of each channel by itself."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def _positions(layer: nn.Conv2d, x: Tensor) -> int:
    """H' * W'; 0 for what is left to torch: holes, edges other than zeros, pictures that are none of this layer's."""
    if x.dim() != 4 or x.shape[1] != layer.in_channels or layer.dilation != (1, 1):
        return 0
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return 0
    shape = _out_shape(x.shape[2:], layer.kernel_size, layer.stride, layer.padding)
    return math.prod(shape) if len(x) and min(shape) > 0 else 0


def _out_shape(sides: Any, kernel: Any, stride: Any, padding: Any) -> tuple[int, ...]:
    """(H', W')"""
    each = zip(sides, kernel, stride, padding, strict=True)
    return tuple((side + 2 * p - k) // s + 1 for side, k, s, p in each)


def _find_taps(sides: Any, kernel: Any, stride: Any, padding: Any) -> tuple[Tensor, tuple[int, ...]]:
    """(of each pair of positions, out and in, the tap's place in the kernel, k * k where there is none: ``[H' W' H W]``,
    (H', W'))."""
    shape = _out_shape(sides, kernel, stride, padding)
    offsets = [
        torch.arange(side) - (torch.arange(out) * s - p)[:, None]  # [H', H] and [W', W]
        for side, out, s, p in zip(sides, shape, stride, padding, strict=True)
    ]
    down, right = offsets[0][:, None, :, None], offsets[1][None, :, None, :]
    there = (down >= 0) & (down < kernel[0]) & (right >= 0) & (right < kernel[1])
    return torch.where(there, down * kernel[1] + right, math.prod(kernel)).flatten(), shape


@cache
def _taps(sides: Any, kernel: Any, stride: Any, padding: Any) -> tuple[Tensor, tuple[int, ...]]:
    with torch.inference_mode(False):  # they may be used in a training step later
        return _find_taps(sides, kernel, stride, padding)


class _MatrixConvolution(torch.autograd.Function):
    """``conv2d(x, weight)``; the patches are made again for the gradient: they are k * k times the picture."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        view = _patches(x, weight.shape[2:], stride, padding)
        batch, height, width = view.shape[:3]
        y = view.reshape(batch * height * width, -1) @ _as_matrix(weight).t()
        return y.view(batch, height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        kernel = weight.shape[2:]
        rows = grad.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])  # [B * H' * W', C']
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _sum_patches(rows @ _as_matrix(weight), x.shape, grad.shape, kernel, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            view = _patches(x, kernel, ctx.stride, ctx.padding)
            dweight = rows.t() @ view.reshape(len(rows), -1)
            dweight = dweight.view(weight.shape[0], *kernel, -1).permute(0, 3, 1, 2)
        return dx, dweight, None, None


def _as_matrix(weight: Tensor) -> Tensor:
    """``[C', C, k, k]`` as ``[C', k * k * C]``: a view where channels are last in memory."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _patches(x: Tensor, kernel: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """``[B, C, H, W]`` -> ``[B, H', W', k, k, C]``, a view of the padded picture."""
    nhwc = x.permute(0, 2, 3, 1)
    if any(padding):
        nhwc = pad(nhwc, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    return nhwc.unfold(1, kernel[0], stride[0]).unfold(2, kernel[1], stride[1]).permute(0, 1, 2, 4, 5, 3)


def _sum_patches(
    rows: Tensor, shape: Any, out: Any, kernel: Any, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """``[B * H' * W', k * k * C]`` -> ``[B, C, H, W]``: what the patches say of each position, added up in float32."""
    (batch, channels, height, width), (vertical, horizontal) = shape, padding
    rows = rows.view(batch, *out[2:], *kernel, channels)
    if tuple(kernel) == tuple(stride) == (1, 1) and not any(padding):
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
    total = rows.new_zeros(
        batch,
        height + 2 * vertical,
        width + 2 * horizontal,
        channels,
        dtype=torch.promote_types(rows.dtype, torch.float32),
    )
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            down, right = (
                slice(i, i + stride[0] * out[2], stride[0]),
                slice(j, j + stride[1] * out[3], stride[1]),
            )
            total[:, down, right] += rows[:, :, :, i, j]
    inner = total[:, vertical : vertical + height, horizontal : horizontal + width]
    return inner.to(rows.dtype).permute(0, 3, 1, 2)
