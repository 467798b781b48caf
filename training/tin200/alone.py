"""A student by MoCo v2 alone, as many images seen as by cc.py: its baseline.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/alone.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large
"""

from rows import MOCO, train_alone

if __name__ == "__main__":
    train_alone(__doc__, "alone", {"method": "moco"}, MOCO)
