"""Vision transformers (Dosovitskiy et al., 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seed_hub.students.student import build, student

if TYPE_CHECKING:
    from torch import nn


@student(
    base="vit_tiny_patch16_224",
    parameters=5_524_416,
    macs=1_253_491_200,
    width=192,
    first_conv="patch_embed.proj",
    classifier="head",
)
def seed_vit_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ViT-Tiny, patches of 16 px: for teachers that are transformers."""
    # Images of any side, by interpolating the position embeddings, as in training here.
    return build("seed_vit_tiny", pretrained, **{"dynamic_img_size": True} | kwargs)
