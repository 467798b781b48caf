"""Students of DINO's ResNet-50, by its pooled features; torch.hub runs the code of its repository.

Claim: none published; not measured here yet.
Cost: 5.2 x 10^18 operations for resnet18, 260 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    torchrun --standalone --nproc-per-node=gpu training/imagenet/dino_resnet50.py --data imagenet/train --student seed_resnet18 --student seed_vit_tiny --out runs/dino_resnet50
"""

from rows import FEATURES, Row, main

ROW = Row(
    FEATURES,
    teacher="torchhub:facebookresearch/dino:main/dino_resnet50",
    arch="resnet50",
    width=2048,
)

if __name__ == "__main__":
    main(ROW, __doc__)
