"""ResNet-50 as a student of SwAV's ResNet-50 of fourfold width, by its own projection head, with small patches, 400 epochs.

Claim: published linear top-1 74.3 of resnet50; not measured here yet.
Teacher: 400 epochs, published linear top-1 77.9.
Checkpoint: https://dl.fbaipublicfiles.com/deepcluster/swav_RN50w4_400ep_pretrain.pth.tar
Cost: 164.5 x 10^18 operations for resnet50, 8,300 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    seed-hub convert CHECKPOINT --arch resnet50x4 --out teachers/swav_resnet50x4
    torchrun --standalone --nproc-per-node=gpu training/imagenet/swav_resnet50x4.py --data imagenet/train --teacher-folder teachers/swav_resnet50x4 --student seed_resnet50 --out runs/swav_resnet50x4_resnet50
"""

from rows import PAPER, SMALL_PATCHES, Row, main, published

ROW = Row(
    PAPER | SMALL_PATCHES | {"--epochs": "400"},
    teacher="seed:{folder}",
    arch="resnet50x4",
    published=published("swav_resnet50x4"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
