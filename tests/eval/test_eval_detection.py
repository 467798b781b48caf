"""Detection: the scores against a second implementation, the detector's parts, and what fine-tuning does and leaves alone."""

from __future__ import annotations

import copy
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from seed_hub.cpu_kernels import SmallMapConv2d
from seed_hub.data import open_images
from seed_hub.data.boxes import Boxes, boxes_of
from seed_hub.encoder import Frozen, build_student
from seed_hub.errors import SeedHubError
from seed_hub.eval import detection, detector
from seed_hub.eval.detection import Settings, draws, fine_tune, schedule
from seed_hub.eval.detection_pictures import INDEX, draw_predictions, picture_folder, write_pictures
from seed_hub.eval.detection_scores import NAMES, compare, curves_of, detection_scores, mean_curves
from seed_hub.eval.detector import InBf16, batches_of, build_detector, predict
from seed_hub.eval.record import result_line
from seed_hub.eval.results_file import identity

QUICK = Settings(
    iterations=2,
    train_batch=2,
    lr=0.01,
    warm_up=1,
    size=64,
    train_sizes=(64, 80),
    rois=16,
    head="c4",
    batch_size=2,
    workers=0,
    device="cpu",
)


@pytest.fixture
def scorer():
    """Scores are counted by pycocotools, an extra."""
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")


def rectangles(file, n: int, seed: int):
    """n images of 64 x 48 px with up to two rectangles, red (category 4) or blue (category 9); the last one is empty."""
    generator = np.random.default_rng(seed)
    encoded, objects = [], []
    for number in range(n):
        pixels = generator.integers(90, 130, (48, 64, 3), dtype=np.uint8)
        cell = {"bbox": [], "category": []}
        for half in range(generator.integers(1, 3) if number < n - 1 else 0):
            w, h = generator.integers(14, 28, 2)
            x, y = half * 32 + generator.integers(0, 33 - w), generator.integers(0, 49 - h)
            red = bool(generator.integers(2))
            pixels[y : y + h, x : x + w] = (220, 20, 20) if red else (20, 20, 220)
            cell["bbox"].append([float(x), float(y), float(w), float(h)])
            cell["category"].append(4 if red else 9)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        encoded.append({"bytes": stream.getvalue(), "path": None})
        objects.append(cell)
    pq.write_table(pa.table({"image": encoded, "objects": objects}), file)
    return open_images(file, check=False)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rectangles")
    return rectangles(folder / "train.parquet", 16, 0), rectangles(folder / "test.parquet", 6, 1)


@pytest.fixture(scope="module")
def resnet() -> Frozen:
    torch.manual_seed(0)
    return Frozen(build_student("test_resnet"))


def truth(n: int = 30, seed: int = 0, classes: int = 3) -> list[Boxes]:
    """Boxes of 5 to 150 px that hardly overlap, several per image, of each class in each size."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        corner = np.stack(np.meshgrid([0, 200, 400], [0, 200]), -1).reshape(-1, 2) + generator.uniform(
            0, 40, (6, 2)
        )
        sides = generator.choice([12.0, 50.0, 120.0], 6)[:, None] * generator.uniform(0.8, 1.2, (6, 2))
        found.append(
            Boxes(
                xyxy=np.concatenate([corner, corner + sides], 1).astype(np.float32),
                labels=generator.integers(1, classes + 1, 6),
                names=tuple("abc"[:classes]),
                area=sides.prod(1).astype(np.float32),
                crowd=np.zeros(6, dtype=bool),
            )
        )
    return found


def as_predictions(boxes: list[Boxes]) -> list[dict[str, torch.Tensor]]:
    return [
        {"boxes": torch.tensor(b.xyxy), "labels": torch.tensor(b.labels), "scores": torch.ones(len(b))}
        for b in boxes
    ]


def noisy(boxes: list[Boxes], seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Shifted boxes, some with another label, some twice, with random scores."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for one in as_predictions(boxes):
        again = torch.cat([torch.arange(6), torch.randint(0, 6, (3,), generator=generator)])
        shift = (
            0.15
            * torch.randn(9, 4, generator=generator)
            * (one["boxes"][:, 2:] - one["boxes"][:, :2])[again].repeat(1, 2)
        )
        placed = one["boxes"][again] + shift
        placed = torch.cat([placed[:, :2], placed[:, 2:].maximum(placed[:, :2] + 1)], 1)
        other = torch.rand(9, generator=generator) < 0.2
        labels = torch.where(other, one["labels"][again] % 3 + 1, one["labels"][again])
        found.append({"boxes": placed, "labels": labels, "scores": torch.rand(9, generator=generator)})
    return found


def average_precision(found, boxes: list[Boxes], label: int, threshold: float) -> float:
    return 100 * float(np.mean(precision_at_recalls(found, boxes, label, threshold)))


def precision_at_recalls(found, boxes: list[Boxes], label: int, threshold: float) -> list[float]:
    """One class at one threshold, written from COCO's definition: greedy matches, 101 points of recall."""
    entries = [
        (float(s), i, b.tolist())
        for i, one in enumerate(found)
        for s, c, b in zip(one["scores"], one["labels"], one["boxes"].double(), strict=True)
        if c == label
    ]
    entries.sort(key=lambda entry: -entry[0])
    left = {
        i: [b.astype(float) for b, c in zip(one.xyxy, one.labels, strict=True) if c == label]
        for i, one in enumerate(boxes)
    }
    total = sum(map(len, left.values()))
    hits = []
    for _, i, (x1, y1, x2, y2) in entries:
        best, place = threshold, None
        for k, (a1, b1, a2, b2) in enumerate(left[i]):
            both = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            overlap = both / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - both)
            if overlap >= best:
                best, place = overlap, k
        hits.append(place is not None)
        if place is not None:
            left[i].pop(place)
    true = np.cumsum(hits)
    recall, precision = true / total, true / np.arange(1, len(hits) + 1)
    return [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)]


def test_the_truth_scores_100_and_is_silent(scorer, capsys):
    boxes = truth()
    assert detection_scores(as_predictions(boxes), boxes) == pytest.approx(dict.fromkeys(NAMES, 100.0))
    assert capsys.readouterr() == ("", "")


def test_wrong_classes_wrong_images_and_nothing_score_nothing(scorer):
    boxes = truth()
    others = [replace(b, labels=b.labels % 3 + 1) for b in boxes]
    assert detection_scores(as_predictions(others), boxes)["AP50"] == pytest.approx(0, abs=1)
    assert detection_scores(as_predictions(boxes[1:] + boxes[:1]), boxes)["AP"] < 5
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    assert set(detection_scores([nothing] * len(boxes), boxes).values()) == {0.0}


def test_scores_equal_those_from_the_definition(scorer):
    boxes = truth()
    found = noisy(boxes)
    thresholds = [0.5 + 0.05 * k for k in range(10)]
    table = np.array([[average_precision(found, boxes, c, t) for c in (1, 2, 3)] for t in thresholds]).mean(1)
    ours = detection_scores(found, boxes)
    assert 5 < ours["AP"] < 95
    assert ours["AP"] == pytest.approx(table.mean(), abs=1e-6)
    assert (ours["AP50"], ours["AP75"]) == pytest.approx((table[0], table[5]), abs=1e-6)


def test_curves_equal_those_from_the_definition(scorer):
    boxes = truth()
    found = noisy(boxes)
    curves = curves_of(compare(found, boxes), "abc")
    assert list(curves) == ["a", "b", "c"]
    for label, name in enumerate("abc", start=1):
        assert curves[name].tolist() == pytest.approx(
            precision_at_recalls(found, boxes, label, 0.5), abs=1e-9
        )
    assert np.mean(list(curves.values())) == pytest.approx(detection_scores(found, boxes)["AP50"] / 100)


def test_a_class_that_is_nowhere_has_no_curve_and_trials_are_averaged(scorer):
    boxes = [replace(b, names=("a", "b", "c", "d")) for b in truth()]
    perfect = curves_of(compare(as_predictions(boxes), boxes), boxes[0].names)
    other = curves_of(compare(noisy(boxes), boxes), boxes[0].names)
    assert list(perfect) == ["a", "b", "c"] and all((curve == 1).all() for curve in perfect.values())
    means = mean_curves([perfect, other])
    assert means["b"] == pytest.approx((1 + other["b"]) / 2, abs=5e-4)
    assert all(len(curve) == 101 and np.array_equal(curve, np.round(curve, 3)) for curve in means.values())


def test_scores_equal_those_of_pycocotools_on_files(scorer, tmp_path, capsys):
    """The way its manual shows, from two JSON files, sizes included."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = truth(seed=3)
    found = noisy(boxes, 4)
    true, seen = [], []
    for i, (one, said) in enumerate(zip(boxes, found, strict=True)):
        for (x1, y1, x2, y2), label, area in zip(one.xyxy.tolist(), one.labels, one.area, strict=True):
            entry = {
                "id": len(true) + 1,
                "image_id": i,
                "category_id": int(label),
                "area": float(area),
                "iscrowd": 0,
            }
            true.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        for (x1, y1, x2, y2), label, score in zip(
            said["boxes"].tolist(), said["labels"].tolist(), said["scores"].tolist(), strict=True
        ):
            seen.append(
                {"image_id": i, "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            )
    images, classes = [{"id": i} for i in range(len(boxes))], [{"id": c} for c in (1, 2, 3)]
    for name, content in (
        ("true", {"images": images, "categories": classes, "annotations": true}),
        ("seen", seen),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    whole = COCO(str(tmp_path / "true"))
    theirs = COCOeval(whole, whole.loadRes(str(tmp_path / "seen")), "bbox")
    theirs.evaluate(), theirs.accumulate(), theirs.summarize()
    assert list(detection_scores(found, boxes).values()) == pytest.approx(100 * theirs.stats[:6], abs=1e-9)


def test_what_is_found_in_a_crowd_is_not_wrong_and_an_absent_size_has_no_score(scorer):
    boxes = [replace(b, area=np.full(6, 50.0 * 50, np.float32)) for b in truth(classes=1)]
    crowded = [replace(b, crowd=np.arange(6) < 2) for b in boxes]
    found = detection_scores(as_predictions(boxes), crowded)
    assert found["AP"] == pytest.approx(100)
    assert set(found) == {"AP", "AP50", "AP75", "APm"}
    with pytest.raises(SeedHubError, match="no boxes to find"):
        detection_scores(as_predictions(boxes), [replace(b, crowd=np.ones(6, bool)) for b in boxes])


def test_without_pycocotools_it_is_named(monkeypatch, resnet, splits):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(SeedHubError, match="pip install pycocotools"):
        next(detection.evaluate(resnet, *splits, QUICK))


def test_the_trunk_sees_what_the_encoder_sees(resnet):
    """Normalised once, with the encoder's own numbers; the maps are the encoder's stages."""
    encoder = copy.deepcopy(resnet.encoder)
    encoder.mean, encoder.std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    encoder.scale, encoder.shift = (
        1 / torch.tensor(encoder.std).view(1, 3, 1, 1),
        -torch.tensor([2.5, 4 / 3, 0.75]).view(1, 3, 1, 1),
    )
    pixels = torch.rand(3, 64, 64)
    with torch.no_grad():
        stages = encoder(pixels[None], stages=True).stages
        built = build_detector(copy.deepcopy(encoder), 2, size=64).eval()
        batch, _ = built.transform([pixels])
        maps = built.backbone.trunk(batch.tensors)
    assert [tuple(each.shape[2:]) for each in maps.values()] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    for each, stage in zip(maps.values(), stages[-4:], strict=True):
        torch.testing.assert_close(each, stage)


def test_under_bf16_networks_are_coarse_and_boxes_are_not(resnet):
    pixels = torch.rand(1, 3, 64, 64)
    torch.manual_seed(0)
    made = build_detector(copy.deepcopy(resnet.encoder), 2, size=64).eval()
    torch.manual_seed(0)
    coarse_one = build_detector(copy.deepcopy(resnet.encoder), 2, size=64, precision="bf16").eval()
    exact, coarse = made.backbone, coarse_one.backbone
    assert isinstance(coarse_one.rpn.head, InBf16) and isinstance(coarse_one.roi_heads.box_head, InBf16)
    with torch.no_grad():
        for found in coarse_one([pixels[0]]):
            assert found["boxes"].dtype == found["scores"].dtype == torch.float32
        for one, other in zip(exact(pixels).values(), coarse(pixels).values(), strict=True):
            assert other.dtype == torch.float32
            assert 0 < (one - other).abs().max() < 0.1 * one.abs().max()


def test_a_detector_is_timed_as_it_is(resnet, colour_images):
    images = colour_images(3, 0)
    seconds = detection.seconds_per_image(resnet, images, Settings(size=64, longest=80, device="cpu"))
    assert 0 < seconds < 10


def test_regions_are_pooled_at_the_true_stride():
    """Stride 4 of an image of 67 px, padded to 96, is still 4."""
    torch.manual_seed(0)
    pool = build_detector(build_student("test_resnet"), 2, size=67).roi_heads.box_roi_pool
    maps = {str(level): torch.rand(1, 8, 96 >> (2 + level), 96 >> (2 + level)) for level in range(4)}
    pool(maps, [torch.tensor([[0.0, 0.0, 20.0, 20.0]])], [(67, 67)])
    assert pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]


@pytest.mark.parametrize("arch", ["test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_networks_with_stages_are_taken(arch):
    torch.manual_seed(0)
    built = build_detector(build_student(arch), 3, size=64, norm="frozen").eval()
    assert not [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        maps = built.backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(each.shape) for each in maps.values()] == [
        (1, 256, 64 // s, 96 // s) for s in (4, 8, 16, 32, 64)[:4]
    ] + [(1, 256, 1, 2)]


def test_networks_without_stages_are_refused(flat_student):
    with pytest.raises(SeedHubError, match="stride 16, and none of stride 4, 8, 32"):
        build_detector(build_student("test_vit"), 2)
    with pytest.raises(SeedHubError, match="flat gives no feature maps"):
        build_detector(flat_student, 2)
    with pytest.raises(SeedHubError, match="c4 head is a ResNet's"):
        build_detector(build_student("test_efficientnet"), 2, head="c4")


def test_c4_has_each_weight_once_and_its_last_stage_as_the_head(resnet):
    encoder = copy.deepcopy(resnet.encoder)
    before = dict(encoder.backbone.named_parameters())
    built = build_detector(encoder, 2, head="c4", size=64)
    names = [name for name, _ in built.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(p) for p in built.parameters()})
    assert {id(p) for p in before.values()} <= {id(p) for p in built.parameters()}
    assert [id(p) for p in built.roi_heads.box_head[0].parameters()] == [
        id(p) for name, p in before.items() if name.startswith("layer4.")
    ]
    assert isinstance(built.roi_heads.box_head[1], nn.BatchNorm2d)


@pytest.mark.parametrize("size", [64, 800])
def test_anchors_are_in_proportion_to_the_image(resnet, size):
    built = build_detector(copy.deepcopy(resnet.encoder), 2, size=size)
    sides = [side for (side,) in built.rpn.anchor_generator.sizes]
    assert sides == {64: [4, 8, 16, 32, 64], 800: [32, 64, 128, 256, 512]}[size]
    for anchors in built.rpn.anchor_generator.cell_anchors:
        assert (anchors[:, 2:] > anchors[:, :2]).all()


def test_the_schedule_rises_and_falls_by_tenths():
    settings = Settings(iterations=100, warm_up=4, milestones=(0.5, 0.75))
    found = [schedule(step, settings) for step in range(100)]
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (found[49], found[50], found[74], found[75]) == pytest.approx((1, 0.1, 0.1, 0.01))
    assert schedule(0, replace(settings, warm_up=0)) == 1


def test_every_image_is_drawn_in_turn_and_half_of_them_mirrored():
    settings = Settings(iterations=50, train_batch=4, seed=3)
    batches = draws(7, settings)
    assert [len(batch) for batch in batches] == [4] * 50
    order = [i for batch in batches for i, _ in batch]
    assert all(sorted(order[first : first + 7]) == list(range(7)) for first in range(0, 196, 7))
    assert 60 < sum(mirrored for batch in batches for _, mirrored in batch) < 140
    assert batches == draws(7, settings) != draws(7, replace(settings, seed=4))
    assert not any(mirrored for batch in draws(7, replace(settings, flip=False)) for _, mirrored in batch)


def test_a_mirrored_image_takes_its_boxes_along(splits):
    train, _ = splits
    boxes = boxes_of(train)
    keys = [[(0, False), (0, True), (15, True)]]
    ((pixels, targets),) = batches_of(train, keys, boxes=boxes, device=torch.device("cpu"))
    for image, target in zip(pixels, targets, strict=True):
        for (x1, y1, x2, y2), label in zip(
            target["boxes"].int().tolist(), target["labels"].tolist(), strict=True
        ):
            inside = image[:, y1:y2, x1:x2].flatten(1)
            assert (
                inside[[0, 2][label - 1]].min() > 0.8 and inside[1].max() < 0.1
            )  # all of the colour of its class
    assert torch.equal(pixels[1], pixels[0].flip(2))
    assert len(targets[0]["boxes"]) and targets[2]["boxes"].shape == (0, 4)


def test_training_is_reproducible_and_leaves_everything_else_alone(resnet, splits):
    train, test = splits
    boxes, before = boxes_of(train), copy.deepcopy(resnet.state_dict())
    modes = [module.training for module in resnet.modules()]
    state = torch.get_rng_state()
    steps = []
    first, second, other = (
        fine_tune(resnet, train, boxes, replace(QUICK, seed=seed), progress=lambda *done: steps.append(done))
        for seed in (0, 0, 1)
    )
    found = predict(first, test, batch_size=3)
    assert torch.equal(state, torch.get_rng_state())
    assert steps == [(1, 2), (2, 2)] * 3
    weights = [torch.cat([p.flatten() for p in d.parameters()]) for d in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert [module.training for module in resnet.modules()] == modes
    assert not any(parameter.requires_grad for parameter in resnet.parameters())
    # The trunk was trained, and it is the encoder's.
    own = first.backbone.backbone.get_parameter("layer1.0.conv1.weight")
    start = before["encoder.backbone.layer1.0.conv1.weight"]
    assert 0 < (own - start).norm() < 0.5 * start.norm()
    assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 6
    for one in found:
        assert one["labels"].min() >= 1 and one["labels"].max() <= 2
        assert (one["boxes"].min() >= 0) and (one["boxes"] <= torch.tensor([64, 48, 64, 48])).all()


def test_a_detector_that_is_trained_on_a_cpu_is_made_ready_for_it(resnet, splits):
    train, _ = splits
    settings = replace(QUICK, iterations=1, device="cpu")
    built = fine_tune(resnet, train, boxes_of(train), settings)
    assert any(isinstance(module, SmallMapConv2d) for module in built.modules())
    assert not any(isinstance(module, SmallMapConv2d) for module in resnet.modules())  # it was a copy


def test_frozen_norms_keep_their_statistics(resnet, splits):
    train, _ = splits
    settings = replace(QUICK, iterations=1, norm="frozen")
    built = fine_tune(resnet, train, boxes_of(train), settings)
    trunk, start = built.backbone.backbone.state_dict(), resnet.encoder.backbone.state_dict()
    norms = [name for name in trunk if "running_" in name or ".bn" in name]
    assert len(norms) > 8
    assert all(torch.equal(trunk[name], start[name]) for name in norms)


def test_evaluate_learns_coloured_rectangles(scorer, monkeypatch, resnet, splits):
    monkeypatch.setattr(detector, "PYRAMID_WIDTH", 32)  # seconds instead of a minute
    settings = replace(
        QUICK, head="fpn", iterations=60, train_batch=4, lr=0.01, warm_up=5, rois=32, train_sizes=(64,)
    )
    steps = []
    found = dict(detection.evaluate(resnet, *splits, settings, progress=lambda *done: steps.append(done)))
    curves = found.pop("curves")
    assert set(found) == {"AP", "AP50", "AP75", "APs"}
    assert 100 * np.mean(list(curves.values())) == pytest.approx(found["AP50"], abs=0.05)
    assert steps[-1] == (60, 60)
    assert found["AP50"] > 30, found


def test_drawing(splits):
    _, test = splits
    boxes = boxes_of(test)[:1]
    (found,) = as_predictions(boxes)
    image = test.load(0)
    drawn = np.asarray(draw_predictions(image, found, boxes[0].names))
    x, y = boxes[0].xyxy[0, :2].astype(int)
    assert drawn.shape == (48, 64, 3)
    assert (drawn[y, x] != np.asarray(image)[y, x]).any()
    unsure = {**found, "scores": 0.1 * found["scores"]}
    assert np.array_equal(draw_predictions(image, unsure, boxes[0].names), image)


def test_true_boxes_are_dashed_and_found_ones_solid():
    """Along the edges: black and white in turn, or one colour."""
    grey = Image.new("RGB", (300, 300), (128, 128, 128))
    box = [30.0, 40.0, 250.0, 260.0]
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "scores": torch.zeros(0),
    }
    dashed = np.asarray(draw_predictions(grey, nothing, ("a",), true_boxes=[box]))
    for edge in (dashed[40, 30:250], dashed[40:260, 30], dashed[260, 30:250], dashed[40:260, 250]):
        white, black = ((edge == value).all(axis=1).sum() for value in (255, 0))
        assert white > 80 and black > 80
    found = {"boxes": torch.tensor([box]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    solid = np.asarray(draw_predictions(grey, found, ("a",)))[260, 30:250]
    assert (solid == solid[0]).all() and (solid[0] != 128).any()


def test_pictures_are_of_the_images_and_say_what_they_show(splits, tmp_path):
    _, test = splits
    boxes = boxes_of(test)
    folder = picture_folder(str(tmp_path / "new" / "pictures"))
    write_pictures(folder, test, boxes, as_predictions(boxes), weights="abc", count=4, seed=1)
    facts = json.loads((folder / INDEX).read_text())
    assert facts["weights"] == "abc" and len({entry["image"] for entry in facts["pictures"]}) == 4
    for entry in facts["pictures"]:
        assert entry["true"] == entry["found"] == len(boxes[entry["image"]])
        with Image.open(folder / entry["file"]) as drawn:
            assert drawn.size == (64 * 8, 48 * 8)  # enlarged: labels on 64 px would hide them
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_pictures(folder, test, boxes, as_predictions(boxes), weights="abc", count=4, seed=1)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    write_pictures(folder, test, boxes, as_predictions(boxes), weights="abc", count=99)
    assert len(json.loads((folder / INDEX).read_text())["pictures"]) == len(test)


def test_a_line_keeps_curves_and_pictures_are_no_part_of_it(scorer, resnet, splits, tmp_path):
    settings = replace(QUICK, iterations=1, pictures=str(tmp_path / "pictures"), pictures_count=2)
    values = list(detection.evaluate(resnet, *splits, settings))
    given = {"encoder": resnet, "train": splits[0], "test": splits[1], "spec": "m", "seconds": 1.0}
    line, plain = (
        result_line("detection", values, headline="AP", settings=s, **given)
        for s in (settings, replace(settings, pictures="", pictures_count=12))
    )
    assert identity(line) == identity(plain)
    assert line["curves"] == dict(values)["curves"] and "curves" not in line["values"]
    assert {len(curve) for curve in line["curves"].values()} == {101}
    facts = json.loads((tmp_path / "pictures" / INDEX).read_text())
    assert facts["weights"] == line["model"]["sha256"] and len(facts["pictures"]) == 2
    assert str(tmp_path) not in json.dumps(line)


def test_a_place_for_pictures_that_cannot_be_is_refused_before_training(scorer, resnet, splits, tmp_path):
    (tmp_path / "file").write_text("")
    settings = replace(QUICK, pictures=str(tmp_path / "file" / "pictures"))
    with pytest.raises(SeedHubError, match="Cannot write pictures to .*--pictures"):
        next(detection.evaluate(resnet, *splits, settings))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"head": "yolo"}, 'no head "yolo": choose fpn or c4'),
        ({"norm": "batch"}, 'no norm "batch"'),
        ({"iterations": 0}, "iterations, rois, pictures_count >= 1"),
        ({"lr": 0.0}, "learning rate > 0"),
        ({"train_sizes": ()}, "sizes of at least 64 px"),
        ({"size": 32}, "sizes of at least 64 px"),
    ],
)
def test_senseless_settings_are_refused(resnet, splits, wrong, sentence):
    with pytest.raises(SeedHubError, match=sentence):
        next(detection.evaluate(resnet, *splits, replace(QUICK, **wrong)))


def test_bad_input_is_refused(scorer, resnet, splits):
    train, _ = splits
    with pytest.raises(SeedHubError, match="name another split"):
        next(detection.evaluate(resnet, train, train, QUICK))
    with pytest.raises(SeedHubError, match="no boxes to learn from"):
        fine_tune(resnet, train.subset([15]), boxes_of(train)[15:], QUICK)
    with pytest.raises(SeedHubError, match=r"diverged at step \d+ of 9 .*lower --lr"):
        fine_tune(resnet, train, boxes_of(train), replace(QUICK, lr=1e12, warm_up=0, iterations=9))
