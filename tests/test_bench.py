"""What the bench compares does the same work, and what it prints follows from what it measured."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from seed_hub.bench.limit import Layer, Machine, layers_of, limits
from seed_hub.bench.measure import ratios
from seed_hub.bench.photos import SIDES, write_photos
from seed_hub.bench.reference import ReferenceSeed, reference_loss, reference_views
from seed_hub.bench.settings import BenchSettings
from seed_hub.bench.timing import Timing, peak_megabytes, sustained, take_turns
from seed_hub.cli import main
from seed_hub.data import open_images
from seed_hub.training.methods.seed import seed_loss

CPU = torch.device("cpu")
SMALL = (
    "--teacher untrained:test_resnet --student test_resnet --size 32 --batch-size 4 --queue-size 64 --turns 1"
)


def test_the_reference_loss_is_ours():
    z_s, z_t, queue = (normalize(torch.randn(n, 16, dtype=torch.float64), dim=1) for n in (5, 5, 50))
    torch.testing.assert_close(reference_loss(z_s, z_t, queue), seed_loss(z_s, z_t, queue))


def test_the_reference_step_trains_the_student_and_fills_the_queue():
    torch.manual_seed(0)
    networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 8)) for _ in range(2)]
    model = ReferenceSeed(*networks, 8, 8, queue_size=6)
    before, view = model.queue.clone(), torch.randn(4, 3, 2, 2)
    model(view).backward()
    assert networks[1][1].weight.grad.abs().sum() > 0 and networks[0][1].weight.grad is None
    torch.testing.assert_close(model.queue[:4], normalize(networks[0](view), dim=1))
    torch.testing.assert_close(model.queue[4:], before[4:])
    model(view)
    assert not torch.equal(model.queue[4:], before[4:])  # it goes on at its beginning


def test_photos_are_distinct_files_of_one_size(tmp_path):
    images = open_images(write_photos(tmp_path / "photos", 4), check=False)
    assert [images.load(i).size for i in range(4)] == [SIDES] * 4
    assert len({images.load(i).tobytes() for i in range(4)}) == 4
    assert reference_views(48)(images.load(0)).shape == (3, 48, 48)


def test_turns_alternate_and_the_first_does_not_count():
    order = []
    ways = {name: (lambda name=name: order.append(name)) for name in "ab"}
    found = take_turns(ways, CPU, turns=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert all(len(timing.seconds) == 2 for timing in found.values())


def test_processor_time_is_counted_and_waiting_is_not():
    def busy() -> None:
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass

    found = take_turns({"busy": busy, "idle": lambda: time.sleep(0.05)}, CPU, turns=1, warm_up=0)
    assert found["busy"].median >= 0.05 > 0.02 > found["idle"].median


def test_peak_memory_is_what_was_held_at_once():
    peak = peak_megabytes(lambda: torch.ones(25_000_000).sum(), CPU)
    if peak is None:
        pytest.skip("this system does not tell")
    assert 80 < peak < 160


def test_ratios_are_of_medians():
    taken = {"reference": 8.0, "live": 2.0, "cached": 1.5, "floor": 1.0, "alone b": 3.0, "together": 4.0}
    timings = {name: Timing((seconds, seconds, 100.0)) for name, seconds in taken.items()}
    assert ratios(timings, BenchSettings(together=("b",))) == {
        "reference/live": 4.0,
        "live/floor": 2.0,
        "reference/cached": 8 / 1.5,
        "cached/floor": 1.5,
        "together/alone": 4 / (2 + 3),
    }


def test_the_command_measures_and_records(tmp_path, capsys):
    out = tmp_path / "bench.jsonl"
    words = f"{SMALL} --only reference raw_cached floor loss --label small --out {out}"
    assert main(["bench", *words.split()]) == 0
    shown = capsys.readouterr().out
    assert "reference/raw_cached" in shown
    line = json.loads(out.read_text())
    assert set(line["seconds"]) == {"reference", "raw_cached", "floor", "loss"}
    assert all(seconds > 0 for seconds in line["seconds"].values())
    assert line["ratios"]["raw_cached/floor"] == pytest.approx(
        line["seconds"]["raw_cached"] / line["seconds"]["floor"]
    )
    assert line["images_per_second_sustained"] == {}  # this process loads the images itself
    assert line["settings"]["label"] == "small" and line["settings"]["queue_size"] == 64


def test_what_was_loaded_ahead_does_not_count():
    """Four of twenty that lie ready take no time, the others a hundredth of a second each."""
    done = []

    def way():
        done.append(0)
        time.sleep(0 if len(done) <= 4 else 0.01)

    assert 0.01 <= sustained(way, torch.device("cpu"), 4) < 0.02
    assert len(done) == 20


def test_processes_that_load_are_measured_in_the_long_run(tmp_path, capsys):
    out = tmp_path / "bench.jsonl"
    assert main(["bench", *f"{SMALL} --only live --workers 1 --out {out}".split()]) == 0
    (rate,) = json.loads(out.read_text())["images_per_second_sustained"].values()
    assert (
        f"in the long run, when what was loaded ahead is used up, images/s: live {rate:,.1f}"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--only liv", 'There is no "liv" to measure'),
        ("--turns 0", "--turns is 0"),
        ("--teacher untrained:nothing", 'There is no student "nothing"'),
        ("--compile all", 'Unknown --compile "all"'),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, capsys):
    assert main(["bench", *SMALL.split(), *words.split()]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell their peak")
def test_peak_memory_counts_what_the_allocator_kept():
    def many():
        return [torch.ones(20_000) for _ in range(1500)]

    held, pin = (
        many(),
        torch.ones(20_000),
    )  # above them on the heap, so that they are not given back by themselves
    del held
    peak = peak_megabytes(many, torch.device("cpu"))
    assert pin is not None and (peak is None or peak > 80)


def test_layers_count_operations_and_numbers():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, groups=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    convolution, linear = layers_of(network, torch.rand(2, 3, 4, 4))
    assert convolution == Layer(2 * (2 * 8 * 16) * 27, 2 * 3 * 16 + 8 * 27 + 2 * 8 * 16)
    assert linear == Layer(2 * (2 * 5) * 128, 2 * 128 + 5 * 128 + 2 * 5)


def test_the_limit_is_what_each_layer_waits_for():
    machine = Machine({"fp32": 100.0, "bf16": 1000.0}, bandwidth=10.0)
    arithmetic, memory = Layer(5000.0, 1.0), Layer(1.0, 40.0)
    assert machine.seconds([arithmetic, memory], "bf16") == 5.0 + 8.0
    assert machine.seconds([arithmetic, memory], "fp32") == 50.0 + 16.0
    found = limits([arithmetic], [memory], machine, "bf16", batch=2, rows=5, width=3)
    assert found == {"cached": 15.0 + 6.0, "live": 15.0 + 6.0 + 8.0}
