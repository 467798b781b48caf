"""Students of MoCo v2's ResNet-101 (200 epochs; the checkpoint is SEED's), by its own projection head: a row of table 1.

Claim: published linear top-1 (63.0) of efficientnet_b0, (63.4) of efficientnet_b1, (59.9) of mobilenetv3_large, (58.9) of resnet18, (61.6) of resnet34 (in brackets: from memory); not measured here yet.
Teacher: 200 epochs, published linear top-1 (70.3).
Checkpoint: res101-moco-v2-checkpoint_0199.pth.tar, linked from the README of SEED's code (github.com/jacobswan1/SEED).
Cost: 6.8 x 10^18 operations for resnet18, 340 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    seed-hub convert CHECKPOINT --arch resnet101 --out teachers/moco_v2_resnet101
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet101.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet101 --student seed_resnet18 --out runs/moco_v2_resnet101_resnet18
"""

from rows import PAPER, Row, main, published

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet101",
    published=published("moco_v2_resnet101"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
