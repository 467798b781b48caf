"""What a run folder says of its run, in the form a page needs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.training.settings import before_training

if TYPE_CHECKING:
    from seed_hub.training.settings import RunSettings

# How verdicts begin, and how each is coloured; whatever else they say is bad news.
TONES = {
    "It worked": "good",
    "It gained on what it started with": "good",
    "It kept what it started with": "fair",
    "Barely": "fair",
    "Too few to tell": "open",
}


@dataclass(frozen=True)
class RunRecord:
    """One run, finished or not."""

    path: Path
    settings: RunSettings
    method_settings: dict[str, Any]
    log: list[dict[str, Any]]
    """lines of log.jsonl that count, in order"""
    verdict: str | None
    """the closing sentence; None while the run is unfinished"""
    environment: dict[str, Any]
    skipped: list[str]
    """``name <tab> reason`` of each image left out"""

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("event") == "step"]

    @cached_property
    def looks(self) -> list[dict[str, Any]]:
        return [line for line in self.log if line.get("event") == "look"]

    @property
    def first(self) -> dict[str, Any] | None:
        """The look before the first step."""
        return self.looks[0] if self.looks and self.looks[0]["step"] == 0 else None

    @property
    def before(self) -> str:
        """What the student was at that look."""
        return before_training(self.settings.start)

    @property
    def best(self) -> dict[str, Any] | None:
        """The look that ``best/`` was saved at."""
        trained = [look for look in self.looks if look["step"]]
        return max(trained, key=lambda look: look["score"]) if trained else None

    @property
    def images_seen(self) -> int:
        return max((line.get("images", 0) for line in self.log), default=0)

    @property
    def seconds(self) -> float:
        """Of all sittings together; each counts from its own start."""
        total = last = 0.0
        for line in self.log:
            if line.get("event") == "resume":
                total, last = total + last, 0.0
            last = line.get("seconds", last)
        return total + last

    @property
    def resumes(self) -> int:
        return sum(line.get("event") == "resume" for line in self.log)

    @property
    def peak_memory_gb(self) -> float:
        return max((line.get("memory_gb", 0.0) for line in self.steps), default=0.0)

    @property
    def closing(self) -> tuple[str, str, str]:
        """(verdict in two or three words, what it rests on, tone: good, fair, bad or open)."""
        if self.verdict is None:
            return "Not finished.", self._so_far(), "open"
        word, _, rest = self.verdict.replace(" -> ", " → ").partition(": ")
        return f"{word.capitalize()}.", rest, TONES.get(word.partition(" (")[0], "bad")

    def _so_far(self) -> str:
        if not self.steps:
            return "The run has not reported a step yet."
        left = duration(self.steps[-1]["seconds_left"])
        text = f"{self.images_seen:,} images seen, about {left} to go when it last reported"
        if not self.best or not self.first:
            return text + "."
        key, share, does = headline_metric(self.best)
        now, before = self.best[key], self.first[key]
        return f"{text}. So far {now:.1%} {share} {does} ({self.before} {before:.1%})."


def headline_metric(look: dict[str, Any]) -> tuple[str, str, str]:
    """(name, share of what, what they do) of the number that tells: agreement if there is a teacher, else accuracy or
    view retrieval."""
    if look["agreement"] is not None:
        return "agreement", "of the teacher's nearest neighbours", "are also the student's"
    if look.get("accuracy") is not None:
        return "accuracy", "of held-out images", "get their class"
    return "view_retrieval", "of held-out images", "are found again from another view"


def read_run(path: Path) -> RunRecord:
    """The run in the folder ``path``.

    Raises:
        SeedHubError: it is not the folder of a run.
    """
    from seed_hub.training.run_folder import RunFolder

    folder = RunFolder(path)
    settings, method_settings = folder.settings()
    finished = (path / "verdict.json").exists()
    return RunRecord(
        path=path,
        settings=settings,
        method_settings=method_settings,
        log=folder.read_log(),
        verdict=folder.read_json("verdict.json")["verdict"] if finished else None,
        environment=folder.read_json("environment.json") if (path / "environment.json").exists() else {},
        skipped=_skipped(path / "bad_images.txt"),
    )


def _skipped(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short_count(n: float) -> str:
    """``950``, ``12.5k``, ``1.28M``."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.3g}"
