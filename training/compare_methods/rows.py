"""Which methods are compared, and the one budget they share.

Everything that could favour a method is the same for all: student, images, images seen, input size, batch, optimiser and
schedule; and the teacher, where there is one. What a method has to choose for itself stands in its row, and the rest is
its default. Temperatures and queues are for small pictures, a short run, and a teacher whose pooled features, all of them
positive, are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STUDENT = "seed_mobilenetv3_large"
SHARED = {
    "--student": STUDENT,
    "--size": "48",
    "--batch-size": "64",
    "--optimizer": "adamw",
    "--weight-decay": "0.02",
    "--clip": "1",
    "--held-out": "1000",
    "--watch-every": "1000",  # before and after
    "--workers": "0",
    "--save-every": "3",
}
QUEUE = {"--queue-size": "16384"}
CONTRAST = {"--queue-size": "4096", "--key-momentum": "0.99", "--temperature": "0.1"}
SEED = QUEUE | {"--student-temperature": "0.07", "--teacher-temperature": "0.04"}
# The learning rates at which seed and moco did best in trials on the same images.
TAUGHT, ALONE = "0.003", "0.001"


@dataclass(frozen=True)
class Row:
    """One line of a table: ``seed-hub distill`` (with a teacher) or ``seed-hub pretrain``."""

    method: str
    name: str = ""
    """of the run and in the table; empty: the method's"""
    flags: dict[str, str] = field(default_factory=dict)
    teacher: bool = True
    seeds: int = 1

    def __str__(self) -> str:
        return self.name or self.method


LABEL_FREE = [
    Row("seed", flags=SEED, seeds=2),
    Row("moco", flags=CONTRAST, teacher=False, seeds=2),
    Row("simreg", seeds=2),
    Row("compress", flags=QUEUE),
    Row("bingo", flags=QUEUE | {"--temperature": "0.07"}),
    Row("disco", flags=CONTRAST),
    Row("simclr", flags={"--jitter": "0.5"}, teacher=False),
    Row("simsiam", teacher=False),
    Row("dogo", teacher=False),
    Row("crd", flags={"--negatives": "4096"}),
    Row("sp"),
    Row("rkd"),
    Row("pkt"),
    Row("cc"),
    Row("seed", "seed_small_patch", SEED | {"--preset": "small-patch"}),
    Row("esvit", flags={"--out-dim": "4096", "--first-momentum": "0.99"}, teacher=False),
]

_BENCHMARK = {"--preset": "benchmark"}
SUPERVISED = [
    Row("finetune", "labels_only", {"--kept-layers": "0", "--lr": TAUGHT}, teacher=False),
    *(
        Row(method, f"{method}_labels", _BENCHMARK)
        for method in "kd crd fitnet at sp cc vid rkd pkt ft nst ab fsp".split()
    ),
]

# One thing changed at a time. Small patches, four times the cost of a step, are among the methods above.
ABLATIONS = [
    Row("cc"),
    Row("cc", "cc_lr_0.001", {"--lr": "0.001"}),
    Row("cc", "cc_two_teachers", {"--teacher": "seed:seed_mobilenetv3_large.moco_r18_tin200"}),
    Row("seed", flags=SEED),
    Row("seed", "seed_paper_temperatures", QUEUE),
    Row("seed", "seed_narrow_head", SEED | {"--hidden-width": "0"}),
    Row("seed", "seed_symmetric", SEED | {"--preset": "plus"}),
]

# From a supervised network of ImageNet quality, whose features a student from scratch does not find its way to so quickly.
_BEYOND = {"--start": "seed_mobilenetv3_large.moco_r18_tin200", "--teacher-size": "96", "--lr": "0.001"}
GOING_ON = [
    Row("seed", flags=SEED | _BEYOND),
    Row("cc", flags=_BEYOND),
    Row("kd", flags=_BEYOND),
]

TABLES = {
    "methods": LABEL_FREE,
    "methods_supervised": SUPERVISED,
    "ablations": ABLATIONS,
    "going_on": GOING_ON,
}
