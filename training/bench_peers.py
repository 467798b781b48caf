"""The same student from the same teacher on the same images: lightly-train, timm's feature distillation, and ours.

    python -m venv peers && peers/bin/pip install lightly-train
    python training/bench_peers.py --lightly peers/bin/python --out eval/results/speed/peers.jsonl

Each runs in a process of its own, in turns, one thread, no loading processes, at its own defaults for a CPU; what is compared is
CPU seconds of each further image once it runs, so that start and end do not count. Weights are random: the time does not
depend on them (lightly-train takes a timm teacher without asking for any). Telemetry of lightly-train is off. timm needs
labels, and gets one for all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

TEACHER, STUDENT, SIZE, BATCH, IMAGES = "resnet50", "mobilenetv3_large_100", 224, 32, 64
QUIET = {
    "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lightly", help="python of an environment with lightly-train")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON lines file")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        WORKERS[args.worker](args.photos)
        return
    pythons = {"ours": sys.executable, "timm": sys.executable}
    if args.lightly:
        pythons["lightly-train"] = args.lightly
    compare(pythons, args.turns, args.out)


def compare(pythons: dict[str, str], turns: int, out: Path | None) -> None:
    from seed_hub.bench.photos import write_photos
    from seed_hub.eval.provenance import commit, machine, versions
    from seed_hub.eval.results_file import append_result

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for eval/, which no wheel ships
    from eval.speed import peers_table

    taken: dict[str, list[dict]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos" / "one", IMAGES)
        for _ in range(turns):
            for name, python in pythons.items():
                words = [python, __file__, "--worker", name, "--photos", str(Path(folder) / "photos")]
                done = subprocess.run(
                    words, env=os.environ | QUIET, check=True, stdout=subprocess.PIPE, text=True
                )
                taken[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, taken[name][-1], file=sys.stderr, flush=True)
    line = {
        "protocol": "peers",
        "settings": {"teacher": TEACHER, "student": STUDENT, "size": SIZE, "batch": BATCH, "turns": turns},
        "seconds_per_image": {name: median(t["seconds"] for t in each) for name, each in taken.items()},
        "turns": {name: [t["seconds"] for t in each] for name, each in taken.items()},
        "peers": {name: each[0]["version"] for name, each in taken.items()},
        **commit(),
        "machine": machine("cpu"),
        "versions": versions(),
    }
    print(peers_table([line]))
    if out:
        append_result(out, line)


def _tell(seconds: float, version: str) -> None:
    print(json.dumps({"seconds": seconds, "version": version}))


def ours(photos: Path) -> None:
    """SEED with a queue of 65,536 rows, whose teacher has a head of 128 numbers."""
    import torch

    import seed_hub
    from seed_hub.bench.ground import lay_ground
    from seed_hub.bench.settings import BenchSettings
    from seed_hub.bench.timing import take_turns
    from seed_hub.bench.ways import step_of

    torch.set_num_threads(1)
    asked = BenchSettings(
        teacher=f"untrained:{TEACHER}", student=STUDENT, size=SIZE, batch_size=BATCH, data=str(photos)
    )
    with tempfile.TemporaryDirectory() as folder:
        ground = lay_ground(asked, Path(folder))
        way = step_of(ground.job("live", ground.run))
        timing = take_turns({"live": way}, torch.device("cpu"), turns=2)["live"]
    _tell(timing.median / BATCH, f"seed-hub {seed_hub.__version__}")


def timm(photos: Path) -> None:
    """timm's FeatureDistillationTask as its training script runs it by default: float32, eager."""
    import timm as library
    import torch
    from timm.data import create_transform
    from timm.task import FeatureDistillationTask
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    torch.set_num_threads(1)
    student = library.create_model(STUDENT, num_classes=1)
    teacher = library.create_model(TEACHER, num_classes=1)
    task = FeatureDistillationTask(student, teacher, torch.nn.CrossEntropyLoss(), verbose=False)
    task.train()
    optimizer = torch.optim.SGD(task.trainable_module.parameters(), lr=0.01, momentum=0.9)
    data = ImageFolder(str(photos), create_transform(SIZE, is_training=True))
    loader = DataLoader(data, BATCH, shuffle=True)

    def epoch() -> None:
        for pixels, labels in loader:
            optimizer.zero_grad()
            task(pixels, labels)["loss"].backward()
            optimizer.step()

    _tell(_per_image(epoch), f"timm {library.__version__}")


def lightly(photos: Path) -> None:
    """lightly-train's method "distillation"; other lengths of run tell a further epoch's time from the start's."""
    import lightly_train
    import torch

    torch.set_num_threads(1)

    def run(epochs: int) -> float:
        with tempfile.TemporaryDirectory() as out:
            start = time.process_time()
            lightly_train.pretrain(
                out=str(Path(out) / "run"),
                data=str(photos),
                model=f"timm/{STUDENT}",
                method="distillation",
                method_args={"teacher": f"timm/{TEACHER}"},
                epochs=epochs,
                batch_size=BATCH,
                num_workers=0,
                accelerator="cpu",
            )
            return time.process_time() - start

    run(1)  # imports, and what is made once
    one, three = run(1), run(3)
    _tell((three - one) / (2 * IMAGES), f"lightly-train {lightly_train.__version__}")


def _per_image(epoch: Callable[[], None]) -> float:
    epoch()
    start = time.process_time()
    epoch()
    return (time.process_time() - start) / IMAGES


WORKERS = {"ours": ours, "timm": timm, "lightly-train": lightly}


if __name__ == "__main__":
    main()
