"""Runs from a stream: the same batches whatever the processes, continued anywhere, counted in steps."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from seed_hub.data import open_stream, streamed
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.training import engine
from seed_hub.training.pupil import Pupil
from seed_hub.training.run import run
from seed_hub.training.settings import RunSettings
from seed_hub.training.stream_batches import StreamBatches
from tests.training.two_processes import run_in_two

SMALL = 16  # images in the blocks of all lanes
FILES = 4


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(streamed, "SHUFFLED", SMALL)


@pytest.fixture(scope="session")
def tables(pictures, tmp_path_factory):
    """60 pictures in four parquet files, one of which cannot be decoded."""
    folder = tmp_path_factory.mktemp("tables")
    encoded = [file.read_bytes() for file in sorted(pictures.rglob("*.png"))]
    encoded[40] = encoded[40][:100]
    for number in range(FILES):
        rows = [{"bytes": data, "path": None} for data in encoded[number::FILES]]
        pq.write_table(pa.table({"image": rows}), folder / f"{number}.parquet", row_group_size=4)
    return folder


@pytest.fixture
def streaming(settings, tables):
    """Settings of a run of eight steps: its stream, of 53 images besides those held out, ends in the seventh."""

    def make(**changes):
        base = {"data": str(tables), "stream": True, "epochs": 200.0, "steps": 8, "warmup_epochs": 0.0}
        return settings(**base | {"allow_bad": 0.2, "watch_every": 0.25} | changes)

    return make


def _batches(tables, folder, **changes):
    stream, _ = open_stream(tables, held_out=6, allow_bad=0.2)
    how = {"batch_size": 12, "seed": 0, "first": 0, "last": 9, "rank": 0, "world": 1, "folder": folder}
    return [[(int(i), e) for i, e in batch] for batch in StreamBatches(stream, **how | changes)]


@pytest.mark.parametrize("world", [2, 3, 4, 6, 12])
def test_batches_are_the_same_whatever_the_processes(tables, tmp_path, world):
    whole = _batches(tables, tmp_path)
    parts = [_batches(tables, tmp_path, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        own = [part[step] for part in parts]
        assert {len(each) for each in own} == {12 // world}
        assert sorted(image for each in own for image in each) == sorted(batch)


def test_a_stream_gives_each_image_once_an_epoch(tables, tmp_path):
    come = [each for batch in _batches(tables, tmp_path) for each in batch]
    assert len(set(come)) == len(come)
    once = {image for image, epoch in come if epoch == 0}
    assert len(once) == 53, "60 but 6 held out and 1 damaged"
    assert max(epoch for _, epoch in come) >= 1


def test_processes_read_their_own_files_only(tables, tmp_path, monkeypatch):
    read, whole = set(), streamed.Stream.read
    stream, _ = open_stream(tables, held_out=6, allow_bad=0.2)
    monkeypatch.setattr(
        streamed.Stream, "read", lambda self, file, row: read.add(file) or whole(self, file, row)
    )
    list(StreamBatches(stream, 12, seed=0, first=0, last=9, rank=1, world=2, folder=tmp_path))
    assert read == {1, 3}


@pytest.mark.parametrize("first", [1, 3, 5, 8])
def test_it_continues_anywhere_with_notes_or_without(tables, tmp_path, first, monkeypatch):
    whole = _batches(tables, tmp_path)
    assert (tmp_path / "stream.jsonl").exists()
    (tmp_path / "elsewhere").mkdir()
    seen, usable = [], streamed.Stream.usable

    def count(self, rows):
        seen.append(len(rows))
        return usable(self, rows)

    monkeypatch.setattr(streamed.Stream, "usable", count)
    assert _batches(tables, tmp_path / "elsewhere", first=first) == whole[first:]
    without, seen[:] = sum(seen), []
    assert _batches(tables, tmp_path, first=first) == whole[first:]
    assert sum(seen) <= without
    if first == 8:
        assert sum(seen) < without / 2, "what lies before is not read again"


def test_notes_of_another_stream_or_cut_short_are_passed_over(tables, tmp_path):
    whole = _batches(tables, tmp_path)
    notes = tmp_path / "stream.jsonl"
    lines = [json.loads(line) for line in notes.read_text().splitlines()]
    foreign = [json.dumps(line | {"key": "another", "place": [0, 0, 3]}) for line in lines]
    notes.write_text("\n".join([*foreign, notes.read_text()[:-20]]))
    assert _batches(tables, tmp_path, first=7) == whole[7:]


def test_what_is_left_out_is_listed_once(streaming, tmp_path):
    run(streaming())
    lines = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("file 0 row 10\t")


def _weights(folder):
    return load_file(folder / "last" / "model.safetensors")


def _same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize(("stop_at", "workers"), [(1, 0), (4, 0), (7, 0), (5, 1)])
def test_stopped_and_continued_equals_uninterrupted(
    streaming, small_settings, tmp_path, stop_at, workers, caplog
):
    whole, parts = (streaming(out=str(tmp_path / name), workers=workers) for name in ("whole", "parts"))
    own = small_settings("moco")
    with caplog.at_level(logging.WARNING):
        run(whole, own)
    assert sum("its images come again" in message for message in caplog.messages) == 1
    with pytest.raises(engine.Stopped, match=f"Stopped after step {stop_at} of 8"):
        run(parts, own, stop_at=stop_at)
    run(parts, own, resume=True)
    _same(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_killed_after_a_checkpoint_equals_uninterrupted(streaming, small_settings, tmp_path, monkeypatch):
    own = small_settings("moco")
    run(streaming(out=str(tmp_path / "whole")), own)
    parts = streaming(out=str(tmp_path / "parts"))
    with pytest.raises(engine.Stopped):
        run(parts, own, stop_at=2)
    real, calls = Pupil.take_step, []

    def die_later(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt  # no saving, as a kill
        return real(*args)

    monkeypatch.setattr(Pupil, "take_step", die_later)
    with pytest.raises(KeyboardInterrupt):
        run(parts, own, resume=True)
    monkeypatch.undo()
    monkeypatch.setattr(streamed, "SHUFFLED", SMALL)
    run(parts, own, resume=True)
    _same(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))


def test_a_stream_that_changed_is_not_resumed(streaming, small_settings, tables, tmp_path):
    with pytest.raises(engine.Stopped):
        run(streaming(), small_settings("moco"), stop_at=1)
    for number in (1, 2, 3):  # as if a file were missing
        (tmp_path / f"{number}.parquet").write_bytes((tables / f"{number}.parquet").read_bytes())
    with pytest.raises(SeedHubError, match="has other images than when the run"):
        run(streaming(data=str(tmp_path)), small_settings("moco"), resume=True)


def _still_norms(monkeypatch):
    """A batch norm's statistics are each process's own: take them out of the comparison."""
    still = lambda self, mode=True: nn.Module.train(self, False)  # noqa: E731
    monkeypatch.setattr(nn.modules.batchnorm._BatchNorm, "train", still)


OWN = {"queue_size": 24, "hidden_width": 32}  # whole batches: order within one is each W's own


def one_of_two(rank, folder):
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= ranks | {"MASTER_ADDR": "localhost"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "SHUFFLED", SMALL)
        _still_norms(patch)
        settings = json.loads((folder / "run.json").read_text())
        run(RunSettings(**settings), OWN)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_two_processes_learn_what_one_would(streaming, teacher_run, tmp_path, monkeypatch):
    how = {
        "method": "seed",
        "teacher": f"seed:{teacher_run}",
        "allow_random_teacher": True,  # two steps taught it little
        "batch_size": 12,
        "precision": "fp32",
        "lr": 0.01,
    }
    two, one = (streaming(out=str(tmp_path / name), **how) for name in ("two", "one"))
    (tmp_path / "run.json").write_text(json.dumps(asdict(two)))
    run_in_two(__file__, tmp_path)
    _still_norms(monkeypatch)
    run(one, OWN)
    first, second = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["state"] for name in ("one", "two")
    )
    torch.manual_seed(0)
    start = {f"student.{name}": w for name, w in build_student("test_efficientnet").named_parameters()}
    moved = sum((first[name] - weight).square().sum() for name, weight in start.items()).sqrt()
    apart = sum((first[name] - second[name]).square().sum() for name in start).sqrt()
    assert apart < 1e-3 * moved, f"{apart} apart after moving by {moved}"


def test_steps_are_epochs_counted_otherwise(settings, small_settings, tmp_path):
    run(settings(out=str(tmp_path / "epochs"), epochs=1.5), small_settings("moco"))
    run(settings(out=str(tmp_path / "steps"), epochs=200.0, steps=9), small_settings("moco"))
    _same(_weights(tmp_path / "epochs"), _weights(tmp_path / "steps"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "is read as a stream and its end is not known: say how many .* with --steps"),
        ({"steps": 0, "epochs": 3.0}, "--epochs 3 cannot be counted: say how many .* with --steps"),
        ({"epochs": 3.0}, "--steps 8 and --epochs 3 each say how long the run is"),
        ({"stream": False, "epochs": 3.0}, "--steps 8 and --epochs 3 each say how long the run is"),
        ({"steps": -1}, "--steps is -1: it must be 0 or more"),
        ({"cache": "somewhere"}, "--cache needs every image by its number"),
        ({"share": 0.5}, "--share needs every image by its number"),
        ({"held_out": 1}, "--held-out is 1: at least 2 images"),
        ({"held_out": 100}, "ends after 59 usable images and --held-out is 100"),
        ({"allow_bad": 0.0}, "1 of the first .* images .* cannot be used"),
    ],
)
def test_what_a_stream_cannot_be_is_refused(streaming, small_settings, tmp_path, changes, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        run(streaming(**changes), small_settings("moco"))
    if changes != {"allow_bad": 0.0}:  # found while it learns
        assert not (tmp_path / "run").exists()


def test_labels_are_not_read_from_a_stream(streaming):
    with pytest.raises(SeedHubError, match='"finetune" learns from labels, and of a stream the images only'):
        run(streaming(method="finetune"))
