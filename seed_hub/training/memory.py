"""A batch that does not fit into the memory: what would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seed_hub.errors import SeedHubError
from seed_hub.training.job import Job, batch_of
from seed_hub.training.views import whole_view


@contextmanager
def memory_told(job: Job) -> Iterator[None]:
    """Where a batch does not fit into the memory, what does is tried, and said."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        settings = job.settings
        parts = parts_that_fit(job)
        remedy = (
            f"--accumulate {parts} computes it in parts that fit"
            if parts
            else "not even two images do; choose a smaller --size or --student"
        )
        raise SeedHubError(
            f"A batch of {settings.batch_size} images of {settings.size} px does not fit into the memory: {remedy}."
        ) from error


def parts_that_fit(job: Job) -> int | None:
    """The fewest parts to split a batch into, so that gradients of a part can be computed; None if none is enough.

    Tried on empty images; the pupils' state is of no use afterwards.
    """
    device, method = job.accelerator.device, job.pupils[0].method
    own = job.settings.batch_size // job.accelerator.num_processes
    recipes = method.view_settings(whole_view(job.settings))
    # What --accumulate takes: equal parts, of two images at least, over which batch norm averages.
    for parts in [parts for parts in range(1, own // 2 + 1) if own % parts == 0]:
        n = own // parts
        try:
            pixels = [torch.zeros(n, 3, r.size, r.size, device=device) for r in recipes]
            batch = batch_of(job, 0, pixels, torch.arange(n), torch.zeros(n, dtype=torch.int64))
            for pupil in job.pupils:
                pupil.learn(batch, 1.0, last=False)  # the other processes may not be trying
            return parts
        except torch.OutOfMemoryError:
            for pupil in job.pupils:
                pupil.optimizer.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return None
