"""Students by MoCo v2, without a teacher: the first row of SEED's table 1, and the baseline of every other recipe here.

Claim: published, see below; not measured here yet.
Cost: docs/imagenet.md; --estimate for this machine.

    torchrun --standalone --nproc-per-node=gpu training/imagenet/alone.py --data imagenet/train --student seed_resnet18 --out runs/alone_resnet18
"""

from rows import ABSTRACT, ALONE, BINGO, COSS, RECALLED, Claim, Published, Row, main

ROW = Row(
    ALONE,
    published={
        "seed_efficientnet_b0": Claim(Published(42.2, ABSTRACT), Published(30.0, COSS)),
        "seed_efficientnet_b1": Claim(Published(50.7, RECALLED), Published(34.4, RECALLED)),
        "seed_mobilenetv3_large": Claim(Published(36.3, ABSTRACT), Published(27.5, RECALLED)),
        "seed_resnet18": Claim(Published(52.5, BINGO), Published(36.7, COSS)),
        "seed_resnet34": Claim(Published(57.4, BINGO), Published(41.5, COSS)),
    },
)

if __name__ == "__main__":
    main(ROW, __doc__)
