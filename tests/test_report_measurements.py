"""The evaluation in a page: which lines are the run's, which stand beside it, and how they are drawn."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.eval.record import weights_sha256
from seed_hub.model_folder import load_model_folder, save_model
from seed_hub.projection import projection_head
from seed_hub.report.bars import WIDTH, draw_bars, draw_comparison
from seed_hub.report.measurements import MOST, Bar, Comparison, compare, read_lines, weights_of
from seed_hub.report.sections import _evaluation

RUN = SimpleNamespace(
    settings=SimpleNamespace(student="seed_x", teacher="seed:/runs/big?head=none", more_teachers=())
)
OWN = "own"


def line(spec: str, sha: str, mean: float, **more: Any) -> dict[str, Any]:
    part = {"source": "images", "split": "val", "images": 100, "fingerprint": "f"}
    made = {"protocol": "knn", "metric": "top1_k20", "mean": mean, "n": 1, "std": None}
    made |= {"settings": {"size": 64, "batch_size": 1}, "data": {"train": part, "test": part}}
    return made | {"model": {"spec": spec, "sha256": sha, "facts": more.pop("facts", {})}} | more


def compared(*lines: dict[str, Any]) -> list[Comparison]:
    return compare(RUN, {OWN}, {Path("file"): list(lines)})  # type: ignore[arg-type]


def names(comparison: Comparison) -> list[str]:
    return [bar.name for bar in comparison.bars]


def test_only_what_was_measured_alike_is_compared() -> None:
    own = line("mine", OWN, 5.0)
    other_images = {"train": own["data"]["train"], "test": own["data"]["test"] | {"fingerprint": "g"}}
    (found,) = compared(
        own,
        line("same", "a", 4.0, settings={"size": 64, "batch_size": 999}),  # only faster
        line("size", "b", 4.0, settings={"size": 96, "batch_size": 1}),
        line("protocol", "c", 4.0, protocol="linear"),
        line("images", "d", 4.0, data=other_images),
    )
    assert names(found) == ["this run", "same"] and found.left_out == 0
    tables = {Path("one"): [own], Path("two"): [line("elsewhere", "e", 9.0)]}
    assert [names(each) for each in compare(RUN, {OWN}, tables)] == [["this run"]]  # type: ignore[arg-type]


def test_without_a_line_of_these_weights_there_is_nothing_to_say() -> None:
    assert compared(line("mine", "other weights", 5.0)) == []


def test_of_a_repeated_measurement_the_last_counts() -> None:
    (found,) = compared(
        line("mine", OWN, 1.0), line("a", "a", 2.0), line("mine", OWN, 7.0), line("a", "a", 3.0)
    )
    assert [(bar.name, bar.value) for bar in found.bars] == [("this run", 7.0), ("a", 3.0)]


def test_trainings_that_differ_in_their_seed_are_one_row() -> None:
    facts = {"name": "seed_x", "method": "seed", "teacher": "seed:big"}
    (found,) = compared(
        line("mine", OWN, 6.0),
        line("seed", "a", 4.0, facts=facts | {"hours": 1.0}),
        line("seed", "b", 5.0, facts=facts | {"hours": 2.0}),
        line("seed", "c", 3.0, facts=facts | {"images_seen": 7}),  # of another recipe
    )
    assert [(bar.name, bar.value) for bar in found.bars] == [("this run", 6.0), ("seed", 4.5), ("seed", 3.0)]
    low, high = found.bars[1].whisker or (0, 0)
    assert (high - low) / 2 == pytest.approx(stdev([4.0, 5.0]))
    assert found.bars[1].spread == "± 0.71, n = 2"
    assert found.bars[2].whisker is None


def test_a_line_brings_its_interval_or_its_deviation() -> None:
    (found,) = compared(
        line("mine", OWN, 6.0, interval=[5.0, 7.5]), line("trials", "a", 4.0, std=0.5, n=3, metric="x")
    )
    assert found.bars[0].whisker == (5.0, 7.5) and found.bars[0].spread == ""
    assert found.bars[1].whisker == (3.5, 4.5) and found.bars[1].spread == "± 0.50, n = 3"


def test_what_was_shortened_is_marked_and_said() -> None:
    short = {"shortened": {"minutes": 5, "test images": [1000, 100]}}
    found = compared(line("mine", OWN, 5.0, **short), line("b", "b", 4.0, **short))
    assert names(found[0]) == ["this run†", "b†"]
    _title, lead, _ = _evaluation(RUN, found)  # type: ignore[arg-type]
    assert "†: not the whole measurement, shortened to fit 5 minutes: test images 100 of 1,000." in lead
    assert "†" not in _evaluation(RUN, compared(line("mine", OWN, 5.0)))[1]  # type: ignore[arg-type]


def test_a_long_list_keeps_the_rows_that_give_the_number_its_meaning() -> None:
    taught = {"name": "seed_x", "method": "m", "teacher": "seed:big"}
    many = [line(f"m{i}", f"m{i}", 50.0 + i, facts=taught) for i in range(20)]
    alone = {"name": "seed_x", "method": "moco"}
    (found,) = compared(
        *many,
        line("mine", OWN, 1.0),
        line("untrained:seed_x", "u", 2.0),
        line("untrained:seed_y", "v", 2.5),
        line("seed:big?head=none", "t", 3.0, facts={"name": "seed_y", "method": "moco"}),
        line("moco", "a", 4.0, facts=alone),
        line("worse", "b", 0.5, facts=alone),
    )
    best = [f"m{i}" for i in range(19, 19 - (MOST - 4), -1)]
    assert names(found) == [*best, "moco, no teacher", "big, teacher", "untrained", "this run"]
    assert found.left_out == len(many) - len(best) + 2
    assert found.untrained is not None and found.untrained["model"]["sha256"] == "u"
    assert f"{found.left_out} more rows are left out" in draw_comparison(found)


def test_how_far_it_came_from_no_teacher_to_the_teacher() -> None:
    alone, labelled = ({"name": "seed_x", "method": method} for method in ("moco", "finetune"))
    teacher = line("seed:big", "t", 12.0)
    rows = line("mine", OWN, 10.0), line("moco", "a", 4.0, facts=alone), line("l", "l", 6.0, facts=labelled)
    (found,) = compared(*rows, teacher)
    assert names(found) == ["big, teacher", "this run", "l, with labels", "moco, no teacher"]
    assert found.gap_closed == pytest.approx(0.75)
    facts = {"name": "seed_x", "teacher": "seed:big", "images_seen": 100}
    mine = line("mine", OWN, 10.0, facts=facts)
    as_long = line("short", "b", 4.0, facts=alone | {"images_seen": 90})
    longer = line("long", "c", 11.0, facts=alone | {"images_seen": 900})
    (found,) = compared(mine, as_long, longer, teacher)
    assert found.gap_closed == pytest.approx(0.75)  # what a longer run learns is no baseline
    assert compared(*rows)[0].gap_closed is None
    assert compared(rows[0], rows[2], teacher)[0].gap_closed is None
    assert compared(*rows, line("seed:big", "t", 3.0))[0].gap_closed is None  # no gap to close


def test_a_line_is_found_by_the_weights_it_names(tmp_path: Path) -> None:
    """With the head or without, as protocols measure pooled and projected features."""
    torch.manual_seed(0)
    encoder = build_student("test_resnet")
    save_model(tmp_path / "best", encoder, {}, projection_head(encoder.width, 16, 8))
    found = weights_of(SimpleNamespace(path=tmp_path))  # type: ignore[arg-type]
    whole = load_model_folder(tmp_path / "best")
    assert whole.head is not None
    assert found == {weights_sha256(whole), weights_sha256(whole.backbone)}
    assert weights_sha256(encoder.backbone) in found and len(found) == 2
    with pytest.raises(SeedHubError, match="missing"):
        weights_of(SimpleNamespace(path=tmp_path / "gone"))  # type: ignore[arg-type]


def test_files_that_hold_no_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedHubError, match="no results file .*gone"):
        read_lines([tmp_path / "gone"])
    (tmp_path / "log.jsonl").write_text(json.dumps({"event": "step"}) + "\n")
    with pytest.raises(SeedHubError, match="other lines than results"):
        read_lines([tmp_path / "log.jsonl"])
    (tmp_path / "text").write_text("hello\n")
    with pytest.raises(SeedHubError, match="Line 1"):
        read_lines([tmp_path / "text"])


@pytest.mark.parametrize("values", [(5.0, 2.5), (99.0, 0.01), (0.0, 0.0), (3.0, -1.0)])
def test_bars_are_in_proportion_and_what_is_written_behind_them_has_place(
    values: tuple[float, float],
) -> None:
    bars = [Bar("this run", values[0], (values[0] - 1, values[0] + 1), "± 1.00, n = 3", own=True)]
    bars.append(Bar("a_very_long_name_of_a_model_that_nobody_reads", values[1], None))
    svg = draw_bars(bars, "knn")
    widths = [float(w) for w in re.findall(r'<rect [^>]*?width="?([\d.]+)', svg)]
    if values[0]:
        assert widths[1] / widths[0] == pytest.approx(abs(values[1]) / values[0], abs=0.01)
    else:
        assert widths == [0, 0]
    assert svg.count('class="bar own"') == svg.count("class=whisker") == 1
    for x, text in re.findall(r'class="value[^"]*" x=([\d.]+)[^>]*>([^<]+)<', svg):
        assert float(x) + 6 * len(text) <= WIDTH, "six units are a wide letter"
    for x, text in re.findall(r'class="name[^"]*" x=([\d.]+)[^>]*>([^<]+)<', svg):
        assert float(x) - 6 * len(text) >= 0
    assert "a_very_long…nobody_reads" in svg


def test_names_in_a_chart_are_text() -> None:
    (found,) = compared(line("mine", OWN, 1.0), line("<script>", "a", 2.0))
    assert "<script" not in draw_comparison(found)
