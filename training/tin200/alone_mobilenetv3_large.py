"""MobileNetV3-Large by MoCo v2 alone: the baseline of seed_mobilenetv3_large.py, as many images seen.

A gentler setting than the other rows': at their learning rate, 0.001, it did not begin to learn (its first layers' features
tell nothing of the image at the start: two views are matched at chance, a ResNet-18's in one of seven cases).

Score, cost and hardware: see eval/results/tin200.jsonl and the table in README.md.

    python training/tin200/alone_mobilenetv3_large.py --data tiny-imagenet-200 --out runs
"""

from rows import MOCO, main

if __name__ == "__main__":
    main(
        "alone_mobilenetv3_large",
        64_000,
        {"student": "seed_mobilenetv3_large", "method": "moco", "lr": 3e-4},
        MOCO | {"key_momentum": 0.99, "temperature": 0.2},
    )
