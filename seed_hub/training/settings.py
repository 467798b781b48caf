"""What a run can be told, for any method. Free of torch: the command line reads it for ``--help``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunSettings:
    """A run, resolved: written to its folder as config.json."""

    data: str = ""
    """unlabelled images: a folder, parquet file or folder, webdataset shards ("train-{000..099}.tar"), either by URL too, or a Hub data set id"""
    split: str = ""
    """split of the data to train on; empty: the data set's train split, or all of it"""
    stream: bool = False
    """read the data in order, as they come, for what cannot be kept or looked through: a Hub data set, parquet files or webdataset shards; the run is counted in --steps"""
    student: str = "seed_mobilenetv3_large"
    """the network to train: a name of the zoo, or any timm architecture"""
    start: str = ""
    """a run or model folder, or a released weight (`seed-hub list`), that the student starts from; empty: from scratch"""
    share: float = 1.0
    """share of the images to train on, chosen by --seed, as much of every class where there are labels"""
    label_share: float = 1.0
    """share of the images whose labels a method may learn from, chosen as --share is; the others count as unlabelled"""
    method: str = "seed"
    """how to train it"""
    teacher: str = ""
    """the network to learn from: timm:NAME, hf:REPO, hf-hub:REPO, torchhub:REPO/ENTRY, torchvision:NAME, file:PATH?arch=NAME, or seed:NAME of a run folder or a released weight"""
    more_teachers: tuple[str, ...] = ()
    """further networks to learn from at the same time, for methods that can"""
    out: str = ""
    """folder of the run"""
    size: int = 224
    """side of the student's views in pixels"""
    crop_min: float = 0.2
    """smallest share of an image's area that a view shows, above 0 to 1; raise it where a part does not tell the whole"""
    flip: float = 0.5
    """probability that a view is mirrored; 0 where left and right matter (digits, text, some medical images)"""
    teacher_size: int = 0
    """side the views are enlarged to for the teacher, in pixels; 0: as the student sees them"""
    cache: str = ""
    """folder of `seed-hub cache` that holds what the teacher says of the views; empty: it is asked in every step"""
    batch_size: int = 256
    """images per step, over all processes together"""
    accumulate: int = 1
    """parts each batch is split into, one after the other, to save memory"""
    epochs: float = 200.0
    """passes over the images"""
    steps: int = 0
    """steps of the run, instead of --epochs; 0: as --epochs say"""
    optimizer: str = "sgd"
    """sgd (momentum 0.9), adamw, or lars (momentum 0.9; for batches of thousands, as SimCLR's)"""
    lr: float = 0.0
    """peak learning rate; 0: per 256 images 0.03 for sgd, 0.001 for adamw, 0.3 for lars"""
    weight_decay: float = 1e-4
    """decay of weights; biases and norms are exempt under adamw and lars"""
    weight_decay_end: float = -1.0
    """decay at the end, reached from --weight-decay by a half cosine, as EsViT's from 0.04 to 0.4; -1: it stays as it is"""
    warmup_epochs: float = 5.0
    """epochs of linear warm-up, stepwise from 0; at most a tenth of the run"""
    clip: float = 0.0
    """largest norm of the gradient; 0: no clipping"""
    precision: str = "auto"
    """auto, fp32 or bf16 (auto: bf16 on GPUs that have it and on CPUs with AMX)"""
    compile: str = "none"
    """what torch.compile is tried on: none, teacher, student or both; minutes at the start, less time in every step after"""
    views_on: str = "auto"
    """where views are made: cpu (by the processes that load images), device, or auto (device on a GPU)"""
    workers: int = -1
    """processes that load images; -1: one less than the cores, at most 8"""
    seed: int = 0
    """of weights, order and views"""
    held_out: int = 2000
    """images kept from training to watch it by; at most a tenth of the data"""
    watch_every: float = 0.0
    """epochs between two looks at the held-out images; 0: twenty looks over the run"""
    keep_looks: bool = False
    """keep the student of every look, but the one before training, in looks/STEP"""
    save_every: float = 10.0
    """minutes between two checkpoints"""
    device: str = "auto"
    """auto, cpu, cuda, mps"""
    allow_bad: float = 0.01
    """largest share of unreadable images to go on with"""
    allow_random_teacher: bool = False
    """for tests only: accept a teacher whose weights are random"""


def before_training(start: str) -> str:
    """What a student is before the first step of a run whose ``--start`` is ``start``."""
    return "at the start" if start else "untrained"
