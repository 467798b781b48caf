"""``eval``: one protocol on one model, and its line in a results file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seed_hub.cli.flags import Parser
from seed_hub.cli.terminal import Count, say, show, table
from seed_hub.errors import SeedHubError, nearest
from seed_hub.settings import Declared, declared_in

if TYPE_CHECKING:
    from seed_hub.data import Images
    from seed_hub.eval.budget import Cut

PROTOCOLS = Path(__file__).resolve().parents[1] / "eval"


def evaluate(argv: list[str]) -> dict[str, Any]:
    protocols = declared_in(PROTOCOLS)
    if not argv or argv[0] in ("-h", "--help"):
        rows = [("  " + name, declared.summary) for name, declared in protocols.items()]
        rows.append(
            ("  all", "Several protocols on a model, beside the rows that give its numbers a meaning.")
        )
        show(f"usage: seed-hub eval PROTOCOL --model M --data D [flags]\n\n{table(rows)}")
        return {"protocols": [*protocols, "all"]}
    name = argv[0]
    if name == "all":
        from seed_hub.cli.evaluate_all import evaluate_all

        return evaluate_all(argv[1:], protocols)
    if name not in protocols:
        raise SeedHubError(
            f'There is no protocol "{name}": write `seed-hub eval PROTOCOL --model M --data D` with one of '
            f"{', '.join(protocols)}, all." + nearest(name, protocols)
        )
    given = _parse(protocols[name], argv[1:])
    own = {option.name: given[option.name] for option in protocols[name].options if option.name in given}
    out = Path(given.get("out") or results_file(name))
    if "suite" in given:
        return {"results": _measure_suite(name, given, own, out)}
    train, test = opened(given, alone=own.get("leave_one_out", False))
    how = {"out": out, "again": given.get("again", False), "minutes": given.get("budget")}
    line = measure(name, given["model"], train, test, own, **how)
    _show(line)
    return line


def _parse(protocol: Declared, argv: list[str]) -> dict[str, Any]:
    parser = Parser(f"eval {protocol.name}", protocol.summary)
    what = add_data_flags(parser)
    if protocol.constants.get("SUITES"):
        what.add_argument(
            "--suite",
            metavar="FILE",
            help="JSON file of several data sets, in place of --data: a line for each",
        )
        what.add_argument(
            "--suite-root",
            metavar="DIR",
            help="folder that the suite's paths start from (default: the file's own)",
        )
    parser.add_options(f"protocol {protocol.name}", protocol.options)
    add_record_flags(parser, protocol.name)
    given = parser.parse(argv)
    parser.need(given, "model", *([] if "suite" in given else ["data"]))
    if "suite_root" in given and "suite" not in given:
        raise SeedHubError(
            "--suite-root is where the paths of a suite start from: name the suite with --suite."
        )
    for said in ("data", "test_data", "split_train", "split", "metric"):
        if "suite" in given and said in given:
            flag = "--" + said.replace("_", "-")
            raise SeedHubError(
                f"A suite says for each data set what {flag} says for one: leave one of them out."
            )
    return given


def _measure_suite(name: str, given: dict[str, Any], own: dict[str, Any], out: Path) -> list[dict[str, Any]]:
    """One line for each data set of a suite, measured by the metric it names."""
    from seed_hub.eval.suite import read_suite

    lines = []
    suite = read_suite(given["suite"], given.get("suite_root"))
    minutes = given["budget"] / len(suite) if "budget" in given else None
    for entry in suite:
        one = {"data": entry.data, "split_train": entry.train, "split": entry.test}
        train, test = opened(given | one)
        own_metric = own | {"metric": entry.metric}
        again = given.get("again", False)
        how = {"out": out, "again": again, "minutes": minutes}
        lines.append(measure(name, given["model"], train, test, own_metric, **how))
        _show(lines[-1])
    return lines


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
        help="labelled images: a folder, parquet file or folder, or a Hub data set id (required)",
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
    what.add_argument(
        "--check-duplicates",
        action="store_true",
        help="say which test images are also training images; decodes every image once more",
    )
    what.add_argument(
        "--drop-duplicates", action="store_true", help="the same, and leave them out of the test"
    )
    return what


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
    from seed_hub.eval.record import append_result, find_result, identity_hash, result_line
    from seed_hub.teachers import load_model

    _check_writable(out)

    protocol = import_module(f"seed_hub.eval.{name}")
    settings = protocol.Settings(**own)
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


def _show(line: dict[str, Any]) -> None:
    train, test = line["data"]["train"], line["data"]["test"]
    rows = []
    for metric, found in line["values"].items():
        sure = "" if found["std"] is None else f"± {found['std']:.2f} (n = {found['n']})"
        if metric == line["metric"] and "interval" in line:
            sure += "  95 %: {:.2f} to {:.2f}".format(*line["interval"])
        rows.append([metric, f"{found['mean']:.2f}", sure.strip()])
    show(
        f"{line['model']['spec']} at {line['settings']['size']} px, {line['protocol']}: "
        f"{test['source']}{_split(test)}, {test['images']:,} images, by "
        f"{train['source']}{_split(train)}, {train['images']:,} images\n{table(rows)}"
    )
    if "shortened" in line:
        from seed_hub.eval.budget import in_words

        show(f"Not the whole measurement, {in_words(line['shortened'])}.")


def _split(part: dict[str, Any]) -> str:
    return f" {part['split']}" if part["split"] else ""


def opened(given: dict[str, Any], *, alone: bool = False) -> tuple[Images, Images]:
    """(training images, test images); with ``alone`` both are the split that is named."""
    from seed_hub.data import list_splits, open_images

    data, test_data = given["data"], given.get("test_data", given["data"])
    how: dict[str, Any] = {"allow_bad": given.get("allow_bad", 0.01), "progress": Count("checking images")}
    if alone:
        images = open_images(data, split=given.get("split") or given.get("split_train"), **how)
        return images, images
    test_split = given.get("split") or _test_split(test_data, list_splits(test_data), apart=test_data != data)
    train = open_images(data, split=given.get("split_train"), **how)
    test = open_images(test_data, split=test_split, **how)
    if given.get("check_duplicates") or given.get("drop_duplicates"):
        from seed_hub.eval.leakage import find_near_duplicates, report, without

        found = find_near_duplicates(train, test, progress=Count("comparing images"))
        say(report(found, train, test))
        if given.get("drop_duplicates") and found:
            test = without(test, found)
    return train, test


def _test_split(data: str, there: list[str], *, apart: bool) -> str | None:
    for name in ("validation", "val", "valid", "test"):
        if name in there:
            return name
    if apart:
        return None  # other images than the training ones: all of them
    has = (
        f"it has {', '.join(there)}: name one with --split"
        if there
        else "it has none: name other images with --test-data"
    )
    raise SeedHubError(f'"{data}" has no split called validation or test to measure on; {has}.')


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
