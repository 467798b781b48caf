"""What a run's folder remembers."""

from __future__ import annotations

import json

import pytest

from seed_hub.training.run_folder import RunFolder


def test_hours_add_up_over_sittings_without_what_a_kill_threw_away(tmp_path):
    lines = [
        {"event": "look", "step": 0},
        {"event": "step", "step": 10, "seconds": 1800.0},
        {"event": "step", "step": 15, "seconds": 2700.0},  # past the checkpoint at 10: thrown away
        {"event": "resume", "step": 10},
        {"event": "step", "step": 20, "seconds": 3600.0},
        {"event": "look", "step": 20},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert RunFolder(tmp_path).hours() == pytest.approx(1.5)
