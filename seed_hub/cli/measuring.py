"""One measurement: found in the results file, or made and added to it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say, show
from seed_hub.errors import SeedHubError

if TYPE_CHECKING:
    from seed_hub.data import Images
    from seed_hub.eval.budget import Cut


def add_record_flags(parser: Parser, name: str) -> None:
    record = parser.add_argument_group("record")
    record.add_argument(
        "--out",
        metavar="FILE",
        help=f"results file to add to (default: {results_file(name)})",
    )
    record.add_argument(
        "--budget",
        metavar="MINUTES",
        type=float,
        help="about that long in all: images and steps are left out as far as needed, and the number is marked for it",
    )
    record.add_argument(
        "--again", action="store_true", help="measure again what the results file holds already"
    )


def measure(
    name: str,
    model: str,
    train: Images,
    test: Images,
    own: dict[str, Any],
    *,
    out: Path,
    again: bool = False,
    minutes: float | None = None,
    cut: Callable[[Any], Cut] | None = None,
) -> dict[str, Any]:
    """The line of a protocol on a model: the one ``out`` holds already, or a new one, added to it.

    Args:
        own: settings of the protocol.
        again: measure in any case.
        minutes: leave out what does not fit; a whole measurement that ``out`` holds is as good.
        cut: the protocol's settings -> what fits, where several models must be measured alike (default: what does for this).
    """
    from seed_hub.eval import budget
    from seed_hub.eval.features import with_precision
    from seed_hub.eval.record import result_line
    from seed_hub.eval.results_file import append_result, find_result, identity_hash
    from seed_hub.teachers import load_model

    _check_writable(out)

    protocol = import_module(f"seed_hub.eval.{name}")
    settings = with_precision(protocol.Settings(**own))
    encoder = load_model(model, image_size=settings.size or None)
    what = {
        "headline": getattr(settings, "metric", protocol.HEADLINE),
        "spec": model,
        "encoder": encoder,
        "train": train,
        "test": test,
        "settings": settings,
        "facts": _facts(model),
    }
    # The identity of a measurement is all but its values: an empty one finds a line that is there already.
    asked = result_line(name, [("", 0.0)], seconds=0.0, **what)
    line = None if again else find_result(out, asked, minutes=minutes)
    if line is not None:
        say(f"measured before, on {line['date']}: this is the line of {out}; --again measures again")
    else:
        if minutes is not None:
            fits = cut(settings) if cut else budget.fit(protocol, encoder, train, test, settings, minutes)
            train, test, settings, note = budget.shortened(protocol, fits, train, test, settings, minutes)
            if note:
                say(budget.in_words(note))
                what |= {"train": train, "test": test, "settings": settings}
                what["shortened"] = note | {"asked": identity_hash(asked)}
        start = time.monotonic()
        count = Count(getattr(protocol, "COUNTS", "features"))
        values = list(protocol.evaluate(encoder, train, test, settings, progress=count))
        line = result_line(name, values, seconds=time.monotonic() - start, **what)
        try:
            append_result(out, line)
        except SeedHubError:
            show(json.dumps(line))  # it may have taken hours: not lost with the disk
            raise
        say(f"added to {out}")
    return line


def _check_writable(out: Path) -> None:
    """Before anything is measured."""
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not os.access(place, os.W_OK) or place.is_dir() == (place == out):
        raise SeedHubError(f"Results cannot be written to {out}: name another file with --out.")


def folder_of(spec: str) -> Path:
    """Where a model lies, if it is a run: of ``seed:RUN?head=none``, RUN."""
    return Path(spec.removeprefix("seed:").partition("?")[0])


def _facts(spec: str) -> dict[str, Any]:
    """What a table should know of a model of ours: from the config.json beside its weights."""
    from seed_hub.eval.record import without_folders
    from seed_hub.training.run_folder import RunFolder

    folder = folder_of(spec)
    for path in (folder / "best" / "config.json", folder / "config.json"):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["seed_hub"]
        except (OSError, ValueError, KeyError):
            continue
        kept = {
            key: found[key]
            for key in ("name", "method", "teacher", "images_seen", "size")
            if found.get(key) is not None
        }
        if (folder / "log.jsonl").exists():
            kept["hours"] = round(RunFolder(folder).hours(), 2)
        return {
            key: without_folders(value) if isinstance(value, str) else value for key, value in kept.items()
        }
    return {}


def results_file(name: str) -> Path:
    """In a checkout the file that tables and cards are made of."""
    checkout = Path("hubconf.py").is_file() and Path("seed_hub").is_dir()
    return Path("eval/results") / f"{name}.jsonl" if checkout else Path("results.jsonl")
