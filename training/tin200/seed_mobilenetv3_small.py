"""MobileNetV3-Small distilled by SEED from a supervised ImageNet MobileNetV2: no labels of these images are used.

The teacher sees the 64 pixel views enlarged to 96 (its neighbours are better there). Its pooled features are not negative,
so all their cosines are large: a colder student (0.07) tells them apart.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/seed_mobilenetv3_small.py --data tiny-imagenet-200 --out runs --teacher-file MOBILENETV2.safetensors
"""

from rows import MOBILENETV2, parser, train

IMAGES = 40_000

if __name__ == "__main__":
    args = parser(__doc__, teacher_file=True).parse_args()
    settings = {
        "method": "seed",
        "teacher": f"file:{args.teacher_file}?{MOBILENETV2}",
        "size": 64,
        "teacher_size": 96,
        "lr": 3e-3,
    }
    rows = {"seed_mobilenetv3_small": "seed_mobilenetv3_small"}
    train(rows, args, IMAGES, settings, {"queue_size": 8192, "student_temperature": 0.07})
