"""Students of MoCo v2's ResNet-101 (200 epochs; the checkpoint is SEED's), by its own projection head: a row of table 1.

Claim: published, see below, from memory; not measured here yet.
Cost: docs/imagenet.md; --estimate for this machine.

    seed-hub convert CHECKPOINT --arch resnet101 --out teachers/moco_v2_resnet101
    torchrun --standalone --nproc-per-node=gpu training/imagenet/moco_v2_resnet101.py --data imagenet/train --teacher-folder teachers/moco_v2_resnet101 --student seed_resnet18 --out runs/moco_v2_resnet101_resnet18
"""

from rows import PAPER, RECALLED, Claim, Published, Row, main

ROW = Row(
    PAPER,
    teacher="seed:{folder}",
    arch="resnet101",
    published={
        "seed_efficientnet_b0": Claim(Published(63.0, RECALLED), Published(50.1, RECALLED)),
        "seed_efficientnet_b1": Claim(Published(63.4, RECALLED), Published(50.3, RECALLED)),
        "seed_mobilenetv3_large": Claim(Published(59.9, RECALLED), Published(48.8, RECALLED)),
        "seed_resnet18": Claim(Published(58.9, RECALLED), Published(48.6, RECALLED)),
        "seed_resnet34": Claim(Published(61.6, RECALLED), Published(50.5, RECALLED)),
    },
)

if __name__ == "__main__":
    main(ROW, __doc__)
