"""Which images of a stream make up each step: a pure function of (data, seed, step), split over processes.

Legend: B images of a batch, W processes, L lanes (see ``seed_hub.data.streamed``), S images of a block.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Sampler

from seed_hub.data import streamed
from seed_hub.data.streamed import Lane, Place, Row, Stream
from seed_hub.errors import SeedHubError
from seed_hub.training.settings import RunSettings

T = TypeVar("T")
_log = logging.getLogger(__name__)


def check_counting(settings: RunSettings) -> None:
    """A run is as long as either --epochs or --steps say; of a stream, nobody knows how many steps make an epoch.

    Raises:
        SeedHubError: both are given, or one that cannot be meant.
    """
    by_epochs = settings.epochs != RunSettings.epochs
    if settings.steps and by_epochs:
        raise SeedHubError(
            f"--steps {settings.steps} and --epochs {settings.epochs:g} each say how long the run is: give one of them."
        )
    if not settings.stream:
        return
    if not settings.steps:
        given = f"--epochs {settings.epochs:g} cannot be counted" if by_epochs else "its end is not known"
        raise SeedHubError(
            f"{settings.data} is read as a stream and {given}: say how many batches to learn from with --steps."
        )
    for flag, wrong in (
        ("--cache", bool(settings.cache)),
        ("--share", settings.share < 1),
        ("--label-share", settings.label_share < 1),
    ):
        if wrong:
            raise SeedHubError(
                f"{flag} needs every image by its number, and a stream has none: leave out {flag} or --stream."
            )


class StreamBatches(Sampler[list[tuple[int, int]]]):
    """For each step from ``first`` to ``last``, this process's list of (image, epoch of its views).

    Image n of the run is the next of lane n mod L; step k has the images from k B to (k + 1) B, of which process r has
    those with n mod W = r. So the batches are the same whatever W, and a process reads only the lanes it has images of: its
    own, if W divides L; those it shares, if L divides W; all of them, if neither.

    Args:
        batch_size: B, of all processes together, a multiple of W.
        rank, world: this process, and W.
        folder: of the run, where is noted what a resumed run need not read again, and what is left out.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        *,
        seed: int,
        first: int,
        last: int,
        rank: int,
        world: int,
        folder: Path,
    ) -> None:
        self.stream, self.batch_size, self.seed = stream, batch_size, seed
        self.first, self.last, self.rank, self.world = first, last, rank, world
        self.notes = StreamNotes(folder, stream, seed)
        self._starts_over = False

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Half of what the blocks hold: enough to go on with while the next ones are read.
        return _ahead(self._batches(), max(2, streamed.SHUFFLED * self.world // (2 * self.batch_size)))

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        count, start = self.stream.lanes, self.first * self.batch_size
        own = {n % count for n in range(self.rank, self.rank + count * self.world, self.world)}
        lanes = {lane: self._images(Lane(self.stream, lane, self.seed), start) for lane in own}
        for step in range(self.first, self.last):
            batch: list[tuple[int, int]] = []
            for n in range(step * self.batch_size, (step + 1) * self.batch_size):
                if n % count in own:
                    image = next(lanes[n % count])
                    if n % self.world == self.rank:
                        batch.append(image)
            self._say_if_it_starts_over(step, batch)
            yield batch

    def _images(self, lane: Lane, start: int) -> Iterator[tuple[Row, int]]:
        """The images of ``lane`` from image ``start`` of the run on."""
        past = -(-(start - lane.number) // self.stream.lanes)  # of the lane, before it
        wanted, passed = divmod(past, lane.block_size)
        known, start_place = self.notes.before(lane.number, wanted)
        for block, (place, images) in enumerate(lane.blocks(known, start_place), known):
            self.notes.add(lane.number, block, place)
            if block >= wanted:
                yield from images[passed if block == wanted else 0 :]

    def _say_if_it_starts_over(self, step: int, batch: list[tuple[int, int]]) -> None:
        if self.rank == 0 and not self._starts_over and any(epoch for _, epoch in batch):
            self._starts_over = True
            _log.warning(
                "%s came to its end before the run, at step %d: its images come again, in other views.",
                self.stream.source,
                step + 1,
            )


class StreamNotes:
    """What a run writes down of its stream: where blocks begin, in stream.jsonl, and what is left out, in bad_images.txt.

    A block's beginning follows from the data and the seed, so a note is true for ever, whoever writes it and whatever else
    is lost; without notes a resumed run reads the stream from its start, and learns the same.
    """

    def __init__(self, folder: Path, stream: Stream, seed: int) -> None:
        self._file, self._bad_file, self._stream = folder / "stream.jsonl", folder / "bad_images.txt", stream
        self._key = f"{stream.fingerprint}/{stream.lanes}/{streamed.SHUFFLED}/{seed}"
        self._noted: dict[int, list[tuple[int, Place]]] = {}
        for text in self._file.read_text().splitlines() if self._file.exists() else ():
            try:
                line = json.loads(text)
                if line["key"] == self._key:
                    self._noted.setdefault(line["lane"], []).append((line["block"], Place(*line["place"])))
            except (ValueError, KeyError, TypeError):  # cut short by a kill
                continue
        self._bad = set(self._bad_file.read_text().splitlines()) if self._bad_file.exists() else set()

    def before(self, lane: int, block: int) -> tuple[int, Place]:
        """The last block noted, up to ``block``, and where it begins."""
        known = [noted for noted in self._noted.get(lane, []) if noted[0] <= block]
        return max(known, key=lambda noted: noted[0], default=(0, Place()))

    def add(self, lane: int, block: int, place: Place) -> None:
        """Note the first block that begins in a file: within a file, reading cannot begin anywhere but at its start."""
        noted = self._noted.setdefault(lane, [])
        if all((place.epoch, place.turn) != (known.epoch, known.turn) for _, known in noted):
            noted.append((block, place))
            _append(
                self._file,
                [json.dumps({"key": self._key, "lane": lane, "block": block, "place": astuple(place)})],
            )
        bad = ["\t".join(each) for each in self._stream.bad]
        _append(self._bad_file, [line for line in bad if line not in self._bad])
        self._bad.update(bad)


def _append(file: Path, lines: list[str]) -> None:
    """By one write: other processes append to the same file."""
    if lines:
        with open(file, "ab", buffering=0) as stream:
            stream.write(("\n".join(lines) + "\n").encode())


def _ahead(items: Iterator[T], count: int) -> Iterator[T]:
    """``items``, made by a thread of their own, ``count`` of them before they are asked for."""
    pool = ThreadPoolExecutor(1)
    try:
        asked = deque(pool.submit(next, items, None) for _ in range(count))
        while (item := asked.popleft().result()) is not None:
            asked.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
