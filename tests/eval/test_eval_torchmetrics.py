"""Scores against torchmetrics, which counts them in its own way: rankings, accuracies, detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from seed_hub.data.boxes import Boxes
from seed_hub.eval.detection_scores import detection_scores
from seed_hub.eval.finetuning import top_scores
from seed_hub.eval.logistic import accuracy
from seed_hub.eval.retrieval import retrieval_scores

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_retrieval(seed):
    """One class of the queries has no image in the gallery: both count it 0."""
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

    generator = torch.Generator().manual_seed(seed)
    gallery, queries = (torch.randn(n, 12, generator=generator) for n in (130, 37))
    gallery_y, query_y = (
        torch.randint(0, n, (len(x),), generator=generator) for n, x in ((5, gallery), (6, queries))
    )
    assert (query_y == 5).any()
    found = retrieval_scores(gallery, gallery_y, queries, query_y, k=(1, 5, 10))
    cosine = normalize(queries, dim=1) @ normalize(gallery, dim=1).T  # [M, N]
    asked = {
        "preds": 2 + cosine.flatten(),  # it takes what has no score above 0 for irrelevant
        "target": (query_y[:, None] == gallery_y).flatten(),
        "indexes": torch.arange(len(queries)).repeat_interleave(len(gallery)),
    }
    theirs = {f"recall_at_{k}": RetrievalHitRate("neg", top_k=k) for k in (1, 5, 10)}
    theirs["map"] = RetrievalMAP("neg")
    for name, metric in theirs.items():
        assert found[name] == pytest.approx(100 * metric(**asked).item(), abs=1e-4), name


@pytest.mark.parametrize("classes", [7, 30])
def test_accuracies(classes):
    """The last class is in no label, and is predicted: it has no accuracy."""
    from torchmetrics.functional.classification import multiclass_accuracy

    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(0, classes - 1, (500,), generator=generator)
    logits = torch.randn(500, classes, generator=generator)
    logits[torch.arange(500), labels] += 1.5
    predicted = logits.argmax(1)
    assert (predicted == classes - 1).any()
    top = [
        100 * multiclass_accuracy(logits, labels, classes, average="micro", top_k=k).item() for k in (1, 5)
    ]
    assert 10 < top[0] < top[1] < 100
    assert top_scores(logits, labels) == pytest.approx(top, abs=1e-4)
    of_class = multiclass_accuracy(predicted, labels, classes, average=None)  # [C]
    expected = {"top1": top[0], "per_class": 100 * of_class[labels.unique()].mean().item()}
    assert accuracy(predicted, labels) == pytest.approx(expected, abs=1e-4)


def scene(generator: torch.Generator) -> tuple[Boxes, dict[str, torch.Tensor]]:
    """Six boxes of three classes and all sizes; most are found, roughly, some twice, some as another class."""
    corner = torch.tensor([[200.0 * x, 200.0 * y] for x in range(3) for y in range(2)])
    corner += 40 * torch.rand(6, 2, generator=generator)
    sides = torch.tensor([12.0, 50.0, 120.0])[torch.randint(0, 3, (6,), generator=generator)][:, None]
    sides = sides * (0.8 + 0.4 * torch.rand(6, 2, generator=generator))
    true, labels = torch.cat([corner, corner + sides], 1), torch.randint(1, 4, (6,), generator=generator)
    again = torch.randint(0, 6, (9,), generator=generator)
    placed = true[again] + 0.12 * sides[again].repeat(1, 2) * torch.randn(9, 4, generator=generator)
    placed = torch.cat([placed[:, :2], placed[:, 2:].maximum(placed[:, :2] + 1)], 1)
    wrong = torch.rand(9, generator=generator) < 0.2
    found = {
        "boxes": placed,
        "labels": torch.where(wrong, labels[again] % 3 + 1, labels[again]),
        "scores": torch.rand(9, generator=generator),
    }
    # Of outlines, as COCO's: less than the boxes', so that sizes by the boxes would be others.
    area = (0.7 * sides.prod(1)).numpy()
    crowd = (torch.rand(6, generator=generator) < 0.1).numpy()
    return Boxes(true.numpy(), labels.numpy(), tuple("abc"), area, crowd), found


@pytest.mark.parametrize("seed", range(4))
def test_detection(seed):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")
    from torchmetrics.detection import MeanAveragePrecision

    generator = torch.Generator().manual_seed(seed)
    truth, found = zip(*(scene(generator) for _ in range(40)), strict=True)
    # Its own thresholds are float32: a recall of 0.3 misses its 0.30000001, and a score moves by up to 0.2.
    theirs = MeanAveragePrecision(
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(), rec_thresholds=np.linspace(0, 1, 101).tolist()
    )
    theirs.update(
        list(found),
        [
            {
                "boxes": torch.from_numpy(each.xyxy),
                "labels": torch.from_numpy(each.labels),
                "area": torch.from_numpy(each.area),
                "iscrowd": torch.from_numpy(each.crowd).int(),
            }
            for each in truth
        ],
    )
    said = theirs.compute()
    names = {"AP": "", "AP50": "_50", "AP75": "_75", "APs": "_small", "APm": "_medium", "APl": "_large"}
    expected = {name: 100 * said[f"map{suffix}"].item() for name, suffix in names.items()}
    assert min(expected.values()) > 3 and max(expected.values()) < 90
    assert detection_scores(found, truth) == pytest.approx(expected, abs=1e-4)
