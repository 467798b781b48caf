"""Students by MoCo v2, without a teacher: the first row of SEED's table 1, and the baseline of every other recipe here.

Claim: published linear top-1 42.2 of efficientnet_b0, (50.7) of efficientnet_b1, 36.3 of mobilenetv3_large, 52.5 of resnet18, 57.4 of resnet34 (in brackets: from memory); not measured here yet.
Cost: 3.7 x 10^18 operations for resnet18, 190 V100 hours at the pace of MoCo v2's own run; docs/imagenet.md has others, --estimate is for this machine.

    torchrun --standalone --nproc-per-node=gpu training/imagenet/alone.py --data imagenet/train --student seed_resnet18 --out runs/alone_resnet18
"""

from rows import ALONE, Row, main, published

ROW = Row(
    ALONE,
    published=published("alone"),
)

if __name__ == "__main__":
    main(ROW, __doc__)
