"""Released weights: every folder of ``model_cards/``, and one released here, are what their names and cards say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

from seed_hub import weights
from seed_hub.catalog import students
from seed_hub.cli.published import publication_of_folder
from seed_hub.golden import GOLDEN, KEY, golden_images
from seed_hub.model_folder import CONFIG
from seed_hub.project import GITHUB_REPOSITORY
from seed_hub.publishing.publication import CARD, RESULTS, RUN, write_folder
from seed_hub.teachers import load_teacher
from seed_hub.weights import FILE_NAME, Weight, read_table, sha256_of, table_text
from tests.github_archive import archive, serving
from tests.made_up_run import make_run, network
from training.release import LIMIT, published
from training.release import main as release

ROOT = Path(__file__).resolve().parents[1]
MADE_UP = "seed_mobilenetv3_small.made_up"
RELEASED = weights.WEIGHTS  # as it is in the checkout, whatever a test puts in its place
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@dataclass(frozen=True)
class Released:
    """A weight, and the checkout that it is released in."""

    weight: Weight
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "model_cards" / self.weight.name

    @property
    def lines(self) -> list[dict[str, Any]]:
        files = (self.root / "eval" / "results").glob("*.jsonl")
        return [json.loads(text) for file in files for text in file.read_text().splitlines()]

    @property
    def text(self) -> str:
        return (self.folder / CARD).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Released from a run into a checkout of its own."""
    root = tmp_path_factory.mktemp("checkout")
    run = make_run(root / "run", network("seed_mobilenetv3_small"), "seed_mobilenetv3_small")
    for folder in ("eval/results", "training", "seed_hub"):
        (root / folder).mkdir(parents=True)
    (run / "results.jsonl").rename(root / "eval" / "results" / "made_up.jsonl")
    (root / "training" / "row.py").touch()
    (root / "seed_hub" / "released.json").write_text("[]")
    words = [str(run), "--name", MADE_UP, "--script", "training/row.py", "--images-licence", "cc-by-nc-4.0"]
    assert release(words, root) == 0
    (weight,) = read_table(root / "seed_hub" / "released.json")
    return Released(weight, root)


@pytest.fixture(scope="module", params=[*(weight.name for weight in RELEASED), MADE_UP])
def released(request: pytest.FixtureRequest, made_up: Released) -> Iterator[Released]:
    if request.param != MADE_UP:
        yield Released(weights.find_weight(request.param), ROOT)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "WEIGHTS", (made_up.weight,))
        patch.setenv(weights.FOLDER_VARIABLE, str(made_up.folder.parent))
        yield made_up


def test_every_folder_is_in_the_table_and_all_fit_into_a_clone() -> None:
    folders = {path.name for path in (ROOT / "model_cards").glob("*") if path.is_dir()}
    unpushed = {weight.name for weight in RELEASED if weight.revision is None}
    assert unpushed <= folders <= {weight.name for weight in RELEASED}
    files = [path for path in (ROOT / "model_cards").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT * 1e6


# The file, and every road to it.


def normalised(folder: Path) -> torch.Tensor:
    cfg = json.loads((folder / CONFIG).read_text())["pretrained_cfg"]
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (golden_images(cfg["input_size"][-1]) - mean) / std


def from_transformers(released: Released) -> torch.nn.Module:
    from transformers import AutoModel

    return AutoModel.from_pretrained(released.folder)


ROADS: dict[str, Callable[[Released], torch.nn.Module]] = {
    "name": lambda released: timm.create_model(released.weight.name, pretrained=True),
    "local-dir": lambda released: timm.create_model(f"local-dir:{released.folder}", pretrained=True),
    "transformers": from_transformers,
}


@pytest.mark.parametrize("road", ROADS)
def test_every_road_leads_to_the_golden_embeddings(released: Released, road: str) -> None:
    model = ROADS[road](released).eval()
    with torch.no_grad():
        found = model(normalised(released.folder))
    found = getattr(found, "pooler_output", found)
    golden = load_file(released.folder / GOLDEN)[KEY]
    student = students()[released.weight.arch]
    assert golden.shape == (3, student.width) and golden.dtype == torch.float32
    assert torch.pdist(golden).min() > 100 * CLOSE["atol"]  # a network that tells the images apart
    torch.testing.assert_close(found, golden, **CLOSE)
    assert sum(weight.numel() for weight in model.parameters()) == student.parameters
    if road == "name":  # what the table and the folder say of the input is one
        cfg = json.loads((released.folder / CONFIG).read_text())["pretrained_cfg"]
        for name in ("input_size", "mean", "std", "license", "tag"):
            mine = model.pretrained_cfg[name]
            assert (list(mine) if isinstance(mine, tuple) else mine) == cfg[name], name


def test_as_a_teacher_it_says_its_terms(released: Released) -> None:
    teacher = load_teacher(f"seed:{released.weight.name}")
    assert teacher.licence == released.weight.licence
    found = teacher(golden_images(released.weight.input_size)).pooled
    torch.testing.assert_close(found, load_file(released.folder / GOLDEN)[KEY], **CLOSE)


def test_torch_hub_finds_them_in_the_archive_that_github_serves(made_up: Released, tmp_path: Path) -> None:
    every = [made_up, *(Released(weight, ROOT) for weight in RELEASED)]
    files = archive(ROOT, tmp_path / "scratch")
    files["seed_hub/released.json"] = table_text(tuple(each.weight for each in every)).encode()
    files |= {f"model_cards/{MADE_UP}/{path.name}": path.read_bytes() for path in made_up.folder.iterdir()}
    names = [each.weight.name for each in every if each.folder.is_dir()]
    code = (
        f"torch.hub.set_dir({str(tmp_path / 'hub')!r})\n"
        "from safetensors.torch import load_file, save_file\n"
        f"pixels, found = load_file({str(tmp_path / 'pixels')!r}), {{}}\n"
        "for name, images in pixels.items():\n"
        "    arch, _, tag = name.partition('.')\n"
        f"    model = torch.hub.load('{GITHUB_REPOSITORY}:main', arch, pretrained=True, pretrained_cfg=tag, trust_repo=True)\n"
        "    with torch.no_grad(): found[name] = model.eval()(images)\n"
        f"save_file(found, {str(tmp_path / 'found')!r})\n"
    )
    from safetensors.torch import save_file

    folders = {each.weight.name: each.folder for each in every}
    save_file({name: normalised(folders[name]) for name in names}, tmp_path / "pixels")
    with serving(files, tmp_path / "github") as prelude:
        done = subprocess.run(
            [sys.executable, "-c", prelude + code], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found")
    assert MADE_UP in found and found.keys() == set(names)
    for name, embeddings in found.items():
        torch.testing.assert_close(embeddings, load_file(folders[name] / GOLDEN)[KEY], **CLOSE)


def test_the_file_is_the_one_of_the_table(released: Released) -> None:
    path = released.folder / FILE_NAME
    assert sha256_of(path) == released.weight.sha256
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(key).get_dtype() for key in file.keys()} <= {"F32", "I64"}  # noqa: SIM118


# The card.


def test_it_names_what_made_it(released: Released) -> None:
    run = json.loads((released.folder / RUN).read_text())
    assert re.fullmatch(r"[0-9a-f]{40}\+?", run["environment"]["commit"])
    assert re.fullmatch("[0-9a-f]{16}", run["fingerprint"])
    assert (released.root / run["script"]).is_file() and run["hours"] > 0
    said = (run["environment"]["commit"], run["fingerprint"], run["script"], f"{run['hours']:.2f} hours")
    assert [each for each in said if each not in released.text] == []
    for line in released.lines:  # of a run, measurements say the hours too
        hours = line["model"]["facts"].get("hours")
        if hours is not None and line["model"]["sha256"] == released.weight.tensors:
            assert hours == pytest.approx(run["hours"], abs=0.01)


def test_nobodys_folders_are_published(released: Released) -> None:
    for path in released.folder.iterdir():
        if path.suffix in (".md", ".json", ".jsonl"):
            assert not re.search(r"/(home|root|tmp|work|Users|mnt)/", path.read_text(encoding="utf-8")), (
                path.name
            )


def test_every_number_of_the_card_is_of_a_result(released: Released) -> None:
    own = [line for line in released.lines if line["model"]["sha256"] == released.weight.tensors]
    for result in ModelCard(released.text).data.eval_results:
        assert (result.metric_type, result.metric_value) in [
            (f"{line['protocol']}_{line['metric']}", line["mean"]) for line in own
        ]
    measured = released.text.partition("\n## Measured\n")[2].partition("\n## ")[0]
    rows = re.findall(
        r"^\| (\w+)(?:, \w+)?(?: \\\*)? \| (\w+) \| ([\d.]+)(.*?) \|(?:.*?\|){2} (.*) \|$",
        measured,
        re.MULTILINE,
    )
    assert {row[:2] for row in rows} == {(line["protocol"], line["metric"]) for line in own}
    for protocol, metric, value, spread, beside in rows:
        alike = [line for line in released.lines if (line["protocol"], line["metric"]) == (protocol, metric)]
        mine = [line for line in own if line in alike and f"{line['mean']:.2f}" == value]
        assert mine, (protocol, metric, value)
        assert set(re.findall(r"[\d.]+\d", spread)) <= numbers(mine), spread
        others = numbers(alike)
        assert {each.rpartition(" ")[2] for each in beside.split("; ") if each != "none"} <= others, beside
    known = numbers(released.lines)
    scores = re.sub(r"with other settings than the protocol's own \(.*?\)\.", "", measured)
    assert set(re.findall(r"\d+\.\d\d\b", scores)) <= known  # in the picture's words, too


@pytest.mark.parametrize("weight", [w for w in RELEASED if w.tag == "moco_r18_tin200"], ids=lambda w: w.name)
def test_the_gap_closed_is_that_of_the_readmes_tables(weight: Weight) -> None:
    """Worked out by two ways: there from names of rows, on the card from what the rows' runs were."""
    tables = (ROOT / "README.md").read_text(encoding="utf-8")
    knn, linear = re.findall(rf"^\| `{weight.arch}` \|.* ([\d.]+%) \|", tables, re.MULTILINE)
    card = Released(weight, ROOT).text
    assert f"trained without a teacher to the teacher: knn {knn}; linear, fast {linear}" in card


def test_what_is_published_elsewhere_is_as_the_file_of_it_says(released: Released) -> None:
    run = json.loads((released.folder / RUN).read_text())
    assert run["published"] == published(released.weight.name, released.root)
    assert run["published"] in released.text


def numbers(lines: list[dict[str, Any]]) -> set[str]:
    """As a card writes them: of each line, and over several trainings of one recipe."""
    found = {"95"}  # percent of an interval
    groups: dict[str, list[float]] = {}
    for line in lines:
        values = [line["mean"], *line.get("interval", ())]
        if line["std"] is not None:
            values += [line["std"], line["mean"] - line["std"], line["mean"] + line["std"]]
        found |= {f"{value:.2f}" for value in values} | {str(line["n"])}
        facts = {name: value for name, value in line["model"]["facts"].items() if name != "hours"}
        settings = line["settings"] | {"precision": ""}
        alike = [line["protocol"], line["metric"], line["model"]["spec"], facts, settings, line["data"]]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(line["mean"])
    for group in (group for group in groups.values() if len(group) > 1):
        mean, std = fmean(group), stdev(group)
        found |= {f"{value:.2f}" for value in (mean, std, mean - std, mean + std)}
    return found


def test_the_card_written_again_is_the_same(released: Released, tmp_path: Path) -> None:
    files = sorted((released.root / "eval" / "results").glob("*.jsonl"))
    again = write_folder(publication_of_folder(released.folder, files), tmp_path / "again")
    assert {path.name for path in again.iterdir()} == {path.name for path in released.folder.iterdir()}
    for name in (CARD, CONFIG, RUN, RESULTS, FILE_NAME, GOLDEN):  # pictures depend on matplotlib's version
        assert (again / name).read_bytes() == (released.folder / name).read_bytes(), name
