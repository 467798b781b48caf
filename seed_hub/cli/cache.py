"""``cache``: what a teacher says of every view of some epochs, computed once for any number of runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seed_hub.cli.continuing import TRAINING
from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say, show
from seed_hub.errors import SeedHubError, nearest
from seed_hub.settings import Declared, declared_in, read_settings

# Settings of a run that decide what its teacher is shown, or where and how fast: the others change no embedding.
OF_A_RUN = (
    *("data", "split", "share", "label_share", "held_out", "seed", "allow_bad"),
    *("size", "crop_min", "flip", "teacher", "teacher_size", "allow_random_teacher"),
    *("batch_size", "accumulate", "precision", "device", "workers", "views_on"),
)
METHOD = "seed"


@dataclass(frozen=True)
class CacheSettings:
    """What ``cache`` can be told, besides what the runs will be told."""

    views: int = 0
    """M, epochs of views to store: a run of more epochs sees them again from the first one on"""
    dtype: str = "float16"
    """of the stored numbers: float16, float32 (a run from it is the live run, bit for bit on a CPU) or int8 (with a scale per row)"""
    out: str = ""
    """folder of the cache; one that was stopped goes on where it was"""
    overwrite: bool = False
    """replace the cache in --out"""


def cache(argv: list[str]) -> dict[str, Any]:
    methods = declared_in(TRAINING / "methods")
    early = Parser("cache")
    early.add_argument("--method")
    name = vars(early.parse_known_args(argv)[0]).get("method") or METHOD
    if name not in methods:
        raise SeedHubError(f'There is no method "{name}".' + nearest(name, methods))
    parser, needed = _parser(methods[name]), ("data", "teacher", "views", "out")
    given = parser.parse(argv, elsewhere=_elsewhere())
    parser.need(given, *needed)
    if len(given["teacher"]) > 1:
        raise SeedHubError("A cache is of one teacher: make one for each, with an --out of its own.")
    given |= {"teacher": given["teacher"][0], "method": name}
    own = _preset(methods[name], given.pop("preset", None))
    own |= {option.name: given.pop(option.name) for option in methods[name].options if option.name in given}
    settings = CacheSettings(
        **{key: given.pop(key) for key in CacheSettings.__dataclass_fields__ if key in given}
    )
    return _cache(settings, given, own)


def _parser(method: Declared) -> Parser:
    parser = Parser("cache", "Store what a teacher says of every view of some epochs, for `distill --cache`.")
    parser.add_options(
        "cache", read_settings(Path(__file__), "CacheSettings").options, required=("views", "out")
    )
    run = read_settings(TRAINING / "settings.py", "RunSettings").options
    group = parser.add_argument_group("method")
    group.add_argument("--method", help=f"the method of the runs, whose views these are (default: {METHOD})")
    presets = method.constants.get("PRESETS", {})
    if presets:
        group.add_argument("--preset", metavar="NAME", help=f"its settings by name: {', '.join(presets)}")
    parser.add_options(
        "run, as `distill` will be told",
        [option for option in run if option.name in OF_A_RUN],
        required=("data", "teacher"),
        repeated=("teacher",),
    )
    parser.add_options(
        f"method {method.name}, as `distill` will be told", method.options, summary=method.summary
    )
    return parser


def _elsewhere() -> dict[str, str]:
    """Flags of a run that a cache has no use for."""
    run = read_settings(TRAINING / "settings.py", "RunSettings").options
    return {
        option.flag: f"{option.flag} changes nothing of what a teacher says: give it to `seed-hub distill` only."
        for option in run
        if option.name not in OF_A_RUN and option.name not in CacheSettings.__dataclass_fields__
    }


def _preset(method: Declared, word: str | None) -> dict[str, Any]:
    presets: dict[str, dict[str, Any]] = method.constants.get("PRESETS", {})
    if word is not None and word not in presets:
        raise SeedHubError(
            f'The method "{method.name}" has no preset "{word}"; it has: {", ".join(presets)}.'
            + nearest(word, presets)
        )
    return dict(presets[word]) if word is not None else {}


def _cache(settings: CacheSettings, run: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    from seed_hub.training.settings import RunSettings
    from seed_hub.training.teacher_cache.building import build_cache
    from seed_hub.training.teacher_cache.claiming import contents

    made = build_cache(
        RunSettings(**run, out=settings.out),
        own,
        epochs=settings.views,
        dtype=settings.dtype,
        overwrite=settings.overwrite,
        say=say,
        checking=Count("checking images"),
        progress=Count("asking the teacher"),
    )
    show(f"{settings.out}: {contents(made)}; use it with `seed-hub distill --cache {settings.out}`")
    return {
        "cache": settings.out,
        "images": made.images,
        "views": made.views,
        "epochs": made.epochs,
        "width": made.width,
        "dtype": made.dtype,
    }
