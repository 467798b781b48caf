"""Write the tables of the Markdown files from ``eval/results/*.jsonl``; no number is typed by hand.

    python eval/tables.py                  rewrite README.md, eval/README.md, docs/ and the model cards
    python eval/tables.py --check          change nothing; exit with 1 if a table is not what the results say
    python eval/tables.py notes.md         these files instead

A table stands between the lines ``<!-- results:NAME -->`` and ``<!-- /results -->`` and shows ``eval/results/NAME.jsonl``:
a row per model and input size, a column per protocol. Where a row was trained several times (several weights), or
a protocol ran several trials, it shows mean ± standard deviation and n. A measurement that was repeated counts once,
the last time.

Between ``<!-- gaps:NAME STUDENT/ALONE/TEACHER ... -->`` and ``<!-- /gaps -->`` stands, for each such triple of models,
how much of the gap from ALONE to TEACHER the STUDENT closes.

Between ``<!-- methods:NAME -->`` and ``<!-- /methods -->`` the methods of ``NAME.jsonl`` are compared, the best first, with
what each costs by ``cost/methods.jsonl``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from eval.compared import methods_table  # noqa: E402
from seed_hub.errors import SeedHubError  # noqa: E402
from seed_hub.eval.record import HOW_FAST, identity, results  # noqa: E402

RESULTS = ROOT / "eval" / "results"
_BLOCK = re.compile(r"^(<!-- results:([\w.-]+) -->\n)(.*?)^(<!-- /results -->)$", re.DOTALL | re.MULTILINE)
_GAPS = re.compile(r"^(<!-- gaps:([\w.-]+) ([^\n]+) -->\n)(.*?)^(<!-- /gaps -->)$", re.DOTALL | re.MULTILINE)
_METHODS = re.compile(r"^(<!-- methods:([\w.-]+) -->\n)(.*?)^(<!-- /methods -->)$", re.DOTALL | re.MULTILINE)
COSTS = "cost/methods.jsonl"
_FACTS = {"method": "method", "teacher": "teacher", "images_seen": "images seen", "hours": "training, h"}
# May differ between the rows or trials of one table; any other setting must be the same in a column.
_FREE = {*HOW_FAST, "size", "seed", "trials", "k"}

Line = dict[str, Any]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="Markdown files")
    parser.add_argument("--check", action="store_true", help="only tell whether a table is out of date")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the .jsonl files")
    args = parser.parse_args(words)
    pages = [ROOT / "README.md", ROOT / "eval/README.md", *ROOT.glob("docs/*.md")]
    files = args.files or [*pages, *ROOT.glob("model_cards/*/README.md")]
    stale = 0
    try:
        for file in files:
            if args.files or file.exists():
                stale += _update(file, args.results, check=args.check)
    except SeedHubError as error:
        print(error, file=sys.stderr)
        return 2
    return 1 if args.check and stale else 0


def _update(file: Path, folder: Path, *, check: bool) -> bool:
    """True if the tables of ``file`` were out of date."""
    try:
        old = file.read_text("utf-8")
    except OSError as error:
        raise SeedHubError(f"{file} cannot be read ({error.strerror}): name a Markdown file.") from error
    new = regenerate(old, folder, file.name)
    if old == new:
        return False
    print(f"{file.name}: {'out of date, run python eval/tables.py' if check else 'tables rewritten'}")
    if not check:
        file.write_text(new, "utf-8")
    return True


def regenerate(text: str, folder: Path, where: str = "the text") -> str:
    """``text`` with each marked block rewritten from the results in ``folder``."""
    marks = re.findall(r"^<!-- (?:results:|/results)", text, re.MULTILINE)
    if len(marks) != 2 * len(_BLOCK.findall(text)):
        raise SeedHubError(
            f"{where} has a results block that is not closed: end each <!-- results:NAME --> line with a later "
            "<!-- /results -->."
        )

    def block(match: re.Match[str]) -> str:
        path = folder / f"{match[2]}.jsonl"
        if not path.exists():
            raise SeedHubError(
                f"{where} shows results:{match[2]}, but there is no file {path.name} in the results."
            )
        return f"{match[1]}{tables(results(path))}\n{match[4]}"

    def gap_block(match: re.Match[str]) -> str:
        lines = results(folder / f"{match[2]}.jsonl")
        said = [_gap(lines, *triple.split("/")) for triple in match[3].split()]
        return match[1] + "".join(f"- {sentence}\n" for sentence in said) + match[5]

    def methods_block(match: re.Match[str]) -> str:
        lines = results(folder / f"{match[2]}.jsonl")
        if not lines:
            return f"{match[1]}No results yet.\n{match[4]}"
        table = methods_table(lines, results(folder / COSTS))
        caption = _caption(lines, _images(lines[0], "train"), _images(lines[0], "test"))
        return f"{match[1]}{table}\n\n{caption}\n{match[4]}"

    return _METHODS.sub(methods_block, _GAPS.sub(gap_block, _BLOCK.sub(block, text)))


def _gap(lines: list[Line], student: str, alone: str, teacher: str) -> str:
    """(student - alone) / (teacher - alone) for each protocol, in words."""
    latest = {(line["model"]["name"].partition("?")[0], line["protocol"]): line for line in lines}
    parts = []
    for protocol in dict.fromkeys(line["protocol"] for line in lines):
        found = [latest.get((f"seed:{name}", protocol)) for name in (student, alone, teacher)]
        if None in found:
            raise SeedHubError(f"There is no {protocol} result for each of {student}, {alone} and {teacher}.")
        own, base, goal = (line["mean"] for line in found if line is not None)
        share = f"{(own - base) / (goal - base):.0%}" if goal > base else "all"
        title = _title(protocol, found[0]["metric"] if found[0] else "").removesuffix(", %")
        parts.append(f"{share} in {title} ({base:.2f} to {goal:.2f}: {own:.2f})")
    return f"`{student}` closes the gap from `{alone}` to `{teacher}` by " + " and by ".join(parts) + "."


def tables(lines: list[Line]) -> str:
    """Markdown: one table, with its caption, for each pair of training and test images."""
    latest = list({(line["model"]["name"], identity(line)): line for line in lines}.values())
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in latest:
        groups.setdefault((_images(line, "train"), _images(line, "test")), []).append(line)
    return (
        "\n\n".join(_table(group) + "\n\n" + _caption(group, *data) for data, group in groups.items())
        or "No results yet."
    )


def _table(lines: list[Line]) -> str:
    facts = [name for name in _FACTS if any(line["model"]["facts"].get(name) is not None for line in lines)]
    columns = list(dict.fromkeys((line["protocol"], metric) for line in lines for metric in _shown(line)))
    rows: dict[tuple[str, int], list[Line]] = {}
    for line in lines:
        rows.setdefault((line["model"]["name"], line["settings"]["size"]), []).append(line)
    head = ["model", *(_FACTS[name] for name in facts), "input, px", *(_title(*column) for column in columns)]
    body = []
    for (name, size), row in rows.items():
        known = [_fact(row, fact) for fact in facts]
        body.append([name.partition("?")[0], *known, str(size), *(_cell(row, *column) for column in columns)])
    rule = ["---"] * (2 + len(facts)) + ["---:"] * len(columns)
    rule[-len(columns) - 1] = "---:"
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])


def _shown(line: Line) -> list[str]:
    """The headline, and top-5 beside top-1."""
    return [line["metric"], *(["top5"] if "top5" in line["values"] and line["metric"] == "top1" else [])]


def _title(protocol: str, metric: str) -> str:
    neighbours = re.fullmatch(r"top1_k(\d+)", metric)
    if protocol == "knn" and neighbours:
        return f"k-NN (k = {neighbours[1]}), %"
    return f"{protocol} {metric.replace('top1', 'top-1').replace('top5', 'top-5')}, %"


def _fact(row: list[Line], name: str) -> str:
    found = list(dict.fromkeys(line["model"]["facts"].get(name) for line in row))
    known = [value for value in found if value is not None]
    return ", ".join(f"{value:,}" if isinstance(value, (int, float)) else str(value) for value in known)


def _cell(row: list[Line], protocol: str, metric: str) -> str:
    """Mean over weights, each the mean over its trials; the deviation over weights, or of the trials of a single one."""
    by_weights: dict[str, list[Line]] = {}
    for line in row:
        if line["protocol"] == protocol and metric in line["values"]:
            by_weights.setdefault(line["model"]["sha256"], []).append(line["values"][metric])
    if not by_weights:
        return ""
    means = [[value["mean"] for value in found] for found in by_weights.values()]
    many = [fmean(found) for found in means] if len(means) > 1 else means[0]
    if len(many) > 1:
        return f"{fmean(many):.1f} ± {stdev(many):.1f} (n = {len(many)})"
    (only,) = next(iter(by_weights.values()))
    return f"{only['mean']:.1f}" + (f" ± {only['std']:.1f} (n = {only['n']})" if only["n"] > 1 else "")


def _caption(lines: list[Line], train: str, test: str) -> str:
    how = [
        f"{protocol}: {_settings(protocol, lines)}"
        for protocol in dict.fromkeys(line["protocol"] for line in lines)
    ]
    machines = dict.fromkeys(
        line["machine"]["gpu"] or f"{line['machine']['cpu']}, {line['machine']['cores']} cores"
        for line in lines
    )
    commits = dict.fromkeys(_commit(line) for line in lines)
    return (
        f"Features of {train}; tested on {test}. {'; '.join(how)}. n = 1 where none is given. "
        f"Measured on {'; '.join(machines)}, at commit {', '.join(commits)}."
    )


def _settings(protocol: str, lines: list[Line]) -> str:
    """The protocol's settings, which all its lines must share."""
    seen = [line["settings"] for line in lines if line["protocol"] == protocol]
    parts = []
    for name in seen[0]:
        values = list(dict.fromkeys(str(settings.get(name)) for settings in seen))
        if name in _FREE:
            continue
        if (
            len(values) > 1 and name != "precision"
        ):  # bf16 where it is faster: the features are float32 either way
            raise SeedHubError(
                f"The {protocol} results of one table were measured with different {name} ({' and '.join(values)}): "
                "keep them in two files."
            )
        parts.append(f"{name.replace('_', ' ')} {' or '.join(values).strip('[]')}")
    return ", ".join(parts)


def _images(line: Line, part: str) -> str:
    data = line["data"][part]
    split = f" {data['split']}" if data["split"] else ""
    return f"{data['source']}{split} ({data['images']:,} images)"


def _commit(line: Line) -> str:
    return (
        "unknown" if not line["commit"] else line["commit"][:10] + (" with changes" if line["dirty"] else "")
    )


if __name__ == "__main__":
    sys.exit(main())
