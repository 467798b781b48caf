"""ResNet-18 distilled by correlation congruence (pooled features and their correlations) from the MoCo ResNet-18.

Score, cost and hardware: see eval/results/tin200.jsonl and docs/results.md.

    python training/tin200/cc_resnet18.py --data tiny-imagenet-200 --out runs
"""

from rows import STUDENT_IMAGES, main

if __name__ == "__main__":
    main(
        "cc_resnet18",
        STUDENT_IMAGES,
        {
            "student": "seed_resnet18",
            "method": "cc",
            "teacher": "seed:{runs}/moco_resnet18?head=none",
            "lr": 1e-3,
        },
        {},
    )
