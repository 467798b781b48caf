"""Bad input, end to end: one clear sentence, a status, and nothing lost or half-written."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

STUDENT = "seed_mobilenetv3_small"


@pytest.fixture
def refused(hub: Any, tmp_path: Path) -> Callable[..., str]:
    """The sentence with which a command refuses to start; its ``--out`` (if new) must not exist afterwards."""

    def call(*words: object) -> str:
        out = Path(str(words[words.index("--out") + 1])) if "--out" in words else tmp_path / "none"
        before = sorted(out.rglob("*")) if out.exists() else None
        answer = hub(*words)
        assert answer.status == 2, answer.err
        assert answer.out == ""
        assert answer.err.count("\n") == 1, "one sentence, and no progress before it"
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        return str(answer.sentence)

    return call


@pytest.fixture
def pretrain(tmp_path: Path, tiny: list[str]) -> Callable[..., list[object]]:
    """Words of a small run without a teacher; a flag given again counts."""

    def words(data: object, *more: object) -> list[object]:
        return ["pretrain", "--data", data, "--out", tmp_path / "run", *tiny, *more]

    return words


# Images.


def test_a_folder_that_is_missing_or_empty(refused: Any, pretrain: Any, tmp_path: Path) -> None:
    assert refused(*pretrain(tmp_path / "absent")).startswith(
        f'No file or folder "{tmp_path / "absent"}": give'
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images (it is empty): give a folder" in refused(*pretrain(empty))
    (empty / "notes.txt").write_text("no image")
    assert "none among its 1 files, such as notes.txt" in refused(*pretrain(empty))


@pytest.fixture
def mixed(photos: Path, draw: Any, tmp_path: Path) -> Path:
    """130 pictures, 5 more of unusual kinds, and 4 that cannot be used."""
    folder = tmp_path / "mixed"
    shutil.copytree(photos / "train", folder)
    draw(1).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(folder / "sixteen_bits.png")
    draw(2).save(folder / "animated.gif", save_all=True, append_images=[draw(3), draw(4)])
    draw(5).convert("LA").save(folder / "transparent.png")
    draw(6).convert("P").save(folder / "palette.png")
    draw(7).save(folder / "whole.jpg", quality=95)
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no chunk follows" * 8)
    (folder / "zero.jpg").touch()
    Image.new("RGB", (1, 1)).save(folder / "one_pixel.png")
    (folder / "notes.txt").write_text("no image")
    (folder / "table.csv").write_text("1,2")
    return folder


BAD = ["corrupt.png", "one_pixel.png", "truncated.jpg", "zero.jpg"]


def test_more_than_one_per_cent_of_bad_images_is_refused(refused: Any, pretrain: Any, mixed: Path) -> None:
    sentence = refused(*pretrain(mixed))
    assert sentence.startswith(f'4 of 140 images of "{mixed}" cannot be used: corrupt.png (')
    assert sentence.endswith("or go on without them with --allow-bad 0.03.")


def test_bad_images_are_left_out_and_listed(hub: Any, pretrain: Any, mixed: Path, tmp_path: Path) -> None:
    answer = hub(*pretrain(mixed, "--allow-bad", "0.03"))
    assert answer.status == 0
    left_out = "4 unreadable, see bad_images.txt; 2 files are no images by their ending and are left out"
    assert f"124 images ({left_out}), 12 held out" in answer.err
    count, *lines = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert count.startswith("# 4 images")
    assert [line.split("\t")[0] for line in lines] == BAD
    assert all(line.split("\t")[1] for line in lines)


def test_embed_counts_what_it_leaves_out(hub: Any, mixed: Path, tmp_path: Path) -> None:
    words = ["embed", "--model", f"untrained:{STUDENT}", "--data", mixed, "--out", tmp_path / "x.npy"]
    more = ["--allow-bad", "0.03", "--size", "32", "--workers", "0", "--device", "cpu", "--json"]
    answer = hub(*words, *more)
    assert (answer.json["images"], answer.json["left_out"], answer.json["ignored"]) == (136, 4, 2)
    assert "4 images cannot be read" in answer.err
    assert "2 files are no images by their ending and are left out" in answer.err


def test_an_image_that_goes_bad_during_the_run(hub: Any, pretrain: Any, photos: Path, tmp_path: Path) -> None:
    """Seen first by a loader process: its error comes wrapped in a traceback, and leaves unwrapped."""
    folder = tmp_path / "fading"
    shutil.copytree(photos / "train", folder)
    from seed_hub.training import engine

    def empty_all(*args: Any, **kwargs: Any) -> Any:
        for path in folder.rglob("*.png"):
            path.write_bytes(b"")
        return loader(*args, **kwargs)

    loader = engine.load_views
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "load_views", empty_all)
        answer = hub(*pretrain(folder, "--workers", "1"))
    assert answer.status == 2
    assert answer.sentence.startswith('Image "')
    assert "it changed since it was checked" in answer.sentence


def test_crops_that_cannot_be_cut(
    refused: Any, photos: Path, teacher_run: Path, tiny: list[str], tmp_path: Path
) -> None:
    words = [
        "distill",
        "--data",
        photos,
        "--teacher",
        f"seed:{teacher_run}",
        "--out",
        tmp_path / "run",
        *tiny,
    ]
    words += ["--small-patches", "2"]
    assert "Crops of 40 px are larger than the whole view of 32 px" in refused(*words, "--small-size", "40")
    words[words.index("--student") + 1] = "seed_vit_tiny"
    said = refused(*words, "--small-size", "14")
    assert 'The student "seed_vit_tiny" does not take images of 14 px' in said
    assert "choose another --small-size" in said
    for scale in (["0.5", "0.2"], ["0", "0.2"], ["0.5"], ["0.5", "1.5"]):
        assert f"--small-scale is {scale[0]}" in refused(*words, "--small-scale", *scale)


def test_fewer_images_than_a_batch(refused: Any, pretrain: Any, photos: Path) -> None:
    sentence = refused(*pretrain(photos, "--batch-size", "256"))
    assert "118 images to train on" in sentence
    assert "fewer than one batch of 256: pass --batch-size 59 or less" in sentence


def test_too_few_images_to_watch_by(refused: Any, pretrain: Any, draw: Any, tmp_path: Path) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(9):
        draw(i).save(folder / f"{i}.png")
    assert "has 9 images" in refused(*pretrain(folder, "--batch-size", "4"))


def test_a_queue_that_the_batch_does_not_divide(teacher_run: Path) -> None:
    config = json.loads((teacher_run / "config.json").read_text())
    assert config["method_settings"]["queue_size"] % config["batch_size"] != 0
    assert (teacher_run / "best" / "model.safetensors").exists()


# Names and numbers.


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--student", "seed_resnet17"], 'There is no student "seed_resnet17".*Did you mean "seed_resnet18"'),
        (
            ["--student", "seed_vit_tiny", "--size", "40"],
            'The student "seed_vit_tiny" does not take images of 40 px',
        ),
        (["--optimizer", "adam"], 'Unknown --optimizer "adam"'),
        (["--precision", "fp16"], 'Unknown --precision "fp16": choose auto, fp32 or bf16'),
        (["--device", "gpu"], 'Unknown --device "gpu": choose auto, cpu, cuda'),
        (["--batch-size", "0"], "--batch-size is 0: it must be above 0"),
        (["--lr", "-1"], "--lr is -1.0: it must be 0 or more"),
        (["--lr", "inf"], "--lr is inf"),
        (["--epochs", "0"], "--epochs is 0.0: it must be above 0"),
        (["--crop-min", "0"], "--crop-min is 0.0: it must be above 0 and at most 1"),
        (["--flip", "2"], "--flip is 2.0: it must be at most 1"),
        (["--accumulate", "3"], "--batch-size 8 does not divide into"),
        (["--accumulate", "8"], "--accumulate 8 leaves parts of one image"),
        (["--out", "s3://bucket/run"], "--out is s3://bucket/run: runs and caches are written to a folder"),
        (["--temperature", "0"], "--temperature is 0.0: a temperature must be above 0"),
        (["--queue-size", "0"], "--queue-size is 0: it must be at least 1"),
        (["--allow-bad", "2"], "--allow-bad is a fraction between 0 and 1"),
        (["--split", "tset"], 'has no split "tset"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_be_meant(
    refused: Any, pretrain: Any, photos: Path, more: list[str], says: str
) -> None:
    assert re.search(says, refused(*pretrain(photos, *more)))


@pytest.fixture
def distill(photos: Path, tmp_path: Path, tiny: list[str]) -> Callable[..., list[object]]:
    def words(teacher: object, *more: object) -> list[object]:
        return ["distill", "--data", photos, "--teacher", teacher, "--out", tmp_path / "run", *tiny, *more]

    return words


@pytest.mark.parametrize("command", [["distill"], ["cache", "--views", "1"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("resnet50", "names no teacher: write SOURCE:NAME"),
        ("timm:resnet18.a1_in2k", "timm has no weights"),
        ("hf:./absent", "There is no folder"),
        ("hf-hub:", "hf-hub: names no repository"),
        ("torchhub:dino", "names no entry point"),
        ("torchvision:resnet5", 'Did you mean "resnet50"'),
        ("file:absent.pth?arch=resnet18", "There is no file"),
        ("seed:seed_resnet19", 'Did you mean "seed_resnet18"'),
        ("seed:seed_resnet18.absent", "There is no weight"),
        ("seed:seed_resnet50", "There is no weight"),
    ],
)
def test_a_misspelt_teacher_is_refused_before_the_images_are_opened(
    refused: Any, command: list[str], teacher: str, says: str, tmp_path: Path
) -> None:
    """Of a million images, opening takes minutes; of these, it would be refused."""
    words = [*command, "--data", tmp_path / "absent", "--teacher", teacher, "--out", tmp_path / "run"]
    assert says in refused(*words)


def test_an_unknown_teacher(refused: Any, distill: Any, tmp_path: Path) -> None:
    assert '"resnet50" names no teacher: write SOURCE:NAME' in refused(*distill("resnet50"))
    assert 'Did you mean "timm"' in refused(*distill("tim:resnet50"))
    assert re.search(
        'timm has no model "resnet51".*Did you mean .*"resnet50"', refused(*distill("timm:resnet51"))
    )
    assert "There is no folder" in refused(*distill(f"seed:{tmp_path / 'absent'}"))
    assert "There is no file" in refused(*distill(f"file:{tmp_path / 'absent.pth'}?arch=resnet18"))


def test_a_teacher_with_random_weights(refused: Any, hub: Any, distill: Any, tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "random.pth")
    teacher = f"file:{tmp_path / 'random.pth'}?arch=resnet18&mean=0.5&std=0.5&size=32"
    assert "has random weights" in refused(*distill(teacher))
    assert hub(*distill(teacher, "--allow-random-teacher")).status == 0


def test_a_checkpoint_of_another_architecture(
    refused: Any, hub: Any, distill: Any, teacher_run: Path, tmp_path: Path
) -> None:
    file = teacher_run / "best" / "model.safetensors"
    sentence = refused(*distill(f"file:{file}?arch=resnet18"))
    assert "is not a complete resnet18" in sentence
    assert sentence.endswith("name the right architecture, or the prefix of its tensors.")
    garbled = tmp_path / "garbled.pth"
    garbled.write_bytes(b"no checkpoint" * 99)
    assert refused(*distill(f"file:{garbled}?arch=resnet18")).endswith(
        "is damaged or no checkpoint: copy it again."
    )
    # A run folder whose weights were exchanged.
    other = tmp_path / "other"
    shutil.copytree(teacher_run, other)
    config = json.loads((other / "best" / "config.json").read_text())
    (other / "best" / "config.json").write_text(json.dumps({**config, "architecture": "resnet18"}))
    assert "does not fit its architecture" in refused(*distill(f"seed:{other}"))
    # A run that is continued as another student.
    state = torch.load(other / "checkpoint.pt", weights_only=True)
    torch.save({**state, "student": "seed_resnet18"}, other / "checkpoint.pt")
    answer = hub("pretrain", "--resume", "--out", other)
    assert answer.status == 2
    assert "The checkpoint is of seed_resnet18 by moco" in answer.sentence


# The output folder.


def test_a_folder_that_holds_a_run(
    hub: Any, refused: Any, pretrain: Any, photos: Path, teacher_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(teacher_run, out)
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    sentence = refused(*pretrain(photos))
    assert (
        "already holds a run: continue it with --resume, replace it with --overwrite, or name another --out"
        in sentence
    )
    refused(
        *pretrain(tmp_path / "absent", "--overwrite")
    )  # a start that fails must not cost the run that is there
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert hub(*pretrain(photos, "--overwrite", "--seed", "1")).status == 0
    assert json.loads((out / "config.json").read_text())["seed"] == 1
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_hold_a_run(
    refused: Any, photos: Path, tiny: list[str], teacher_run: Path, tmp_path: Path
) -> None:
    words = ["pretrain", "--data", photos, *tiny, "--overwrite", "--out"]
    (tmp_path / "file").write_text("")
    assert "is a file: name another folder" in refused(*words, tmp_path / "file")
    assert "holds something else than a run" in refused(*words, teacher_run / "best")
    assert "Cannot make the folder" in refused(*words, "/proc/version/run")


# While it runs.


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """``small_disk(n)``: from now on no file grows beyond n bytes, as if the disk had no more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_previous_checkpoint(
    hub: Any, pretrain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Any
) -> None:
    out, saves, replace = tmp_path / "run", iter(range(99)), os.replace

    def full(source: Any, target: Any) -> None:
        """The second checkpoint finds no space for its name; everything else does."""
        if Path(target).name == "checkpoint.pt" and next(saves) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        answer = hub(*pretrain(photos, "--save-every", "0"))  # a checkpoint after every step
    assert answer.status == 2
    assert answer.sentence.startswith(f"Could not save {out / 'checkpoint.pt'} (No space left on device)")
    assert "the previous checkpoint is kept" in answer.sentence
    whole = (out / "checkpoint.pt").read_bytes()
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 1

    small_disk(len(whole) // 2)  # in the middle of the file; the student's own are smaller
    answer = hub("pretrain", "--resume", "--out", out)
    small_disk(resource.RLIM_INFINITY)
    assert answer.status == 2
    assert "the previous checkpoint is kept" in answer.sentence
    assert (out / "checkpoint.pt").read_bytes() == whole
    assert not list(out.rglob("*.partial"))

    assert hub("pretrain", "--resume", "--out", out).status == 0
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 3


def test_a_full_disk_while_the_log_is_written(
    hub: Any, pretrain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.training.run_folder import RunFolder

    append = RunFolder.append_log

    def half(self: RunFolder, line: dict[str, Any]) -> None:
        if line.get("step") == 2:
            with open(self.log, "a") as file:
                file.write('{"event": "lo')
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.log))
        append(self, line)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_log", half)
        answer = hub(*pretrain(photos, "--save-every", "0"))
    assert answer.status == 2
    assert answer.sentence.startswith(f"The disk is full at {out / 'log.jsonl'}")
    assert hub("pretrain", "--resume", "--out", out).status == 0
    assert [line["step"] for line in RunFolder(out).read_log() if line["event"] == "look"] == [0, 1, 2, 3]


def _raise(error: BaseException, *args: Any, **kwargs: Any) -> Any:
    raise error


def test_a_start_that_fails_late_leaves_nothing(
    hub: Any, pretrain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.training.monitor import Monitor

    monkeypatch.setattr(Monitor, "look", partial(_raise, MemoryError()))
    answer = hub(*pretrain(photos))
    assert answer.status == 1
    assert answer.sentence.startswith("Out of memory: lower --batch-size")
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_a_number(
    hub: Any, pretrain: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seed_hub.training.methods.moco import Moco

    out, forward, calls = tmp_path / "run", Moco.forward, iter(range(99))

    def broken(self: Moco, batch: Any) -> dict[str, Any]:
        result = forward(self, batch)
        return {**result, "loss": result["loss"] * (float("nan") if next(calls) == 1 else 1.0)}

    monkeypatch.setattr(Moco, "forward", broken)
    answer = hub(*pretrain(photos, "--save-every", "0"))
    assert answer.status == 2
    assert answer.sentence.startswith("The loss is nan at step 2")
    assert "lower --lr" in answer.sentence
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert state["step"] == 1
    assert all(value.isfinite().all() for value in state["state"].values() if isinstance(value, torch.Tensor))


def test_a_learning_rate_that_explodes(hub: Any, pretrain: Any, photos: Path, tmp_path: Path) -> None:
    answer = hub(*pretrain(photos, "--lr", "1e30"))
    assert answer.status == 2
    assert "lower --lr" in answer.sentence
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
