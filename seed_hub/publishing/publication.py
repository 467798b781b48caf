"""What is published of a run, and the folder that becomes its repository."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from seed_hub.errors import SeedHubError
from seed_hub.golden import GOLDEN, KEY, golden_embeddings
from seed_hub.licences import Lineage
from seed_hub.model_folder import CONFIG, HEAD, WEIGHTS, load_model_folder, replace_file

CARD, RESULTS, RUN, TERMS = "README.md", "results.jsonl", "run.json", "LICENSE"
ELSEWHERE = ("model", "lineage", "measured", "terms")  # of a Publication: what other files than run.json hold


class Score(NamedTuple):
    """Of one model."""

    name: str
    value: float
    interval: tuple[float, float] | None = None
    """95 % interval, or mean - std and mean + std of several trials"""


@dataclass(frozen=True)
class Measured:
    """One measurement of the published weights."""

    line: dict[str, Any]
    """of a results file"""
    beside: tuple[Score, ...] = ()
    """others, measured alike"""
    gap_closed: float | None = None
    """of the way from the same network without a teacher to the teacher, where both were measured"""
    departures: str = ""
    """settings by which it is not the protocol's own measurement, in words"""

    @property
    def own(self) -> Score:
        line = self.line
        spread = None if line["std"] is None else (line["mean"] - line["std"], line["mean"] + line["std"])
        low_high = tuple(line["interval"]) if line.get("interval") else spread
        return Score("this model", line["mean"], low_high)

    @property
    def protocol(self) -> str:
        """With its mode, where it has several: ``linear, seed``."""
        settings = self.line["settings"]
        mode = settings.get("protocol") or settings.get("mode")
        return self.line["protocol"] + (f", {mode}" if mode else "")

    @property
    def unit(self) -> str:
        """Scores are in percent, ranks in dimensions."""
        return "" if self.line["metric"].endswith("rank") else "%"


@dataclass(frozen=True)
class Curve:
    """One quantity over the run."""

    title: str
    points: tuple[tuple[float, float], ...]
    """(images seen, value), two or more"""
    note: str = ""
    """what it means"""
    first: float | None = None
    """before the first step"""
    marked: float | None = None
    """images seen when the published weights were saved"""
    share: bool = False
    """values are shares, from 0 to 1"""


@dataclass(frozen=True)
class Publication:
    """A run, in the form a card needs it."""

    repository: str
    """ORG/NAME on the Hub"""
    model: Path
    """model folder: weights and config.json"""
    lineage: Lineage
    settings: dict[str, Any]
    """of the run, with those of its method; no paths"""
    command: str
    """as it was typed; no paths"""
    environment: dict[str, Any]
    hours: float
    """of training, over all sittings"""
    images_seen: int
    """over the whole run; the weights may be of an earlier moment"""
    labelled: bool = False
    """the method learnt from labels"""
    teacher_labelled: bool = False
    """its teacher had learnt from labels"""
    verdict: str = ""
    measured: tuple[Measured, ...] = ()
    curves: tuple[Curve, ...] = ()
    """of the run; the first ones are shown first"""
    watts: float = 0.0
    """assumed mean power of the whole machine; 0: energy is not estimated"""
    datasets: tuple[str, ...] = ()
    """Hub ids, for the metadata"""
    base_model: str = ""
    """Hub id of the teacher, for the metadata"""
    terms: Path | None = None
    """text of a licence, to go along"""
    script: str = ""
    """of this repository, that made the run"""
    fingerprint: str = ""
    """of the training images"""
    published: str = ""
    """what others have published of this network: no measurement of ours"""
    size: int = 0
    """side in pixels that it is published for, where it is best; 0: the one it was trained at"""
    with_head: bool = True
    """the projection head goes along, for those who distil from the model"""
    lineage_in_header: bool = True
    """licence and lineage in the header of the safetensors file as well, for a file that is passed on alone"""

    @property
    def before(self) -> str:
        """What the student was before the first step."""
        return "at the start" if self.settings.get("start") else "untrained"

    @property
    def label_free(self) -> bool:
        """No label went into it, by way of its teacher neither."""
        return not (self.labelled or self.teacher_labelled)

    @property
    def config(self) -> dict[str, Any]:
        """config.json as published: the licence and the lineage are the student's.

        Raises:
            SeedHubError: it is missing, or no model's.
        """
        path = self.model / CONFIG
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            pretrained = config["pretrained_cfg"] | {
                "license": self.lineage.licence.identifier,
                "tag": self.repository.partition("/")[2].partition(".")[2] or config["pretrained_cfg"]["tag"],
            }
        except (OSError, ValueError, KeyError) as error:
            raise SeedHubError(
                f"{path} is missing or no model's config ({error!r}): name a finished run."
            ) from error
        if self.size:
            pretrained["input_size"] = [3, self.size, self.size]
        facts = config.get("seed_hub", {}) | {"lineage": self.lineage.as_json()}
        for known in ("teacher_licence", "start_licence"):  # the lineage has them, also where the run did not
            facts.pop(known, None)
        if not self.with_head:
            facts.pop("projection_head", None)
        return config | {"pretrained_cfg": pretrained, "seed_hub": facts}

    @property
    def weights(self) -> bytes:
        """model.safetensors as published.

        The header is written here: the library orders several keys of metadata differently each time, and a sha256 pins
        the file.
        """
        content = (self.model / WEIGHTS).read_bytes()
        if not self.lineage_in_header:
            return content
        end = 8 + int.from_bytes(content[:8], "little")
        lineage = json.dumps(self.lineage.as_json(), sort_keys=True)
        header = json.loads(content[8:end]) | {"__metadata__": {"format": "pt", "seed_hub.lineage": lineage}}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text + content[end:]


def write_folder(publication: Publication, folder: Path) -> Path:
    """Write card and pictures, config, weights, golden embeddings, results, terms, and what the card is made of into
    ``folder``, which then is the repository; no network.

    Raises:
        SeedHubError: the folder holds something else, or the licence's text is needed and not there.
    """
    from seed_hub.publishing.card import readme
    from seed_hub.publishing.plots import pictures

    lineage = publication.lineage
    passed_on = [each.identifier for each in (lineage.licence, *lineage.terms) if each.copy]
    if publication.terms is None and passed_on:
        raise SeedHubError(
            f"{passed_on[0]} is passed on with a copy of its text: name the file with --licence-file FILE."
        )
    text, drawn = readme(publication), pictures(publication)  # before anything is written
    golden = _golden(publication.model, publication.size)
    _make(folder)
    replace_file(folder / WEIGHTS, publication.weights)
    if publication.with_head and (publication.model / HEAD).exists():
        shutil.copyfile(publication.model / HEAD, folder / HEAD)
    replace_file(folder / GOLDEN, golden)
    replace_file(folder / CONFIG, (json.dumps(publication.config, indent=2) + "\n").encode())
    made_of = {name: value for name, value in asdict(publication).items() if name not in ELSEWHERE}
    replace_file(folder / RUN, (json.dumps(made_of) + "\n").encode())
    lines = "".join(json.dumps(each.line) + "\n" for each in publication.measured)
    if lines:
        replace_file(folder / RESULTS, lines.encode())
    if publication.terms is not None:
        shutil.copyfile(publication.terms, folder / TERMS)
    for name, picture in drawn.items():
        replace_file(folder / name, picture)
    replace_file(folder / CARD, text.encode())
    return folder


def read_folder(folder: Path) -> Publication:
    """What :func:`write_folder` made ``folder`` of, but the measurements: those are in results files, as they are now.

    Raises:
        SeedHubError: it did not make it.
    """
    try:
        content = json.loads((folder / RUN).read_text(encoding="utf-8"))
        lineage = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["seed_hub"]["lineage"]
        points = [tuple(map(tuple, curve["points"])) for curve in content["curves"]]
        curves = [Curve(**curve | {"points": p}) for curve, p in zip(content["curves"], points, strict=True)]
        return Publication(
            **content | {"curves": tuple(curves), "datasets": tuple(content["datasets"])},
            model=folder,
            lineage=Lineage.from_json(lineage),
            terms=folder / TERMS if (folder / TERMS).exists() else None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SeedHubError(
            f"{folder} holds no {CONFIG} and {RUN} of a published model ({error!r}): write it again from its run."
        ) from error


def _golden(model: Path, size: int) -> bytes:
    """As they were written once: those of another machine differ in the last digits, and would be another file."""
    from safetensors.torch import save

    if (model / GOLDEN).exists():
        return (model / GOLDEN).read_bytes()
    encoder = load_model_folder(model, head=False)
    encoder.input_size = size or encoder.input_size
    try:
        return save({KEY: golden_embeddings(encoder)}, metadata={"format": "pt"})
    except (AssertionError, RuntimeError, ValueError) as error:
        if not size:
            raise
        raise SeedHubError(
            f"A {encoder.arch} cannot take images of {size} px ({error}): name another --size, or leave it out."
        ) from error


def _make(folder: Path) -> None:
    """An empty folder, or one that holds an earlier card and nothing else: all of it is uploaded."""
    from seed_hub.publishing.plots import BARS, CURVES

    ours = {CARD, CONFIG, WEIGHTS, HEAD, GOLDEN, RUN, RESULTS, TERMS, CURVES, BARS}
    if folder.exists() and not folder.is_dir():
        raise SeedHubError(f"{folder} is a file: name a folder with --out.")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - ours or (there and CARD not in there):
        raise SeedHubError(
            f"{folder} holds other things than a card ({', '.join(sorted(there - ours)[:3]) or 'no ' + CARD}): "
            "name an empty folder with --out."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in there:
        (folder / name).unlink()
