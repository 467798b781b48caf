"""COCO's detection scores, by pycocotools.

    AP = mean over classes and over IoU thresholds 0.50, 0.55, ..., 0.95 of the area under precision(recall)

AP50, AP75: at one threshold; APs, APm, APl: of objects below 32^2, between, and above 96^2 pixels of the original image.

Legend: T IoU thresholds, R = 101 recalls 0, 0.01, ..., 1, K classes, A areas, M limits of boxes per image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from torch import Tensor

from seed_hub.data.boxes import Boxes
from seed_hub.errors import SeedHubError

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")  # the first six of COCOeval's statistics
AT_50 = 0  # of COCOeval's thresholds 0.50, 0.55, ..., the first


def detection_scores(predictions: Sequence[Mapping[str, Tensor]], truth: Sequence[Boxes]) -> dict[str, float]:
    """:func:`scores_of` what :func:`compare` says."""
    return scores_of(compare(predictions, truth))


def scores_of(scorer: Any) -> dict[str, float]:
    """:data:`NAMES` in percent, of at most 100 predictions per image; a score of which there is no object is left out."""
    return {name: 100 * float(value) for name, value in zip(NAMES, scorer.stats, strict=False) if value >= 0}


def curves_of(scorer: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Of each class by name, precision ``[R]`` at IoU 0.5: the best at this recall or a higher one, 0 beyond the highest.

    Its mean is the class's AP50; a class of which there is no object is left out.
    """
    precision = scorer.eval["precision"][
        AT_50, :, :, 0, -1
    ]  # of [T, R, K, A, M], all areas and 100 boxes: [R, K]
    return {
        name: curve for name, curve in zip(names, precision.T, strict=True) if (curve >= 0).all()
    }  # -1: no object


def mean_curves(trials: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """Of each class, the mean over trials of what :func:`curves_of` gave, in three digits: as a line of results holds it."""
    means = {name: np.mean([curves[name] for curves in trials], axis=0) for name in trials[0]}  # [R] each
    return {name: np.round(curve, 3).tolist() for name, curve in means.items()}


def compare(predictions: Sequence[Mapping[str, Tensor]], truth: Sequence[Boxes]) -> Any:
    """pycocotools' COCOeval, done.

    Args:
        predictions: per image ``boxes`` ``[k, 4]`` (xyxy), ``labels`` int64 ``[k]`` from 1, ``scores`` ``[k]``.
        truth: the boxes of the same images, in the same pixels.
    """
    coco, coco_eval = require_pycocotools()
    if len(predictions) != len(truth):
        raise ValueError(f"{len(predictions)} predictions for {len(truth)} images")
    if not any((~boxes.crowd).any() for boxes in truth):
        raise SeedHubError("The images to test on have no boxes to find: score on annotated ones.")
    classes = range(1, len(truth[0].names) + 1)
    with redirect_stdout(StringIO()):  # it prints its progress
        scorer = coco_eval(
            _index(coco, _true(truth), len(truth), classes),
            _index(coco, _predicted(predictions), len(truth), classes),
            iouType="bbox",
        )
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return scorer


def require_pycocotools() -> tuple[Any, Any]:
    """Its classes (COCO, COCOeval).

    Raises:
        SeedHubError: it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise SeedHubError("Detection scores need pycocotools: pip install pycocotools.") from error
    return COCO, COCOeval


def _index(coco: Any, entries: Iterator[dict[str, Any]], images: int, classes: range) -> Any:
    made = coco()
    made.dataset = {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": c} for c in classes],
        # Numbered from 1: COCOeval marks "no match" by the number 0.
        "annotations": [{"id": number, **entry} for number, entry in enumerate(entries, start=1)],
    }
    made.createIndex()
    return made


def _true(truth: Sequence[Boxes]) -> Iterator[dict[str, Any]]:
    for image, boxes in enumerate(truth):
        for box, label, area, crowd in zip(
            _xywh(boxes.xyxy), boxes.labels.tolist(), boxes.area.tolist(), boxes.crowd.tolist(), strict=True
        ):
            yield {"image_id": image, "bbox": box, "category_id": label, "area": area, "iscrowd": int(crowd)}


def _predicted(predictions: Sequence[Mapping[str, Tensor]]) -> Iterator[dict[str, Any]]:
    for image, found in enumerate(predictions):
        boxes, labels, scores = (found[key].cpu().numpy() for key in ("boxes", "labels", "scores"))
        for box, label, score in zip(_xywh(boxes), labels.tolist(), scores.tolist(), strict=True):
            area = box[2] * box[3]
            yield {"image_id": image, "bbox": box, "category_id": label, "area": area, "score": score}


def _xywh(xyxy: np.ndarray) -> list[list[float]]:
    corners = xyxy.reshape(-1, 4).astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
