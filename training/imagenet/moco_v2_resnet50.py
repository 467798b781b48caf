"""Students of MoCo v2's ResNet-50 (200 epochs), by its own projection head: a row of SEED's table 1.

Claim: published linear top-1 61.3 of efficientnet_b0, (61.4) of efficientnet_b1, (55.2) of mobilenetv3_large, 57.6 of resnet18, 58.5 of resnet34 (in brackets: from memory); not measured here yet.
Teacher: 200 epochs, published linear top-1 67.4.
Checkpoint: jianfw_mocov2_ResNet50_epoch200.pth, linked from the README of SEED's code (github.com/jacobswan1/SEED); MoCo's own of as
many epochs is https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar
Cost: 4.9 x 10^18 operations for resnet18, 250 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    seed-hub convert CHECKPOINT --arch resnet50 --out teachers/moco_v2_resnet50
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet50.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet50 --student seed_resnet18 --out runs/moco_v2_resnet50_resnet18
"""

from rows import PAPER, Row, main, published

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet50",
    published=published("moco_v2_resnet50"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
