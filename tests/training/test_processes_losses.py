"""One, two and four processes that share a batch: the same losses, and what they say to each other for it, in bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from seed_hub.training.pupil import Pupil
from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
BATCH, STEPS, QUEUE = 12, 3, 20
RUNS = [(1, 1), (2, 1), (2, 3), (4, 1)]  # (processes, parts of each batch)
# Everything that moves tensors, or objects, between processes through Python.
CALLS = [
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_gather_object", "broadcast", "broadcast_object_list",
    "reduce", "reduce_scatter", "reduce_scatter_tensor", "gather", "scatter", "all_to_all", "all_to_all_single",
]  # fmt: skip


def _record(patch: pytest.MonkeyPatch) -> list[dict]:
    """What each step of this process comes to: its losses part by part, how far the weights have moved from the start,
    and the bytes of each thing it says."""
    steps: list[dict] = [{"losses": [], "said": []}]
    start: list[torch.Tensor] = []

    def count(name):
        call = getattr(dist, name)

        def counted(*args, **kwargs):
            tensors = [each for each in args if isinstance(each, torch.Tensor)]
            steps[-1]["said"].append([name, sum(tensor.nbytes for tensor in tensors)])
            return call(*args, **kwargs)

        patch.setattr(dist, name, counted)

    prepare, take_step = Pupil.prepare, Pupil.take_step

    def prepared(pupil, *args):
        prepare(pupil, *args)
        if isinstance(pupil.model, nn.parallel.DistributedDataParallel):
            pupil.model.register_comm_hook(None, allreduce_hook)  # what is done without it, through Python
        steps[:] = [{"losses": [], "said": []}]  # whatever was said to get here, it was said once
        start.extend(weight.detach().clone() for weight in pupil.method.parameters())

    def took_step(pupil, schedule):
        steps[-1]["losses"] = [loss.item() for loss in pupil._outputs["loss"]]
        take_step(pupil, schedule)
        moves = [(w - s).square().sum() for w, s in zip(pupil.method.parameters(), start, strict=True)]
        steps[-1]["moved"] = torch.stack(moves).sum().sqrt().item()
        steps.append({"losses": [], "said": []})

    patch.setattr(Pupil, "prepare", prepared)
    patch.setattr(Pupil, "take_step", took_step)
    for name in CALLS:
        count(name)
    # A batch norm's statistics are each process's own, in every method: take them out of the comparison.
    still = lambda self, mode=True: nn.Module.train(self, False)  # noqa: E731
    patch.setattr(nn.modules.batchnorm._BatchNorm, "train", still)
    return steps


def _process(rank: int, world: int, folder: Path, settings: dict, own: dict) -> None:
    if world > 1:
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "localhost"}
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    with pytest.MonkeyPatch.context() as patch:
        steps = _record(patch)
        run(RunSettings(**settings, out=str(folder / "run")), own)
    (folder / f"{rank}.json").write_text(json.dumps(steps[:-1]))
    if world > 1:
        dist.destroy_process_group()


def _start_all(folder: Path) -> int:
    settings, own = json.loads((folder / "settings.json").read_text())
    context = torch.multiprocessing.get_context("fork")
    for world, parts in RUNS:
        place = folder / f"{world}x{parts}"
        place.mkdir()
        words = (world, place, {**settings, "accumulate": parts}, own)
        processes = [context.Process(target=_process, args=(rank, *words)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            return 1
    return 0


@pytest.fixture(scope="module")
def recorded(pictures, scoring_teacher, small_settings, tmp_path_factory):
    """(processes, parts) -> for each process, for each step: ``losses`` of its parts, ``moved``, ``said`` as [what, bytes]."""
    folder = tmp_path_factory.mktemp("processes")
    settings = RunSettings(
        data=str(pictures),
        student="test_efficientnet",
        teacher=scoring_teacher,
        size=32,
        batch_size=BATCH,
        epochs=STEPS * BATCH / 54,  # of 60 images 6 are held out
        held_out=6,
        workers=0,
        device="cpu",
        precision="fp32",
        lr=0.5,  # large: a wrong gradient shows in the next loss
        watch_every=100.0,
        allow_random_teacher=True,
    )
    values = {name: value for name, value in asdict(settings).items() if name not in ("out", "accumulate")}
    own = small_settings("seed") | {"queue_size": QUEUE}
    (folder / "settings.json").write_text(json.dumps([values, own]))
    # In a process of its own: one that has run a backward pass must not fork.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return {
        (world, parts): [
            json.loads((folder / f"{world}x{parts}" / f"{rank}.json").read_text()) for rank in range(world)
        ]
        for world, parts in RUNS
    }


def _bytes(step: dict, what: str) -> list[int]:
    return [count for name, count in step["said"] if name == what]


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.mark.parametrize("run", RUNS[1:], ids=lambda run: f"{run[0]} processes, {run[1]} parts")
def test_the_losses_of_one_process(recorded, run):
    """A wrong share of the batch or a wrong queue shows in the second loss (the first one compares with nothing), a
    gradient that is not shared, or not averaged, in how far the weights move."""
    (alone,) = recorded[1, 1]
    for step in range(STEPS):
        losses = torch.tensor([process[step]["losses"] for process in recorded[run]])  # [processes, parts]
        assert losses.shape == run
        assert losses.mean().item() == pytest.approx(alone[step]["losses"][0], rel=2e-5), f"step {step}"
        for process in recorded[run]:
            assert process[step]["moved"] == pytest.approx(alone[step]["moved"], rel=1e-3), f"step {step}"


def test_one_process_says_nothing(recorded):
    assert [step["said"] for step in recorded[1, 1][0]] == [[]] * STEPS


@pytest.mark.parametrize("run", [run for run in RUNS if run[0] > 1], ids=str)
def test_each_step_says_its_gradients_and_rows_once(recorded, run):
    """Whatever the number of parts: gradients go once, all parts' rows go together."""
    world, _ = run
    for process in recorded[run]:
        assert len(process) == STEPS
        for step in process:
            assert {name for name, _ in step["said"]} == {"all_reduce", "all_gather"}
            assert _bytes(step, "all_gather") == [BATCH // world * _width() * 4]
            assert sum(_bytes(step, "all_reduce")) == _trained() * 4


def _width() -> int:
    """Of the teacher's embedding."""
    from seed_hub.encoder import build_student

    return build_student("test_efficientnet").width


def _trained() -> int:
    """Weights of the student and of its head of two layers, 32 wide."""
    from seed_hub.encoder import build_student
    from seed_hub.projection import projection_head

    student = build_student("test_efficientnet")
    head = projection_head(student.width, 32, _width(), 2)
    return sum(weight.numel() for weight in [*student.parameters(), *head.parameters()])


if __name__ == "__main__":
    sys.exit(_start_all(Path(sys.argv[1])))
