"""The seam: every network, student or teacher, as pixels in [0, 1] -> Features.

Legend: B batch, H W height and width, D pooled width, P projected width, T tokens, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from seed_hub.errors import SeedHubError, nearest
from seed_hub.students.student import AS_EVALUATED

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Features:
    """What an encoder says of a batch of images."""

    pooled: Tensor
    """``[B, D]``: what k-NN, linear probes and the classifier see; pooled the network's own way."""
    tokens: Tensor | None = None
    """``[B, T, C]``: the last map's positions (or patch tokens, without class and register tokens)."""
    logits: Tensor | None = None
    """``[B, classes]``, when the network has a classifier."""
    projected: Tensor | None = None
    """``[B, P]``: the projection head's output, when the encoder carries one."""
    stages: list[Tensor] = field(default_factory=list)
    """One ``[B, C_i, H_i, W_i]`` per stage, shallow to deep; only when asked for."""

    @property
    def embedding(self) -> Tensor:
        """``[B, P]`` projected if the encoder has a head, else pooled ``[B, D]``: what a student is compared with."""
        return self.pooled if self.projected is None else self.projected

    def chunk(self, n: int) -> list[Features]:
        """Of a batch of n equal parts, what was said of each."""
        parts: dict[str, Any] = {
            name: [None] * n if (value := getattr(self, name)) is None else value.chunk(n)
            for name in ("pooled", "tokens", "logits", "projected")
        }
        stages = [stage.chunk(n) for stage in self.stages]
        return [
            Features(**{name: part[i] for name, part in parts.items()}, stages=[s[i] for s in stages])
            for i in range(n)
        ]

    def float(self) -> Features:
        """The same in float32."""
        optional = {
            name: None if (value := getattr(self, name)) is None else value.float()
            for name in ("tokens", "logits", "projected")
        }
        return Features(self.pooled.float(), stages=[stage.float() for stage in self.stages], **optional)


class Encoder(nn.Module):
    """A timm network with its normalisation inside.

    Args:
        backbone: a timm model.
        arch: its plain timm name.
        name: what the user called it.
        mean, std: per channel, for pixels in [0, 1].
        input_size: side in pixels it was made for.
        head: projection head applied to ``pooled``, if it belongs to the encoder.
        classifier: what makes ``logits`` of ``pooled``, for a network without a classifier of its own.
        licence: terms of the weights, if known.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        backbone: Any,  # of timm, whose methods nn.Module's types do not know
        *,
        arch: str,
        name: str | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        input_size: int = 224,
        head: nn.Module | None = None,
        classifier: nn.Module | None = None,
        licence: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.arch = arch
        self.name = name or arch
        self.input_size = input_size
        self.licence = licence
        self.head = head
        self.classifier = classifier
        # The order of a Normalize, folded: x * scale + shift.
        scale = 1.0 / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-torch.tensor(mean) * scale).view(1, -1, 1, 1), persistent=False)
        self.mean, self.std = tuple(mean), tuple(std)
        # MobileNetV3-Large: num_features is 960, the pooled embedding 1280 (`head_hidden_size`).
        self.width: int = getattr(backbone, "head_hidden_size", None) or backbone.num_features  # type: ignore[assignment]
        self._classifies = (getattr(backbone, "num_classes", 0) or 0) > 0

    def forward(self, pixels: Tensor, *, stages: bool = False) -> Features:
        """``pixels`` ``[B, 3, H, W]`` in [0, 1] (float) -> :class:`Features`."""
        x = self.normalise(pixels)
        maps: list[Tensor] = []
        if stages:
            last, maps = self.backbone.forward_intermediates(x)
        else:
            last = self.backbone.forward_features(x)
        pooled = self.backbone.forward_head(last, pre_logits=True)  # [B, D]
        classify = self.backbone.get_classifier() if self._classifies else self.classifier
        return Features(
            pooled=pooled,
            tokens=_tokens(
                last,
                getattr(self.backbone, "num_prefix_tokens", 0),
                getattr(self.backbone, "output_fmt", "NCHW"),
            ),
            logits=None if classify is None else classify(pooled),
            projected=self.head(pooled) if self.head is not None else None,
            stages=list(maps),
        )

    def normalise(self, pixels: Tensor) -> Tensor:
        """As the backbone wants them.

        Raises:
            SeedHubError: of another type or shape: bytes would be 255 times too bright, and one channel or image would be
                broadcast. Values are not looked at, which would wait for the device.
        """
        if not (
            pixels.ndim == 4
            and pixels.is_floating_point()
            and self.scale.shape[1] in (1, pixels.shape[1])  # one mean may be for all channels
        ):
            given = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
            raise SeedHubError(
                f"{self.name} was given {given}: give it a batch of floats [B, {self.scale.shape[1]}, H, W] in [0, 1], such as "
                "bytes divided by 255."
            )
        return pixels * self.scale + self.shift


class Frozen(nn.Module):
    """An encoder for reading only: eval mode for good, no gradients, nothing to save."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def licence(self) -> str | None:
        return self.encoder.licence

    @property
    def input_size(self) -> int:
        return self.encoder.input_size

    def train(self, mode: bool = True) -> Frozen:
        """Stays in eval mode whatever is asked: batch norm of a teacher must not drift."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor, *, stages: bool = False) -> Features:
        return self.encoder(pixels, stages=stages)

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [0, 1] -> ``[B, P]``, see :attr:`Features.embedding`."""
        return self.encoder(pixels).embedding


def _tokens(last: Tensor, prefix: int, layout: str) -> Tensor | None:
    """The last map as positions ``[B, T, C]``: maps are flattened, class and register tokens dropped."""
    if last.ndim == 4:
        return last.flatten(1, 2) if layout == "NHWC" else last.flatten(2).transpose(1, 2)
    return last[:, prefix:] if last.ndim == 3 else None


def build_student(name: str, *, pretrained: bool = False, **timm_kwargs: Any) -> Encoder:
    """A headless student by zoo name (``seed_resnet18``, ``seed_resnet18.tag``) or any timm architecture.

    Without ``pretrained`` its residual branches start closed, see :func:`close_residual_branches`.

    Raises:
        SeedHubError: no such architecture; the nearest names are suggested.
    """
    from seed_hub.registration import register_with_timm

    register_with_timm()
    if not timm.is_model(name):
        raise SeedHubError(
            f'There is no student "{name}": `seed-hub list` names the zoo, and any timm architecture is taken.'
            + nearest(name.split(".")[0], [*timm.list_models("seed_*"), *timm.list_models()])
        )
    backbone = create_flexible(name, pretrained=pretrained, num_classes=0, **timm_kwargs)
    cfg = backbone.pretrained_cfg
    if not pretrained:
        close_residual_branches(backbone)
        cfg |= AS_EVALUATED
    return Encoder(
        backbone,
        arch=cfg.get("architecture") if not name.startswith("seed_") else plain_architecture(name),
        name=name,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
        input_size=cfg["input_size"][-1],
        licence=cfg.get("license") if pretrained else None,
    )


def create_flexible(name: str, **timm_kwargs: Any) -> Any:
    """timm's model of that name; a ViT or Swin takes images of any side, by interpolating its position embeddings, and
    keeps the weights of the side it was made for."""
    backbone: Any = timm.create_model(name, **timm_kwargs)
    if getattr(backbone, "dynamic_img_size", True) or "dynamic_img_size" in timm_kwargs:
        return backbone
    return timm.create_model(name, **timm_kwargs, dynamic_img_size=True)


def close_residual_branches(backbone: nn.Module) -> None:
    """Set the last norm of every residual branch to zero, so that each block starts as the identity (Goyal et al. 2017).

    timm does so for ResNets, not for the MobileNet and EfficientNet families, whose untrained embedding hardly depends on
    the image: MobileNetV3-Large agreed with 14 % of its teacher's neighbours after 16,000 images with open branches, with
    28 % after closing them.
    """
    for block in backbone.modules():
        if getattr(block, "has_skip", False):  # timm's inverted residuals, of any kind
            for norm in [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)][-1:]:
                nn.init.zeros_(norm.weight)


def plain_architecture(name: str) -> str:
    """The timm architecture behind a zoo name: ``seed_mobilenetv3_large.tag`` -> ``mobilenetv3_large_100``."""
    from seed_hub import catalog

    return catalog.students()[name.split(".")[0]].base
