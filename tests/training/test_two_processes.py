"""Every method learns from a batch that two processes share what one process learns from it, engine and all."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import pytest
import torch
from torch import nn

from seed_hub.encoder import build_student
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings
from tests.training.two_processes import run_in_two

# Methods whose other terms, or whose state, are shared out too; `at` at a weight under which a few steps do not blow the
# rounding of a teacher that is asked about half as many images up to a percent, and `bingo` with bags that no rounding changes.
ALSO = {
    "crd": {"ce_weight": 1.0},
    "simclr": {"memory": 16},
    "compress": {"queues": 2},
    "at": {"feature_weight": 10.0},
    "bingo": {"bag_size": 3},
}


def _still_norms(monkeypatch):
    """A batch norm's statistics are each process's own, in every method: take them out of the comparison."""
    still = lambda self, mode=True: nn.Module.train(self, False)  # noqa: E731
    monkeypatch.setattr(nn.modules.batchnorm._BatchNorm, "train", still)


def one_of_two(rank, folder):
    # As `accelerate launch` tells; the processes know each other already.
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= ranks | {"MASTER_ADDR": "localhost"}
    with pytest.MonkeyPatch.context() as patch:
        _still_norms(patch)
        for name, (settings, own) in json.loads((folder / "runs.json").read_text()).items():
            print(name, file=sys.stderr, flush=True)  # whose error follows
            run(RunSettings(**{**settings, "out": str(folder / "two" / name)}), own)


@pytest.fixture(scope="module")
def both(pictures, small_settings, teacher_run, scoring_teacher, tmp_path_factory):
    """The folder of one/METHOD and two/METHOD."""
    folder, runs = tmp_path_factory.mktemp("both"), {}
    for name in method_names():
        cls, own = method_class(name), small_settings(name) | ALSO.get(name, {})
        scores = "logits" in cls.reads(cls.Settings(**own))
        teacher = scoring_teacher if scores else f"seed:{teacher_run}"
        settings = RunSettings(
            data=str(pictures),
            student="test_efficientnet",
            method=name,
            teacher=teacher if cls.needs_teacher else "",
            out=str(folder / "one" / name),
            size=32,
            batch_size=12,
            epochs=0.9,
            held_out=6,
            workers=0,
            device="cpu",
            precision="fp32",
            optimizer="sgd",
            lr=0.01,
            watch_every=100.0,
            allow_random_teacher=True,
        )
        runs[name] = (asdict(settings), own)
    (folder / "runs.json").write_text(json.dumps(runs))
    run_in_two(__file__, folder)
    with pytest.MonkeyPatch.context() as patch:
        _still_norms(patch)
        for settings, own in runs.values():
            run(RunSettings(**settings), own)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("method", method_names())
def test_two_processes_learn_what_one_would(both, method):
    one, two = (
        torch.load(both / place / method / "checkpoint.pt", weights_only=True)["state"]
        for place in ("one", "two")
    )
    torch.manual_seed(0)
    start = {
        f"student.{name}": weight for name, weight in build_student("test_efficientnet").named_parameters()
    }
    assert one.keys() == two.keys()
    moved = sum((one[name] - weight).square().sum() for name, weight in start.items()).sqrt()
    apart = sum((one[name] - two[name]).square().sum() for name in start).sqrt()
    rounding = 1e-6  # of the sums over a batch: two halves are not added up as one whole is
    assert apart < 1e-3 * moved + rounding, f"{apart} apart after moving by {moved}"
    for name in one.keys() - start.keys():  # heads, queues, averages, centres
        if isinstance(one[name], torch.Tensor):
            torch.testing.assert_close(
                two[name], one[name], rtol=1e-2, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )
