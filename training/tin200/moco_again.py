"""A second teacher: MoCo v2 goes on, without labels, from the released ResNet-18, itself a student of the first teacher.

A third of the images of a teacher from scratch: the released weights hold what the first one had learnt of a million images.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/moco_again.py --data tiny-imagenet-200 --out runs
"""

from rows import MOCO, parser, train

START = "seed_resnet18.moco_r18_tin200"
IMAGES = 320_000

if __name__ == "__main__":
    train(
        {"moco_again_resnet18": "seed_resnet18"},
        parser(__doc__).parse_args(),
        IMAGES,
        {"method": "moco", "seed": 2, "lr": 5e-4, "start": START},
        MOCO,
    )
