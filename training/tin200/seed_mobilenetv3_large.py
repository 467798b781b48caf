"""MobileNetV3-Large distilled by SEED from the MoCo ResNet-18.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/seed_mobilenetv3_large.py --data tiny-imagenet-200 --out runs
"""

from rows import SEED, STUDENT_IMAGES, main

if __name__ == "__main__":
    main(
        "seed_mobilenetv3_large",
        STUDENT_IMAGES,
        {
            "student": "seed_mobilenetv3_large",
            "method": "seed",
            "teacher": "seed:{runs}/moco_resnet18?head=none",
            "lr": 3e-3,
        },
        SEED,
    )
