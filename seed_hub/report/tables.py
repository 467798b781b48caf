"""The tables of the page: looks, cost, settings, environment, skipped images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from seed_hub.report.record import RunRecord, duration
from seed_hub.settings import Option, read_settings

SKIPPED_SHOWN = 20
PACKAGE = Path(__file__).resolve().parents[1]


def looks_table(run: RunRecord) -> str:
    """Every look at the held-out images, the best one marked."""
    columns = {
        "step": ("Step", "{:,}"),
        "images": ("Images", "{:,}"),
        "agreement": ("Agreement", "{:.1%}"),
        "cosine": ("Cosine", "{:.3f}"),
        "view_retrieval": ("View retrieval", "{:.1%}"),
        "effective_rank": ("Effective rank", "{:.1f}"),
        "accuracy": ("Accuracy", "{:.1%}"),
        "knn": ("k-NN", "{:.1f}%"),
    }
    used = [key for key in columns if any(look.get(key) is not None for look in run.looks)]
    best = run.best
    rows = []
    for look in run.looks:
        cells = [columns[key][1].format(look[key]) if look.get(key) is not None else "" for key in used]
        mark = "before" if look is run.first else "best" if look is best else ""
        rows.append((mark, [*cells, run.before if look is run.first else mark]))
    return _table([*(columns[key][0] for key in used), ""], rows, "numbers")


def cost_table(run: RunRecord) -> str:
    """What the run cost, and on what."""
    seconds, machine = run.seconds, run.environment
    rate = run.images_seen / seconds if seconds else 0.0
    rows = [
        ("Training time", duration(seconds) + (f", in {run.resumes + 1} sittings" if run.resumes else "")),
        ("Images seen", f"{run.images_seen:,}"),
        ("Speed", f"{rate:,.0f} images/s, looks at held-out images included"),
        ("Peak memory", f"{run.peak_memory_gb:.1f} GB"),
        ("Machine", machine.get("gpu") or _cpu(machine)),
    ]
    return facts_table(rows)


def _cpu(machine: dict[str, Any]) -> str:
    return f"{machine.get('cpu') or 'unknown processor'}, {machine.get('cores', '?')} cores, no GPU"


def settings_table(run: RunRecord) -> str:
    """All settings with their meaning; those that differ from their defaults stand out."""
    training = PACKAGE / "training"
    own = training / "methods" / f"{run.settings.method}.py"
    rows = _settings_rows(read_settings(training / "settings.py", "RunSettings").options, vars(run.settings))
    options = read_settings(own).options if own.exists() else ()
    rows += _settings_rows(options, run.method_settings)
    return _table(["Setting", "Value", "Meaning"], rows, "settings")


def _settings_rows(options: Sequence[Option], values: dict[str, Any]) -> list[tuple[str, list[str]]]:
    rows = []
    for option in options:
        value = values.get(option.name, option.default)
        text = "not set" if value == "" else str(value)
        rows.append(("" if value == option.default else "chosen", [option.name, text, option.help]))
    return rows


def environment_table(run: RunRecord) -> str:
    machine = run.environment
    packages = machine.get("packages", {})
    rows = [
        ("Command", " ".join(machine.get("command", []))),
        ("Commit", machine.get("commit") or "not run from a checkout"),
        ("Platform", machine.get("platform", "")),
        (
            "Processor",
            _cpu(machine) if not machine.get("gpu") else f"{machine['gpu']}, {machine.get('cpu', '')}",
        ),
        ("Python", machine.get("python", "")),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)),
    ]
    return facts_table((name, text) for name, text in rows if text)


def skipped_images(run: RunRecord) -> str:
    """How many images were left out, and the first of them with the reason."""
    if not run.skipped:
        return "<p>No image was skipped.</p>"
    count, shown = len(run.skipped), run.skipped[:SKIPPED_SHOWN]
    rows = [("", line.partition("\t")[::2]) for line in shown]
    more = f"<p>and {count - len(shown):,} more, in bad_images.txt</p>" if count > len(shown) else ""
    text = "1 image was skipped" if count == 1 else f"{count:,} images were skipped"
    return f"<p>{text}.</p>" + _table(["Image", "Reason"], rows, "settings") + more


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns: what, and how much."""
    body = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<div class=wide><table class=facts>{body}</table></div>"


def code(text: str) -> str:
    """Long names break after a slash, a colon or an underscore."""
    return "<code>" + "<wbr>".join(map(escape, re.split(r"(?<=[/:_?&])", text))) + "</code>"


def _table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], kind: str) -> str:
    """``rows`` of (class of the row, cells)."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr{f' class={name}' if name else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"<div class=wide><table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
