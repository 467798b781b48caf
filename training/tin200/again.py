"""Students by correlation congruence from the second teacher, asked once for all.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/again.py --data tiny-imagenet-200 --out runs --student seed_efficientnet_b0 --lr 1e-3 \\
        --start seed_efficientnet_b0.moco_r18_tin200 --images 200000
"""

from rows import train_taught

if __name__ == "__main__":
    train_taught(__doc__, "again", lambda args: {"teacher": f"seed:{args.out}/moco_again_resnet18?head=none"})
