"""Students by correlation congruence (pooled features and their correlations) from the MoCo ResNet-18, asked once for all.

Score, cost and hardware: see eval/results/students.jsonl and docs/results.md.

    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_mobilenetv3_large --lr 2e-3
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_efficientnet_b0 --lr 2e-3
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs \\
        --student seed_resnet18 seed_resnet34 seed_mobilenetv3_small
    python training/tin200/cc.py --data tiny-imagenet-200 --out runs --student seed_vit_tiny --lr 1e-3
"""

from rows import STUDENT_IMAGES, parser, train

if __name__ == "__main__":
    flags = parser(__doc__)
    flags.add_argument("--student", required=True, choices=STUDENT_IMAGES, nargs="+")
    flags.add_argument(
        "--lr",
        type=float,
        default=3e-3,
        help="peak learning rate (default: %(default)g); lower for longer runs, and for ViTs",
    )
    args = flags.parse_args()
    budgets = {STUDENT_IMAGES[name] for name in args.student}
    if len(budgets) > 1:
        flags.error(
            "--student: these do not see equally many images, so they are not trained together (STUDENT_IMAGES)"
        )
    settings = {"method": "cc", "teacher": f"seed:{args.out}/moco_resnet18?head=none", "lr": args.lr}
    rows = {name.replace("seed_", "cc_"): name for name in args.student}
    train(rows, args, budgets.pop(), settings, {})
