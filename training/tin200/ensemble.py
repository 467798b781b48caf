"""Students by correlation congruence from three released students at once: no teacher need be trained first.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/ensemble.py --data tiny-imagenet-200 --out runs --student seed_resnet34 seed_vit_tiny --lr 1e-3
    python training/tin200/ensemble.py --data tiny-imagenet-200 --out runs --student seed_efficientnet_b0 --lr 1e-3 \\
        --start seed_efficientnet_b0.moco_r18_tin200 --images 160000
"""

from rows import train_taught

TEACHERS = tuple(
    f"seed:seed_{name}.moco_r18_tin200" for name in ("resnet18", "mobilenetv3_large", "efficientnet_b0")
)

if __name__ == "__main__":
    train_taught(__doc__, "ensemble", lambda _: {"teacher": TEACHERS[0], "more_teachers": TEACHERS[1:]})
