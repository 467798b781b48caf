"""A student by the labels of all training images, as many images seen as by cc.py: what the labels would have given.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/supervised.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large
"""

from rows import STUDENT_IMAGES, parser, train

if __name__ == "__main__":
    flags = parser(__doc__)
    flags.add_argument("--student", required=True, choices=STUDENT_IMAGES)
    args = flags.parse_args()
    row = args.student.replace("seed_", "supervised_")
    settings = {"method": "finetune", "lr": 3e-3}
    train({row: args.student}, args, STUDENT_IMAGES[args.student], settings, {"kept_layers": 0})
