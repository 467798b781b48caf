"""What a detector saw: test images with the true boxes dashed, and the found ones solid, with class and score.

Beside the pictures lies ``pictures.json``: whose weights they are by, and what is in each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from seed_hub.data import Images
from seed_hub.data.boxes import Boxes
from seed_hub.errors import SeedHubError

INDEX = "pictures.json"
THRESHOLD = 0.5  # score from which a box is drawn
LEAST_SIDE = 480  # px of the long side: a smaller image is enlarged, or its labels would hide it
DASH = 4  # line widths


def picture_folder(path: str) -> Path:
    """The folder, made.

    Raises:
        SeedHubError: it cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).unlink(missing_ok=True)  # what it says is about to be untrue
    except OSError as error:
        raise SeedHubError(
            f"Cannot write pictures to {path} ({error.strerror}): name another folder with --pictures."
        ) from error
    return folder


def write_pictures(
    folder: Path,
    images: Images,
    truth: Sequence[Boxes],
    found: Sequence[Mapping[str, Tensor]],
    *,
    weights: str,
    count: int = 12,
    seed: int = 0,
) -> None:
    """``count`` of the images, drawn at random, as PNG files.

    Args:
        folder: from :func:`picture_folder`.
        found: per image what :func:`seed_hub.eval.detector.predict` returns.
        weights: sha256 of those the detector started from.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    entries = []
    for i in sorted(order[:count].tolist()):
        image, file = images.load(i), f"{i}.png"
        factor = -(-LEAST_SIDE // max(image.size))
        large = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
        scaled = {**found[i], "boxes": factor * found[i]["boxes"]}
        draw_predictions(large, scaled, truth[i].names, true_boxes=factor * truth[i].xyxy).save(folder / file)
        shown = int((found[i]["scores"] >= THRESHOLD).sum())
        entries.append({"file": file, "image": i, "true": len(truth[i]), "found": shown})
    facts = {"weights": weights, "threshold": THRESHOLD, "pictures": entries}
    (folder / INDEX).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def draw_predictions(
    image: Image.Image,
    found: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    true_boxes: Sequence[Sequence[float]] = (),
    threshold: float = THRESHOLD,
) -> Image.Image:
    """The image with each box of a score of at least ``threshold``, its class and score, one colour per class.

    Args:
        image: RGB.
        found: of it, one element of what :func:`seed_hub.eval.detector.predict` returns.
        names: of the classes: label i is ``names[i - 1]``.
        true_boxes: xyxy, dashed in black and white below the others.
    """
    drawn = image.copy()
    pen, width = ImageDraw.Draw(drawn), max(1, max(image.size) // 240)
    font = ImageFont.load_default(max(10, max(image.size) // 36))
    for box in true_boxes:
        _dashed(pen, [float(x) for x in box], width)
    sure = found["scores"] >= threshold
    rows = [found[key][sure].tolist() for key in ("boxes", "labels", "scores")]
    for box, label, _ in zip(*rows, strict=True):
        pen.rectangle(box, outline=_colour(label, len(names)), width=width)
    for (x, y, _, _), label, score in zip(*rows, strict=True):  # above all boxes
        text = f"{names[label - 1]} {score:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        wide, high = right - left + 4 * width, bottom - top + 4 * width
        x = max(0, min(x, image.width - wide))
        y = y - high if y >= high else max(0, y)  # above the box, or in it where there is no place above
        pen.rectangle((x, y, x + wide, y + high), fill=(20, 20, 20), outline=_colour(label, len(names)))
        pen.text((x - left + 2 * width, y - top + 2 * width), text, fill=(255, 255, 255), font=font)
    return drawn


def _colour(label: int, classes: int) -> tuple[int, ...]:
    return ImageColor.getrgb(f"hsl({360 * (label - 1) // classes}, 100%, 50%)")


def _dashed(pen: ImageDraw.ImageDraw, box: Sequence[float], width: int) -> None:
    """White dashes on black: seen on any image, and told from a found box without its colour."""
    left, top, right, bottom = box
    pen.rectangle((left, top, right, bottom), outline=(0, 0, 0), width=width)
    dash = DASH * width
    for start in range(int(left), int(right), 2 * dash):
        for y in (top, bottom - width + 1):
            pen.rectangle((start, y, min(start + dash, right), y + width - 1), fill=(255, 255, 255))
    for start in range(int(top), int(bottom), 2 * dash):
        for x in (left, right - width + 1):
            pen.rectangle((x, start, x + width - 1, min(start + dash, bottom)), fill=(255, 255, 255))
