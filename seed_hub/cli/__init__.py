"""The command line: ``seed-hub COMMAND ...``.

This file starts, and turns what goes wrong into one sentence; each command is a function ``(words after it) -> facts``
in a file of this folder, imported when it is asked for (a fact "status" is the exit status, else 0). Nothing here
imports torch: ``list`` and ``--help`` answer at once. Results go to stdout, everything else to stderr.

Exit status: 0; 1 for what should not happen; 2 for bad input, a full disk and the like; 130 when interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from seed_hub.cli.terminal import is_first_process, say, show, table
from seed_hub.errors import SeedHubError, nearest

__all__ = ["main"]

# word: (file, function, summary)
COMMANDS = {
    "list": ("zoo", "list_models", "the students there are: sizes, weights"),
    "info": (
        "zoo",
        "info",
        "one student: sizes, input, licence, measured scores; or what will be used of a teacher",
    ),
    "demo": ("pages", "demo", "the paper in five minutes, offline"),
    "doctor": ("doctor", "doctor", "what this machine can do, what is missing"),
    "distill": ("train", "distill", "train a student, without labels, from a teacher"),
    "pretrain": ("train", "pretrain", "train a student, without labels, by itself"),
    "cache": ("cache", "cache", "store what a teacher says of every view, once for many runs of distill"),
    "simclr2": ("simclr2", "simclr2", "train a classifier from few labels: pretrain, fine-tune, distill"),
    "eval": (
        "evaluate",
        "evaluate",
        "measure a model by a protocol, or by several beside other models (all)",
    ),
    "embed": ("embed", "embed", "write the embeddings of images to a file"),
    "pack": ("pack", "pack", "images decoded and shrunk once, into a store that is read fast"),
    "bench": ("bench", "bench", "how long a step takes, stage by stage, and how far it is from the limit"),
    "export": ("export", "export", "a model as a file for a device (ONNX, ...), compared with the model"),
    "convert": ("convert", "convert", "a published checkpoint as a model folder, without running its code"),
    "card": ("publish", "card", "write the Hugging Face page of a run, without network"),
    "push": ("publish", "push", "publish a run on the Hugging Face Hub"),
    "report": ("pages", "report", "one self-contained HTML page about a run"),
}

# Read by the libraries when they are imported, and by worker processes, which may not inherit the warning filters.
_QUIET = {
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
}

# What takes less memory, by flags that the command has.
_SMALLER = {
    **dict.fromkeys(
        ("distill", "pretrain", "cache", "simclr2"),
        "lower --batch-size or --size, or split each batch with --accumulate",
    ),
    **dict.fromkeys(("eval", "embed", "bench"), "lower --batch-size or --size"),
    "export": "lower --size",
}

EPILOG = "`seed-hub COMMAND --help` documents every flag of a command, with its unit and its default."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is returned."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = "--debug" in words, "--json" in words
    try:
        with _quiet(debug):
            result = _run(words)
        if as_json:
            show(json.dumps(result, default=str))
        sys.stdout.flush()
        return int(result.get("status", 0))
    except SystemExit as stop:  # argparse, after --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # The reader of stdout has gone (`seed-hub list | head -1`). Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "Interrupted.", 130, stop, debug, as_json)
    except SeedHubError as error:
        return _fail(_sentence(error), 2, error, debug, as_json)
    except OSError as error:
        return _fail(_os_sentence(error, words), 2, error, debug, as_json)
    except Exception as error:
        return _fail(_unexpected(error, words), 1, error, debug, as_json)


def _run(words: list[str]) -> dict[str, Any]:
    command, *rest = words or ["--help"]
    if command in ("-h", "--help", "help"):
        show(_overview())
        return {"commands": list(COMMANDS)}
    if command in ("-V", "--version"):
        from seed_hub import __version__

        show(f"seed-hub {__version__}")
        return {"version": __version__}
    if command not in COMMANDS:
        raise SeedHubError(
            f'There is no command "{command}"; there are: {", ".join(COMMANDS)}.' + nearest(command, COMMANDS)
        )
    file, function, _ = COMMANDS[command]
    run: Callable[[list[str]], dict[str, Any]] = getattr(import_module(f"seed_hub.cli.{file}"), function)
    return run(rest)


def _overview() -> str:
    rows = [("  " + word, summary) for word, (_, _, summary) in COMMANDS.items()]
    return f"usage: seed-hub COMMAND [flags]\n\n{table(rows)}\n\n{EPILOG}"


@contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Our own log goes to stderr; what libraries warn of is for developers, and shown with ``--debug`` only."""
    ours, handler = logging.getLogger("seed_hub"), _Say()
    ours.addHandler(handler)
    last_resort = logging.lastResort
    added = {} if debug else {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with warnings.catch_warnings():
            if not debug:
                logging.lastResort = logging.NullHandler()  # type: ignore[assignment]
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.removeHandler(handler)
        logging.lastResort = last_resort
        for name in added:
            os.environ.pop(name, None)


class _Say(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _fail(text: str, status: int, error: BaseException, debug: bool, as_json: bool) -> int:
    if debug:
        traceback.print_exception(error)
    rank = "" if is_first_process() else f" (process {os.environ['RANK']})"
    print(f"seed-hub{rank}: {text}", file=sys.stderr, flush=True)
    if as_json:
        show(json.dumps({"error": text, "status": status}))
    return status


def _sentence(error: BaseException) -> str:
    """The text of an error; of one that came from a worker process, its last line, without the traceback around it."""
    text = str(error).strip()
    if "Original Traceback" in text:
        text = text.splitlines()[-1].partition("SeedHubError: ")[2] or text.splitlines()[-1]
    return text


def _os_sentence(error: OSError, words: list[str]) -> str:
    where = f" {error.filename}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return (
            f"The disk is full{where and ' at' + where}: free some space, or write somewhere else with --out."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}:{where}: choose a place you may write to, or change its permissions."
    if error.strerror:
        return f"{error.strerror}{where and ':' + where}."
    return _unexpected(error, words)


def _no_memory(text: str) -> bool:
    """torch's words on Windows and on Linux, and those of a loader whose process the system has ended."""
    return any(words in text for words in ("not enough memory", "can't allocate memory", "by signal: Killed"))


def _unexpected(error: Exception, words: list[str]) -> str:
    kind, lines = type(error).__name__, str(error).strip().splitlines()
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError) or _no_memory(str(error)):
        todo = _SMALLER.get("".join(words[:1]), "close other programs, or take a machine with more of it")
        return f"Out of memory: {todo}."
    reason = f": {lines[-1 if 'Original Traceback' in str(error) else 0][:200]}" if lines else ""
    return f"{kind}{reason} (unexpected: run again with --debug for the traceback)."
