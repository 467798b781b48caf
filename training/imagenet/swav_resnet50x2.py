"""Students of SwAV's ResNet-50 of double width, by its own projection head, with small patches, 800 epochs: the last row of SEED's table 1.

Claim: published linear top-1 67.6 of efficientnet_b0, (68.0) of efficientnet_b1, 68.2 of mobilenetv3_large, 63.0 of resnet18, 65.7 of resnet34 (in brackets: from memory); not measured here yet.
Teacher: 400 epochs, published linear top-1 77.3.
Checkpoint: https://dl.fbaipublicfiles.com/deepcluster/swav_RN50w2_400ep_pretrain.pth.tar
Cost: 72.7 x 10^18 operations for mobilenetv3_large, 3,700 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    seed-hub convert CHECKPOINT --arch resnet50x2 --out teachers/swav_resnet50x2
    torchrun --standalone --nproc-per-node=gpu training/imagenet/swav_resnet50x2.py --data imagenet/train --teacher-folder teachers/swav_resnet50x2 --student seed_mobilenetv3_large --out runs/swav_resnet50x2_mobilenetv3_large
"""

from rows import PAPER, SMALL_PATCHES, Row, main, published

ROW = Row(
    PAPER | SMALL_PATCHES | {"--epochs": "800"},
    teacher="seed:{folder}",
    arch="resnet50x2",
    published=published("swav_resnet50x2"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
