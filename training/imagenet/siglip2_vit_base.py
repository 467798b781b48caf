"""Students of SigLIP 2's ViT-B/16, by its own attention pooling; it is fed pixels from -1 to 1.

Claim: none published; not measured here yet.
Cost: 12.0 x 10^18 operations for resnet18, 600 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    torchrun --standalone --nproc-per-node=gpu training/imagenet/siglip2_vit_base.py --data imagenet/train --student seed_resnet18 --student seed_vit_tiny --out runs/siglip2_vit_base
"""

from rows import FEATURES, Row, main

ROW = Row(
    FEATURES,
    teacher="timm:vit_base_patch16_siglip_224.v2_webli",
    arch="vit_base_patch16_siglip_224",
    width=768,
)

if __name__ == "__main__":
    main(ROW, __doc__)
