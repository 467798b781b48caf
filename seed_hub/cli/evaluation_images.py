"""The images a protocol learns from and is tested on: their flags, and what is found in both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say
from seed_hub.errors import SeedHubError

if TYPE_CHECKING:
    from seed_hub.data import Images

LEAKAGE = ("check_duplicates", "drop_duplicates", "list_duplicates", "distilled_on", "duplicates_by")


def add_data_flags(parser: Parser) -> Any:
    """The model and the images; the group of flags is returned."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "--model",
        metavar="M",
        help="run folder, name of the zoo, untrained:NAME, or a teacher such as timm:NAME (required)",
    )
    what.add_argument(
        "--data",
        metavar="D",
        help="labelled images: a folder, parquet file or folder, webdataset shards ('train-{000..099}.tar'), either by URL too, or a Hub data set id (required)",
    )
    what.add_argument(
        "--split-train",
        metavar="SPLIT",
        help="split to learn from: the bank, the training set (default: train)",
    )
    what.add_argument("--split", metavar="SPLIT", help="split to test on (default: validation, else test)")
    what.add_argument("--test-data", metavar="D", help="where the split to test on is (default: as --data)")
    what.add_argument(
        "--allow-bad",
        metavar="X",
        type=float,
        help="largest share of unreadable images to go on with (default: 0.01)",
    )
    _add_leakage_flags(parser)
    return what


def _add_leakage_flags(parser: Parser) -> None:
    leakage = parser.add_argument_group(
        "leakage", "Test images that were seen before; decodes every image once more."
    )
    leakage.add_argument(
        "--check-duplicates",
        action="store_true",
        help="say which test images are also training images",
    )
    leakage.add_argument(
        "--drop-duplicates", action="store_true", help="the same, and leave them out of the test"
    )
    leakage.add_argument(
        "--list-duplicates",
        metavar="FILE",
        help="the same, and write them all: names, how they were found, distance",
    )
    leakage.add_argument(
        "--distilled-on",
        metavar="D",
        help="images the model learnt from: look among them too",
    )
    leakage.add_argument(
        "--duplicates-by",
        metavar="M",
        help="a model whose embeddings are compared too (default: pictures only, by perceptual hash and thumbnail)",
    )


def opened(given: dict[str, Any], *, alone: bool = False, learns: bool = True) -> tuple[Images, Images]:
    """(training images, test images); with ``alone`` both are the split that is named, and of what does not learn both are
    the test images."""
    from seed_hub.data import list_splits, open_images

    data, test_data = given["data"], given.get("test_data", given["data"])
    how: dict[str, Any] = {"allow_bad": given.get("allow_bad", 0.01), "progress": Count("checking images")}
    if alone:
        images = open_images(data, split=given.get("split") or given.get("split_train"), **how)
        return images, images
    if not learns:
        _refuse_training_flags(given)
    apart = test_data != data or not learns
    test_split = given.get("split") or _test_split(given, list_splits(test_data), apart=apart)
    train = open_images(data, split=given.get("split_train"), **how) if learns else None
    test = open_images(test_data, split=test_split, **how)
    if any(given.get(name) for name in LEAKAGE):
        test = _without_leaks(train, test, given, how)
    return test if train is None else train, test


def _refuse_training_flags(given: dict[str, Any]) -> None:
    if "split_train" in given:
        raise SeedHubError(
            "This protocol learns from no images: leave out --split-train, and name the split to measure on with --split."
        )
    if any(given.get(name) for name in LEAKAGE) and not given.get("distilled_on"):
        raise SeedHubError(
            "This protocol learns from no images that its own could be among: name those the model learnt from with "
            "--distilled-on."
        )


def _without_leaks(train: Images | None, test: Images, given: dict[str, Any], how: dict[str, Any]) -> Images:
    """``test``, less what was seen before if that is asked for; what was found is said, and written if asked for."""
    from seed_hub.data import open_images
    from seed_hub.eval.leakage import find_near_duplicates, listing, report, without
    from seed_hub.teachers import load_model

    others = [] if train is None else [train]
    if given.get("distilled_on"):
        others.append(open_images(given["distilled_on"], **how))
    if given.get("duplicates_by"):
        how = {"encoder": load_model(given["duplicates_by"]), "workers": -1}
    else:
        how = {}
    lines, every = [], []
    for other in others:
        found = find_near_duplicates(other, test, progress=Count("comparing images"), **how)
        say(report(found, other, test))
        lines += listing(found, other, test)
        every += found
    if given.get("list_duplicates"):
        try:
            Path(given["list_duplicates"]).write_text(
                "".join(f"{line}\n" for line in lines), encoding="utf-8"
            )
        except OSError as error:
            raise SeedHubError(
                f"The list {given['list_duplicates']} cannot be written ({error.strerror}): name another file."
            ) from error
    return without(test, every) if given.get("drop_duplicates") and every else test


def _test_split(given: dict[str, Any], there: list[str], *, apart: bool) -> str | None:
    for name in ("validation", "val", "valid", "test"):
        if name in there:
            return name
    if apart:
        return None  # other images than the training ones: all of them
    if there:
        has = f"it has {', '.join(there)}: name one with --split"
    elif "test_data" in given:
        has = "--test-data names the images to learn from once more: name others"
    else:
        has = "it has none: name other images with --test-data"
    raise SeedHubError(f'"{given["data"]}" has no split called validation or test to measure on; {has}.')
