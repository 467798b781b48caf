"""Knowledge distillation from class scores (Hinton et al. 2015, arXiv 1503.02531), and the family's losses in one place.

    loss = kd_weight T^2 KL(softmax(t / T) || softmax(s / T)) + ce_weight CE(y, s)

s are the scores of a linear classifier on the student, t those of a teacher with a classifier, which may know its classes
from few labels: with T = 1 and no labels this is the last stage of SimCLR v2 (`seed-hub simclr2` runs all three). The
classifier is saved beside the student, which can then be a teacher of class scores itself.

Where we differ from the CRD paper's benchmark: the default needs no labels (there: 0.9 and 0.1, preset ``benchmark``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from seed_hub.encoder import Encoder, Features
from seed_hub.training.labelled import LabelledDistillation, kd_loss
from seed_hub.training.method import Batch, Task
from seed_hub.training.methods.ab import ab_loss
from seed_hub.training.methods.at import at_loss
from seed_hub.training.methods.cc import cc_loss
from seed_hub.training.methods.fitnet import fitnet_loss
from seed_hub.training.methods.fsp import fsp_loss
from seed_hub.training.methods.ft import ft_loss
from seed_hub.training.methods.nst import nst_loss
from seed_hub.training.methods.pkt import pkt_loss
from seed_hub.training.methods.rkd import rkd_loss
from seed_hub.training.methods.sp import sp_loss
from seed_hub.training.methods.vid import vid_loss

__all__ = [
    "Kd",
    "Settings",
    "ab_loss",
    "at_loss",
    "cc_loss",
    "fitnet_loss",
    "fsp_loss",
    "ft_loss",
    "kd_loss",
    "nst_loss",
    "pkt_loss",
    "rkd_loss",
    "sp_loss",
    "vid_loss",
]

PRESETS = {"benchmark": {"ce_weight": 0.1, "kd_weight": 0.9}}


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of knowledge distillation."""

    kd_weight: float = 1.0
    """weight of the teacher's class scores (the benchmark's: 0.9)"""
    kd_temperature: float = 4.0
    """T, softmax temperature of the class scores"""
    ce_weight: float = 0.0
    """weight of the cross-entropy; above 0, the images need labels (the benchmark's: 0.1)"""


class Kd(LabelledDistillation):
    """The student's class scores against the teacher's, and nothing else of either."""

    Settings = Settings
    head_gives_classes = True

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        assert self.classifier is not None  # one of the weights is above 0
        self.head = nn.Sequential(self.classifier)

    def compare(self, student: Features, batch: Batch) -> dict[str, Tensor]:
        return {}
