"""``eval``: one protocol on one model, and its line in a results file."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from seed_hub.cli.evaluation_images import add_data_flags, opened
from seed_hub.cli.flags import Parser
from seed_hub.cli.measuring import add_record_flags, measure, results_file
from seed_hub.cli.terminal import show, table
from seed_hub.errors import SeedHubError, nearest
from seed_hub.network_settings import check_numbers
from seed_hub.settings import Declared, declared_in

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
    check_numbers(own)  # before images are opened
    out = Path(given.get("out") or results_file(name))
    if "suite" in given:
        return {"results": _measure_suite(name, given, own, out)}
    learns = protocols[name].constants.get("NEEDS_TRAINING", True)
    train, test = opened(given, alone=own.get("leave_one_out", False), learns=learns)
    how = {"out": out, "again": given.get("again", False), "minutes": given.get("budget")}
    line = measure(name, given["model"], train, test, own, **how)
    _show(line, learns=learns)
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
    show(f"mean over the {len(lines)} data sets: {fmean(line['mean'] for line in lines):.2f}")
    return lines


def _show(line: dict[str, Any], *, learns: bool = True) -> None:
    train, test = line["data"]["train"], line["data"]["test"]
    by = f", by {train['source']}{_split(train)}, {train['images']:,} images" if learns else ""
    rows = []
    for metric, found in line["values"].items():
        # Two decimals would hide what a small one is.
        digits = ".2f" if abs(found["mean"]) >= 1 or found["mean"] == 0 else "#.3g"
        sure = "" if found["std"] is None else f"± {found['std']:{digits}} (n = {found['n']})"
        if metric == line["metric"] and "interval" in line:
            sure += "  95 %: {:.2f} to {:.2f}".format(*line["interval"])
        rows.append([metric, f"{found['mean']:{digits}}", sure.strip()])
    show(
        f"{line['model']['spec']} at {line['settings']['size']} px, {line['protocol']}: "
        f"{test['source']}{_split(test)}, {test['images']:,} images{by}\n{table(rows)}"
    )
    if "shortened" in line:
        from seed_hub.eval.budget import in_words

        show(f"Not the whole measurement, {in_words(line['shortened'])}.")


def _split(part: dict[str, Any]) -> str:
    return f" {part['split']}" if part["split"] else ""
