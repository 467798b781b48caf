"""The page about a run: what it says is what the folder holds, and it needs nothing from outside."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seed_hub.cli import main
from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.eval.record import weights_sha256
from seed_hub.model_folder import load_model_folder, save_model
from seed_hub.report import write_report
from seed_hub.report.curves import Curve, draw, moving_average, nice_ticks
from seed_hub.report.gallery import NEIGHBOURS, QUERIES
from seed_hub.report.record import read_run
from seed_hub.report.tables import code
from seed_hub.training import monitor

VERDICT = (
    "It worked: 45.2% of the teacher's 10 nearest neighbours are also the student's (untrained 7.2%, chance 2.0%), "
    "effective rank 79 -> 142."
)
HALF = monitor.Look(0.5, 0.5, 0.5, 0.5, 50.0, None)
VOID = {"meta", "img", "br", "wbr", "path", "circle"}


def step(n: int, loss: float, seconds: float, **more: Any) -> dict[str, Any]:
    line = {"event": "step", "step": n, "images": n * 16, "loss": loss, "lr": 0.1, "images_per_second": 40.0}
    return line | {"seconds_left": 90, "memory_gb": 1.5, "seconds": seconds} | more


def look(n: int, agreement: float | None, **more: Any) -> dict[str, Any]:
    line = {"event": "look", "step": n, "images": n * 16, "agreement": agreement, "view_retrieval": 0.25}
    line |= {"cosine": None if agreement is None else 0.375, "effective_rank": 79.0 + n, "knn": None}
    line["score"] = line["view_retrieval"] if agreement is None else agreement
    return line | more


LOG = [
    look(0, 0.072),
    step(1, 0.0, 1.0),
    step(4, 5.5, 8.0),
    look(4, 0.452),
    step(8, 5.0, 20.0),
    look(8, 0.331),
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with a teacher, named by relative paths as a user would; its models are random."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(120):
        path = Path("images") / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    folder = Path("runs/first")
    folder.mkdir(parents=True)
    for seed, place in enumerate((folder / "best", Path("teacher"))):
        torch.manual_seed(seed)
        save_model(place, build_student("seed_mobilenetv3_small"), {})
    write_run(folder)
    return folder


def write_run(
    folder: Path, log: list[dict[str, Any]] = LOG, verdict: str | None = VERDICT, **config: Any
) -> None:
    settings = {
        "data": "images",
        "student": "seed_mobilenetv3_small",
        "method": "seed",
        "teacher": "seed:teacher",
    }
    settings |= {"out": "runs/first", "size": 32, "batch_size": 16, "allow_random_teacher": True}
    settings |= {"method_settings": {"queue_size": 64}}
    (folder / "config.json").write_text(json.dumps(settings | config))
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "python": "3.11.7",
                "packages": {"torch": "2.6.0", "timm": None},
                "cpu": "A Processor",
                "cores": 2,
            }
        )
    )
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "bad_images.txt").write_text("# 1 images of images left out\ncat/broken.png\ttruncated\n")
    (folder / "verdict.json").unlink(missing_ok=True)
    if verdict:
        (folder / "verdict.json").write_text(json.dumps({"verdict": verdict}))


def html_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def words(html: str) -> str:
    """What a reader sees: no tags, no style."""
    text = re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


class Balanced(HTMLParser):
    """Fails on a tag that closes nothing; remembers what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_needs_nothing_from_outside(run: Path) -> None:
    html = html_of(run)
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert len(parser.fetched) == QUERIES * (1 + 2 * NEIGHBOURS)
    assert all(source.startswith("data:image/") for source in parser.fetched)
    assert not re.search(r"https?://|@import|url\(|<script|<link", html)


def test_it_says_what_the_folder_holds(run: Path) -> None:
    text = words(html_of(run))
    assert "It worked. 45.2% of the teacher's" in text.replace("&#x27;", "'")
    assert "79 → 142" in text
    assert re.search(r"Agreement 45.2% untrained 7.2%", text), "the tile shows the best look, not the last"
    assert re.search(r"4 64 45.2% 0.375 25.0% 83.0 best", text)
    assert re.search(r"Training time 20 s 8 steps of 16", text)
    assert "1 image was skipped" in text
    assert "cat/broken.png truncated" in text
    assert "queue_size 64 K, how many earlier teacher embeddings" in text
    assert "torch 2.6.0" in text
    assert "timm" not in text.partition("Packages")[2]


def test_it_names_no_place_the_user_did_not(run: Path, tmp_path: Path) -> None:
    assert str(tmp_path) not in html_of(run)
    (tmp_path / "images").rename(tmp_path / "moved")
    assert str(tmp_path) not in html_of(run)


def test_long_names_break_without_a_change_of_a_letter() -> None:
    assert code("file:a_b?c=<1>&d") == "<code>file:<wbr>a_<wbr>b?<wbr>c=&lt;1&gt;&amp;<wbr>d</code>"


def test_names_are_text_not_markup(run: Path) -> None:
    write_run(run, student="<script>alert(1)</script>")
    assert "<script" not in html_of(run)


def test_neighbours_that_both_find_are_marked(run: Path) -> None:
    assert "shared" in words(html_of(run))
    write_run(run, teacher="seed:runs/first")  # the student is its own teacher
    html = html_of(run)
    assert words(html).count(f"{NEIGHBOURS} of {NEIGHBOURS} shared") == QUERIES
    assert html.count("<li class=shared>") == 2 * QUERIES * NEIGHBOURS


def test_neighbours_are_of_the_held_out_images(run: Path) -> None:
    """Of 12 held-out images each of the 10 neighbours is another one, nearest first."""
    from seed_hub.report.gallery import build_gallery
    from seed_hub.report.held_out import embed_held_out, stacked

    record = read_run(run)
    gallery = build_gallery(embed_held_out(record), record.settings.seed)
    assert len(gallery.images) == 12
    for query, found in zip(gallery.queries, gallery.student, strict=True):
        assert query not in found
        assert len(set(found)) == NEIGHBOURS
    from seed_hub.model_folder import load_model_folder

    with torch.no_grad():
        x = load_model_folder(run / "best").eval()(stacked(gallery.images, 32).float() / 255).pooled
    x = torch.nn.functional.normalize(x, dim=1)
    similarity = (x @ x.T)[gallery.queries[0]][gallery.student[0]]
    assert (similarity.diff() <= 1e-6).all()


def test_without_a_teacher_the_student_stands_alone(run: Path) -> None:
    log = [look(0, None), step(4, 5.5, 8.0), look(4, None, view_retrieval=0.5, score=0.5)]
    write_run(run, log, method="moco", teacher="")
    text = words(html_of(run))
    assert text.count("Student 1") == 0
    neighbours, _, mapped = text.partition("Map Each")
    assert (neighbours.count(" Student "), mapped.count(" Student ")) == (QUERIES, 1)
    assert "Teacher" not in text
    assert "Agreement" not in text
    assert "Dashed: the student untrained." in text
    assert "View retrieval 50.0% untrained 25.0%" in text
    assert "method moco, without a teacher" in text.lower()


def test_a_student_that_went_on_from_other_weights_was_not_untrained(run: Path) -> None:
    log = [look(0, None), step(4, 5.5, 8.0), look(4, None, view_retrieval=0.5, score=0.5)]
    write_run(run, log, method="moco", teacher="", start="runs/earlier")
    text = words(html_of(run))
    assert "View retrieval 50.0% at the start 25.0%" in text and "Dashed: the student at the start." in text


def test_a_teacher_that_is_gone_costs_its_row_only(run: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher").rename(tmp_path / "elsewhere")
    html = html_of(run)
    assert "The teacher could not be loaded again" in words(html)
    assert html.count("<img") == QUERIES * (1 + NEIGHBOURS)


def test_images_that_are_gone_cost_the_grid_only(run: Path, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    html = html_of(run)
    assert "the images of this run could not be opened again" in words(html)
    assert "<img" not in html
    assert "It worked." in words(html)


def results_of(run: Path, **more: Any) -> Path:
    """A file with a line of the run and one of its teacher; the page is to be about these alone."""
    write_run(run, data="gone")
    part = {"source": "photos", "split": "val", "images": 50, "fingerprint": "f"}
    line = {"protocol": "knn", "metric": "top1_k20", "n": 1, "std": None, "settings": {"size": 32}}
    line |= {"data": {"train": part, "test": part}} | more
    lines = []
    for spec, place, mean in (("first", run / "best", 41.25), ("seed:teacher", Path("teacher"), 50.5)):
        sha256 = weights_sha256(load_model_folder(place).backbone)
        lines.append(line | {"mean": mean, "model": {"spec": spec, "sha256": sha256, "facts": {}}})
    file = Path("measured.jsonl")
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return file


def test_measurements_of_these_weights_are_found_by_the_weights(run: Path) -> None:
    file = results_of(run)
    text = words(write_report(run, results=[file]).read_text(encoding="utf-8"))
    assert re.search("Evaluation These weights beside others", text)
    assert "top1_k20 at 32 px, 50 images of photos val" in text
    assert re.search(r"teacher, teacher 50.50 .*this run 41.25", text)
    save_model(run / "best", build_student("seed_mobilenetv3_small"), {})  # it went on training since
    text = words(write_report(run, results=[file]).read_text(encoding="utf-8"))
    assert "have not been measured" in text and "41.25" not in text
    assert "seed-hub eval all --model runs/ first --data D" in text, "a line may break after the slash"


def test_curves_and_pictures_of_a_detector_are_shown(run: Path) -> None:
    file = results_of(
        run, protocol="detection", metric="AP", curves={"cat": [0.5] * 101}, settings={"iterations": 9}
    )
    facts = {"weights": json.loads(file.read_text().splitlines()[0])["model"]["sha256"], "threshold": 0.5}
    facts["pictures"] = [{"file": "3.png", "image": 3, "true": 1, "found": 0}]
    Path("seen").mkdir()
    Image.new("RGB", (64, 48)).save("seen/3.png")
    Path("seen/pictures.json").write_text(json.dumps(facts))
    html = write_report(run, results=[file], pictures=Path("seen")).read_text(encoding="utf-8")
    assert "cat AP50 50.0, untrained" not in words(html) and "cat AP50 50.0" in words(html)
    assert "Test image 3: 1 true, 0 found" in words(html)
    parser = Balanced()
    parser.feed(html)
    assert not parser.open
    assert all(source.startswith("data:image/") for source in parser.fetched)


def test_the_map_shows_both_networks_and_the_classes(run: Path) -> None:
    html = html_of(run)
    assert html.count('aria-label="Map of 12 held-out images') == 2
    assert re.search(r"Map Each dot .*Student .*Teacher .* cat dog ", words(html))


def test_the_command_finds_results_where_they_are_written(run: Path) -> None:
    said = []
    for there in ("results.jsonl", "runs/results.jsonl"):
        results_of(run).rename(there)
        assert main(["report", str(run)]) == 0
        said.append("this run 41.25" in words((run / "report.html").read_text(encoding="utf-8")))
        Path(there).unlink()
    assert said == [True, True]
    assert main(["report", str(run)]) == 0
    assert "have not been measured" in words((run / "report.html").read_text(encoding="utf-8"))


def test_what_was_asked_for_and_is_not_there_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--results", "gone.jsonl"]) == 2
    assert "no results file gone.jsonl" in capsys.readouterr().err
    assert main(["report", str(run), "--pictures", "gone"]) == 2
    assert "no pictures in gone" in capsys.readouterr().err
    (run / "best" / "model.safetensors").unlink()
    assert "no weights in best/ that can be loaded" in words(html_of(run))
    assert main(["report", str(run), "--pictures", "gone"]) == 2


@pytest.mark.parametrize("length", range(len(LOG)))
def test_an_unfinished_run_has_a_page(run: Path, length: int) -> None:
    write_run(run, LOG[:length], verdict=None, data="gone")
    text = words(html_of(run))
    assert "Not finished." in text
    if length >= 4:
        assert f"{LOG[length - 1]['images']} images seen, about 1 min 30 s to go" in text
        assert "So far 45.2%" in text


def test_a_run_without_best_has_no_grid_yet(run: Path) -> None:
    (run / "best" / "config.json").unlink()
    assert "None yet" in words(html_of(run))


def test_lines_after_the_checkpoint_are_superseded_and_sittings_add_up(run: Path) -> None:
    resumed = [{"event": "resume", "step": 4}, step(6, 4.0, 3.0), look(6, 0.4), step(8, 3.0, 7.0)]
    write_run(run, LOG + resumed)
    record = read_run(run)
    assert [line["step"] for line in record.looks] == [0, 4, 6]
    assert record.seconds == 8.0 + 7.0
    assert "15 s, in 2 sittings" in words(html_of(run))


def test_many_skipped_images_are_counted_and_the_first_shown(run: Path) -> None:
    lines = "".join(f"{i}.png\tempty file\n" for i in range(1234))
    (run / "bad_images.txt").write_text("# 1234 images of images left out\n" + lines)
    text = words(html_of(run))
    assert "1,234 images were skipped" in text
    assert "19.png empty file" in text
    assert "20.png empty" not in text
    assert "1,214 more" in text


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        (VERDICT, "good"),
        ("Barely: 9%.", "fair"),
        ("COLLAPSED: 9%.", "bad"),
        (monitor.verdict(HALF, replace(HALF, agreement=0.53), 2000, start="x"), "good"),
        (monitor.verdict(HALF, HALF, 2000, start="x"), "fair"),
    ],
)
def test_the_verdict_has_its_colour(run: Path, verdict: str, tone: str) -> None:
    write_run(run, verdict=verdict, data="gone")
    assert f"<header class={tone}>" in html_of(run)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedHubError, match="is missing or damaged"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(run: Path, tmp_path: Path) -> None:
    write_run(run, data="gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(SeedHubError, match="Cannot write file/page.html"):
        write_report(run, Path("file/page.html"))
    assert write_report(run, Path("new/page.html")).exists()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (5.81, 6.52), (0.072, 0.0816), (3.0, 3.0), (0.0, 0.0), (-2e4, 1e6)]
)
def test_ticks_are_round_even_and_enclose(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    assert float(f"{steps[0]:.1e}"[:3]) in (1.0, 2.0, 5.0)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9


def test_a_curve_labels_its_ticks_apart_and_stays_inside() -> None:
    points = [(0.0, 0.072), (128.0, 0.081), (256.0, 0.08)]
    svg = draw(Curve("Agreement", "", points, "%", marked=128.0, first=0.072))
    labels = re.findall(r"<text[^>]*>([\d.]+%)", svg)
    assert len(labels) == len(set(labels)) >= 3
    assert svg.count('class="best"') == svg.count("class=best") + 1 == 1
    heights = [float(y) for y in re.findall(r"cy=([\d.]+)", svg)]
    assert heights == sorted(heights, key=lambda y: -y)[:1] + heights[1:], "the lowest value lies lowest"
    assert draw(Curve("Loss", "", [])) == ""


def test_the_moving_average_keeps_means_and_places() -> None:
    points = [(float(i), float(i % 2)) for i in range(200)]
    smooth = moving_average(points)
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert np.ptp([y for _, y in smooth[10:-10]]) < 0.2
