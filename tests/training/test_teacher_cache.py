"""A run from a cache is the run that asks its teacher; what was not made for it is refused by name."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity

from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.training import engine
from seed_hub.training.batches import EpochRows, StepBatches
from seed_hub.training.method import Method, Shapes, Task
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.pupil import Pupil
from seed_hub.training.run import assemble, run, run_together
from seed_hub.training.run_folder import RunFolder
from seed_hub.training.settings import RunSettings
from seed_hub.training.teacher_cache import building, claiming
from seed_hub.training.teacher_cache.building import build_cache
from seed_hub.training.teacher_cache.manifest import Manifest, views_of
from seed_hub.training.teacher_cache.shards import Shards, decode, encode
from seed_hub.training.views import whole_view
from tests.training.two_processes import run_in_two

OWN = {"queue_size": 20, "hidden_width": 32}
IMAGES = 54  # of the 60 pictures; 6 are held out. Six steps of 8 leave 6 images out of each epoch


@pytest.fixture(scope="module")
def teacher(pictures, tmp_path_factory) -> str:
    """Random weights with the statistics of the pictures, so that images differ in their embeddings, and no head."""
    torch.manual_seed(1)
    network = build_student("test_resnet").backbone.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.rand(16, 3, 32, 32) * torch.rand(16, 3, 1, 1) * 4 - 2)
    path = tmp_path_factory.mktemp("cached") / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return f"file:{path}?arch=test_resnet"


@pytest.fixture
def base(settings, teacher):
    """Settings of a run of one epoch and a half."""
    return settings(
        method="seed",
        teacher=teacher,
        epochs=1.5,
        optimizer="adamw",
        allow_random_teacher=True,
        precision="fp32",
    )


@pytest.fixture
def make(base, tmp_path):
    """``make(own, changes..., epochs=M, dtype=...)`` -> the cache's folder."""

    def build(own=OWN, *, epochs=2, dtype="float32", name="cache", **changes) -> str:
        how = {key: changes.pop(key) for key in ("overwrite", "say", "progress") if key in changes}
        to = replace(base, out=str(tmp_path / name), **changes)
        build_cache(to, own, epochs=epochs, dtype=dtype, **how)
        return to.out

    return build


def state(out: str) -> dict:
    checkpoint = RunFolder(out).load_checkpoint()
    assert checkpoint is not None
    return checkpoint


def same(a: str, b: str) -> None:
    x, y = state(a), state(b)
    assert x["state"].keys() == y["state"].keys() and x["looks"] == y["looks"]
    for key, value in x["state"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, y["state"][key]), key


def losses(out: str) -> list[float]:
    return [line["loss"] for line in RunFolder(out).read_log() if line["event"] == "step"]


def content(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("epoch_*")}


@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ({}, {}),
        ({"symmetric": True, "small_patches": 2, "small_size": 16}, {"accumulate": 2}),
        ({}, {"teacher_size": 48, "share": 0.7}),
    ],
    ids=["one view", "many views in parts", "enlarged for the teacher"],
)
def test_the_student_is_the_live_runs_bit_for_bit(base, make, own, changes):
    own, live = OWN | own, replace(base, **changes)
    run(live, own)
    cached = replace(live, out=live.out + "_cached", cache=make(own, **changes))
    run(cached, own)
    same(live.out, cached.out)
    assert losses(live.out) == losses(cached.out) != []


def test_stopped_and_continued(base, make):
    cached = replace(base, cache=make())
    run(cached, OWN)
    parts = replace(cached, out=cached.out + "_parts")
    with pytest.raises(engine.Stopped):
        run(parts, OWN, stop_at=7)
    run(parts, OWN, resume=True)
    same(cached.out, parts.out)


def test_students_together(base, make, tmp_path):
    runs = [
        replace(base, student=name, out=str(tmp_path / name), cache=make())
        for name in ("test_efficientnet", "test_resnet")
    ]
    run_together(runs, OWN)
    for each in runs:
        run(replace(each, out=each.out + "_live", cache=""), OWN)
        same(each.out, each.out + "_live")


def one_of_two(rank, folder):
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= ranks | {"MASTER_ADDR": "localhost"}
    for settings in json.loads((folder / "runs.json").read_text()):
        run(RunSettings(**settings), OWN)


def test_two_processes_read_their_own_rows(base, make, tmp_path):
    cache = make(accumulate=2)  # the teacher is asked about the half of a batch, as each process asks it
    runs = [
        {**vars(base), "out": str(tmp_path / name), "cache": c}
        for name, c in (("live", ""), ("cached", cache))
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    run_in_two(__file__, tmp_path)
    same(str(tmp_path / "live"), str(tmp_path / "cached"))


@pytest.fixture
def batches(monkeypatch):
    """What the pupil learns from, in order."""
    seen, real = [], Pupil.learn

    def learn(self, batch, *args, **kwargs):
        seen.append(batch)
        return real(self, batch, *args, **kwargs)

    monkeypatch.setattr(Pupil, "learn", learn)
    return seen


def test_fewer_views_than_epochs_repeat(base, make, batches, teacher):
    """Views come again in another order, those of images that were left out of the first epoch too; pixels and
    embeddings belong to each other all the same."""
    from seed_hub.teachers import load_teacher

    said: list[str] = []
    run(replace(base, cache=make(epochs=1), epochs=2.0), OWN, say=said.append)
    assert (
        "one epoch of views in float32, repeated: 2 epochs see each of the 1 views of an image 2 times"
        in said[0]
    )
    first = {int(i): batch.views[0][n] for batch in batches[:6] for n, i in enumerate(batch.index)}
    again = {int(i): batch.views[0][n] for batch in batches[6:] for n, i in enumerate(batch.index)}
    assert len(batches) == 12 and list(first) != list(again) and again.keys() - first.keys()
    for i in first.keys() & again.keys():
        assert torch.equal(first[i], again[i])
    live = load_teacher(teacher, allow_random=True)
    for batch in batches:
        torch.testing.assert_close(
            batch.teacher[0].embedding, live.embed(batch.views[0]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("dtype", "apart"), [("float16", 2e-3), ("int8", 5e-2)])
def test_smaller_numbers_stay_close(base, make, batches, dtype, apart):
    cached = replace(base, cache=make(dtype=dtype), out=base.out + dtype)
    run(base, OWN)
    run(cached, OWN)
    live, stored = batches[: len(batches) // 2], batches[len(batches) // 2 :]
    for a, b in zip(live, stored, strict=True):
        assert not torch.equal(a.teacher[0].embedding, b.teacher[0].embedding)
        assert cosine_similarity(a.teacher[0].embedding, b.teacher[0].embedding).min() > 1 - apart**2
    for a, b in zip(losses(base.out), losses(cached.out), strict=True):
        assert abs(a - b) <= apart * max(a, 1)


def test_the_teacher_is_released(base, make):
    job = assemble([replace(base, cache=make())], OWN)
    assert next(job.teachers[0].parameters()).device.type == "cpu"
    engine.prepare(job)
    assert all(p.device.type == "meta" for p in [*job.teachers[0].parameters(), *job.teachers[0].buffers()])


def test_the_run_says_which_cache(base, make):
    cached = replace(base, cache=make(dtype="float16"))
    run(cached, OWN)
    config = RunFolder(cached.out).read_json("config.json")
    assert config["cache"] == cached.cache
    assert config["cache_manifest"] == json.loads(json.dumps(Manifest.read(Path(cached.cache)).as_json()))
    make(dtype="float16", epochs=3)
    with pytest.raises(
        SeedHubError, match="began with a cache of 2 epochs in float16.*now holds 3 in float16"
    ):
        run(cached, OWN, resume=True)


# Making it.


@pytest.mark.parametrize("asked", [1, 5, 6, 7, 12])
def test_a_killed_making_goes_on_to_the_same_bytes(make, monkeypatch, asked):
    """Killed in the first epoch, at its last whole batch, at its end, and in the second; a torn row is made again."""
    whole, real, calls = make(name="whole"), building.ask_all, []

    def dying(*given):
        if len(calls) == asked:
            raise MemoryError
        calls.append(1)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(building, "ask_all", dying)
        with pytest.raises(MemoryError):
            make(name="parts")
    for partial in Path(whole).parent.glob("parts/*.partial"):
        with open(partial, "ab") as file:
            file.write(b"torn")
    done: list[int] = []
    parts = make(name="parts", progress=lambda rows, _: done.append(rows))
    assert content(parts) == content(whole)
    # Only what was not there is asked again: 7 batches of an epoch, the last one of 6 images.
    assert done[0] == min(IMAGES, 8 * (asked % 7 + 1)) + IMAGES * (asked // 7) and done[-1] == 2 * IMAGES


def test_ctrl_c_keeps_what_is_done(make):
    def stop(done: int, _: int) -> None:
        if done == 16:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"Stopped at 14\.8% of the rows.*same command again"):
        make(progress=stop)
    assert content(make()) == content(make(name="whole"))


def test_it_says_what_it_costs_first(make):
    said: list[str] = []
    folder = make(dtype="float16", say=said.append)
    size = sum(map(len, content(folder).values()))
    assert f"54 images x 1 view x 2 epochs x 96 numbers in float16, {size / 1e6:.3g} MB in all" in said[0]
    assert "to go, at" in said[1] and len(said) == 2


def test_more_epochs_are_added(make):
    grown = make(epochs=1)
    first = content(grown)
    make(epochs=2)
    assert content(grown) == content(make(name="both")) and first.items() < content(grown).items()
    with pytest.raises(SeedHubError, match="begun with --views 2, not 1: give as many or more"):
        make(epochs=1)


def test_every_image_of_every_epoch_in_the_batches_of_training():
    lists = list(EpochRows(23, 4, seed=3, starts=[(0, 0), (1, 8)]))
    steps = list(StepBatches(23, 4, seed=3, first=0, last=10, rank=0, world=1))
    assert lists[:5] == steps[:5] and lists[6:9] == steps[7:]
    assert sorted(i for each in lists[:6] for i, _ in each) == list(range(23))
    assert len(EpochRows(23, 4, seed=3, starts=[(0, 0), (1, 8)])) == len(lists)


@pytest.mark.parametrize("name", [n for n in method_names() if method_class(n).needs_teacher])
def test_views_are_known_without_a_student(name, base, small_settings):
    cls, own = method_class(name), small_settings(name)
    chosen = cls.Settings(**own)
    student = build_student("test_efficientnet")
    shapes = Shapes.of(student(torch.zeros(2, 3, 32, 32), stages=True))
    scores = replace(shapes, classes=2)
    task = Task(shapes, (scores,), 20, 2, 0, torch.zeros(20, dtype=torch.int64))
    method: Method = cls(student, chosen, task)
    assert views_of(cls, chosen, base) == method.view_settings(whole_view(base))


def test_rows_survive_their_encoding():
    x = torch.randn(5, 3, 40) * torch.logspace(-3, 3, 5)[:, None, None]
    x[2, 1] = 0
    assert torch.equal(decode(encode(x, "float32")), x)
    assert ((decode(encode(x, "float16")) - x).abs() <= x.abs() * 2**-11 + 2**-25).all()
    step = x.abs().amax(dim=2, keepdim=True) / 127
    assert ((decode(encode(x, "int8")) - x).abs() <= 0.501 * step).all()
    with pytest.raises(SeedHubError, match="beyond float16: use --dtype float32"):
        encode(x * 1e4, "float16")
    with pytest.raises(SeedHubError, match="not finite numbers"):
        encode(x / 0, "float32")


# What is refused.


@pytest.mark.parametrize(
    ("changes", "own", "sentence"),
    [
        ({"seed": 1}, {}, "seed 0 there, 1 here .pass its --seed"),
        ({"size": 40}, {}, "size 32 there, 40 here .pass its --size"),
        ({"teacher_size": 48}, {}, "teacher size 0 there, 48 here"),
        ({"share": 0.5}, {}, r"images to train on .fingerprint. \w{16} there, \w{16} here"),
        ({"held_out": 4}, {}, "give the same --data, --split, --held-out, --share"),
        ({"crop_min": 0.5}, {}, r"scale of view 0 \[0.2, 1.0\] there, \[0.5, 1.0\] here"),
        ({}, {"symmetric": True}, "1 views of an image there, 2 here"),
        ({"precision": "bf16"}, {}, "precision fp32 there, bf16 here"),
    ],
)
def test_a_cache_of_other_settings(base, make, changes, own, sentence):
    cached = replace(base, cache=make(epochs=1), **changes)
    with pytest.raises(SeedHubError, match=sentence):
        run(cached, OWN | own)
    assert not Path(cached.out).exists()
    with pytest.raises(SeedHubError, match=sentence + ".*--overwrite"):
        make(OWN | own, epochs=1, **changes)


def test_a_cache_of_another_teacher(base, make, teacher, tmp_path):
    cache = make(epochs=1)
    path = Path(teacher.removeprefix("file:").partition("?")[0])
    with pytest.raises(SeedHubError, match=r"teacher file:\S+ there, file:\S+other.*here .name the same"):
        run(replace(base, cache=cache, teacher=_copy(path, tmp_path / "other.safetensors")), OWN)


def _copy(path: Path, to: Path) -> str:
    to.write_bytes(path.read_bytes())
    return f"file:{to}?arch=test_resnet"


def test_weights_that_changed_under_the_same_name(base, make, teacher, tmp_path):
    path = Path(teacher.removeprefix("file:").partition("?")[0])
    other = tmp_path / "other.safetensors"
    name = _copy(path, other)
    cache = make(epochs=1, teacher=name)
    tensors = load_file(other)
    key = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[key].view(-1)[0] += 1e-3
    save_file(tensors, other)
    with pytest.raises(SeedHubError, match=r"weights of the teacher .sha256. \w{12} there, \w{12} here"):
        run(replace(base, cache=cache, teacher=name), OWN)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("transform", "0", "version of the views 0 there, .* here"),
        ("versions", {"torch": "1.2"}, "torch 1.2 there, .* here"),
    ],
)
def test_a_cache_of_other_versions(base, make, field, value, sentence):
    cache = Path(make(epochs=1))
    manifest = json.loads((cache / "cache.json").read_text())
    if field == "versions":
        value = manifest["key"]["versions"] | value
    manifest["key"][field] = value
    (cache / "cache.json").write_text(json.dumps(manifest))
    with pytest.raises(SeedHubError, match=sentence):
        run(replace(base, cache=str(cache)), OWN)


def _cut(cache: Path) -> None:
    path = cache / "epoch_00001.npy"
    path.write_bytes(path.read_bytes()[:-5])


def _other_array(cache: Path) -> None:
    path = cache / "epoch_00000.npy"
    path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4", 1))


def _other_order(cache: Path) -> None:
    rows = np.load(cache / "epoch_00001.npy")
    np.save(cache / "epoch_00001.npy", np.roll(rows, 1, axis=0))


def _format(cache: Path) -> None:
    path = cache / "cache.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_cut, r"epoch_00001.npy is [\d,]+ of [\d,]+ bytes: give the `seed-hub cache` command again"),
        (lambda c: (c / "epoch_00000.npy").unlink(), r"not finished: 1 of 2 epochs, 50\.0% of its rows"),
        (_other_array, "epoch_00000.npy is not the array that cache.json describes"),
        (_other_order, r"does not hold what file:.* says here: on 32 images the least cosine"),
        (lambda c: (c / "cache.json").write_text("{"), "cache.json is damaged"),
        (_format, "is of format 99, and this seed_hub reads 1"),
        (lambda c: (c / "cache.json").unlink(), "There is no cache in .*make one with `seed-hub cache`"),
    ],
    ids=["cut", "missing", "array", "order", "json", "format", "none"],
)
def test_a_damaged_cache(base, make, damage, sentence):
    cache = make()
    damage(Path(cache))
    with pytest.raises(SeedHubError, match=sentence):
        run(replace(base, cache=cache), OWN)
    assert not Path(base.out).exists()


def test_a_damaged_file_is_made_again(make):
    cache = make()
    was = content(cache)
    _cut(Path(cache))
    (Path(cache) / "epoch_00000.npy").unlink()
    assert content(make()) == was


def test_methods_that_read_more_than_embeddings(base, make, scoring_teacher):
    with pytest.raises(SeedHubError, match='"kd" reads its teacher\'s class scores.*embeddings only'):
        run(replace(base, cache="x", method="kd", teacher=scoring_teacher))
    with pytest.raises(SeedHubError, match='"fitnet" reads its teacher\'s feature maps.*embeddings only'):
        make({}, method="fitnet")
    with pytest.raises(SeedHubError, match='"moco" learns without a teacher, and a cache holds'):
        run(replace(base, cache="x", method="moco", teacher=""))
    with pytest.raises(SeedHubError, match="what one teacher says, and 2 are named"):
        run(replace(base, cache="x", more_teachers=("timm:x",)), OWN)


def test_what_cannot_be_made(make, tmp_path, monkeypatch):
    with pytest.raises(SeedHubError, match='Unknown --dtype "float61".*Did you mean "float16"'):
        make(dtype="float61")
    make(epochs=1)
    with pytest.raises(SeedHubError, match="begun with batch 8, not 4 .--batch-size"):
        make(epochs=1, batch_size=4)
    with pytest.raises(SeedHubError, match="begun with dtype float32, not int8 .--dtype"):
        make(epochs=1, dtype="int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(SeedHubError, match="holds something else than a cache"):
        make(name="full")
    monkeypatch.setattr(claiming.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(SeedHubError, match=r"needs 0\.0\d+ MB more and .* has 0\.001 MB free.*--dtype int8"):
        make(name="large")
    assert not (tmp_path / "large").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SeedHubError, match="made by one process"):
        make(name="many")


def test_a_disk_that_fills_up_and_another_writer(make, tmp_path):
    cache = Path(make(epochs=1))
    shards = Shards(cache, Manifest.read(cache))
    writer = building.ShardWriter(shards, 5, 0)
    with pytest.raises(SeedHubError, match="being written by another process"):
        building.ShardWriter(shards, 5, 0)
    writer.close()
    writer.file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(SeedHubError, match="No space left.*what was written before is kept"):
        writer.append(np.zeros((8, 1, 96), np.float32))
    writer.close()
