"""Students of DINOv2's ViT-B/14, by its class token; 224 px are 16 x 16 patches, its position embeddings are resampled.

Claim: none published; not measured here yet.
Cost: 14.8 x 10^18 operations for resnet18, 750 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    torchrun --standalone --nproc-per-node=gpu training/imagenet/dinov2_vit_base.py --data imagenet/train --student seed_resnet18 --student seed_vit_tiny --out runs/dinov2_vit_base
"""

from rows import FEATURES, Row, main

ROW = Row(
    FEATURES,
    teacher="timm:vit_base_patch14_dinov2.lvd142m",
    arch="vit_base_patch14_dinov2",
    width=768,
)

if __name__ == "__main__":
    main(ROW, __doc__)
