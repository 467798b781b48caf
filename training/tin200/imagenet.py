"""Students by correlation congruence from a supervised ImageNet network, MobileNetV2, asked once for all: an extra.

No label of these images is used, but the teacher learnt from ImageNet's, of which these classes are a part. It sees the
views enlarged to 96 pixels, where it is better than at their 48.

Not run to its end yet: there is no score.

    python training/tin200/imagenet.py --data tiny-imagenet-200 --out runs --teacher-file MOBILENETV2.safetensors \\
        --student seed_mobilenetv3_large seed_mobilenetv3_small --lr 2e-3 --images 240000
"""

from rows import MOBILENETV2, train_taught

if __name__ == "__main__":
    train_taught(
        __doc__,
        "imagenet",
        lambda args: {"teacher": f"file:{args.teacher_file}?{MOBILENETV2}", "teacher_size": 96},
        teacher_file=True,
    )
