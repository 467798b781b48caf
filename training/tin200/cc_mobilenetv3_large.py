"""MobileNetV3-Large distilled by correlation congruence (pooled features and their correlations) from the MoCo ResNet-18.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/cc_mobilenetv3_large.py --data tiny-imagenet-200 --out runs
"""

from rows import STUDENT_IMAGES, main

IMAGES = 2 * STUDENT_IMAGES  # the longest run of this folder: the best student at hand

if __name__ == "__main__":
    main(
        "cc_mobilenetv3_large",
        IMAGES,
        {
            "student": "seed_mobilenetv3_large",
            "method": "cc",
            "teacher": "seed:{runs}/moco_resnet18?head=none",
            "lr": 3e-3,
        },
        {},
    )
