"""Images whose label is hidden (`--label-share`): they teach through every term but that of the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy

from seed_hub.encoder import build_student
from seed_hub.errors import SeedHubError
from seed_hub.training.labelled import LabelledDistillation
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.methods import method_class, method_names
from seed_hub.training.run import assemble, run
from tests.training.test_methods import STUDENT, TEACHER, _said, shapes_of

LABELLED = [name for name in method_names() if issubclass(method_class(name), LabelledDistillation)]
CLASSES = 5
HIDDEN = torch.arange(32) % 3 > 0  # two images in three


def _make(name: str, labels: Tensor, **changes: float) -> tuple[Method, Batch]:
    """A method that learns from labels too, without dropout and batch statistics, and 32 images."""
    torch.manual_seed(0)
    cls = method_class(name)
    student = build_student(STUDENT)
    settings = cls.Settings(**{"ce_weight": 0.5, **({"negatives": 8} if name == "crd" else {}), **changes})
    known = torch.arange(64) % CLASSES
    known[:32] = labels
    task = Task(shapes_of(student), (TEACHER,), images=64, classes=CLASSES, seed=0, labels=known)
    batch = Batch([torch.rand(32, 3, 32, 32)], torch.arange(32), [[_said()]], labels)
    return cls(student, settings, task).eval(), batch


def _rows(batch: Batch, which: Tensor) -> Batch:
    """The images of ``which`` [32] alone."""
    (said,) = batch.teacher
    part = type(said)(said.pooled[which], logits=said.logits[which], projected=said.projected[which])
    part.stages = [stage[which] for stage in said.stages]
    return Batch([batch.views[0][which]], batch.index[which], [[part]], batch.labels[which])


def _gradient(method: Method, value: Tensor) -> list[Tensor | None]:
    trained = [p for p in method.parameters() if p.requires_grad]
    return list(torch.autograd.grad(value, trained, allow_unused=True))


@pytest.fixture
def hidden() -> Tensor:
    return torch.where(HIDDEN, -1, torch.arange(32) % CLASSES)


# One batch.


@pytest.mark.parametrize("name", LABELLED)
def test_the_label_term_is_that_of_the_labelled_images_alone(name, hidden):
    method, batch = _make(name, hidden)
    with_hidden, alone = (method(b)["ce"] for b in (batch, _rows(batch, ~HIDDEN)))
    seen = int((~HIDDEN).sum())
    # A sum over the labelled over the size of the batch: 32 times the one is ``seen`` times the other.
    torch.testing.assert_close(32 * with_hidden, seen * alone)
    pairs = zip(_gradient(method, with_hidden), _gradient(method, alone), strict=True)
    moved = 0.0
    for whole, part in pairs:
        assert (whole is None) == (part is None)
        if whole is not None:
            torch.testing.assert_close(32 * whole, seen * part, rtol=1e-3, atol=1e-5)
            moved += float(whole.abs().sum())
    assert moved > 0


@pytest.mark.parametrize("name", LABELLED)
def test_the_other_terms_do_not_know_what_is_hidden(name, hidden):
    method, batch = _make(name, hidden)
    known = Batch(batch.views, batch.index, batch.teachers, torch.arange(32) % CLASSES)
    without, told = method(batch), method(known)
    assert without["ce"] != told["ce"]
    for term in without.keys() - {"ce", "loss"}:
        torch.testing.assert_close(
            without[term], told[term], rtol=0, atol=0, msg=lambda m, t=term: f"{t}: {m}"
        )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LABELLED)
def test_a_batch_without_any_label_is_finite_and_teaches_no_class(name, precision):
    method, batch = _make(name, torch.full((32,), -1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        said = method(batch)
    assert said["ce"] == 0 and said["loss"].isfinite()
    found = [grad for grad in _gradient(method, said["ce"]) if grad is not None]
    assert found and all(torch.equal(grad, torch.zeros_like(grad)) for grad in found)


def test_in_kd_the_teacher_speaks_of_all_images_and_labels_of_the_labelled(hidden):
    method, batch = _make("kd", hidden)
    scores: list[Tensor] = []
    method.classifier.register_forward_hook(lambda _module, _inputs, output: scores.append(output))
    said = method(batch)
    by = {term: torch.autograd.grad(said[term], scores, retain_graph=True)[0] for term in ("kd", "ce")}
    reached = {term: grad.abs().sum(dim=1) > 0 for term, grad in by.items()}
    assert reached["kd"].all() and torch.equal(reached["ce"], ~HIDDEN)
    torch.testing.assert_close(said["loss"], said["kd"] + 0.5 * said["ce"])
    mean = cross_entropy(scores[0][~HIDDEN], hidden[~HIDDEN])  # torch's own, of the labelled
    torch.testing.assert_close(said["ce"], mean * float((~HIDDEN).float().mean()))


def test_parts_of_a_batch_with_unequal_labels_make_the_whole(hidden):
    """By --accumulate, or over processes: a part with few labels does not count them more."""
    labels = torch.where(torch.arange(32) < 16, hidden, -1)  # all of them in the first half
    method, batch = _make("kd", labels)
    parts = [method(_rows(batch, half))["ce"] for half in torch.arange(32).chunk(2)]
    torch.testing.assert_close(method(batch)["ce"], torch.stack(parts).mean())


# A run.


@contextmanager
def _watched(name: str) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(index, labels) of every batch that the method sees."""
    cls, seen = method_class(name), []
    real = cls.forward

    def forward(self: Method, batch: Batch) -> dict[str, Tensor]:
        seen.append((batch.index.clone(), batch.labels.clone()))
        return real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cls, "forward", forward)
        yield seen


def test_kd_sees_all_images_and_half_of_the_labels(settings, scoring_teacher):
    chosen = settings(method="kd", teacher=scoring_teacher, label_share=0.5, allow_random_teacher=True)
    with _watched("kd") as seen:
        run(chosen, {"ce_weight": 0.5})
    images = assemble([chosen], {"ce_weight": 0.5}, overwrite=True).images
    assert len(images) == 54 and int((images.labels >= 0).sum()) == 27
    index, labels = (torch.cat(each) for each in zip(*seen, strict=True))
    assert len(index.unique()) == 48, "six steps of eight images"
    assert torch.equal(labels, torch.as_tensor(images.labels)[index])
    assert (labels < 0).any() and (labels >= 0).any()
    true = images.store.labels[images.original_index]
    known = images.labels >= 0
    assert (images.labels[known] == true[known]).all()


def test_finetune_sees_labelled_images_only(settings):
    chosen = settings(method="finetune", label_share=0.5)
    with _watched("finetune") as seen:
        run(chosen, {"kept_layers": 0})
    index, labels = (torch.cat(each) for each in zip(*seen, strict=True))
    assert len(index) == 24, "three steps of eight: an epoch of 27 images"
    assert index.max() < 27 and labels.min() >= 0
    with pytest.raises(SeedHubError, match="has 6 images to train on .* fewer than one batch of 8"):
        run(settings(method="finetune", label_share=0.1), {"kept_layers": 0}, overwrite=True)


@pytest.mark.parametrize("method", ["kd", "finetune"])
def test_a_share_of_the_images_brings_no_hidden_label_back(settings, scoring_teacher, method):
    changes = {"kd": {"teacher": scoring_teacher, "allow_random_teacher": True}, "finetune": {}}[method]
    own = {"kd": {"ce_weight": 0.5}, "finetune": {"kept_layers": 0}}[method]
    half = assemble([settings(method=method, share=0.5, **changes)], own).images
    both = assemble(
        [settings(method=method, share=0.5, label_share=0.5, **changes)], own, overwrite=True
    ).images
    labelled = both.original_index[both.labels >= 0]
    assert abs(2 * len(labelled) - len(half)) <= 2, "rounded for each of two classes"
    assert set(labelled) < set(half.original_index)
    assert len(both) == (len(labelled) if method == "finetune" else len(half))


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    """29 pictures of two classes and one of a third, the last by name."""
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "uneven" / ("z" if i == 29 else "ab"[i % 2]) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "uneven"


def test_however_small_the_share_of_labels_each_class_has_one(settings, uneven):
    seed = next(s for s in range(50) if 29 not in np.random.default_rng(s).permutation(30)[:3])
    chosen = settings(data=str(uneven), method="finetune", label_share=0.01, batch_size=2, seed=seed)
    assert np.bincount(assemble([chosen], {"kept_layers": 0}).images.labels).tolist() == [1, 1, 1]


def test_a_class_that_is_only_held_out_keeps_its_score(settings, uneven):
    seed = next(s for s in range(50) if 29 in np.random.default_rng(s).permutation(30)[:3])
    chosen = settings(data=str(uneven), method="finetune", label_share=0.5, batch_size=2, seed=seed)
    job = assemble([chosen], {"kept_layers": 0})
    assert job.images.labels.max() == 1 and job.held_out.labels.max() == 2
    assert job.pupils[0].method.head[-1].out_features == 3
