"""A student by SEED from a supervised ImageNet network, MobileNetV2, going on from its released weights: an extra.

No label of these images is used, but the teacher learnt from ImageNet's, of which these classes are a part. It sees the
views enlarged to 96 pixels, where it is better than at their 48. From scratch students are slow to find their way to it; from
what a self-supervised teacher has taught them they go on at once (docs/methods.md).

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/imagenet.py --data tiny-imagenet-200 --out runs --teacher-file MOBILENETV2.safetensors \\
        --student seed_mobilenetv3_large --start seed_mobilenetv3_large.moco_r18_tin200 --lr 2e-3 --images 320000
"""

from rows import MOBILENETV2, SEED, train_taught

if __name__ == "__main__":
    train_taught(
        __doc__,
        "imagenet",
        lambda args: {"teacher": f"file:{args.teacher_file}?{MOBILENETV2}", "teacher_size": 96},
        method="seed",
        method_settings=SEED,
        teacher_file=True,
    )
