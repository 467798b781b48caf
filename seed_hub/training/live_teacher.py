"""What a frozen teacher says of a batch of views: the one way to ask it, for a run and for the cache of its answers.

Legend: B batch, S side in pixels.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor

from seed_hub.encoder import Features, Frozen
from seed_hub.training.compiling import compile_frozen, compiles
from seed_hub.training.fast_teacher import at_its_limit
from seed_hub.training.monitor import enlarge
from seed_hub.training.settings import RunSettings


def ready(
    teacher: Frozen, settings: RunSettings, accelerator: Accelerator, *, for_long: bool = True
) -> Frozen:
    """``teacher`` where it is asked, as fast as it says the same; the one that is given may no longer be used.

    Args:
        for_long: worth compiling, if the settings ask for that.
    """
    teacher.to(accelerator.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = torch.bfloat16 if precision_of(accelerator) == "bf16" else torch.float32
    side = settings.teacher_size or settings.size
    sample = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(accelerator.device)
    sample = sample.to(memory_format=torch.channels_last)
    fast = at_its_limit(teacher, sample, accelerator.autocast, dtype)
    if for_long and compiles(settings.compile, "teacher"):
        batch = settings.batch_size // accelerator.num_processes // settings.accumulate
        compile_frozen(fast.encoder, sample[:1].expand(batch, -1, -1, -1).contiguous(), accelerator.autocast)
    return fast


def precision_of(accelerator: Accelerator) -> str:
    """fp32 or bf16: what networks compute in."""
    return "bf16" if accelerator.mixed_precision == "bf16" else "fp32"


def ask_all(
    teacher: Frozen,
    views: list[Tensor],
    settings: RunSettings,
    accelerator: Accelerator,
    *,
    stages: bool = False,
) -> list[Features]:
    """What ``teacher`` says of each view. Small crops of one size are asked about together: a batch of them alone would
    leave an accelerator idle."""
    said: dict[int, Features] = {}
    for size in dict.fromkeys(view.shape[-1] for view in views):
        own = [i for i, view in enumerate(views) if view.shape[-1] == size]
        together = own if size < settings.size else []
        if len(together) > 1:
            whole = ask(teacher, torch.cat([views[i] for i in own]), settings, accelerator, stages=stages)
            said |= dict(zip(own, whole.chunk(len(own)), strict=True))
        else:
            said |= {i: ask(teacher, views[i], settings, accelerator, stages=stages) for i in own}
    return [said[i] for i in range(len(views))]


def ask(
    teacher: Frozen, pixels: Tensor, settings: RunSettings, accelerator: Accelerator, *, stages: bool = False
) -> Features:
    """What ``teacher`` says of one view ``[B, 3, S, S]``, in float32."""
    # Small crops keep their proportion to the whole view.
    size = round(settings.teacher_size * pixels.shape[-1] / settings.size)
    with accelerator.autocast():
        return teacher(enlarge(pixels, size), stages=stages).float()
