"""A student by the labels of all training images, as many images seen as by cc.py: what the labels would have given.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/supervised.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large
"""

from rows import train_alone

if __name__ == "__main__":
    train_alone(__doc__, "supervised", {"method": "finetune", "lr": 3e-3}, {"kept_layers": 0})
