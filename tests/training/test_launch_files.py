"""The launch files, run with stand-ins for the launcher and the scheduler: what they ask for is what those take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from seed_hub.cli import COMMANDS

FILES = sorted((Path(__file__).resolve().parents[2] / "training" / "launch").iterdir())


@pytest.fixture
def launch(root, tmp_path):
    """launch(file, words, **environment) -> (what torchrun would understand, the words for seed-hub)."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name, text in {
        "torchrun": f'printf "%s\\n" "$@" > {tmp_path}/words',
        "srun": '"$@"',
        "scontrol": '[ "$*" = "show hostnames nodes[1-2]" ] && printf "node1\\nnode2\\n"',
    }.items():
        (stand_ins / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (stand_ins / name).chmod(0o755)

    def run(file, words, **environment):
        path = {"PATH": f"{stand_ins}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", root / "training" / "launch" / file, *words],
            env=os.environ | path | environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return done.stderr
        asked = get_args_parser().parse_args((tmp_path / "words").read_text().splitlines())
        assert asked.module and asked.training_script == "seed_hub.cli"
        return asked, asked.training_script_args

    return run


SLURM = {"SLURM_JOB_ID": "41234", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "nodes[1-2]"}
WORDS = ["distill", "--data", "a folder/train-{0..9}.tar", "--teacher", "T"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_sound_and_shows_a_command_that_exists(file):
    assert file.suffix in (".sh", ".sbatch"), "a kind of launch file that nothing here looks at"
    subprocess.run(["bash", "-n", file], check=True)
    shown = [line.split() for line in file.read_text().splitlines() if line.startswith("#     ")]
    (command,) = shown
    assert (
        set(command) & {"distill", "pretrain"} <= set(COMMANDS) and f"training/launch/{file.name}" in command
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's files")
def test_torchrun(launch):
    asked, words = launch("torchrun.sh", [*WORDS, "--out", "r"])
    assert (asked.standalone, asked.nproc_per_node) == (True, "gpu") and words == [*WORDS, "--out", "r"]
    assert launch("torchrun.sh", WORDS, PROCESSES="3")[0].nproc_per_node == "3"


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's files")
def test_slurm_starts_and_continues(launch, tmp_path):
    run = tmp_path / "my run"
    asked, words = launch("slurm.sbatch", WORDS, RUN=str(run), **SLURM)
    assert (asked.nnodes, asked.nproc_per_node, asked.rdzv_id) == ("2", "gpu", "41234")
    assert asked.rdzv_endpoint == "node1:21234" and asked.rdzv_backend == "c10d"
    assert words == ["distill", "--overwrite", "--out", str(run), *WORDS[1:]]
    for checkpoint in (run / "checkpoint.pt", run / "seed_resnet18" / "checkpoint.pt"):
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
        assert launch("slurm.sbatch", WORDS, RUN=str(run), **SLURM)[1] == [
            "distill",
            "--resume",
            "--out",
            str(run),
        ]
        checkpoint.unlink()
        checkpoint.parent.rmdir()
    assert "RUN=folder" in launch("slurm.sbatch", WORDS, RUN="", **SLURM)
    assert "distill or pretrain" in launch("slurm.sbatch", [], RUN=str(run), **SLURM)
