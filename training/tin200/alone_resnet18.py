"""ResNet-18 by MoCo v2 alone: the baseline of seed_resnet18.py, as many images seen.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/alone_resnet18.py --data tiny-imagenet-200 --out runs
"""

from rows import MOCO, STUDENT_IMAGES, main

if __name__ == "__main__":
    main("alone_resnet18", STUDENT_IMAGES, {"student": "seed_resnet18", "method": "moco"}, MOCO)
