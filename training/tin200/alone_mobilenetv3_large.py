"""MobileNetV3-Large by MoCo v2 alone: the baseline of seed_mobilenetv3_large.py, as many images seen.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/alone_mobilenetv3_large.py --data tiny-imagenet-200 --out runs
"""

from rows import MOCO, STUDENT_IMAGES, main

if __name__ == "__main__":
    main(
        "alone_mobilenetv3_large",
        STUDENT_IMAGES,
        {"student": "seed_mobilenetv3_large", "method": "moco"},
        MOCO,
    )
