"""SimCLR v2's recipe: a few labels go a long way (Chen et al., NeurIPS 2020, arXiv 2006.10029).

    1 pretrain    simclr: the network learns by itself, from all images
    2 finetune    finetune: from the first layer of its head on, on the labels of a share of the images
    3 distill     kd: the student learns the fine-tuned network's class scores on all images, labelled or not

Each stage is an ordinary run in a folder of its own, of the method that is named; the student of the last one, a classifier,
is the result. Self-distillation (the student is the network) or big-to-small.

Where we differ: the stages share optimiser, batch and views' size (the paper fine-tunes with smaller batches); the student
starts from scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seed_hub.errors import SeedHubError
from seed_hub.training.settings import RunSettings

STAGES = ("pretrain", "finetune", "distill")


@dataclass(frozen=True)
class Settings:
    """What the recipe chooses, besides a run's own settings."""

    network: str = ""
    """what is pretrained and fine-tuned: a name of the zoo, or any timm architecture; empty: the student itself"""
    pretrain_epochs: float = 800.0
    """passes over the images, stage 1"""
    finetune_epochs: float = 60.0
    """passes over the labelled images, stage 2 (the paper's: 60 with 1 % of the labels, 30 with 10 %)"""
    distill_epochs: float = 400.0
    """passes over the images, stage 3"""
    finetune_lr: float = 0.0
    """peak learning rate of stage 2; 0: a twentieth of --lr (the paper's)"""
    temperature: float = 0.1
    """tau of stage 1, softmax temperature of the similarities"""
    memory: int = 0
    """K of stage 1, earlier embeddings of a moving average that are negatives too; 0: none"""
    hidden_width: int = 2048
    """width of the head's hidden layers in stage 1; 0: as wide as the features (the paper's)"""
    kept_layers: int = 1
    """layers of that head that stay in stage 2; 0: none (the paper's, for all labels)"""
    kd_temperature: float = 0.0
    """T of stage 3, softmax temperature of the class scores; 0: 1 for a student that is another network, 0.1 for the
    network itself (the paper's)"""
    ce_weight: float = 0.0
    """1 - alpha of stage 3, weight of the labels that stage 2 learnt from; the scores weigh alpha; 0: scores only"""


@dataclass(frozen=True)
class Stage:
    """One of the three runs."""

    name: str
    run: RunSettings
    own: dict[str, Any]
    """of its method"""

    @property
    def done(self) -> bool:
        return (Path(self.run.out) / "verdict.json").exists()

    @property
    def begun(self) -> bool:
        return (Path(self.run.out) / "config.json").exists()


def stages(run: RunSettings, own: Settings) -> list[Stage]:
    """The three runs below the folder ``run.out``.

    Args:
        run: what they share; ``label_share`` of the labels are known, ``student`` is what the last one trains.

    Raises:
        SeedHubError: settings that cannot be meant.
    """
    from seed_hub.training.optimization import peak_lr

    if not 0 <= own.ce_weight < 1:
        raise SeedHubError(f"--ce-weight is {own.ce_weight}: it must be from 0 to below 1.")
    if own.finetune_lr < 0:
        raise SeedHubError(f"--finetune-lr is {own.finetune_lr}: it must be 0 or more.")
    for name in STAGES:
        if (epochs := getattr(own, f"{name}_epochs")) <= 0:
            raise SeedHubError(f"--{name}-epochs is {epochs}: it must be above 0.")
    out = Path(run.out)
    network = own.network or run.student
    itself = network == run.student
    folders = {name: str(out / name) for name in STAGES}
    unlabelled = replace(run, label_share=1.0)  # no label is read
    first = replace(
        unlabelled, method="simclr", student=network, out=folders["pretrain"], epochs=own.pretrain_epochs
    )
    second = replace(
        run,
        method="finetune",
        student=network,
        start=folders["pretrain"],
        out=folders["finetune"],
        epochs=own.finetune_epochs,
        lr=own.finetune_lr or peak_lr(run) / 20,
    )
    third = replace(
        run if own.ce_weight else unlabelled,
        method="kd",
        teacher=f"seed:{folders['finetune']}",
        out=folders["distill"],
        epochs=own.distill_epochs,
    )
    contrast = {
        "temperature": own.temperature,
        "memory": own.memory,
        "hidden_width": own.hidden_width,
    }
    scores = {
        "kd_temperature": own.kd_temperature or (0.1 if itself else 1.0),
        "kd_weight": 1 - own.ce_weight,
        "ce_weight": own.ce_weight,
    }
    return [
        Stage("pretrain", first, contrast),
        Stage("finetune", second, {"kept_layers": own.kept_layers}),
        Stage("distill", third, scores),
    ]


def run_stages(
    wanted: list[Stage],
    *,
    resume: bool = False,
    overwrite: bool = False,
    begin: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Run the stages in order.

    Args:
        resume: go on in the stage that was not finished.
        overwrite: begin again with the first.
        begin: called once nothing more is refused, before the first step.
        options: of :func:`~seed_hub.training.run.run_together`.

    Raises:
        Stopped: interrupted, after saving.
        SeedHubError: as any run; what the later stages would refuse is refused before the first.
    """
    from seed_hub.training.run import run
    from seed_hub.training.run_folder import RunFolder

    _check(wanted)
    for stage in wanted if overwrite else ():
        RunFolder(stage.run.out).claim(overwrite=True)  # all of them: --resume must not find an old stage
    if begin is not None:
        begin()
    for number, stage in enumerate(wanted, 1):
        if resume and stage.done:
            continue
        if say is not None:
            say(f"stage {number} of {len(wanted)}, {stage.name}")
        run(
            stage.run,
            stage.own,
            resume=resume and stage.begun,
            say=say,
            **options,
        )


def _check(wanted: list[Stage]) -> None:
    """Refuse now what a stage would refuse after hours of others."""
    import torch
    from torch import nn

    from seed_hub.encoder import build_student
    from seed_hub.training.checks import check_settings, class_count, known_labels, resolve_method_settings
    from seed_hub.training.method import Shapes, Task, shapes_of
    from seed_hub.training.methods import method_class
    from seed_hub.training.run import images_of

    settings = []
    for stage in wanted:
        cls = method_class(stage.run.method)
        check_settings(cls, stage.run)
        settings.append(resolve_method_settings(cls, stage.run.method, stage.own))
    taught: tuple[Shapes, ...] = ()
    head: nn.Sequential | None = None
    for stage, own in zip(wanted, settings, strict=True):
        cls, run = method_class(stage.run.method), stage.run
        images, _ = images_of(run, only_labelled=cls.needs_labels)
        classes = class_count(images, known_labels(frozenset({"labels"}), images, wanted[1].run))
        with torch.random.fork_rng():  # the method as the stage will make it, before the first has run
            student = build_student(run.student)
            shapes = shapes_of(student.eval(), run.size, f'The student "{run.student}"', "--size")
            teachers = taught if cls.needs_teacher else ()
            head = cls(student, own, Task(shapes, teachers, len(images), classes, run.seed, None, head)).head
        taught = (replace(shapes, classes=classes),)
