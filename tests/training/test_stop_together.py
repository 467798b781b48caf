"""Processes that are asked to stop at different steps stop at the same one, with everything saved."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict

import pytest

from seed_hub.training import engine
from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings
from tests.training.two_processes import run_in_two


def one_of_two(rank, folder):
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= ranks | {"MASTER_ADDR": "localhost"}
    questions = 0

    @contextmanager
    def asked_late():
        """The second process is asked during its fourth step, the first one never."""

        def asked():
            nonlocal questions
            questions += 1
            return rank == 1

        yield asked

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "stop_requests", asked_late)
        patch.setattr(engine, "AGREE_EVERY", 4)
        with pytest.raises(engine.Stopped, match="Stopped after step 4 of"):
            run(RunSettings(**json.loads((folder / "run.json").read_text())))
    assert questions == 1


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_both_stop_at_the_step_on_which_they_agree(settings, tmp_path):
    made = settings(device="cpu", precision="fp32", workers=0)
    (tmp_path / "run.json").write_text(json.dumps(asdict(made)))
    run_in_two(__file__, tmp_path)
    assert run(made, resume=True) is not None
