"""scikit-learn's handwritten digits as images without labels; the labels apart, for the test at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from seed_hub.data import Images

SIDE = 64  # pixels of an image
DIGIT = (32, 56)  # pixels of the digit in it, smallest and largest
TRAIN = 1297  # the first writers' digits; the other 500 are for the test


@dataclass(frozen=True)
class Digits:
    """The digits as images without labels, and the labels apart."""

    folder: Path
    train: Images
    test: Images
    train_labels: Tensor
    test_labels: Tensor


def write_digits(folder: Path) -> Digits:
    """The digits as PNG files in ``folder/train`` and ``folder/test``, written once; their labels stay in memory."""
    import numpy as np
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits

    from seed_hub.data import open_images

    source = load_digits()  # 8 x 8, from 0 to 16, each centred and of one size: comparing pixels would do
    for i, pixels in enumerate(source.images):
        path = folder / ("train" if i < TRAIN else "test") / f"{i:04d}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # Anywhere and of any size, as things are in photographs.
        random = np.random.default_rng(i)
        side = int(random.integers(DIGIT[0], DIGIT[1] + 1))
        left, top = random.integers(0, SIDE - side + 1, 2).tolist()
        digit = Image.fromarray((pixels * (255 / 16)).round().astype("uint8"))
        image = Image.new("L", (SIDE, SIDE))
        image.paste(digit.resize((side, side), Image.Resampling.BICUBIC), (left, top))
        image.save(path)
    labels = torch.as_tensor(source.target)
    train, test = (open_images(folder, split=split) for split in ("train", "test"))
    return Digits(folder, train, test, labels[:TRAIN], labels[TRAIN:])
