"""The segmentation probe: scores against second implementations, views, maps, and what a layer on known maps reaches."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from seed_hub.data import open_images
from seed_hub.data.images import Images
from seed_hub.data.masks import IGNORED, paired_masks
from seed_hub.encoder import Encoder, Frozen, build_student
from seed_hub.errors import SeedHubError
from seed_hub.eval import segmentation
from seed_hub.eval.dense_features import dense_features, dense_width
from seed_hub.eval.masked_views import MaskedViews, masked_batches
from seed_hub.eval.record import result_line
from seed_hub.eval.segmentation import (
    Settings,
    confusion_matrix,
    evaluate,
    linear_layer,
    pixel_loss,
    schedule,
    scores,
)

SIDE = 16
QUICK = Settings(iterations=30, train_batch=4, lr=0.1, size=SIDE, batch_size=4, workers=0, device="cpu")


class Constant(nn.Module):
    """The same map, whatever the image."""

    num_features, num_classes, num_prefix_tokens = 3, 0, 0

    def forward_features(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        return x.mean((2, 3))


class Pooled(Constant):
    """No map at all."""

    def forward_features(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))

    def forward_head(self, x: Tensor, pre_logits: bool = True) -> Tensor:
        return x


def toy(backbone: nn.Module) -> Frozen:
    return Frozen(Encoder(backbone, arch="toy", mean=(0.0,) * 3, std=(1.0,) * 3, input_size=SIDE))


@pytest.fixture
def table(tmp_path):
    """table(labels, masks, name): pictures whose pixels are red, green or blue by ``labels``, and masks of the same size."""

    def make(labels: list[np.ndarray], masks: list[np.ndarray], name: str) -> Images:
        cells: dict[str, list] = {"image": [], "mask": []}
        for number, (shown, mask) in enumerate(zip(labels, masks, strict=True)):
            noise = np.random.default_rng(number).integers(0, 40, (*shown.shape, 3))
            pixels = (200 * np.eye(3, dtype=int)[shown] + noise).astype(np.uint8)
            for column, array in (("image", pixels), ("mask", mask.astype(np.uint8))):
                stream = io.BytesIO()
                Image.fromarray(array).save(stream, "PNG")
                cells[column].append({"bytes": stream.getvalue(), "path": None})
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table(cells), file)
        return open_images(file, check=False)

    return make


def patches(n: int, seed: int) -> list[np.ndarray]:
    """n maps ``[16, 20]`` of 3 classes in squares of 4, class 0 the commonest."""
    generator = np.random.default_rng(seed)
    return [generator.choice(3, (4, 5), p=(0.6, 0.25, 0.15)).repeat(4, 0).repeat(4, 1) for _ in range(n)]


@pytest.fixture
def splits(table):
    train, test = patches(12, 0), patches(5, 1)
    return table(train, train, "train"), table(test, test, "test")


def central(labels: list[np.ndarray]) -> np.ndarray:
    return np.stack([each[:, 2:18] for each in labels])


# What a layer reaches


def test_a_map_that_is_the_mask_scores_100(flat_encoder, splits):
    done = []
    found = list(
        evaluate(flat_encoder, *splits, replace(QUICK, trials=2), progress=lambda *c: done.append(c))
    )
    assert found == [("miou", 100.0), ("pixel_accuracy", 100.0)] * 2
    assert done == [(step, 60) for step in range(1, 61)]


def test_without_norm_and_with_random_crops(flat_encoder, splits):
    for change in ({"norm": False}, {"crop_min": 0.3}, {"precision": "bf16"}, {"flip": False}):
        assert dict(evaluate(flat_encoder, *splits, replace(QUICK, **change)))["miou"] > 99, change


def test_a_constant_map_scores_what_the_commonest_class_gives(splits):
    found = dict(evaluate(toy(Constant()), *splits, QUICK))
    share = (central(patches(5, 1)) == 0).mean()
    assert found["pixel_accuracy"] == pytest.approx(100 * share)
    assert found["miou"] == pytest.approx(100 * share / 3)  # the other two classes have none of theirs


def test_random_masks_score_what_the_commonest_class_gives(flat_encoder, table):
    """Colours tell nothing of these masks: two classes of 70 and 30 %, drawn pixel by pixel."""
    generator = np.random.default_rng(5)
    masks = [(generator.random((16, 20)) < 0.3).astype(int) for _ in range(25)]
    train = table(patches(20, 0), masks[:20], "train")
    test = table(patches(5, 1), masks[20:], "test")
    found = dict(evaluate(flat_encoder, train, test, QUICK))
    share = (central(masks[20:]) == 0).mean()
    assert found["pixel_accuracy"] == pytest.approx(100 * share, abs=1)
    assert found["miou"] == pytest.approx(50 * share, abs=1)


def test_ids_in_another_order_in_the_test_split_score_nothing(flat_encoder, table):
    train, test = patches(12, 0), patches(5, 1)
    rotated = table(test, [(mask + 1) % 3 for mask in test], "test")
    found = dict(evaluate(flat_encoder, table(train, train, "train"), rotated, QUICK))
    assert found == {"miou": 0.0, "pixel_accuracy": 0.0}


def test_ignored_pixels_count_nowhere(flat_encoder, table):
    """Half of each mask contradicts its image; ignored, it changes nothing, in training or test."""
    train, test = patches(12, 0), patches(5, 1)

    def half(masks: list[np.ndarray], wrong: int | None) -> list[np.ndarray]:
        masks = [mask.copy() for mask in masks]
        for mask in masks:
            mask[:8] = (mask[:8] + 1) % 3 if wrong is None else wrong
        return masks

    ignored = table(train, half(train, 255), "train"), table(test, half(test, 255), "test")
    counted = table(train, half(train, None), "train2"), table(test, half(test, None), "test2")
    assert dict(evaluate(flat_encoder, *ignored, QUICK))["miou"] == 100
    assert dict(evaluate(flat_encoder, *counted, QUICK))["miou"] < 60


def test_images_ignored_entirely_do_no_harm(flat_encoder, table):
    train, test = patches(12, 0), patches(5, 1)
    masks = [np.full_like(mask, 255) if i % 2 else mask for i, mask in enumerate(train)]
    settings = replace(QUICK, train_batch=1)  # steps without a labelled pixel
    assert (
        dict(evaluate(flat_encoder, table(train, masks, "train"), table(test, test, "test"), settings))[
            "miou"
        ]
        == 100
    )
    outside = np.full((16, 20), 255)
    outside[:, :2] = [0, 1]
    with pytest.raises(SeedHubError, match="centre squares of .*test.parquet show no labelled pixel"):
        list(
            evaluate(flat_encoder, table(train, train, "train"), table(test, [outside] * 5, "test"), settings)
        )


def test_the_encoder_and_random_numbers_stay_as_they_are(flat_student, splits):
    flat_student.train()  # an encoder in the middle of its training
    before, state = copy.deepcopy(flat_student.state_dict()), torch.get_rng_state()
    list(evaluate(flat_student, *splits, replace(QUICK, iterations=3)))
    assert all(torch.equal(value, before[name]) for name, value in flat_student.state_dict().items())
    assert all(part.training for part in flat_student.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in flat_student.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_same_seed_same_layer_whatever_the_workers(splits):
    torch.manual_seed(0)
    network = Frozen(build_student("test_resnet"))
    masks, _ = paired_masks(*splits)
    settings = replace(QUICK, iterations=4, size=64, crop_min=0.5)
    a, b, other = (
        segmentation.train_layer(network, masks, replace(settings, **change))
        for change in ({}, {"workers": 1}, {"seed": 1})
    )
    assert torch.equal(a[1].weight, b[1].weight)
    assert not torch.equal(a[1].weight, other[1].weight)


def test_a_line_of_results(flat_encoder, splits):
    settings = replace(QUICK, trials=2, iterations=5)
    values = list(evaluate(flat_encoder, *splits, settings))
    line = result_line(
        "segmentation", values, headline=segmentation.HEADLINE, spec="toy", encoder=flat_encoder, train=splits[0],
        test=splits[1], settings=settings, seconds=1.0,
    )  # fmt: skip
    assert (line["metric"], line["n"]) == ("miou", 2)
    assert json.loads(json.dumps(line)) == line


# The numerical parts


def noisy_labels(seed: int, classes: int = 6) -> tuple[Tensor, Tensor]:
    """Predictions that are right half of the time; class 5 is neither shown nor predicted, 4 only predicted."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, classes - 2, (3, 8, 9), generator=generator)
    other = torch.randint(0, classes - 1, truth.shape, generator=generator)
    predicted = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth, other)
    truth[torch.rand(truth.shape, generator=generator) < 0.2] = IGNORED
    return predicted, truth


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_a_count_pixel_by_pixel(seed):
    predicted, truth = noisy_labels(seed)
    pairs = [
        (t, p)
        for t, p in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True)
        if t != IGNORED
    ]
    counted = confusion_matrix(predicted, truth, 6)
    assert counted.tolist() == [[pairs.count((t, p)) for p in range(6)] for t in range(6)]
    places = [
        (
            {k for k, pair in enumerate(pairs) if pair[0] == c},
            {k for k, pair in enumerate(pairs) if pair[1] == c},
        )
        for c in range(6)
    ]
    ious = [len(t & p) / len(t | p) for t, p in places if t | p]
    assert len(ious) == 5
    assert scores(counted)["miou"] == pytest.approx(100 * sum(ious) / 5)
    assert scores(counted)["pixel_accuracy"] == pytest.approx(
        100 * sum(t == p for t, p in pairs) / len(pairs)
    )


def test_scores_equal_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, jaccard_score
    from sklearn.metrics import confusion_matrix as theirs

    predicted, truth = noisy_labels(7)
    kept = truth != IGNORED
    pair = truth[kept].numpy(), predicted[kept].numpy()
    ours = confusion_matrix(predicted, truth, 6)
    assert np.array_equal(ours.numpy(), theirs(*pair, labels=range(6)))
    assert scores(ours)["miou"] == pytest.approx(100 * jaccard_score(*pair, average="macro"))
    assert scores(ours)["pixel_accuracy"] == pytest.approx(100 * accuracy_score(*pair))


def test_confusion_adds_up_over_images():
    predicted, truth = noisy_labels(3)
    parts = sum(confusion_matrix(p, t, 6) for p, t in zip(predicted, truth, strict=True))
    assert torch.equal(parts, confusion_matrix(predicted, truth, 6))


def test_the_loss_is_the_mean_over_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (2, 12, 12), generator=generator)
    labels[0, :7] = IGNORED
    logs = interpolate(logits, (12, 12), mode="bilinear").softmax(1).log()
    expected = [
        -logs[b, labels[b, y, x], y, x]
        for b in range(2)
        for y in range(12)
        for x in range(12)
        if labels[b, y, x] < 3
    ]
    assert pixel_loss(logits, labels).item() == pytest.approx((sum(expected) / len(expected)).item())
    logits.requires_grad_()
    nothing = pixel_loss(logits, torch.full_like(labels, IGNORED))
    nothing.backward()
    assert nothing == 0 and torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_schedule_is_the_published_one():
    settings = Settings()
    rates = [schedule(step, settings) for step in range(settings.iterations)]
    assert rates[0] == pytest.approx(1 / 1501)
    assert rates.index(max(rates)) == pytest.approx(1500, abs=1)
    assert rates[20_000] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(1 / 40_000)
    assert schedule(0, replace(settings, warm_up=0.0)) == 1


def test_the_layer_is_linear_and_its_norm_has_no_weights():
    layer = linear_layer(5, 3, norm=True, seed=0)
    assert [tuple(weight.shape) for weight in layer.parameters()] == [(3, 5, 1, 1), (3,)]
    again = linear_layer(5, 3, norm=False, seed=0)
    assert torch.equal(layer[1].weight, again[1].weight)
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(again(x)[0, :, 1, 2], again[1].weight[:, :, 0, 0] @ x[0, :, 1, 2])


# Views: one geometry for image and mask


@pytest.fixture
def ramps(tmp_path):
    """An image ``[64, 96]`` whose red says the column and whose green says the row, and a mask of columns, or of rows."""

    def make(of: str) -> Images:
        row, column = np.mgrid[0:64, 0:96].astype(np.uint8)
        pixels = np.stack([2 * column, 2 * row, np.zeros_like(row)], -1)
        for folder, array in (("images", pixels), ("masks", column if of == "columns" else row)):
            place = tmp_path / of / folder
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(place / "a.png")
        return open_images(tmp_path / of / "images", check=False)

    return make


@pytest.mark.parametrize(("of", "channel"), [("columns", 0), ("rows", 1)])
@pytest.mark.parametrize("view", [{}, {"crop_min": 0.2, "flip": 0.5, "seed": 3}], ids=["centre", "random"])
def test_a_mask_stays_where_its_image_is(ramps, of, channel, view):
    images = ramps(of)
    masks, _ = paired_masks(images, ramps(of), ignore=(-1,))
    views = MaskedViews(masks, 16, **view)
    seen, mirrored = [], []
    for epoch in range(12):
        pixels, labels = views[epoch, 0]
        assert pixels.shape == (3, 16, 16) and labels.shape == (16, 16)
        assert pixels.dtype == labels.dtype == torch.uint8
        apart = pixels[channel, 1:-1, 1:-1].float() / 2 - labels[1:-1, 1:-1]
        # 4 pixels become one: their mean lies half a pixel before the third of them, and 1.5 behind the first.
        assert apart.abs().max() <= 1.5 and apart.mean().abs() <= 0.8, epoch
        seen.append(labels)
        mirrored.append(bool(pixels[0, 8, 0] > pixels[0, 8, -1]))
    if view:
        assert len({tuple(each.flatten().tolist()) for each in seen}) > 6
        assert {True, False} == set(mirrored)
        again = MaskedViews(masks, 16, **view)[5, 0]
        assert torch.equal(again[1], seen[5])
    else:
        assert all(torch.equal(each, seen[0]) for each in seen) and not any(mirrored)
        shown = 4 * torch.arange(16) + 2 + (16 if of == "columns" else 0)
        assert torch.equal(seen[0][0] if of == "columns" else seen[0][:, 0], shown.byte())


def test_batches_of_views(splits):
    masks, _ = paired_masks(*splits)
    steps = [[(0, 3), (0, 1)], [(1, 2)]]
    first, second = masked_batches(MaskedViews(masks, 8), steps, 0, torch.device("cpu"))
    assert [x.shape for x in (*first, *second)] == [(2, 3, 8, 8), (2, 8, 8), (1, 3, 8, 8), (1, 8, 8)]
    assert first[1].dtype == torch.int64
    assert torch.equal(first[1][1], MaskedViews(masks, 8)[0, 1][1].long())


# Maps


@pytest.fixture(scope="module")
def resnet() -> Frozen:
    torch.manual_seed(0)
    return Frozen(build_student("test_resnet"))


def pictures(size: int) -> Tensor:
    return torch.randint(
        0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_the_last_map_is_what_is_pooled(resnet):
    x = pictures(96)
    found = dense_features(resnet, x)
    assert found.shape == (2, 96, 3, 3) and found.dtype == torch.float32
    torch.testing.assert_close(found.mean((2, 3)), resnet(x / 255).pooled)
    torch.testing.assert_close(found, resnet(x / 255, stages=True).stages[-1])
    assert dense_width(resnet, 96) == 96


def test_several_stages_side_by_side(resnet):
    x = pictures(96)
    found = dense_features(resnet, x, (1, -2, -1))
    stages = resnet(x / 255, stages=True).stages
    assert found.shape == (2, 32 + 192 + 96, 24, 24)
    torch.testing.assert_close(found[:, :32], stages[1])
    torch.testing.assert_close(found[:, 224:], interpolate(stages[-1], (24, 24), mode="bilinear"))
    assert torch.equal(dense_features(resnet, x, (4,)), dense_features(resnet, x))
    assert dense_width(resnet, 96, (1, -2, -1)) == 320


def test_patch_tokens_are_a_map():
    torch.manual_seed(0)
    vit = Frozen(build_student("test_vit"))
    x = pictures(64)
    found, tokens = dense_features(vit, x), vit(x / 255).tokens
    assert found.shape == (2, 64, 4, 4)
    for k in range(16):  # row by row
        torch.testing.assert_close(found[:, :, k // 4, k % 4], tokens[:, k])  # CPUs round layouts differently
    assert dense_features(vit, x, (-4, -3, -2, -1)).shape == (2, 256, 4, 4)


def test_maps_that_are_not_there_are_refused(resnet, flat_encoder, splits):
    with pytest.raises(SeedHubError, match=r"gives 0 position\(s\) for an image of 16 px, and no map"):
        list(evaluate(toy(Pooled()), *splits, QUICK))
    with pytest.raises(
        SeedHubError, match=r"gives 1 position\(s\) for an image of 32 px, .* or a larger --size"
    ):
        list(evaluate(resnet, *splits, replace(QUICK, size=32)))
    with pytest.raises(SeedHubError, match="test_resnet has 5 stages, and none with the number 5"):
        list(evaluate(resnet, *splits, replace(QUICK, size=64, stages=(0, 5))))
    with pytest.raises(SeedHubError, match="flat gives no feature maps 0 of an image of 16 px"):
        list(evaluate(flat_encoder, *splits, replace(QUICK, stages=(0,))))


# What is refused


def test_one_split_as_both_is_refused(flat_encoder, splits):
    with pytest.raises(SeedHubError, match="Training and test images are both"):
        list(evaluate(flat_encoder, splits[0], splits[0], QUICK))


def test_a_layer_that_diverges_is_refused(splits):
    class Broken(Constant):
        def forward_features(self, x: Tensor) -> Tensor:
            return x * float("nan")

    with pytest.raises(SeedHubError, match="diverged in the first 30 of 30 steps"):
        list(evaluate(toy(Broken()), *splits, QUICK))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"iterations": 0}, "iterations >= 1"),
        ({"lr": 0.0}, "a learning rate > 0"),
        ({"stages": ()}, "at least one stage"),
        ({"precision": "fp16"}, 'no precision "fp16"'),
        ({"crop_min": 0.0}, "0 < crop_min <= 1"),
        ({"warm_up": 1.5}, "0 <= warm_up <= 1"),
    ],
)
def test_senseless_settings_are_refused_before_any_work(wrong, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        list(evaluate(None, None, None, replace(QUICK, **wrong)))
