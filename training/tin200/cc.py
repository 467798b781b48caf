"""Students by correlation congruence (pooled features and their correlations) from the MoCo ResNet-18, asked once for all.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large --lr 2e-3
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_efficientnet_b0 --lr 2e-3
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_resnet18 seed_mobilenetv3_small
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_resnet34
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_vit_tiny --lr 1e-3
"""

from rows import train_taught

if __name__ == "__main__":
    train_taught(__doc__, "cc", lambda args: {"teacher": f"seed:{args.out}/moco_resnet18?head=none"})
