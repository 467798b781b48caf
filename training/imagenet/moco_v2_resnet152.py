"""Students of MoCo v2's ResNet-152 (800 epochs; the checkpoint is SEED's), by its own projection head: a row of table 1.

Claim: published, see below; not measured here yet.
Cost: docs/imagenet.md; --estimate for this machine.

    seed-hub convert CHECKPOINT --arch resnet152 --out teachers/moco_v2_resnet152
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet152.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet152 --student seed_resnet18 --out runs/moco_v2_resnet152_resnet18
"""

from rows import BINGO, PAPER, RECALLED, Claim, Published, Row, main

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet152",
    published={
        "seed_efficientnet_b0": Claim(Published(65.3, RECALLED), Published(50.7, RECALLED)),
        "seed_efficientnet_b1": Claim(Published(67.3, RECALLED), Published(52.4, RECALLED)),
        "seed_mobilenetv3_large": Claim(Published(61.4, RECALLED), Published(49.5, RECALLED)),
        "seed_resnet18": Claim(Published(59.5, BINGO), Published(49.1, RECALLED)),
        "seed_resnet34": Claim(Published(62.7, BINGO), Published(51.4, RECALLED)),
    },
)

if __name__ == "__main__":
    main(ROW, __doc__)
