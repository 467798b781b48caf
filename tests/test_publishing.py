"""Licences, cards and pushes: what is published is what the run measured, loads without this package, and may be there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from seed_hub.cli.publish import card, push
from seed_hub.cli.published import _repository_of
from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.golden import GOLDEN, KEY, golden_embeddings
from seed_hub.licences import TABLE, Lineage, Rank, Source, decide, recorded_licence
from seed_hub.model_folder import CONFIG, HEAD, WEIGHTS, load_model_folder
from seed_hub.teachers import load_teacher
from seed_hub.weights import find_weight, sha256_of
from tests.github_archive import archive, serving
from tests.hub_server import TOKEN, HubServer
from tests.made_up_run import SIDE, make_run, network, write_json

REPO = "people/small.made_up"

# The Hub client hands httpx an open file as `data` when it uploads without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "x", network("test_resnet"), "test_resnet")


def flags(run: Path, **more: str) -> list[str]:
    given = {"repo": REPO, "images_licence": "own", "results": str(run / "results.jsonl")} | more
    words = [(f"--{name.replace('_', '-')}", value) for name, value in given.items() if value]
    return [str(run), *(word for pair in words for word in pair)]


def written(run: Path, **more: str) -> str:
    """The card's text."""
    shutil.rmtree(run / "card", ignore_errors=True)
    card(flags(run, **more))
    return (run / "card" / "README.md").read_text(encoding="utf-8")


def test_the_images_can_be_given_a_name(run: Path) -> None:
    assert "photos" in written(run)
    text = written(run, images_name="Tiny-ImageNet-200, training split")
    assert "| images | Tiny-ImageNet-200, training split |" in text
    about = json.loads((run / "card" / "run.json").read_text())
    assert about["settings"]["data"] == "Tiny-ImageNet-200, training split"


def test_it_may_be_published_for_another_side_than_it_was_trained_at(run: Path) -> None:
    before = written(run)
    assert f"It was trained at {SIDE} px: larger" in before
    size = 2 * SIDE
    text = written(run, size=str(size))
    assert f"It was trained at {SIDE} px and is published for {size} px: larger" in text
    published = load_model_folder(run / "card", head=False)
    assert published.input_size == size
    found = load_file(run / "card" / GOLDEN)[KEY]
    torch.testing.assert_close(found, golden_embeddings(published), rtol=0, atol=1e-5)


def test_a_side_that_the_student_cannot_take_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", network("test_vit"), "test_vit")
    with pytest.raises(SeedHubError, match="cannot take images of 50 px.*another --size"):
        card(flags(run, size="50"))
    assert not (run / "card").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process's client talks to, logged in."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # The one object whose methods the package exports has read its address when it was imported.
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


# Licences.


def sources(*licences: str) -> list[Source]:
    return [Source(("teacher", "images", "start")[i], f"thing{i}", each) for i, each in enumerate(licences)]


@pytest.mark.parametrize(
    ("teacher", "images", "carried"),
    [
        ("mit", "own", "mit"),
        ("own", "own", "apache-2.0"),
        ("apache-2.0", "cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("cc-by-nc-4.0", "apache-2.0", "cc-by-nc-4.0"),
        ("apache-2.0", "research-only", "cc-by-nc-4.0"),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-sa-4.0"),
        ("dinov3-license", "cc-by-4.0", "dinov3-license"),
        ("nvidia-open-model-license", "cc-by-nc-4.0", "cc-by-nc-4.0"),
    ],
)
def test_the_most_restrictive_terms_win_in_either_order(teacher: str, images: str, carried: str) -> None:
    for order in ((teacher, images), (images, teacher)):
        lineage = decide(sources(*order))
        assert (lineage.licence.identifier, lineage.allowed, lineage.override) == (carried, carried, "")


def test_no_pair_of_terms_ever_allows_less_strict_ones() -> None:
    """Over the whole table: what comes out ranks no lower than anything that went in."""
    for one in TABLE:
        for other in TABLE:
            try:
                found = decide(sources(one.identifier, other.identifier)).licence
            except SeedHubError:
                assert Rank.NO_DERIVATIVES in (one.rank, other.rank) or one.same_terms or other.same_terms
                continue
            assert found.rank >= max(one.rank, other.rank)
            assert found.listed or found.copy
            for each in (one, other):
                assert not each.same_terms or each.identifier == found.identifier


@pytest.mark.parametrize(
    ("terms", "licence", "said"),
    [
        (("unknown", "own"), "", "terms of the teacher thing0 are not known: name them with --teacher-licence"),
        (("mit", "cc-by-cn-4.0"), "", 'images thing1 say "cc-by-cn-4.0".*--images-licence.*Did you mean .*"cc-by-nc-4.0"'),
        (("cc-by-nc-4.0", "own"), "mit", "terms of cc-by-nc-4.0 do not let the student carry mit.*leave --licence out"),
        (("dinov3-license", "own"), "cc-by-nc-4.0", "do not let the student carry cc-by-nc-4.0"),
        (("dinov3-license", "cc-by-sa-4.0"), "", "want derived works under themselves.*another teacher"),
        (("cc-by-nd-4.0", "own"), "mit", "let nobody share"),
        (("mit", "own"), "research-only", "no licence to publish under"),
        (("mit", "own"), "mti", 'Did you mean "mit"'),
    ],
)  # fmt: skip
def test_terms_that_forbid_it_are_refused(terms: tuple[str, str], licence: str, said: str) -> None:
    with pytest.raises(SeedHubError, match=said):
        decide(sources(*terms), licence)


def test_an_override_needs_a_reason_and_something_to_override() -> None:
    terms = sources("cc-by-nc-4.0", "own")
    lineage = decide(terms, "mit", " the authors agreed\nby letter ")
    assert isinstance(lineage, Lineage)
    assert lineage.as_json() == {
        "licence": "mit",
        "allowed": "cc-by-nc-4.0",
        "override": "the authors agreed by letter",
        "sources": [
            {"role": "teacher", "name": "thing0", "licence": "cc-by-nc-4.0"},
            {"role": "images", "name": "thing1", "licence": "own"},
        ],
    }
    assert Lineage.from_json(lineage.as_json()) == lineage
    with pytest.raises(SeedHubError, match="do not let"):
        decide(terms, "mit", "  ")
    with pytest.raises(SeedHubError, match="nothing to override: cc-by-nc-4.0 is allowed"):
        decide(terms, "", "why not")
    with pytest.raises(SeedHubError, match="name the student's own --licence"):
        decide(sources("cc-by-nd-4.0", "own"), "", "they agreed")


@pytest.mark.parametrize(
    ("licence", "facts", "bound"),
    [
        (None, {"teacher_licence": "cc-by-nc-4.0"}, "cc-by-nc-4.0"),
        (None, {"teacher_licence": "mit + cc-by-nc-4.0", "start_licence": None}, "cc-by-nc-4.0"),
        (None, {"teacher_licence": "apache-2.0", "start_licence": "research-only"}, "research-only"),
        ("cc-by-nc-4.0", {"teacher_licence": "mit"}, "cc-by-nc-4.0"),
        (None, {"teacher_licence": "mit + unknown"}, None),
        (None, {"teacher_licence": "cc-by-nc-4.0 + unknown"}, "cc-by-nc-4.0"),
        (None, {"teacher_licence": "mit + somebody's"}, "somebody's"),
        (None, {"teacher_licence": None}, None),
        (None, {}, None),
        (None, {"lineage": {"licence": "cc-by-4.0"}, "teacher_licence": "cc-by-nc-4.0"}, "cc-by-4.0"),
    ],
)
def test_a_model_is_bound_by_what_its_config_records(
    licence: str | None, facts: dict[str, object], bound: str | None
) -> None:
    assert recorded_licence(licence, facts) == bound


# Cards.


def test_the_card_is_made_of_the_run_and_its_results(run: Path) -> None:
    text = written(run, watts="250", dataset="people/photos")
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "timm",
        "image-feature-extraction",
        "apache-2.0",
    )
    assert data.datasets == ["people/photos"] and data.base_model is None
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == (
        "knn_top1_k20",
        45.678,
        "photos",
    )
    for said in (
        "45.68 % [43.20, 48.10]",
        "untrained 12.50",
        "1,200 of photos validation",
        "2.00 hours of training on A Processor, 2 cores. About 0.5 kWh, on the assumption of 250 W",
        "had seen 320 views of the 640",
        "| queue_size | 640 |",
        "seed-hub distill --data=photos --out x",
        "| teacher | timm:big.tag | apache-2.0 |",
        "It worked: 45.2%",
    ):
        assert said in text, said
    assert (
        "99" not in text.partition("## Measured")[2].partition("## Recipe")[0]
    )  # another model's, not measured alike
    assert "/home" not in text and "someone" not in text
    assert "Overridden" not in text
    assert "No label was used in this run" in text
    assert data.tags == ["timm", "transformers", "self-supervised-learning", "knowledge-distillation", "seed"]


def test_a_run_that_saw_labels_says_so(tmp_path: Path) -> None:
    encoder = network("test_resnet")
    run = make_run(tmp_path / "x", encoder, "test_resnet", method="finetune", teacher="", method_settings={})
    text = written(run)
    assert "It learnt from labels in this run" in text
    assert ModelCard(text).data.tags == ["timm", "transformers", "finetune"]


def test_the_folder_is_the_repository(run: Path) -> None:
    card(flags(run, licence="cc-by-nc-4.0"))
    folder = run / "card"
    there = {path.name for path in folder.iterdir()}
    assert there == {"README.md", CONFIG, WEIGHTS, HEAD, GOLDEN, "run.json", "results.jsonl", "scores.png"}
    ours = load_model_folder(folder)
    assert ours.licence == "cc-by-nc-4.0" and ours.head is not None
    config = json.loads((folder / CONFIG).read_text())
    assert config["pretrained_cfg"]["license"] == config["seed_hub"]["lineage"]["licence"] == "cc-by-nc-4.0"
    assert config["pretrained_cfg"]["tag"] == "made_up" and config["model_args"] == {}
    assert config["seed_hub"]["lineage"]["allowed"] == "apache-2.0"
    assert "teacher_licence" not in config["seed_hub"]
    ours, theirs = load_file(folder / WEIGHTS), load_file(run / "best" / WEIGHTS)
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    assert sha256_of(folder / WEIGHTS) in (folder / "README.md").read_text()
    with safe_open(folder / WEIGHTS, "pt") as file:
        about = file.metadata()
    assert about.pop("format") == "pt"
    assert json.loads(about.pop("seed_hub.lineage"))["licence"] and not about
    (mine,) = (json.loads(text) for text in (folder / "results.jsonl").read_text().splitlines())
    assert mine["mean"] == 45.678
    before = (folder / "README.md").read_bytes()
    card(flags(run, licence="cc-by-nc-4.0"))  # again, over its own
    assert (folder / "README.md").read_bytes() == before


def test_curves_are_drawn_of_what_was_looked_at_twice(run: Path) -> None:
    assert "curves.png" not in written(run)  # one step, no look
    looks = [
        {"event": "look", "step": n, "images": 16 * n, "agreement": share, "score": share}
        for n, share in ((0, 0.07), (20, 0.45), (40, 0.33))
    ]
    steps = [
        {"event": "step", "step": n, "images": 16 * n, "loss": loss, "seconds": 9.0}
        for n, loss in ((20, 6.5), (40, 5.0))
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in looks + steps))
    text = written(run)
    said = "agreement from 7.0% to 33.0%, untrained 7.0%; loss from 6.5 to 5; over 640 images seen"
    assert f"![{said}](curves.png)" in text and (run / "card" / "curves.png").is_file()
    assert "Ring: where these weights were saved." in text
    assert "others, measured alike" in text and "untrained 12.50" in text


def test_what_was_not_measured_is_not_said(run: Path) -> None:
    (run / "results.jsonl").write_text("")
    text = written(run)
    assert "have not been measured yet" in text and "Energy was not estimated" in text
    assert "model-index" not in text and "kWh" not in text


def test_a_shortened_measurement_is_marked_and_not_in_the_index(run: Path) -> None:
    lines = [json.loads(text) for text in (run / "results.jsonl").read_text().splitlines()]
    lines[0]["shortened"] = {"minutes": 5}
    (run / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    text = written(run)
    assert "45.68 % [43.20, 48.10] †" in text and "†: not the whole measurement" in text
    assert "model-index" not in text


def test_two_modes_of_a_protocol_are_told_apart(run: Path) -> None:
    lines = [json.loads(text) for text in (run / "results.jsonl").read_text().splitlines()]
    more = [
        lines[0] | {"protocol": "linear", "settings": {"size": SIDE, "protocol": mode}}
        for mode in ("fast", "seed")
    ]
    (run / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines + more))
    text = written(run)
    names = {result.metric_name for result in ModelCard(text).data.eval_results}
    for mode in ("fast", "seed"):
        assert f"| linear, {mode} | top1_k20 |" in text and f"linear, {mode} top1_k20 (%)" in names


def test_an_override_is_printed_on_the_card(run: Path) -> None:
    more = {
        "images_licence": "cc-by-nc-4.0",
        "licence": "mit",
        "override_licence": "the owner of the images agreed",
    }
    text = written(run, **more)
    assert "**Overridden.** These terms ask for `cc-by-nc-4.0`; the publisher chose `mit`" in text
    assert "reason: the owner of the images agreed" in text
    assert ModelCard(text).data.license == "mit"


def test_terms_the_hub_does_not_list_go_along_as_a_file(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "best" / CONFIG).read_text())
    config["seed_hub"]["teacher_licence"] = "dinov3-license"
    write_json(run / "best" / CONFIG, config)
    with pytest.raises(SeedHubError, match="copy of its text.*--licence-file"):
        card(flags(run))
    assert not (run / "card").exists()
    (tmp_path / "terms.txt").write_text("terms")
    head = yaml.safe_load(written(run, licence_file=str(tmp_path / "terms.txt")).split("---\n")[1])
    found = (head["license"], head["license_name"], head["license_link"])
    assert found == ("other", "dinov3-license", "LICENSE")
    assert (run / "card" / "LICENSE").read_text() == "terms"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"images_licence": ""}, "--images-licence is missing"),
        ({"repo": "no repository"}, "is no repository of the Hub: write --repo ORG/NAME"),
        ({"repo": "alone"}, "write --repo ORG/NAME"),
        ({"teacher_licence": "mit"}, r"knows the terms of its teacher \(apache-2.0\)"),
        ({"start_licence": "mit"}, "started from no other weights"),
        ({"licence_file": "nowhere"}, "no file nowhere"),
        ({"watts": "-1"}, "--watts -1 is no power"),
        ({"size": "8"}, "--size 8 is no side of a picture"),
        ({"results": "nowhere.jsonl"}, "no results file nowhere.jsonl"),
        ({"licens": "mit"}, "Did you mean .*--licence"),
    ],
)
def test_bad_input_is_one_sentence(run: Path, more: dict[str, str], said: str) -> None:
    with pytest.raises(SeedHubError, match=said):
        card(flags(run, **more))


def test_what_is_no_run_or_no_folder_of_ours_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SeedHubError, match="Name the folder of a run"):
        card([])
    with pytest.raises(SeedHubError, match="is .* the folder of a run"):
        card(flags(tmp_path, results=""))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(SeedHubError, match=r"holds other things than a card \(thesis.tex\)"):
        card(flags(run, out=str(tmp_path / "mine")))
    assert (tmp_path / "mine" / "thesis.tex").exists()
    (run / "best" / CONFIG).unlink()
    with pytest.raises(SeedHubError, match="holds no trained model"):
        card(flags(run))


def test_the_terms_of_weights_it_started_from_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", network("test_resnet"), "test_resnet", start="/home/someone/earlier")
    with pytest.raises(SeedHubError, match="terms of the start earlier are not known.*--start-licence"):
        card(flags(run))
    text = written(run, start_licence="cc-by-nc-4.0")
    assert ModelCard(text).data.license == "cc-by-nc-4.0"
    assert "went on from `earlier`, whose own images and hours come on top" in text


def recording(folder: Path, licence: str) -> Path:
    """A run whose teacher was under these terms."""
    run = make_run(folder, network("test_resnet"), "test_resnet")
    config = json.loads((run / "best" / CONFIG).read_text())
    config["seed_hub"]["teacher_licence"] = licence
    write_json(run / "best" / CONFIG, config)
    return run


@pytest.mark.parametrize("where", ["", "best"])
def test_a_run_that_it_started_from_binds_it(where: str, tmp_path: Path) -> None:
    start = str(recording(tmp_path / "first", "cc-by-nc-4.0") / where)
    run = make_run(tmp_path / "x", network("test_resnet"), "test_resnet", start=start)
    assert ModelCard(written(run)).data.license == "cc-by-nc-4.0"
    with pytest.raises(
        SeedHubError, match=r"terms of the start \S+ are known \(cc-by-nc-4.0\): leave --start"
    ):
        card(flags(run, start_licence="own"))
    text = written(run, start_licence="cc-by-nc-sa-4.0")  # its images may ask for more
    assert ModelCard(text).data.license == "cc-by-nc-sa-4.0"


def test_what_the_run_recorded_of_its_start_is_enough(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", network("test_resnet"), "test_resnet", start="/home/someone/gone")
    config = json.loads((run / "best" / CONFIG).read_text())
    config["seed_hub"]["start_licence"] = "cc-by-nc-4.0"
    write_json(run / "best" / CONFIG, config)
    assert ModelCard(written(run)).data.license == "cc-by-nc-4.0"
    assert "start_licence" not in json.loads((run / "card" / CONFIG).read_text())["seed_hub"]


def test_a_run_that_taught_another_binds_it(tmp_path: Path) -> None:
    teacher = load_teacher(f"seed:{recording(tmp_path / 'first', 'cc-by-nc-4.0')}")
    assert teacher.licence == "cc-by-nc-4.0"
    assert load_teacher(f"seed:{recording(tmp_path / 'second', 'unknown')}").licence is None


def test_a_teacher_that_learnt_from_labels_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "x", network("test_resnet"), "test_resnet")
    plain = written(run)
    card([*flags(run), "--teacher-labels"])
    said = (run / "card" / "README.md").read_text(encoding="utf-8")
    assert (
        "No label was used in this run." in plain and "self-supervised-learning" in ModelCard(plain).data.tags
    )
    assert "No label was used in this run, but its teacher had learnt from labels." in said
    assert "self-supervised-learning" not in ModelCard(said).data.tags


def test_the_terms_of_a_released_weight_it_started_from_are_known(tmp_path: Path) -> None:
    released = "seed_mobilenetv3_small.moco_r18_tin200"
    run = make_run(tmp_path / "x", network("test_resnet"), "test_resnet", start=released)
    assert ModelCard(written(run)).data.license == find_weight(released).licence


# Pushes.


def embedding(model: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(pixels)
    return getattr(found, "pooler_output", found)


@pytest.mark.parametrize("student", ["test_resnet", "test_vit"])
def test_timm_and_transformers_pull_what_was_pushed(student: str, tmp_path: Path, hub: HubServer) -> None:
    from transformers import AutoModel

    encoder = network(student)
    repository = (
        f"people/{student}.made_up"  # of its own: the Hub client remembers commits while a process lives
    )
    side = encoder.backbone.pretrained_cfg["input_size"][-1]
    run = make_run(tmp_path / "x", encoder, student)
    config = json.loads((run / "best" / CONFIG).read_text())
    config["pretrained_cfg"]["input_size"] = [3, side, side]  # a ViT is built for one side
    write_json(run / "best" / CONFIG, config)
    told = push(flags(run, repo=repository))
    assert told["sha256"] == hashlib.sha256(hub.commits[repository][-1][1][WEIGHTS]).hexdigest()
    assert told["revision"] == hub.commits[repository][-1][0]
    assert not (run / "card").exists()
    pixels = torch.rand(2, 3, side, side)
    expected = embedding(encoder.backbone, pixels)
    for revision in ("", "@" + told["revision"]):
        theirs = timm.create_model(
            f"hf-hub:{repository}{revision}", pretrained=True, cache_dir=tmp_path / "timm"
        ).eval()
        torch.testing.assert_close(embedding(theirs, pixels), expected, rtol=0, atol=1e-5)
    model = AutoModel.from_pretrained(repository, cache_dir=tmp_path / "transformers").eval()
    torch.testing.assert_close(embedding(model, pixels), expected, rtol=0, atol=1e-5)
    push(
        flags(run, repo=repository, message="once more", licence="cc-by-nc-4.0")
    )  # into the repository that is there
    assert len(hub.commits[repository]) == 2
    assert b"license: cc-by-nc-4.0" in hub.commits[repository][-1][1]["README.md"]


def test_the_blocks_of_a_card_run_as_they_stand(tmp_path: Path, hub: HubServer, root: Path) -> None:
    """In a process of their own, in a folder with a photo, from a Hub and a GitHub of loopback: timm, torch.hub,
    transformers and its pipeline find the same embedding."""
    encoder = network("seed_mobilenetv3_small")
    run = make_run(tmp_path / "x", encoder, "seed_mobilenetv3_small")
    push(flags(run))
    text = hub.commits[REPO][-1][1]["README.md"].decode()
    found = re.findall(r"### (\S+)\n\n```python\n(.*?)```", text, re.DOTALL)
    assert [title for title, _ in found] == ["timm", "torch.hub", "transformers", "pipeline"]
    colours = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    photo = Image.fromarray(colours).resize((90, 70), Image.Resampling.BILINEAR)
    photo.save(tmp_path / "photo.jpg")
    code = "\n".join(f"{block}\nfound.append(embedding)\n" for _, block in found)
    code = f"found = []\n{code}\nimport numpy\nnumpy.save('found.npy', torch.stack(found).numpy())\n"
    code += "import seed_hub\nprint('from', seed_hub.__file__)\n"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "PYTHONPATH")
    }
    environment |= {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    environment |= {"TORCH_HOME": str(tmp_path / "torch")}
    with serving(archive(root, tmp_path / "scratch"), tmp_path / "github") as prelude:
        done = subprocess.run(
            [sys.executable, "-c", prelude + code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    assert f"from {tmp_path / 'torch' / 'hub'}" in done.stdout  # GitHub's archive, not what is installed
    embeddings = torch.from_numpy(np.load(tmp_path / "found.npy"))
    assert embeddings.shape == (4, 1, encoder.width)
    pixels = _pixels(tmp_path / "photo.jpg", encoder)
    with torch.no_grad():
        expected = encoder(pixels).pooled
    for each in embeddings:
        torch.testing.assert_close(each, expected, rtol=0, atol=1e-5)


def _pixels(path: Path, encoder: Encoder) -> torch.Tensor:
    """[0, 1]; the crop of the config, worked out with Pillow: the shorter side to SIDE / crop_pct, the centre of it."""
    image = Image.open(path).convert("RGB")
    cfg = encoder.backbone.pretrained_cfg
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[cfg["interpolation"]]
    scale = int(SIDE / cfg["crop_pct"]) / min(image.size)
    image = image.resize((int(image.width * scale), int(image.height * scale)), kind)
    left, top = (round((side - SIDE) / 2) for side in image.size)
    image = image.crop((left, top, left + SIDE, top + SIDE))
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255


def test_a_push_without_a_token_or_offline_sends_nothing(
    run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(SeedHubError, match="no Hub token to push with: run `hf auth login`"):
        push(flags(run))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SeedHubError, match="HF_HUB_OFFLINE is set"):
        push(flags(run))
    assert hub.requests == []


def test_a_licence_that_is_not_allowed_sends_nothing(run: Path, hub: HubServer) -> None:
    with pytest.raises(SeedHubError, match="do not let the student carry mit"):
        push(flags(run, images_licence="cc-by-nc-4.0", licence="mit"))
    assert hub.requests == []


def test_a_card_asks_nobody(run: Path, hub: HubServer) -> None:
    card(flags(run))
    assert hub.requests == []


def _wrong_token(hub: HubServer, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("HF_TOKEN", "hf_another")


def _read_only(hub: HubServer, patch: pytest.MonkeyPatch) -> None:
    hub.read_only = True


def _spoil(hub: HubServer, patch: pytest.MonkeyPatch) -> None:
    hub.spoil_uploads = True


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (_wrong_token, f"{REPO} could not be pushed .*log in again"),
        (_read_only, "needs the right to write to people"),
        (_spoil, f"{REPO} now holds another model.safetensors than was sent"),
    ],
)
def test_what_the_hub_refuses_or_spoils_is_one_sentence(
    run: Path,
    hub: HubServer,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Callable[[HubServer, pytest.MonkeyPatch], None],
    said: str,
) -> None:
    trouble(hub, monkeypatch)
    with pytest.raises(SeedHubError, match=said):
        push(flags(run))


def test_the_server_refuses_as_the_hub_does(hub: HubServer, tmp_path: Path) -> None:
    """What other tests rest on: gated, missing and damaged look to the Hub client as they do at the real one."""
    from huggingface_hub import errors, hf_hub_download

    commit = hub.commit("people/gated", {"config.json": b"{}"})
    hub.gated.add("people/gated")
    hub.commit("people/open", {"model.safetensors": b"weights"})
    hub.damaged["people/open", "model.safetensors"] = 1
    get: Callable[..., str] = lambda *what, **how: hf_hub_download(*what, cache_dir=tmp_path, **how)  # noqa: E731
    with pytest.raises(errors.GatedRepoError):
        get("people/gated", "config.json", revision=commit)
    with pytest.raises(errors.RepositoryNotFoundError):
        get("people/absent", "config.json")
    with pytest.raises(errors.RevisionNotFoundError):
        get("people/open", "config.json", revision="0" * 40)
    with pytest.raises(errors.EntryNotFoundError):
        get("people/open", "config.json")
    damaged = Path(get("people/open", "model.safetensors")).read_bytes()
    assert damaged != b"weights" and len(damaged) == len(b"weights")


@pytest.mark.parametrize(
    ("teacher", "base"),
    [
        ("hf:facebook/dinov2-small@abc?pool=cls", "facebook/dinov2-small"),
        ("hf-hub:timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"),
        ("timm:resnet50.a1_in1k", ""),
        ("hf:/home/me/dino", ""),
        ("seed:org/name", ""),
    ],
)
def test_a_teacher_of_the_hub_is_the_base_model(teacher: str, base: str) -> None:
    assert _repository_of(teacher) == base
