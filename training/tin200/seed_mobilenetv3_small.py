"""MobileNetV3-Small distilled by SEED from a supervised ImageNet MobileNetV2: no labels of these images are used.

The teacher sees the 64 pixel views enlarged to 96 (its neighbours are better there). Its pooled features are not negative,
so all their cosines are large: a colder student (0.07) tells them apart.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/seed_mobilenetv3_small.py --data tiny-imagenet-200 --out runs --teacher-file MOBILENETV2.safetensors
"""

from rows import main

if __name__ == "__main__":
    main(
        "seed_mobilenetv3_small",
        40_000,
        {
            "student": "seed_mobilenetv3_small",
            "method": "seed",
            "teacher": "file:{file}?arch=mobilenetv2_100&pad_type=same&mean=0.5&std=0.5&licence=apache-2.0",
            "size": 64,
            "teacher_size": 96,
            "lr": 3e-3,
        },
        {"queue_size": 8192, "student_temperature": 0.07},
    )
