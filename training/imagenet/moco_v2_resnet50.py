"""Students of MoCo v2's ResNet-50 (200 epochs), by its own projection head: a row of SEED's table 1.

Claim: published, see below; not measured here yet.
Cost: docs/imagenet.md; --estimate for this machine.

    seed-hub convert CHECKPOINT --arch resnet50 --out teachers/moco_v2_resnet50
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet50.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet50 --student seed_resnet18 --out runs/moco_v2_resnet50_resnet18
"""

from rows import BINGO, COSS, PAPER, RECALLED, Claim, Published, Row, main

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet50",
    published={
        "seed_efficientnet_b0": Claim(Published(61.3, COSS), Published(46.0, RECALLED)),
        "seed_efficientnet_b1": Claim(Published(61.4, RECALLED), Published(46.1, RECALLED)),
        "seed_mobilenetv3_large": Claim(Published(55.2, RECALLED), Published(44.8, RECALLED)),
        "seed_resnet18": Claim(Published(57.6, BINGO), Published(43.4, RECALLED)),
        "seed_resnet34": Claim(Published(58.5, BINGO), Published(45.2, COSS)),
    },
)

if __name__ == "__main__":
    main(ROW, __doc__)
