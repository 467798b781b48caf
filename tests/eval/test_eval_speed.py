"""The tables of speed say what was measured."""

from __future__ import annotations

import pytest

from eval import speed
from eval.scaling import scaling_table, traffic_table

LINE = {
    "protocol": "bench",
    "settings": {
        "label": "r50_224",
        "teacher": "untrained:resnet50",
        "student": "seed_resnet18",
        "batch_size": 50,
        "queue_size": 1000,
        "embedding_width": 10,
        "threads": 1,
    },
    "seconds": {"reference": 8.0, "live": 2.0, "cached": 1.0, "floor": 0.9},
    "spread": {"reference": 0.1, "live": 0.1, "cached": 0.1, "floor": 0.1},
    "turns": {"live": [2.0, 2.0, 2.0]},
    "peak_mb": {"live": 12.4},
    "images_per_second": {"live": 25.0, "cached": 50.0},
    "ratios": {"reference/live": 4.0, "reference/cached": 5.0, "raw_cached/floor": 1.2},
    "gflops": {"fp32": 100.0, "bf16": 800.0},
    "machine": {"cpu": "A processor", "gpu": None},
    "versions": {"torch": "2", "timm": "1"},
    "commit": "a" * 40,
}


def row(table: str, start: str) -> list[str]:
    (found,) = [line for line in table.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_an_aim_is_met_or_missed_by_the_last_measurement():
    older = LINE | {"ratios": {"reference/live": 1.0}}
    table = speed.bars_table([older, LINE])
    assert row(table, "ResNet-50, 224 px, JPEG files: reference / live")[1:] == [
        "at least 3.8",
        "4.00",
        "yes",
    ]
    assert row(table, "cached / student alone, 224 px")[1:] == ["at most 1.2", "1.20", "yes"]
    assert next(line for line in table.splitlines() if "the same, cached" in line).endswith("| 5.00 | no |")


def test_what_was_not_measured_is_blank():
    assert row(speed.bars_table([]), "three students together")[1:] == ["at most 0.62", "", ""]


def test_stages_show_times_spread_and_memory():
    table = speed.stages_table([LINE], ["r50_224", "not there"])
    assert row(table, "live") == ["live", "2000 (10%), 12 MB"]
    assert "A processor, 1 thread" in table and "Medians of 3 turns" in table


def test_input_and_queue_and_peers_show_their_ratios():
    where = {name: LINE[name] for name in ("machine", "versions", "commit")}
    fed = where | {
        "settings": {"size": 64, "images": 10, "store_side": 96},
        "seconds": {"reference": 1.0, "raw": 0.02},
        "ratios": {"reference": 1.0, "raw": 50.0},
    }
    assert row(speed.input_table([fed]), "64 px | raw")[2:] == ["500", "50.0", "35"]
    case = {"batch": 256, "precision": "fp32", "flush_denormal": False}
    lost = where | {"metric": "reference_time_over_ours", "settings": case, "value": 4.5}
    assert row(speed.queue_table([lost]), "reference time")[1:] == ["256", "fp32", "4.5", "at least 5"]
    peers = where | {
        "settings": {"teacher": "a", "student": "b", "size": 1, "batch": 2},
        "seconds_per_image": {"ours": 0.1, "other": 0.25},
        "peers": {"ours": "ours 1", "other": "other 2"},
    }
    assert row(speed.peers_table([peers]), "other 2")[1:] == ["250", "2.5"]
    for shown in (speed.input_table([fed]), speed.queue_table([lost]), speed.peers_table([peers])):
        assert shown.endswith("\n\nA processor, 1 thread; torch 2, timm 1; commit aaaaaaaaaa.")


def test_scaling_is_the_time_of_one_shared_out():
    found = row(scaling_table([LINE], ["r50_224"]), "resnet50, live | 10^9")
    days = 10**9 / 25 / 86400
    assert [float(cell.replace(",", "")) for cell in found[2:]] == pytest.approx(
        [days / w for w in (1, 8, 64, 256, 1024)], rel=0.05
    )


def test_traffic_counts_gradients_and_rows():
    trained = (
        11_176_512 + 512 * 2048 + 2048 + 2048 * 10 + 10
    )  # ResNet-18 without its classifier, and the head
    found = row(traffic_table([LINE], ["r50_224"]), "8 |")
    assert found[1] == "400"
    assert float(found[2]) == pytest.approx(2 * 7 / 8 * 4 * trained / 1e6, abs=0.06)
    assert float(found[3]) == pytest.approx(4 * 50 * 10 * 7 / 1e6, abs=0.006)
    assert row(traffic_table([LINE], ["r50_224"]), "1 |")[2:6] == ["0.0", "0.00", "0.00%", "0.00%"]


def test_what_an_int8_file_loses_is_shown_for_each_model_and_format():
    int8 = {
        "choice": {"products": 20, "in_float": ["a", "b"]},
        "cosine": 0.99871,
        "knn": {"before": 55.13, "after": 54.97, "drop": 0.16, "interval": [-0.8, 1.19]},
        "images": 1257,
        "calibrated_on": 512,
    }
    line = {
        **LINE,
        "model": "seed:one",
        "format": "onnx",
        "size_mb": 4.64,
        "compared_on": "photos",
        "int8": int8,
    }
    float_file = line | {"model": "seed:two", "int8": None}
    shown = speed.exports_table([line | {"size_mb": 9.0}, line, float_file])
    assert row(shown, "`one`") == [
        "`one`", "onnx", "2 of 20", "4.6", "0.9987", "55.1", "55.0", "0.16 (-0.80 to 1.19)"
    ]  # fmt: skip
    assert "two" not in shown and "1,257 images of photos; calibrated on 512 others" in shown
