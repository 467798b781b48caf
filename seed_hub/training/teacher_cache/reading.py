"""A cache in place of its teacher, in a run.

Legend: B images of a step's part, N images, V views, D width, M epochs of views, P images of the sample.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.utils.data import default_collate

from seed_hub.data import Images
from seed_hub.encoder import Features, Frozen
from seed_hub.errors import SeedHubError
from seed_hub.training.batches import epoch_order
from seed_hub.training.live_teacher import ask_all, ready
from seed_hub.training.settings import RunSettings
from seed_hub.training.teacher_cache.manifest import Manifest, key_of, refuse_differences, views_of
from seed_hub.training.teacher_cache.shards import Shards, decode, encode
from seed_hub.training.view_loading import on_device, views_dataset
from seed_hub.training.views import ViewSettings

SAMPLE = 32  # images on which live and cached embeddings are compared at every start
LOOKED_INTO = 8  # epochs that they are taken from
LEAST_COSINE = {"float32": 0.99999, "float16": 0.99999, "int8": 0.9999}
"""of a cached embedding to the live one after it was stored the same way: what is left are the roundings of a batch of
another size, which in int8 may move a number by a whole step"""
LEAST_COSINE_BF16 = 0.999
"""the same where the teacher computes in bf16"""


class TeacherCache:
    """Reads what a teacher said; every process reads the rows of its own images.

    Args:
        folder: of the cache.
        manifest: what it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.shards = Shards(folder, manifest)
        self.live_cosine = math.nan
        """least cosine to the live teacher's, over the sample"""
        self._epoch = -1
        self._rows: np.ndarray = np.empty(0)
        self._place: np.ndarray = np.empty(0)

    @property
    def epochs(self) -> int:
        """M: the views of epoch e are those of epoch e mod M."""
        return self.manifest.epochs

    def rows(self, index: Tensor, epoch: int) -> Tensor:
        """float32 ``[B, V, D]``: what the teacher said of the V views of images ``index`` ``[B]`` in ``epoch``, which may
        lie beyond the last one stored."""
        epoch %= self.epochs
        if epoch != self._epoch:
            order = epoch_order(self.manifest.images, self.manifest.key.seed, epoch)
            place = np.empty_like(order)
            place[order] = np.arange(len(order))
            self._rows, self._place, self._epoch = self.shards.open(epoch), place, epoch
        return decode(np.take(self._rows, self._place[index.numpy()], axis=0))

    def say(self, index: Tensor, epoch: int, device: torch.device) -> list[Features]:
        """:meth:`rows` as the teacher would say it: of each of the V views, on ``device``."""
        rows = self.rows(index, epoch).to(device, non_blocking=True)
        return [Features(pooled=rows[:, view].contiguous()) for view in range(rows.shape[1])]

    def compare(
        self,
        teacher: Frozen,
        images: Images,
        views: list[ViewSettings],
        settings: RunSettings,
        accelerator: Accelerator,
    ) -> float:
        """Ask ``teacher`` about the views of a sample of images, in epochs from the first to the last; the least cosine of
        what it says to what is stored.

        Raises:
            SeedHubError: it is below :data:`LEAST_COSINE`.
        """
        sample = np.random.default_rng(settings.seed).permutation(len(images))[:SAMPLE]
        epochs = sorted({round(e) for e in np.linspace(0, self.epochs - 1, LOOKED_INTO)})
        dataset, collate = views_dataset(images, views, settings, accelerator.device)
        cosines = []
        for epoch, chosen in zip(epochs, np.array_split(sample, len(epochs)), strict=True):
            batch = (collate or default_collate)([dataset[int(i), epoch] for i in chosen])[0]  # V views
            shown = [on_device(view, accelerator.device) for view in batch]
            live = ask_all(teacher, shown, settings, accelerator)
            said = torch.stack([each.embedding.cpu() for each in live], dim=1)  # [P, V, D]
            again = decode(encode(said, self.manifest.dtype))
            cosines.append(cosine_similarity(self.rows(torch.from_numpy(chosen), epoch), again, dim=2))
        least = torch.cat([each.flatten() for each in cosines]).min().item()
        bound = LEAST_COSINE[self.manifest.dtype]
        if self.manifest.key.precision == "bf16":
            bound = min(bound, LEAST_COSINE_BF16)
        if not least >= bound:
            raise SeedHubError(
                f"The cache {self.folder} does not hold what {teacher.name} says here: on {len(sample)} images the least "
                f"cosine of cached to live embeddings is {least:.6f}, and {bound} is asked for. Make it again on this "
                "machine: `seed-hub cache --overwrite`."
            )
        return least

    def summary(self, settings: RunSettings) -> str:
        """For the line that says what a run works with."""
        m = self.manifest
        parts = (
            f"{m.epochs} epochs of views in {m.dtype}" if m.epochs > 1 else f"one epoch of views in {m.dtype}"
        )
        if settings.epochs > m.epochs:
            parts += (
                f", repeated: {settings.epochs:g} epochs see each of the {m.epochs * m.views} views of an image "
                f"{settings.epochs / m.epochs:.3g} times"
            )
        return f"the teacher's answers from {self.folder} ({parts}; cosine to live at least {self.live_cosine:.6f})"

    def facts(self) -> dict[str, Any]:
        """For the run's config.json."""
        return self.manifest.as_json()


def open_cache(
    settings: RunSettings,
    cls: Any,
    own: Any,
    *,
    teacher: Frozen,
    images: Images,
    accelerator: Accelerator,
    before: dict[str, Any] | None,
) -> TeacherCache:
    """The cache that ``settings`` name, checked: made for this run, whole, and true to the live teacher on a sample.

    Args:
        cls, own: the method and its settings.
        teacher: of the run, as it was loaded; it is on the device afterwards.
        before: what :meth:`TeacherCache.facts` were when the run began; None at its beginning.

    Raises:
        SeedHubError: it is not.
    """
    folder = Path(settings.cache)
    manifest = Manifest.read(folder)
    views = views_of(cls, own, settings)
    wanted = key_of(settings, views, teacher, images, accelerator)
    refuse_differences(folder, manifest.key, wanted, remedy="make another with `seed-hub cache`")
    cache = TeacherCache(folder, manifest)
    if before is not None and before != cache.facts():
        raise SeedHubError(
            f"The run in {settings.out} began with a cache of {before['epochs']} epochs in {before['dtype']}, asked "
            f"{before['batch']} images at a time, and {folder} now holds {manifest.epochs} in {manifest.dtype}, asked "
            f"{manifest.batch} at a time: bring the first one back, or start a new run."
        )
    _refuse_unfinished(cache)
    teacher = ready(teacher, settings, accelerator, for_long=False)
    cache.live_cosine = cache.compare(teacher, images, views, settings, accelerator)
    return cache


def _refuse_unfinished(cache: TeacherCache) -> None:
    m = cache.manifest
    done = [cache.shards.rows(epoch) for epoch in range(m.epochs)]
    damaged = [
        epoch for epoch in range(m.epochs) if cache.shards.path(epoch).exists() and done[epoch] < m.images
    ]
    for epoch in damaged:
        cache.shards.open(epoch)  # says which file, and what it lacks
    if sum(done) < m.epochs * m.images:
        raise SeedHubError(
            f"The cache {cache.folder} is not finished: {sum(n == m.images for n in done)} of {m.epochs} epochs, "
            f"{sum(done) / (m.epochs * m.images):.1%} of its rows. Give its `seed-hub cache` command again to go on."
        )
    for epoch in range(m.epochs):
        cache.shards.open(epoch)
