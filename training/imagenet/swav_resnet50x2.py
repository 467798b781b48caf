"""Students of SwAV's ResNet-50 of double width, by its own projection head, with small patches, 800 epochs: the last row of SEED's table 1.

Claim: published, see below; not measured here yet.
Cost: docs/imagenet.md; --estimate for this machine.

    seed-hub convert CHECKPOINT --arch resnet50x2 --out teachers/swav_resnet50x2
    torchrun --standalone --nproc-per-node=gpu training/imagenet/swav_resnet50x2.py --data imagenet/train --teacher-folder teachers/swav_resnet50x2 --student seed_mobilenetv3_large --out runs/swav_resnet50x2_mobilenetv3_large
"""

from rows import ABSTRACT, BINGO, PAPER, RECALLED, SMALL_PATCHES, Claim, Published, Row, main

ROW = Row(
    PAPER | SMALL_PATCHES | {"--epochs": "800"},
    teacher="seed:{folder}",
    arch="resnet50x2",
    published={
        "seed_efficientnet_b0": Claim(Published(67.6, ABSTRACT), Published(57.4, RECALLED)),
        "seed_efficientnet_b1": Claim(Published(68.0, RECALLED), Published(60.3, RECALLED)),
        "seed_mobilenetv3_large": Claim(Published(68.2, ABSTRACT), Published(55.9, RECALLED)),
        "seed_resnet18": Claim(Published(63.0, BINGO), Published(55.3, RECALLED)),
        "seed_resnet34": Claim(Published(65.7, BINGO), Published(58.2, RECALLED)),
    },
)

if __name__ == "__main__":
    main(ROW, __doc__)
