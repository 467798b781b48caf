"""Students of MoCo v2's ResNet-152 (800 epochs; the checkpoint is SEED's), by its own projection head: a row of table 1.

Claim: published linear top-1 (65.3) of efficientnet_b0, (67.3) of efficientnet_b1, (61.4) of mobilenetv3_large, 59.5 of resnet18, 62.7 of resnet34 (in brackets: from memory); not measured here yet.
Teacher: 800 epochs, published linear top-1 74.1.
Checkpoint: 800-resnet152-moco-v2-checkpoint_0799.pth.tar, linked from the README of SEED's code (github.com/jacobswan1/SEED).
Cost: 8.7 x 10^18 operations for resnet18, 440 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    seed-hub convert CHECKPOINT --arch resnet152 --out teachers/moco_v2_resnet152
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet152.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet152 --student seed_resnet18 --out runs/moco_v2_resnet152_resnet18
"""

from rows import PAPER, Row, main, published

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet152",
    published=published("moco_v2_resnet152"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
