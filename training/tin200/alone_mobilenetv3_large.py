"""MobileNetV3-Large by MoCo v2 alone: the baseline of seed_mobilenetv3_large.py, as many images seen.

Other settings than the ResNet-18's, with which it collapsed to a handful of dimensions: at the start its features tell
nothing of the image (two views are matched at chance; a ResNet-18's in one of seven cases), and a key encoder that moves
fast offers it an easier way to tell positives from queue. Hence the paper's slow keys and temperature, and a short queue.

Score, cost and hardware: see eval/results/tin200.jsonl and the table in README.md.

    python training/tin200/alone_mobilenetv3_large.py --data tiny-imagenet-200 --out runs
"""

from rows import STUDENT_IMAGES, main

if __name__ == "__main__":
    main(
        "alone_mobilenetv3_large",
        STUDENT_IMAGES,
        {"student": "seed_mobilenetv3_large", "method": "moco", "lr": 5e-4},
        {"queue_size": 256, "key_momentum": 0.999, "temperature": 0.2},
    )
