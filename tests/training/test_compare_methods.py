"""The script that compares methods: every row is a command that the package takes, and a row ends as a line and a cost."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seed_hub.cli import train as training
from seed_hub.cli.train import distill, pretrain
from seed_hub.training.checks import resolve_method_settings
from seed_hub.training.methods import method_class

SCRIPTS = Path(__file__).resolve().parents[2] / "training" / "compare_methods"


@pytest.fixture
def scripts(monkeypatch):
    """(rows, compare, cost)"""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield [importlib.import_module(name) for name in ("rows", "compare", "cost")]
    for name in ("rows", "compare", "cost"):
        sys.modules.pop(name)


def test_every_row_is_a_command_of_this_package(scripts, monkeypatch):
    rows, compare, _ = scripts
    taken = []
    monkeypatch.setattr(
        training, "_run", lambda command, runs, own, **how: taken.append((runs[0], own)) or {}
    )
    args = argparse.Namespace(data=Path("d"), teacher="seed:t", out=Path("o"), images=24_000, suffix="_x")
    for table in rows.TABLES.values():
        for row in table:
            word, *flags = compare.command(row, 1, args)
            {"distill": distill, "pretrain": pretrain}[word](flags)
            run, own = taken.pop()
            resolve_method_settings(method_class(row.method), row.method, own)
            assert run["out"] == f"o/seed1/{row}_x"
            assert (run["seed"], run["size"], run["student"]) == (1, 48, rows.STUDENT)
            assert ("teacher" in run) == row.teacher == method_class(row.method).needs_teacher
        names = [str(row) for row in table]
        assert len(set(names)) == len(names)
    two = next(row for row in rows.ABLATIONS if str(row) == "cc_two_teachers")
    distill(compare.command(two, 0, args)[1:])
    run, _ = taken.pop()
    assert run["teacher"] == "seed:t" and len(run["more_teachers"]) == 1


def _shard(path, count, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        file = BytesIO()
        corners = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        corners[..., i % 3] //= 3
        Image.fromarray(corners).resize((64, 64), Image.Resampling.BILINEAR).save(file, "png")
        rows.append({"image": {"bytes": file.getvalue(), "path": f"{i}.png"}, "label": i % 3})
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_a_row_from_images_to_a_line_and_its_cost(scripts, monkeypatch, tmp_path, root, teacher_run):
    rows, compare, cost = scripts
    _shard(tmp_path / compare.SHARD, 160, 0)
    _shard(tmp_path / compare.TEST, 40, 1)
    monkeypatch.setitem(rows.TABLES, "methods", [rows.Row("simreg", flags={"--hidden-width": "32"})])
    monkeypatch.setattr(compare, "TRAINED_ON", 144)
    monkeypatch.setenv("PYTHONPATH", str(root))
    words = ["compare.py", "methods", "--data", str(tmp_path), "--teacher", f"seed:{teacher_run}?head=none"]
    words += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), "--images", "288"]
    for _ in range(2):  # the second time there is nothing left to do
        monkeypatch.setattr(sys, "argv", words)
        compare.main()
    found = [json.loads(line) for line in (tmp_path / "results" / "methods.jsonl").read_text().splitlines()]
    assert len(found) == 6  # untrained, the teacher, the row: k-NN and linear of each
    spent = ["cost.py", "--runs", str(tmp_path / "runs"), "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*spent, "--results", str(tmp_path / "results" / "cost/methods.jsonl")])
    monkeypatch.setattr(cost, "WARM_UP", 1)
    cost.main()
    page = tmp_path / "page.md"
    page.write_text("<!-- methods:methods -->\n<!-- /methods -->\n")
    spec = importlib.util.spec_from_file_location("tables", root / "eval" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.main([str(page), "--results", str(tmp_path / "results")]) == 0
    first = page.read_text().splitlines()[3]
    assert first.startswith("| `simreg` | yes | ") and first.count("|") == 7
    shutil.rmtree(tmp_path / "runs")
