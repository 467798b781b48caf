"""Write the tables of the Markdown files from ``eval/results/*.jsonl``; no number is typed by hand.

    python eval/tables.py                  rewrite README.md, eval/README.md, docs/ and the model cards
    python eval/tables.py --check          change nothing; exit with 1 if a table is not what the results say
    python eval/tables.py notes.md         these files instead

What is written stands between the lines ``<!-- KIND:NAME words -->`` and ``<!-- /KIND -->`` and is made of ``eval/results/NAME.jsonl``:

- ``results:NAME [PROTOCOL ...]``: a row per model and input size, a column per protocol, mode and test images. Where a row
  was trained several times (several weights), or a protocol ran several trials, it shows mean ± standard deviation and n.
  A measurement that was repeated counts once, the last time.
- ``commands:NAME``: the command of each column.
- ``zoo:NAME PROTOCOL METHOD TEACHER [METHOD ...]``: a row per student, untrained, alone, with labels and distilled
  (``METHOD_student``), how much of the gap from alone to TEACHER it closes, and distilled by further methods; what is
  published stands in ``published/seed.jsonl``.
- ``labels:NAME METHOD ...``: the students again, fine-tuned on a share of the labels, from scratch and distilled.
- ``weights:NAME PROTOCOL ...``: a row per released weight.
- ``bars:NAME``, of ``eval/results/speed/`` as those below: what `seed-hub bench` measured, beside what is aimed at.
- ``speed:NAME LABEL ...``: the times of those measurements.
- ``scaling:NAME LABEL ...``, ``traffic:NAME LABEL``: what many devices would cost, by those measurements.
- ``input:NAME``, ``queue:NAME``, ``peers:NAME``: what the scripts ``training/bench_*.py`` measured.
- ``methods:NAME``: the methods, the best first, with what each costs by ``cost/methods.jsonl``.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs from a checkout that is not installed

from eval.by_protocol import caption, commands, results_table  # noqa: E402
from eval.columns import by_column, latest  # noqa: E402
from eval.compared import methods_table  # noqa: E402
from eval.scaling import scaling_table, traffic_table  # noqa: E402
from eval.speed import bars_table, exports_table, input_table, peers_table, queue_table, stages_table  # noqa: E402
from eval.zoo import few_labels_table, weights_table, zoo_table  # noqa: E402
from seed_hub.errors import SeedHubError  # noqa: E402
from seed_hub.eval.results_file import results  # noqa: E402
from seed_hub.weights import WEIGHTS  # noqa: E402

RESULTS = ROOT / "eval" / "results"
COSTS = "cost/methods.jsonl"
SPEED = "speed"  # lines of another kind, which no evaluation wrote
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
    marks = re.findall(rf"^<!-- /?(?:{_KINDS})\b", text, re.MULTILINE)
    if len(marks) != 2 * len(_BLOCK.findall(text)):
        raise SeedHubError(
            f"{where} has a block that is not closed: end each <!-- results:NAME --> line with a later <!-- /results -->, "
            "and those of other kinds alike."
        )

    def block(match: re.Match[str]) -> str:
        start, kind, name, words, _, end = match.groups()
        path = (folder / SPEED if kind in _OF_SPEED else folder) / f"{name}.jsonl"
        if not path.exists():
            raise SeedHubError(
                f"{where} shows {kind}:{name}, but there is no file {path.name} in the results."
            )
        return f"{start}{_WRITERS[kind](results(path), words.split(), folder)}\n{end}"

    return _BLOCK.sub(block, text)


def _methods(lines: list[Line], words: list[str], folder: Path) -> str:
    if not lines:
        return "No results yet."
    return f"{methods_table(lines, results(folder / COSTS))}\n\n{caption(by_column(latest(lines)))}"


Writer = Callable[[list[Line], list[str], Path], str]
_OF_EVALUATION: dict[str, Writer] = {
    "results": lambda lines, words, folder: results_table(lines, words),
    "commands": lambda lines, words, folder: commands(lines),
    "zoo": zoo_table,
    "labels": lambda lines, words, folder: few_labels_table(lines, words),
    "weights": lambda lines, words, folder: weights_table(lines, words, WEIGHTS),
    "methods": _methods,
}
_OF_SPEED: dict[str, Writer] = {
    "bars": lambda lines, words, folder: bars_table(lines),
    "speed": lambda lines, words, folder: stages_table(lines, words),
    "scaling": lambda lines, words, folder: scaling_table(lines, words),
    "traffic": lambda lines, words, folder: traffic_table(lines, words),
    "input": lambda lines, words, folder: input_table(lines),
    "queue": lambda lines, words, folder: queue_table(lines),
    "peers": lambda lines, words, folder: peers_table(lines),
    "exports": lambda lines, words, folder: exports_table(lines),
}
_WRITERS = _OF_EVALUATION | _OF_SPEED
_KINDS = "|".join(_WRITERS)
# <!-- KIND:FILE words -->, rewritten, <!-- /KIND -->
_BLOCK = re.compile(
    rf"^(<!-- ({_KINDS}):([\w.-]+) ?([^\n]*?) -->\n)(.*?)^(<!-- /\2 -->)$", re.DOTALL | re.MULTILINE
)


if __name__ == "__main__":
    sys.exit(main())
