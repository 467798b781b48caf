"""Put a finished run among the released weights: a folder of model_cards/, and its row in seed_hub/released.json.

    python training/release.py RUN --name ARCH.TAG --images-licence L     a new weight, or the same one with a new card
    python training/release.py                                            every card again, from eval/results as it is now

The folder is what `seed-hub card` writes, as its repository on the Hub will be, but for the projection head: a student's
head may weigh as much as the student, and all folders together are part of every clone.
"""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from seed_hub import __version__  # noqa: E402
from seed_hub.catalog import find_student  # noqa: E402
from seed_hub.cli.flags import Parser  # noqa: E402
from seed_hub.cli.publish import CardSettings  # noqa: E402
from seed_hub.errors import SeedHubError  # noqa: E402
from seed_hub.project import HUB_ORGANISATION  # noqa: E402
from seed_hub.settings import read_settings  # noqa: E402
from seed_hub.weights import FILE_NAME, Weight, read_table, sha256_of, table_text  # noqa: E402

if TYPE_CHECKING:
    from seed_hub.publishing.publication import Publication

LIMIT = 120  # MB (1e6 bytes) of all folders: what a clone, and torch.hub's archive, may cost
NOT_HERE = ("repo", "out", "results")  # flags of `seed-hub card` whose values a release fixes


@dataclass(frozen=True)
class ReleaseSettings(CardSettings):
    """What a release can be told."""

    name: str = ""
    """ARCH.TAG: the student as the zoo names it, and what sets this weight apart, such as its teacher and data"""
    script: str = ""
    """what made the run (default: the file under training/ that its command names)"""
    replace: bool = False
    """put another file under a name that is released already; once per version of this package"""
    default: bool = False
    """the weights that pretrained=True loads from now on, where the student has several (default: its first)"""


def main(words: list[str] | None = None, root: Path = ROOT) -> int:
    parser = Parser("release", (__doc__ or "").partition("\n")[0])
    parser.prog, parser.usage = "training/release.py", "python training/release.py [RUN] [flags]"
    parser.add_argument(
        "run", metavar="RUN", nargs="?", help="folder of a run; without it every card is written again"
    )
    parser.add_options("release", read_settings(Path(__file__), "ReleaseSettings").options, skip=NOT_HERE)
    try:
        given = parser.parse(sys.argv[1:] if words is None else words)
        if "run" not in given:
            written = refresh(root)
        else:
            parser.need(given, "name", "images_licence")
            written = [release(Path(given.pop("run")), ReleaseSettings(**given), root).name]
    except SeedHubError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(f"model_cards/{name} written" for name in written) or "every card is up to date")
    return 0


def release(run: Path, settings: ReleaseSettings, root: Path) -> Weight:
    """The row of the weight, now in the table, its folder beside the others.

    Raises:
        SeedHubError: the run is not finished, not measured, or of another student; its file is not float32 with the one
            key of metadata whose bytes can be reproduced; the name is taken; or the folders become too large.
    """
    from seed_hub.model_folder import replace_file
    from seed_hub.publishing.publication import write_folder

    table = root / "seed_hub" / "released.json"
    others = list(read_table(table))
    publication = _publication(run, settings, root)
    place = root / "model_cards" / settings.name
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(publication, Path(temporary) / settings.name)
        weight = _row(publication)
        for i, before in enumerate(others):
            if before.name == weight.name:
                others[i] = weight = _instead(before, weight, settings.replace)
        if weight not in others:
            others.append(weight)
        if settings.default:
            first = next(i for i, each in enumerate(others) if each.arch == weight.arch)
            others.insert(first, others.pop(others.index(weight)))
        _check_size(place, folder)
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            shutil.rmtree(place)
        shutil.move(folder, place)
    replace_file(table, table_text(tuple(others)).encode())
    return weight


def refresh(root: Path) -> list[str]:
    """Write each card again whose results, text, or what it is made of are no longer the same; their names."""
    from seed_hub.cli.published import publication_of_folder
    from seed_hub.publishing.publication import CARD, RESULTS, RUN, write_folder

    written = []
    for place in sorted(path.parent for path in root.glob(f"model_cards/*/{CARD}")):
        publication = publication_of_folder(place, _results(root))
        publication = dataclasses.replace(publication, published=published(place.name, root))
        _check_measured(publication)
        with tempfile.TemporaryDirectory() as temporary:
            folder = write_folder(publication, Path(temporary) / place.name)
            if any(
                (folder / name).read_bytes() != (place / name).read_bytes() for name in (CARD, RESULTS, RUN)
            ):
                shutil.rmtree(place)
                shutil.move(folder, place)
                written.append(place.name)
    return written


def _publication(run: Path, settings: ReleaseSettings, root: Path) -> Publication:
    from seed_hub.cli.published import publication_of_run

    arch, _, tag = settings.name.partition(".")
    student = find_student(arch)
    if not tag.replace("_", "").isalnum():
        raise SeedHubError(
            f'"{settings.name}" names no weight: write --name {arch}.TAG, a tag of letters, digits and "_".'
        )
    fixed = {"repo": f"{HUB_ORGANISATION}/{settings.name}", "results": tuple(map(str, _results(root)))}
    publication = publication_of_run(run, dataclasses.replace(settings, **fixed))
    _check_file(publication.model / FILE_NAME)
    if publication.config["architecture"] != student.base:
        raise SeedHubError(
            f"{run} holds a {publication.config['architecture']}, and {arch} is a {student.base}: correct --name."
        )
    if not publication.verdict:
        raise SeedHubError(f"{run} is not finished: continue it with --resume, then release it.")
    _check_measured(publication)
    return dataclasses.replace(
        publication,
        script=_script(settings.script, publication.command, root),
        fingerprint=_fingerprint(run),
        published=published(settings.name, root),
        with_head=False,
        lineage_in_header=False,  # one file in the repository, its bytes the run's own
    )


def _check_measured(publication: Publication) -> None:
    if not publication.measured:
        raise SeedHubError(
            f"No line of eval/results is about the weights in {publication.model}: measure them with `seed-hub eval`."
        )


def published(name: str, root: Path) -> str:
    """Of the network of the weight ``name``, by the paper, on ImageNet; empty where there is nothing."""
    from eval.zoo import published_scores

    folder, student = root / "eval" / "results", name.partition(".")[0]
    words = {"linear": "linear top-1", "knn": "k-NN top-1"}
    told = [f"{words[p]} {said}" for p in words if (said := published_scores(folder, student, p))]
    if not told:
        return ""
    return (
        f"**Published, not ours.** Of this network on ImageNet, in percent, alone → distilled from MoCo v2's ResNet-50, SEED "
        f"(Fang et al., ICLR 2021) reports: {', '.join(told)}; *in italics* what is remembered of its table, not read."
    )


def _results(root: Path) -> list[Path]:
    return sorted((root / "eval" / "results").glob("*.jsonl"))


def _script(stated: str, command: str, root: Path) -> str:
    """Of the checkout, as a path in it."""
    folder = (root / "training").resolve()
    word = stated or next(iter(shlex.split(command)), "")
    found = [(root / word).resolve()] if stated else sorted(folder.rglob(word)) if word else []
    if len(found) != 1 or not found[0].is_file() or not found[0].is_relative_to(folder):
        raise SeedHubError(
            f'"{word}" is {"none" if len(found) < 2 else "several"} of the scripts in training/: name the one that made the '
            "run with --script training/..."
        )
    return found[0].relative_to(root.resolve()).as_posix()


def _fingerprint(run: Path) -> str:
    from seed_hub.training.run_folder import RunFolder

    checkpoint = RunFolder(run).load_checkpoint()
    if checkpoint is None:
        raise SeedHubError(
            f"{run} has no checkpoint.pt, which knows the training images' fingerprint: copy the run whole."
        )
    return checkpoint["data"]


def _check_file(path: Path) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata()
    if metadata != {"format": "pt"}:
        raise SeedHubError(
            f'{path} has the metadata {metadata}, and a released file only {{"format": "pt"}}: save it again.'
        )
    if others := kinds - {"F32", "I64"}:  # I64: how many batches a norm has seen
        raise SeedHubError(
            f"{path} holds {', '.join(sorted(others))}, and released files are float32: save it again."
        )


def _row(publication: Publication) -> Weight:
    config, settings = publication.config, publication.settings
    facts = config["seed_hub"]
    teacher = (facts.get("teacher") or "").partition("?")[0]  # how it was loaded is on the card
    taught = f"{facts['method']} from {teacher}" if teacher else facts["method"]
    return Weight(
        name=publication.repository.partition("/")[2],
        sha256=sha256_of(publication.model / FILE_NAME),
        licence=publication.lineage.licence.identifier,
        description=f"{taught}, {settings['data']}, {facts['images_seen']:,} views of {settings['size']} px, "
        f"{'with' if publication.labelled else 'no'} labels"
        + (", its teacher with labels" if publication.teacher_labelled else ""),
        input_size=config["pretrained_cfg"]["input_size"][-1],
        tensors=publication.measured[0].line["model"]["sha256"],
    )


def _instead(before: Weight, weight: Weight, replace: bool) -> Weight:
    """The row that takes the place of ``before``."""
    if before.sha256 == weight.sha256:  # the same weights, on a new card
        return dataclasses.replace(weight, revision=before.revision, replaced_in=before.replaced_in)
    if not replace:
        raise SeedHubError(
            f"{weight.name} is released already, with other weights: choose another tag, or --replace them."
        )
    if before.replaced_in == __version__:
        raise SeedHubError(
            f"{weight.name} was replaced in version {__version__} already, and once is all that users have to follow: "
            "choose another tag, or raise the version first."
        )
    return dataclasses.replace(weight, replaced_in=__version__)


def _check_size(place: Path, folder: Path) -> None:
    """``folder`` in the place of what may be at ``place``."""
    there = [path for path in place.parent.rglob("*") if path.is_file() and place not in path.parents]
    total = sum(path.stat().st_size for path in [*there, *folder.iterdir()]) / 1e6
    if total > LIMIT:
        raise SeedHubError(
            f"With {place.name}, model_cards/ would hold {total:.1f} MB, and {LIMIT} is the limit: remove a weight, or keep "
            "this one as a recipe in training/."
        )


if __name__ == "__main__":
    sys.exit(main())
