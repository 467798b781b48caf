"""A student by MoCo v2 alone, as many images seen as by cc.py: its baseline.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/alone.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large
"""

from rows import MOCO, STUDENT_IMAGES, parser, train

if __name__ == "__main__":
    flags = parser(__doc__)
    flags.add_argument("--student", required=True, choices=STUDENT_IMAGES)
    args = flags.parse_args()
    row = args.student.replace("seed_", "alone_")
    train({row: args.student}, args, STUDENT_IMAGES[args.student], {"method": "moco"}, MOCO)
