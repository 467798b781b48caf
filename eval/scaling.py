"""docs/scaling.md's tables: what many devices cost, worked out from the time of one and the bytes they hand each other.

Legend: W devices, b images a step and device, P trained numbers, D width of an embedding, K rows of the queue.
"""

from __future__ import annotations

from typing import Any

from eval.markdown import table
from seed_hub.catalog import find_student

Line = dict[str, Any]
DEVICES = (1, 8, 64, 256, 1024)
IMAGENET, EPOCHS = 1_281_167, 200
BILLION = 10**9
NETWORKS = {"10 Gb/s": 1.25e9, "400 Gb/s": 50e9}
HIDDEN = 2048  # width of the head's hidden layer


def scaling_table(lines: list[Line], labels: list[str]) -> str:
    """For each measurement, live and cached: days on W of the device it was measured on, with nothing lost."""
    last = {line["settings"]["label"]: line for line in lines}
    cases = [last[label] for label in labels if label in last]
    if not cases:
        return "No results yet."
    body = []
    for case in cases:
        for way in ("live", "cached"):
            rate = case["images_per_second"][way]
            for what, images in (
                ("ImageNet-1k, 200 epochs", IMAGENET * EPOCHS),
                ("10^9 images, once", BILLION),
            ):
                days = images / rate / 86400
                teacher = case["settings"]["teacher"].removeprefix("untrained:")
                body.append([f"{teacher}, {way}", what, *(_days(days / w) for w in DEVICES)])
    head = [f"days on W of: {_device(cases[0])}", "", *(f"W = {w:,}" for w in DEVICES)]
    return table(head, body, words=2)


def traffic_table(lines: list[Line], labels: list[str]) -> str:
    """What each device hands over per step, and the time that takes at two speeds of network, over the step's own."""
    case = next((line for line in reversed(lines) if line["settings"]["label"] in labels), None)
    if case is None:
        return "No results yet."
    settings = case["settings"]
    batch, width, queue = settings["batch_size"], settings["embedding_width"], settings["queue_size"]
    trained = _trained(settings["student"], width)
    seconds = case["seconds"]["cached"]
    body = []
    for w in DEVICES:
        gradients = 2 * (w - 1) / w * 4 * trained
        rows = 4 * batch * width * (w - 1)
        shares = [f"{(gradients + rows) / speed / seconds:.2%}" for speed in NETWORKS.values()]
        body.append(
            [
                f"{w:,}",
                f"{batch * w:,}",
                f"{gradients / 1e6:.1f}",
                f"{rows / 1e6:.2f}",
                *shares,
                f"{queue / (batch * w):,.0f}",
            ]
        )
    head = [
        "W",
        "batch",
        "gradients, MB",
        "queue rows, MB",
        *(f"of a cached step, {n}" for n in NETWORKS),
        "steps that fill the queue",
    ]
    return table(head, body)


def _trained(student: str, width: int) -> int:
    """Numbers in the student and its head of two layers."""
    found = find_student(student)
    return found.parameters + found.width * HIDDEN + HIDDEN + HIDDEN * width + width


def _device(case: Line) -> str:
    machine = case["machine"]
    return machine["gpu"] or f"one core of {machine['cpu']}"


def _days(days: float) -> str:
    return f"{days:,.0f}" if days >= 10 else f"{days:.2g}"
