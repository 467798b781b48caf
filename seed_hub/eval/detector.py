"""Faster R-CNN on an encoder: torchvision's, with timm's feature maps below it.

    fpn: maps of stride 4, 8, 16, 32 -> pyramid of 256 channels -> regions -> two linear layers     Lin et al. 2017
    c4:  map of stride 16 -> regions; the ResNet's last stage on each region, with one batch norm more   MoCo, SEED

Pixels are normalised once, by torchvision's transform with the encoder's own mean and deviation: it pads after that, and
so with the mean colour, as detectron2 does.

Legend: B images, C channels, H W padded height and width, R regions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from timm.layers.norm_act import freeze_batch_norm_2d
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper
from torchvision.transforms.v2.functional import horizontal_flip, pil_to_tensor
from torchvision.tv_tensors import BoundingBoxes

from seed_hub.data import Images
from seed_hub.data.boxes import Boxes
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.eval.features import pick_device
from seed_hub.machine import loading_processes

HEADS = ("fpn", "c4")
NORMS = ("train", "frozen")
STRIDES = {"fpn": (4, 8, 16, 32), "c4": (16,)}
PYRAMID_WIDTH = 256
ANCHORS = (32, 64, 128, 256, 512)  # px, of an image with a short side of 800: Lin et al.'s
RATIOS = (0.5, 1.0, 2.0)  # height / width


class InBf16(nn.Module):
    """A part of the detector in bf16 whose results are float32 again.

    Only networks run in it, never boxes: a coordinate of 1,000 px has no neighbour nearer than 4 px there.
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.out_channels = getattr(part, "out_channels", None)

    def forward(self, x: Any) -> Any:
        first = x[0] if isinstance(x, list) else x
        with torch.autocast(first.device.type, torch.bfloat16):
            return tree_map(Tensor.float, self.part(x))


class Trunk(nn.Module):
    """Normalised pixels ``[B, 3, H, W]`` -> feature maps ``[B, C_i, H / stride_i, W / stride_i]``, "0" the finest."""

    def __init__(self, backbone: Any, indices: list[int], *, out_channels: int) -> None:
        super().__init__()
        self.backbone, self.indices, self.out_channels = backbone, indices, out_channels
        convs = [part for part in backbone.modules() if isinstance(part, nn.Conv2d)]
        self.depthwise = any(conv.groups == conv.in_channels > 1 for conv in convs)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        # In bf16 a CPU takes several times as long over a depthwise convolution as in float32.
        as_it_is = torch.is_autocast_enabled(x.device.type) and not (
            self.depthwise and x.device.type == "cpu"
        )
        with torch.autocast(x.device.type, torch.bfloat16, enabled=as_it_is):
            maps = _maps(self.backbone, x, self.indices)
        return OrderedDict((str(level), each) for level, each in enumerate(maps))


class Pyramid(nn.Module):
    """The trunk's maps as a pyramid of equally wide ones, and a fifth of stride 64 for the largest anchors."""

    def __init__(self, trunk: Trunk, channels: list[int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.fpn = FeaturePyramidNetwork(channels, PYRAMID_WIDTH, extra_blocks=LastLevelMaxPool())
        self.out_channels = PYRAMID_WIDTH

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(self.trunk(x))


def build_detector(
    encoder: Encoder,
    classes: int,
    *,
    size: int = 800,
    longest: int = 1333,
    head: str = "fpn",
    norm: str = "train",
    rois: int = 512,
    precision: str = "fp32",
) -> FasterRCNN:
    """A detector whose trunk is ``encoder``'s own network: give a copy, it is built in.

    Args:
        classes: without the background.
        size, longest: the image's short side is scaled to ``size`` px, unless the long one then exceeds ``longest``.
        head: fpn or c4 (ResNets), see the top of this file.
        norm: train, or frozen: batch norm of the trunk keeps its statistics, weight and bias.
        rois: regions per image that the box head learns from.
        precision: fp32, or bf16 for trunk, pyramid, region proposals and box head (boxes and losses stay float32).

    Raises:
        SeedHubError: a network without feature maps of these strides, or c4 of one that is no ResNet.
    """
    backbone = encoder.backbone
    if head == "c4" and not isinstance(backbone, ResNet):
        raise SeedHubError(
            f"The c4 head is a ResNet's last stage, and {encoder.name} is none: use --head fpn."
        )
    indices, channels = _stages(encoder, STRIDES[head])
    if norm == "frozen":
        backbone = freeze_batch_norm_2d(backbone)
    # In proportion to the image, and none finer than the grid of its level.
    sides = [max(4.0 * 2**level, anchor * size / 800) for level, anchor in enumerate(ANCHORS)]
    trunk = Trunk(backbone, indices, out_channels=channels[-1])
    settings = {
        "min_size": size,
        "max_size": longest,
        "image_mean": encoder.mean,
        "image_std": encoder.std,
        "box_batch_size_per_image": rois,
    }
    detector = (
        _with_pyramid(trunk, channels, sides, classes, settings)
        if head == "fpn"
        else _c4(backbone, trunk, sides, classes, settings)
    )
    if precision == "bf16":
        detector.backbone = InBf16(detector.backbone)
        detector.rpn.head = InBf16(detector.rpn.head)
        detector.roi_heads.box_head = InBf16(detector.roi_heads.box_head)
    return detector


def _with_pyramid(
    trunk: Trunk, channels: list[int], sides: list[float], classes: int, settings: dict[str, Any]
) -> FasterRCNN:
    return FasterRCNN(
        Pyramid(trunk, channels),
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), (RATIOS,) * len(sides)),
        box_roi_pool=_region_pool(STRIDES["fpn"], 7, sampling_ratio=2),
        **settings,
    )


def _c4(
    backbone: Any, trunk: Trunk, sides: list[float], classes: int, settings: dict[str, Any]
) -> FasterRCNN:
    stage, backbone.layer4 = backbone.layer4, nn.Identity()  # it is the head's now, and no longer the trunk's
    width = backbone.num_features
    return FasterRCNN(
        trunk,
        rpn_anchor_generator=AnchorGenerator((tuple(sides),), (RATIOS,)),
        box_roi_pool=_region_pool(STRIDES["c4"], 14, sampling_ratio=0),  # 0: as many samples as pixels
        box_head=nn.Sequential(stage, nn.BatchNorm2d(width), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(width, classes + 1),
        **settings,
    )


def _region_pool(strides: tuple[int, ...], side: int, *, sampling_ratio: int) -> MultiScaleRoIAlign:
    """RoIAlign to ``side`` x ``side``, with the strides as they are.

    Left alone, torchvision guesses them from the first batch's height before padding: 67 px, padded to 96, would make
    stride 4 a 2.
    """
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides))], side, sampling_ratio)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = initLevelMapper(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)
    return pool


def _stages(encoder: Encoder, strides: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """(index, channels) of the deepest map of each stride, found by looking at one small image."""
    backbone, height, width = encoder.backbone, 64, 96
    mode = backbone.training
    try:
        with torch.no_grad():
            maps = _maps(backbone.eval(), torch.zeros(1, 3, height, width, device=encoder.scale.device), None)
    except Exception as error:  # each family says in its own way that it cannot
        raise SeedHubError(
            f"{encoder.name} gives no feature maps of images of any size ({error}): detection needs a network with "
            "stages, such as a ResNet, MobileNet or EfficientNet."
        ) from error
    finally:
        backbone.train(mode)
    found = {}
    for index, each in enumerate(maps):
        if each.ndim == 4 and height * each.shape[3] == width * each.shape[2]:
            found[height / each.shape[2]] = (index, each.shape[1])
    if absent := [stride for stride in strides if stride not in found]:
        raise SeedHubError(
            f"{encoder.name} has feature maps of stride {', '.join(f'{stride:g}' for stride in found) or 'none'}, and "
            f"none of stride {', '.join(map(str, absent))}: detection needs a network with stages, such as a ResNet, "
            "MobileNet or EfficientNet."
        )
    return [found[stride][0] for stride in strides], [found[stride][1] for stride in strides]


def _maps(backbone: Any, x: Tensor, indices: list[int] | None) -> list[Tensor]:
    """timm's: all feature maps, or those at ``indices``, computed no further than the last of them."""
    return backbone.forward_intermediates(x, indices=indices, intermediates_only=True, stop_early=True)


class _Pictures(Dataset):
    """[image, mirrored] -> (uint8 ``[3, H, W]``, {"boxes" ``[n, 4]``, "labels" ``[n]``}), of which crowds are no part."""

    def __init__(self, images: Images, boxes: Sequence[Boxes] | None) -> None:
        self.images, self.boxes = images, boxes

    def __getitem__(self, key: tuple[int, bool]) -> tuple[Tensor, dict[str, Tensor]]:
        i, mirrored = key
        pixels = pil_to_tensor(self.images.load(i))  # [3, H, W]
        if self.boxes is None:
            return pixels, {}
        single = ~self.boxes[i].crowd
        placed = torch.from_numpy(self.boxes[i].xyxy[single])
        if mirrored:
            marked = BoundingBoxes(placed, format="XYXY", canvas_size=tuple(pixels.shape[1:]))
            pixels, placed = horizontal_flip(pixels), horizontal_flip(marked).as_subclass(Tensor)
        return pixels, {"boxes": placed, "labels": torch.from_numpy(self.boxes[i].labels[single])}


def batches_of(
    images: Images,
    keys: list[list[tuple[int, bool]]],
    *,
    boxes: Sequence[Boxes] | None = None,
    workers: int = 0,
    device: torch.device,
) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Batches of (image, mirrored) as torchvision's detectors take them: pixels in [0, 1] and targets, on ``device``."""
    loader = DataLoader(
        _Pictures(images, boxes),
        batch_sampler=keys,
        num_workers=loading_processes(workers),
        collate_fn=list,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # it would draw from the global one
    )
    for batch in loader:
        pixels = [image.to(device, non_blocking=True).float().div_(255) for image, _ in batch]
        yield pixels, [{name: each.to(device) for name, each in target.items()} for _, target in batch]


@torch.no_grad()
def predict(
    detector: nn.Module,
    images: Images,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Tensor]]:
    """What the detector sees in each image, the surest first, on the CPU: ``boxes`` ``[k, 4]`` (xyxy, in the image's
    pixels), ``labels`` int64 ``[k]`` from 1, ``scores`` ``[k]`` in [0, 1]; k is at most 100."""
    device, mode = pick_device(device), detector.training
    keys = [(i, False) for i in range(len(images))]
    batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    found: list[dict[str, Tensor]] = []
    detector.to(device).eval()
    try:
        for pixels, _ in batches_of(images, batches, workers=workers, device=device):
            found += [{name: each.cpu() for name, each in one.items()} for one in detector(pixels)]
            if progress:
                progress(len(found), len(images))
    finally:
        detector.train(mode)
    return found
