"""An int8 file: calibrated on some of the user's images, judged on others.

Legend: N images, D width.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn.functional import cosine_similarity

from seed_hub.data import Images
from seed_hub.errors import SeedHubError
from seed_hub.eval.intervals import difference
from seed_hub.eval.knn import HEADLINE, knn_correct
from seed_hub.eval.representation import neighbour_overlap
from seed_hub.exporting import to_onnx, to_openvino, writing
from seed_hub.exporting.network import Network
from seed_hub.exporting.parity import embed_with_file, embed_with_network
from seed_hub.exporting.pixels import image_pixels
from seed_hub.exporting.quantise import quantise

FORMATS = ("onnx", "openvino")
BATCH = 32  # images in one forward pass of the calibration and of the measurement
TEST_IMAGES = 2000  # at most, that the drop is measured on: a point is 20 of them
K = int(HEADLINE.removeprefix("top1_k"))


@dataclass(frozen=True)
class Plan:
    """How many images calibrate, and what may be lost."""

    images: int = 512
    """to calibrate with"""
    max_drop: float = 1.0
    """points of k-NN accuracy, where there are labels"""
    min_cosine: float = 0.99
    """mean over other images"""


def refuse_format(format: str) -> None:
    """Raises SeedHubError for a format that is not quantised here, or without what that takes."""
    if format not in FORMATS:
        raise SeedHubError(
            f"--int8 is not there for --format {format}: choose {' or '.join(FORMATS)}, or leave --int8 out."
        )
    writing.need(to_onnx.NEEDS, "--int8")


def refuse_images(images: Images | None, plan: Plan) -> None:
    """Raises SeedHubError where there is nothing to calibrate on, or nothing left to measure the drop on."""
    if images is None:
        raise SeedHubError(
            "--int8 needs images to calibrate on: name some, without labels if you like, with --data."
        )
    if len(images) < plan.images + 2:
        raise SeedHubError(
            f"{images.source} holds {len(images)} images, and --images {plan.images} to calibrate with leave fewer than "
            "2 to measure the drop on: lower --images, or name more --data."
        )


def write(
    module: ModuleType, network: Network, program: ExportedProgram, path: Path, images: Images, plan: Plan
) -> dict[str, Any]:
    """The quantised file at ``path``, and what it loses on images that it was not calibrated with."""
    order = np.random.default_rng(0).permutation(len(images))
    calibration = images.subset(np.sort(order[: plan.images]))
    test = images.subset(np.sort(order[plan.images :][:TEST_IMAGES]))
    with tempfile.TemporaryDirectory() as folder:
        plain, small = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        writing.write(to_onnx, program, plain)
        target = (
            1 + plan.min_cosine
        ) / 2  # half of the loss allowed: images not calibrated with may lose more
        choice = quantise(plain, small, lambda: _batches(network, calibration), target)
        if module is to_openvino:
            to_openvino.from_onnx(small, path)
        else:
            shutil.copyfile(small, path)
    run = module.open_file(path)
    assert run is not None  # of FORMATS
    found, reference = [], []
    for part in _parts(len(test)):
        pixels = image_pixels(test.subset(part), network.size)
        found.append(embed_with_file(run, network, pixels))
        reference.append(embed_with_network(network, pixels))
    loss = measure(torch.cat(reference), torch.cat(found), test.labels)
    return {"calibrated_on": len(calibration), "choice": asdict(choice)} | loss


def measure(reference: Tensor, found: Tensor, labels: np.ndarray | None) -> dict[str, Any]:
    """What is lost from ``reference`` to ``found``, ``[N, D]`` twice: the network's embeddings and the file's of the same
    images; k-NN is leave-one-out among them, over those with a label."""
    finite = torch.nan_to_num(found)
    return {
        "images": len(reference),
        "cosine": cosine_similarity(reference.double(), found.double()).mean().item(),
        "neighbour_overlap": neighbour_overlap(reference, finite),
        "knn": None if labels is None else _knn(reference, finite, labels),
    }


def _knn(reference: Tensor, found: Tensor, labels: np.ndarray) -> dict[str, Any] | None:
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return None
    y = torch.from_numpy(np.unique(labels[known], return_inverse=True)[1])
    k = min(K, len(y) - 1)
    before, after = (
        knn_correct(x[known], y, x[known], y, k=[k], leave_one_out=True)[k].numpy()
        for x in (reference, found)
    )
    drop, interval = difference([before], [after])
    return {
        "k": k,
        "images": len(y),
        "before": 100 * float(before.mean()),
        "after": 100 * float(after.mean()),
        "drop": drop,
        "interval": list(interval),
    }


def judge(loss: dict[str, Any], plan: Plan) -> None:
    """Raises SeedHubError for a loss, of :func:`measure`, that ``plan`` does not allow."""
    if not loss["cosine"] >= plan.min_cosine:
        raise SeedHubError(
            f"The int8 file was not written: the mean cosine of its embeddings to the network's is {loss['cosine']:.4f}, "
            f"and at least {plan.min_cosine:g} is asked for: calibrate with more --images like those it will see, or "
            "accept it with --min-cosine."
        )
    if loss["knn"] and not loss["knn"]["drop"] <= plan.max_drop:
        raise SeedHubError(
            f"The int8 file was not written: k-NN drops by {loss['knn']['drop']:.2f} points, from "
            f"{loss['knn']['before']:.2f} % to {loss['knn']['after']:.2f} %, and --max-drop allows {plan.max_drop:g}: "
            "calibrate with more --images, raise --min-cosine to keep more in float, or accept it with --max-drop."
        )


def _parts(count: int) -> list[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // BATCH))


def _batches(network: Network, images: Images) -> Iterator[Tensor]:
    for part in _parts(len(images)):
        yield network.input_of(image_pixels(images.subset(part), network.size))
