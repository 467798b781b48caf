"""DINO's projection head (Caron et al., ICCV 2021, arXiv 2104.14294): an MLP to a bottleneck, then prototypes.

    h    = MLP(x)                             d -> hidden -> hidden -> bottleneck, GELU between, no batch norm
    l_k  = g_k  h / |h| . v_k / |v_k|         k = 1 ... K

The two halves are apart because the first ships beside the student (:mod:`seed_hub.projection` describes it) and the
second, far larger, is of no use without its loss.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


def bottleneck_mlp(width: int, hidden: int, bottleneck: int) -> nn.Sequential:
    """MLP ``width -> hidden -> hidden -> bottleneck`` with GELU between; weights start at 0.02, biases at 0."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise([width, hidden, hidden, bottleneck]):
        layer = nn.Linear(a, b)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Prototypes(nn.Module):
    """The weight-normalised last layer: cosines to K directions, each times its own gain.

    Direction and gain are plain parameters and the weight is made anew in each forward. So it is copied, averaged and
    resumed as any other layer; torch's ``weight_norm`` hook keeps the made weight, and ``deepcopy`` refuses that.

    Args:
        width: of the bottleneck.
        count: K.
        unit: gains stay at 1 and are not trained.
    """

    def __init__(self, width: int, count: int, *, unit: bool = False) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(count, width).uniform_(-(width**-0.5), width**-0.5))
        # [K, 1] and not [K]: AdamW decays it, as the released code does.
        self.gain = nn.Parameter(torch.ones(count, 1), requires_grad=not unit)

    def forward(self, x: Tensor) -> Tensor:
        """``[R, width]`` -> ``[R, K]``, in float32 (float64 for float64 input) also under autocast: a temperature of 0.04
        turns bf16's rounding of a cosine, up to 0.002, into 5 % of a probability."""
        with torch.autocast(x.device.type, enabled=False):
            exact = torch.float64 if x.dtype == torch.float64 else torch.float32
            weight = self.gain * normalize(self.direction, dim=1)  # [K, width]
            return linear(normalize(x.to(exact), dim=1), weight.to(exact))
