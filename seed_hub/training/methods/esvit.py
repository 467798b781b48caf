"""EsViT: multi-crop self-distillation of views and of regions (Li et al., ICLR 2022, arXiv 2106.09785).

    p_t    = softmax((l_t - c) / tau_t)        p_s = softmax(l_s / tau_s)
    L_V    = mean over pairs (t, s), s != t, and images of       - sum_k p_t(k) log p_s(k)
    L_R    = mean over pairs, images and regions i of s of       - sum_k p_t(k | j*) log p_s(k | i)
    j*(i)  = argmax_j cos(f_t_j, f_s_i)
    loss   = (1 - w) L_V + w L_R               w = 0 is DINO (Caron et al., ICCV 2021, arXiv 2104.14294)
    after each step:   theta_t <- m theta_t + (1 - m) theta_s        c <- m_c c + (1 - m_c) mean of l_t

t runs over the 2 global views, s over all V crops. l are the logits of a head (:mod:`~seed_hub.training.dino_head`) on
the pooled features, and of another one on each region; f are the regions' own features, before the head. What makes
l_t, "the momentum encoder", is a moving average of the student, heads included.

Made for transformers of several stages (timm's swin_tiny_patch4_window7_224; pvt_v2_b0 is a small one), and any network
with a last map has regions.

Where we differ:
- Crops are resized bilinearly, not bicubically; the views are the released code's in all else.
- The optimiser is the run's; the released recipe: `--optimizer adamw --weight-decay 0.04 --weight-decay-end 0.4 --clip 3`,
  and its clipping is of each tensor, here of all together.
- Local crops may be left out (the released region loss fails without), and their side follows the run's.
- tau_t rises per step (released code: per epoch). w = 0.5 is the released code's; the paper writes L_V + L_R.

Legend: B images, V crops, G and L regions of a global and of a local crop, R rows, K prototypes, C region width.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features
from seed_hub.errors import SeedHubError
from seed_hub.training.crop_losses import GLOBAL, moved_center, region_loss, view_loss
from seed_hub.training.dino_head import Prototypes, bottleneck_mlp
from seed_hub.training.method import Batch, Method, Task, move_average
from seed_hub.training.processes import gather
from seed_hub.training.views import ViewSettings

PRESETS = {"dino": {"region_weight": 0.0}}


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of EsViT and DINO."""

    region_weight: float = 0.5
    """w, share of the region loss in the loss; 0: views only (DINO)"""
    local_crops: int = 8
    """local crops of each image, beside the two global views"""
    local_size: int = 0
    """side of the local crops in pixels; 0: about 96 for 224, in proportion for another --size, a multiple of 16"""
    local_scale: tuple[float, ...] = (0.05, 0.4)
    """share of the image's area that a local crop shows, least and most"""
    global_scale: tuple[float, ...] = (0.4, 1.0)
    """share of the image's area that a global view shows, least and most; never less than the run's --crop-min"""
    out_dim: int = 65536
    """K, prototypes of each head; what the loss costs is proportional to it"""
    hidden_width: int = 2048
    """width of the heads' two hidden layers"""
    bottleneck_width: int = 256
    """width of the embedding that is compared with the prototypes"""
    norm_last_layer: bool = False
    """prototypes stay at unit length, which steadies large networks"""
    freeze_last_layer: float = 0.0033  # 1 of 300 epochs
    """share of the run, from its start, in which the prototypes do not move"""
    student_temperature: float = 0.1
    """tau_s, softmax temperature of the student's logits"""
    teacher_temperature: float = 0.07
    """tau_t, softmax temperature of the momentum encoder's logits, after the warm-up"""
    first_teacher_temperature: float = 0.04
    """tau_t at the start; rises linearly"""
    warmup: float = 0.1  # 30 of 300 epochs
    """share of the run in which tau_t rises"""
    first_momentum: float = 0.996
    """m at the start, share of the moving average that is kept at each step; rises to 1 by a half cosine"""
    center_momentum: float = 0.9
    """m_c, share of the centres that is kept at each step"""


class Esvit(Method):
    """A student that matches its own moving average across crops, as a whole and region by region."""

    Settings = Settings
    needs_teacher = False
    head: nn.Sequential
    view_center: Tensor
    region_center: Tensor

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        if not 0 <= settings.region_weight <= 1:
            raise SeedHubError(f"--region-weight is {settings.region_weight}: it must be from 0 to 1.")
        if settings.local_crops < 0:
            raise SeedHubError(f"--local-crops is {settings.local_crops}: it must be 0 or more.")
        regions = self._region_width()
        s, self._parts = settings, ["student", "head", "prototypes"]
        self.head = bottleneck_mlp(student.width, s.hidden_width, s.bottleneck_width)
        self.prototypes = Prototypes(s.bottleneck_width, s.out_dim, unit=s.norm_last_layer)
        self.register_buffer("view_center", torch.zeros(1, s.out_dim))
        if s.region_weight:
            self._parts += ["region_head", "region_prototypes"]
            self.region_head = bottleneck_mlp(regions, s.hidden_width, s.bottleneck_width)
            self.region_prototypes = Prototypes(s.bottleneck_width, s.out_dim, unit=s.norm_last_layer)
            self.register_buffer("region_center", torch.zeros(1, s.out_dim))
        self.momentum = _momentum_copy(self._own())

    def _own(self) -> dict[str, nn.Module]:
        """What is trained, by the names of its moving average."""
        return {name: getattr(self, name) for name in self._parts}

    @torch.no_grad()
    def _region_width(self) -> int:
        """C, asked of the student at the smallest side it will see; refused here, not at the first step."""
        whole, training = self.student.input_size, self.student.training
        side = self._local_side(whole) if self.settings.local_crops else whole
        try:
            tokens = self.student.eval()(torch.zeros(1, 3, side, side)).tokens
        except (RuntimeError, AssertionError, ValueError) as error:
            raise SeedHubError(
                f'The student "{self.student.name}" does not take local crops of {side} px: choose another --local-size, '
                "--local-crops 0, or another student."
            ) from error
        finally:
            self.student.train(training)
        if tokens is None and self.settings.region_weight:
            raise SeedHubError(
                f'The student "{self.student.name}" has no regions to compare: choose --region-weight 0, or another student.'
            )
        return 0 if tokens is None else tokens.shape[2]

    def _local_side(self, whole: int) -> int:
        # 16: what patches and strides divide. Students that share a loop share its views, so it is not theirs to say.
        return self.settings.local_size or max(8, 16 * round(whole * 96 / 224 / 16))

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        s, whole = self.settings, replace(whole, saturation=0.2)
        least, most = s.global_scale
        large = replace(whole, scale=(max(least, whole.scale[0]), most))
        least, most = s.local_scale
        small = replace(whole, scale=(least, most), size=self._local_side(whole.size), blur_p=0.5)
        both = [replace(large, blur_p=1.0), replace(large, blur_p=0.1, solarize_p=0.2)]
        return both + [small] * s.local_crops

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        s, sides = self.settings, [torch.cat(batch.views[:GLOBAL])]
        with torch.no_grad():
            seen_t = [self.momentum["student"](sides[0])]
            l_t = _view_logits(self.momentum, seen_t)  # [2 B, K]
        if s.local_crops:
            sides.append(torch.cat(batch.views[GLOBAL:]))  # one pass for all crops of a side
        seen_s = [self.student(crops) for crops in sides]
        l_s = _view_logits(self._own(), seen_s)  # [V B, K]
        known = {
            "student_temperature": s.student_temperature,
            "teacher_temperature": self.temperature,
            "n_crops": len(batch.views),
        }
        loss = view_loss(l_s, l_t, self.view_center, **known)
        outputs = {"loss": loss, "view_mean": l_t.mean(0, keepdim=True)}
        if s.region_weight:
            regions, outputs["region_mean"] = self._compare_regions(seen_s, seen_t, known)
            outputs |= {"view_loss": loss, "region_loss": regions}
            outputs["loss"] = (1 - s.region_weight) * loss + s.region_weight * regions
        return outputs

    def _compare_regions(
        self, seen_s: list[Features], seen_t: list[Features], known: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """L_R, and the mean ``[1, K]`` of the momentum encoder's logits."""
        with torch.no_grad():
            l_t, f_t, (g,) = _region_logits(self.momentum, seen_t)
        l_s, f_s, counts = _region_logits(self._own(), seen_s)
        known = known | {"regions_global": g, "regions_local": counts[-1]}
        loss = region_loss(l_s, l_t, f_s, f_t, self.region_center, **known)
        return loss, l_t.mean(0, keepdim=True)

    def before_step(self) -> None:
        if self.progress < self.settings.freeze_last_layer:
            for name in self._parts:
                if name.endswith("prototypes"):
                    for parameter in getattr(self, name).parameters():
                        parameter.grad = None

    @torch.no_grad()
    def after_step(self, outputs: dict[str, Tensor]) -> None:
        keep = self.settings.center_momentum
        # One row for each part of the batch on each process, all of as many images.
        self.view_center.copy_(moved_center(self.view_center, gather(outputs["view_mean"]), keep))
        if "region_mean" in outputs:
            self.region_center.copy_(moved_center(self.region_center, gather(outputs["region_mean"]), keep))
        for name, average in self.momentum.items():
            move_average(average, getattr(self, name), self.average_momentum)

    @property
    def temperature(self) -> float:
        """tau_t of this step."""
        s = self.settings
        risen = min(1.0, self.progress / s.warmup) if s.warmup else 1.0
        return s.first_teacher_temperature + risen * (s.teacher_temperature - s.first_teacher_temperature)

    @property
    def average_momentum(self) -> float:
        """m of this step."""
        return 1 - (1 - self.settings.first_momentum) * (1 + math.cos(math.pi * self.progress)) / 2


def _view_logits(network: Any, seen: list[Features]) -> Tensor:
    """``[R, K]``, a row for each image of each crop."""
    return network["prototypes"](network["head"](torch.cat([features.pooled for features in seen])))


def _region_logits(network: Any, seen: list[Features]) -> tuple[Tensor, Tensor, list[int]]:
    """Logits ``[R, K]`` and features ``[R, C]``, a row for each region; regions of one crop, for each side."""
    tokens = [features.tokens for features in seen if features.tokens is not None]
    feat = torch.cat([t.flatten(0, 1) for t in tokens])
    return network["region_prototypes"](network["region_head"](feat)), feat, [t.shape[1] for t in tokens]


def _momentum_copy(parts: dict[str, nn.Module]) -> nn.ModuleDict:
    """Where the moving average starts. Nothing is dropped in it: its targets are those of the whole network."""
    average = nn.ModuleDict(copy.deepcopy(parts)).requires_grad_(False)
    for layer in average.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
        elif isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return average
