"""The ImageNet recipes: each is a command that the package takes, and takes two steps with a small teacher of its family."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path

import pytest
import timm
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from seed_hub.catalog import students
from seed_hub.cli import train as training
from seed_hub.cli.train import distill, pretrain
from seed_hub.encoder import build_student
from seed_hub.model_folder import CONFIG, save_model
from seed_hub.projection import projection_head
from seed_hub.teachers.families import family_of
from seed_hub.training.checks import resolve_method_settings
from seed_hub.training.engine import prepare, take_steps
from seed_hub.training.methods import method_class
from seed_hub.training.run import assemble
from seed_hub.training.settings import RunSettings

FOLDER = Path(__file__).resolve().parents[2] / "training" / "imagenet"
TEACHERS = FOLDER.parents[1] / "eval" / "results" / "published" / "teachers.jsonl"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "\nROW = " in path.read_text("utf-8"))
SHARED = ("rows", "cost", "page")
TINY = ("--size 32 --batch-size 8 --held-out 6 --workers 0 --device cpu --queue-size 20").split()
# A network of the same code as the teacher's, one block deep.
MINIATURE = {
    "resnet": {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)},
    "vit": {"depth": 1, "embed_dim": 32, "num_heads": 2},
}


@pytest.fixture(scope="module")
def recipes():
    """Name -> module, and those that they share."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(FOLDER))
    yield {name: importlib.import_module(name) for name in (*NAMES, *SHARED)}
    patch.undo()
    for name in (*NAMES, *SHARED):
        sys.modules.pop(name)


@pytest.fixture
def parsed(monkeypatch):
    """parsed(words) -> (settings of the run, of the method), by way of the command line."""
    taken = []
    monkeypatch.setattr(training, "_run", lambda command, runs, own, **how: taken.append((runs, own)) or {})

    def parse(words):
        {"distill": distill, "pretrain": pretrain}[words[0]](words[1:])
        runs, own = taken.pop()
        settings = [RunSettings(**each) for each in runs]
        return settings, resolve_method_settings(method_class(settings[0].method), settings[0].method, own)

    return parse


def words_of(row, student, *more):
    return row.words("folder", ["--student", student, "--data", "d", "--out", "o", *more])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_every_student_of_the_zoo(recipes, parsed, name):
    row = recipes[name].ROW
    if row.teacher.startswith("timm:"):
        assert timm.is_model_pretrained(row.teacher[5:]) and row.teacher[5:].split(".")[0] == row.arch
    for student in students():
        (run,), _ = parsed(words_of(row, student))
        assert (run.student, run.size, run.batch_size) == (student, 224, 256)
        assert run.teacher == row.teacher.format(folder="folder")
    every = [word for student in students() for word in ("--student", student)]
    runs, _ = parsed(row.words("folder", [*every, "--data", "d", "--out", "o"]))
    assert [run.student for run in runs] == list(students())
    (run,), own = parsed(words_of(row, "seed_resnet18", "--epochs", "3", "--hidden-width", "77"))
    assert (run.epochs, own.hidden_width) == (3, 77)  # what is given counts more


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_claim_cost_and_a_command_that_works(recipes, parsed, name, monkeypatch):
    module = recipes[name]
    text = module.__doc__
    recalled = recipes["rows"].RECALLED
    claims = [
        f"{f'({each.value:.1f})' if each.source == recalled else f'{each.value:.1f}'} of {student.removeprefix('seed_')}"
        for student, each in ((student, claim.linear) for student, claim in module.ROW.published.items())
    ]
    said = f"published linear top-1 {', '.join(claims)}" if claims else "none published"
    assert f"\nClaim: {said}; not measured here yet.\n" in text.replace(" (in brackets: from memory)", "")
    assert ("from memory" in text) == ("(" in said)
    shown = [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]
    train = shown[-1]
    cost = recipes["cost"].in_words(module.ROW, train[train.index("--student") + 1])
    assert f"\nCost: {cost}; docs/imagenet.md has others, --estimate is for this machine.\n" in text
    teachers = {line["recipe"]: line for line in map(json.loads, TEACHERS.read_text("utf-8").splitlines())}
    assert (name in teachers) == ("{folder}" in module.ROW.teacher)
    if name in teachers:
        known = teachers[name]
        top1 = f"({known['linear']})" if known["read_in"] == recalled else f"{known['linear']}"
        assert f"\nTeacher: {known['epochs']} epochs, published linear top-1 {top1}.\n" in text
        assert "\nCheckpoint: " in text
    at = train.index("--data")
    assert train[at - 1] == f"training/imagenet/{name}.py"
    ran = []
    monkeypatch.setattr(recipes["rows"], "seed_hub", lambda words: ran.append(words) or 0)
    monkeypatch.setattr(sys, "argv", [name, *train[at:]])
    with pytest.raises(SystemExit) as stop:
        recipes["rows"].main(module.ROW, text)
    assert stop.value.code == 0
    (run, *_), _ = parsed(ran[0])
    if "{folder}" in module.ROW.teacher:
        convert = shown[0]
        assert convert[:2] == ["seed-hub", "convert"]
        assert convert[convert.index("--arch") + 1] == module.ROW.arch
        assert run.teacher == "seed:" + convert[convert.index("--out") + 1]


@pytest.mark.parametrize("name", NAMES)
def test_the_width_is_the_teachers(recipes, name):
    """Of a network that brings no head; the heads of MoCo and SwAV give 128."""
    row = recipes[name].ROW
    if row.teacher and "{folder}" not in row.teacher:
        with torch.device("meta"):
            assert timm.create_model(row.arch, num_classes=0).num_features == row.width
    else:
        assert row.width == 128


def test_the_papers_settings(recipes, parsed):
    """Those of the fact sheet on the paper, sections 1.2 to 1.6."""
    (run,), own = parsed(words_of(recipes["moco_v2_resnet50"].ROW, "seed_resnet18"))
    assert (own.student_temperature, own.teacher_temperature, own.queue_size) == (0.2, 0.01, 65536)
    assert (own.hidden_width, own.head_layers, own.symmetric, own.small_patches) == (0, 2, False, 0)
    assert (run.optimizer, run.weight_decay, run.epochs, run.warmup_epochs) == ("sgd", 1e-4, 200, 5)
    assert (run.batch_size, run.crop_min, run.clip, run.lr) == (256, 0.2, 0, 0)  # 0: 0.03 for 256 images
    (run,), own = parsed(words_of(recipes["swav_resnet50x2"].ROW, "seed_resnet18"))
    assert (run.epochs, own.small_patches, own.small_scale, own.small_size) == (800, 6, (0.05, 0.14), 0)
    assert parsed(words_of(recipes["swav_resnet50x4"].ROW, "seed_resnet50"))[0][0].epochs == 400
    (run,), own = parsed(words_of(recipes["alone"].ROW, "seed_resnet18"))
    assert (run.method, own.temperature, own.key_momentum, own.queue_size) == ("moco", 0.2, 0.999, 65536)
    assert own.batch_negatives and own.hidden_width == 0  # keys are not shuffled: see methods/moco.py


def test_published_numbers_agree_with_the_gains_that_the_paper_draws(recipes):
    """Its figure 1 gives, for each student, the gain of the best teacher: read apart from the tables."""
    alone = recipes["alone"].ROW.published
    best = recipes["swav_resnet50x2"].ROW.published
    gains = {name: round(best[name].linear.value - alone[name].linear.value, 1) for name in alone}
    assert gains == {
        "seed_efficientnet_b0": 25.4,
        "seed_efficientnet_b1": 17.3,
        "seed_mobilenetv3_large": 31.9,
        "seed_resnet18": 10.5,
        "seed_resnet34": 8.3,
    }
    for name in NAMES:  # any teacher is better than none
        for student, claim in recipes[name].ROW.published.items():
            assert student in students()
            if student in alone and name != "alone":
                assert claim.linear.value > alone[student].linear.value
                assert claim.knn.value > alone[student].knn.value


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """stand_in(name, row): the teacher that the row names will be a small network of its architecture; its folder, if any."""

    def put(name, row):
        torch.manual_seed(3)
        if "{folder}" in row.teacher:
            encoder = build_student(row.arch, **MINIATURE["resnet"])
            swav = name.startswith("swav")  # whose heads have batch norm
            save_model(tmp_path / "t", encoder, {}, projection_head(encoder.width, 16, 12, batch_norm=swav))
            config = json.loads((tmp_path / "t" / CONFIG).read_text())
            (tmp_path / "t" / CONFIG).write_text(json.dumps(config | {"model_args": MINIATURE["resnet"]}))
            return str(tmp_path / "t")
        if row.teacher.startswith("torchhub:"):
            network = ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8)
            network.fc = torch.nn.Identity()  # as DINO's hubconf.py leaves it
            monkeypatch.setattr(torch.hub, "load", lambda repo, entry, **how: network)
        else:
            create = timm.create_model

            def small(name, **given):
                return create(name, **given | (MINIATURE["vit"] if name in row.teacher else {}))

            monkeypatch.setattr(timm, "create_model", small)
        return None

    return put


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_two_steps_with_every_student(recipes, parsed, stand_in, pictures, tmp_path, name):
    row = recipes[name].ROW
    folder = stand_in(name, row)
    tiny = [*TINY, "--data", str(pictures), "--out", str(tmp_path / "run")]
    if "--small-patches" in row.flags:
        tiny += ["--small-size", "16"]  # of 32 px; of 224 they have 96, which a ViT's patches divide, too
    if row.teacher:
        tiny.append("--allow-random-teacher")
    together = [word for student in students() for word in ("--student", student)]
    runs, own = parsed(row.words(folder, [*together, *tiny]))
    job = assemble(runs, own.__dict__)
    steps = take_steps(job, prepare(job))
    for _ in range(2):
        next(steps)
    assert [pupil.settings.student for pupil in job.pupils] == list(students())
    for pupil in job.pupils:
        assert pupil.step == 2
        assert 0 < pupil.averages.last_loss < 20
    for teacher in job.teachers:
        family, encoder = family_of(row.teacher), teacher.encoder
        assert (encoder.head is None) == (folder is None)
        assert family is None or (encoder.mean, encoder.std) == family.normalisation
        assert not row.teacher.startswith("timm:") or encoder.backbone.global_pool == family.pooling


def test_the_words_of_seed_hub(recipes, parsed, monkeypatch, capsys):
    """For the launch files, which take them."""
    monkeypatch.setattr(sys, "argv", "x --show --student seed_resnet18 --data d --out o --steps 5".split())
    recipes["rows"].main(recipes["alone"].ROW, "")
    program, *words = shlex.split(capsys.readouterr().out)
    (run,), _ = parsed(words)
    assert (program, run.student, run.steps, run.method) == ("seed-hub", "seed_resnet18", 5, "moco")


def test_a_folder_that_is_not_named(recipes, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", "x --student seed_resnet18 --data d --out o".split())
    with pytest.raises(SystemExit, match="2"):
        recipes["rows"].main(recipes["moco_v2_resnet50"].ROW, "")
    assert "--teacher-folder is missing: convert the published checkpoint" in capsys.readouterr().err


def test_operations(recipes):
    cost, rows = recipes["cost"], recipes["rows"]
    zoo = students()
    for name in ("resnet18", "vit_tiny_patch16_224"):  # counted twice, in two ways
        assert cost.macs_of(name) == next(own.macs for own in zoo.values() if own.base == name)
    once = {"--epochs": "1"}
    taught = cost.operations(rows.Row(once, teacher="t", arch="resnet50"), "seed_resnet18")
    assert taught == 2 * 1_281_167 * (zoo["seed_resnet50"].macs + 3 * zoo["seed_resnet18"].macs)
    alone = cost.operations(rows.Row(once), "seed_resnet18")
    assert alone == 2 * 1_281_167 * 4 * zoo["seed_resnet18"].macs
    patched = cost.operations(rows.Row(once | {"--small-patches": "6"}), "seed_resnet18")
    assert patched / alone == pytest.approx(1 + 6 * 96**2 / 224**2)
    queue = once | {"--queue-size": "1000"}
    for row, products in (
        (rows.Row(queue), 2),
        (rows.Row(queue, teacher="t", arch="resnet50", width=128), 4),
    ):
        without = rows.Row(once, teacher=row.teacher, arch=row.arch)
        more = cost.operations(row, "seed_resnet18") - cost.operations(without, "seed_resnet18")
        assert more == 2 * 1_281_167 * products * 1000 * 128
    assert 2.5 < cost.macs_of("resnet50x2") / cost.macs_of("resnet50") < 4.1


def test_the_estimate_is_what_bench_measured(recipes, monkeypatch, capsys):
    asked = []

    def measure(settings, say):
        asked.append(settings)
        speeds = {"live": 100.0, "together": 50.0}
        found = {key: {} for key in ("seconds", "gflops", "ratios", "of_limit")}
        found["images_per_second_sustained"] = {"live": 25.0} if settings.workers else {}
        return found | {"images_per_second": speeds, "device": "cpu", "gigabytes_per_second": 1.0}

    monkeypatch.setattr("seed_hub.bench.measure.bench", measure)

    def told(name, words):
        monkeypatch.setattr(sys, "argv", ["x", "--estimate", *words.split()])
        recipes["rows"].main(recipes[name].ROW, "")
        return capsys.readouterr().out, asked.pop()

    text, ran = told("dinov2_vit_small", "--student seed_resnet18 --student seed_vit_tiny --batch-size 16")
    assert f"{1_281_167 * 200 / 50 / 86400:.3g} days" in text
    assert (ran.teacher, ran.embedding_width, ran.size) == ("untrained:vit_small_patch14_dinov2", 384, 224)
    assert (ran.student, ran.together, ran.batch_size) == ("seed_resnet18", ("seed_vit_tiny",), 16)
    text, ran = told("swav_resnet50x2", "--student seed_resnet18")
    assert (
        f"{1_281_167 * 800 * (1 + 6 * 96**2 / 224**2) / 100 / 86400:.3g} days" in text and "patches" in text
    )
    text, ran = told("alone", "--student seed_resnet18")
    assert (ran.teacher, ran.together) == ("untrained:seed_resnet18", ())  # its moving average
    text, _ = told("alone", "--student seed_resnet18 --workers 2")
    assert f"{1_281_167 * 200 / 25 / 86400:.3g} days" in text  # what the images allow
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _, ran = told("alone", "--student seed_resnet18")
    assert (ran.workers, ran.batch_size) == (-1, 256)
    with pytest.raises(SystemExit, match="2"):
        told("alone", "--student seed_resnet18 --bach-size 16")
    assert "--bach-size" in capsys.readouterr().err


def test_the_page_is_what_the_recipes_say(recipes, root):
    page = recipes["page"]
    assert (root / "docs" / "imagenet.md").read_text("utf-8") == page.page(), "run training/imagenet/page.py"
    assert next(iter(page.recipes())) == "alone" and set(page.recipes()) == set(NAMES)
    cell = page._claim(recipes["moco_v2_resnet50"].ROW, "seed_efficientnet_b0")
    assert cell == "61.3 / *46.0*"  # read, and remembered
