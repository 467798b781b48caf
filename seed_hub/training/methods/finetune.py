"""Fine-tuning on labels: SimCLR v2's second stage (Chen et al., NeurIPS 2020, arXiv 2006.10029, section 2).

    logits = W relu(bn(W_1 h))          h: pooled features; W_1, bn: the first layer of the head the student starts with
    loss   = cross-entropy, mean over the batch

The whole network is trained, from `--start` and on `--share` of the images, those that have a label. With few labels the first layer of the
projection head stays (`kept_layers` 1); with all of them the paper drops the head (0). W starts at zero.

Where we differ: batch norm's statistics are each process's own.

Legend: B batch, D pooled width, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seed_hub.encoder import Encoder
from seed_hub.errors import SeedHubError
from seed_hub.projection import hidden_layers
from seed_hub.training.method import Batch, Method, Task
from seed_hub.training.views import ViewSettings

PRESETS = {"all-labels": {"kept_layers": 0}}


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of fine-tuning."""

    kept_layers: int = 1
    """linear layers of the starting head that stay, each with its norm and ReLU; 0: none (the paper's, for all labels)"""
    crop_least: float = 0.08
    """smallest share of the image's area that a crop shows, here where the class of each is known"""


class Finetune(Method):
    """The student and a classifier over the first layers of its head."""

    Settings = Settings
    needs_teacher = False
    needs_labels = True
    head_gives_classes = True
    head: nn.Sequential

    def __init__(self, student: Encoder, settings: Any, task: Task) -> None:
        super().__init__(student, settings, task)
        kept = first_layers(task.start_head, settings.kept_layers)
        width = next((m.out_features for m in reversed(kept) if isinstance(m, nn.Linear)), student.width)
        classifier = nn.Linear(width, task.classes)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        self.head = nn.Sequential(*kept, classifier)

    @classmethod
    def reads(cls, settings: Any) -> frozenset[str]:
        return frozenset({"labels"})

    def view_settings(self, whole: ViewSettings) -> list[ViewSettings]:
        # Crop and flip only, as the paper's.
        scale = (self.settings.crop_least, 1.0)
        return [replace(whole, scale=scale, jitter_p=0.0, grey_p=0.0, blur_p=0.0)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.head(self.student(batch.views[0]).pooled).float()  # [B, C]
        right = (logits.argmax(dim=1) == batch.labels).float().mean()
        return {"loss": cross_entropy(logits, batch.labels), "accuracy": right}


def first_layers(head: nn.Sequential | None, count: int) -> list[nn.Module]:
    """The first ``count`` linear layers of ``head``, each with what follows it up to the next.

    Raises:
        SeedHubError: the head has no hidden layer to keep.
    """
    hidden = hidden_layers(head)
    if len(hidden) < count:
        raise SeedHubError(
            f"--kept-layers is {count}, and the student starts with {len(hidden)} hidden layers of a projection "
            "head: name a run with --start, or set --kept-layers 0."
        )
    return list(chain.from_iterable(hidden[:count]))
