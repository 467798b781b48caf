"""The teacher: ResNet-18 by MoCo v2, without labels; from other initial weights than its students (seed 1).

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/moco_resnet18.py --data tiny-imagenet-200 --out runs
"""

from rows import MOCO, parser, train

IMAGES = 1_000_000

if __name__ == "__main__":
    train(
        {"moco_resnet18": "seed_resnet18"},
        parser(__doc__).parse_args(),
        IMAGES,
        {"method": "moco", "seed": 1},
        MOCO,
    )
