"""Every speed of docs/performance.md that `seed-hub bench` measures, again.

    python training/bench_steps.py --out eval/results/speed/bench.jsonl

One process per line, one thread, half an hour on a quiet core; ``--only`` names some of them. The lines without
AMX are those of a processor that has none: oneDNN is told so before it starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

LARGE = "--size 224 --batch-size 64"
SMALL = "--size 64 --batch-size 64"
FEW = "--only reference live cached floor teacher"
CASES = {
    "r50_224": f"--teacher untrained:resnet50 {LARGE} "
    "--only reference live cached raw_cached floor input teacher loss optimizer",
    "r50_64": f"--teacher untrained:resnet50 {SMALL} --turns 7",
    "together": f"--teacher untrained:resnet50 {LARGE} --only live --together seed_efficientnet_b0 seed_resnet18",
    "r152_224": f"--teacher untrained:resnet152 {LARGE} {FEW}",
    "r50_224_without_amx": f"--teacher untrained:resnet50 {LARGE} {FEW}",
    "r50_64_compiled": f"--teacher untrained:resnet50 {SMALL} --turns 7 --compile both --only reference raw raw_cached floor",
}
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", default="eval/results/speed/bench.jsonl", help="JSON lines file")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), help="some of them")
    args = parser.parse_args()
    for name in args.only:
        environment = os.environ | (WITHOUT_AMX if name.endswith("without_amx") else {})
        command = [sys.executable, "-m", "seed_hub.cli", "bench", *CASES[name].split()]
        command += ["--label", name, "--out", args.out]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
