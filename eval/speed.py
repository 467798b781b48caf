"""The tables of docs/performance.md: what `seed-hub bench` measured, beside what was aimed at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval.markdown import table

Line = dict[str, Any]


@dataclass(frozen=True)
class Bar:
    """An aim: a ratio of the measurement called ``label``."""

    what: str
    label: str
    ratio: str
    aim: float
    at_most: bool = False


BARS = (
    Bar("ResNet-50, 224 px, JPEG files: reference / live", "r50_224", "reference/live", 3.8),
    Bar("the same, cached", "r50_224", "reference/cached", 5.5),
    Bar("ResNet-152, 224 px, JPEG files: reference / live", "r152_224", "reference/live", 4.5),
    Bar("the same, cached", "r152_224", "reference/cached", 8.5),
    Bar("ResNet-50, 64 px, packed store: reference / live", "r50_64", "reference/raw", 2.8),
    Bar("the same, cached", "r50_64", "reference/raw_cached", 4.0),
    Bar(
        "ResNet-50, 224 px, JPEG files, no AMX: reference / live",
        "r50_224_without_amx",
        "reference/live",
        1.6,
    ),
    Bar("the same, cached", "r50_224_without_amx", "reference/cached", 3.8),
    Bar("cached / student alone, 224 px, packed store", "r50_224", "raw_cached/floor", 1.2, at_most=True),
    Bar("cached / student alone, 64 px, packed store", "r50_64", "raw_cached/floor", 1.2, at_most=True),
    Bar("three students together / three runs, 224 px", "together", "together/alone", 0.62, at_most=True),
)


def bars_table(lines: list[Line]) -> str:
    """A row for each of :data:`BARS`; the last measurement of a label counts."""
    last = _by_label(lines)
    body = []
    for bar in BARS:
        found = last.get(bar.label, {}).get("ratios", {}).get(bar.ratio)
        met = (
            ""
            if found is None
            else "yes"
            if (found <= bar.aim if bar.at_most else found >= bar.aim)
            else "no"
        )
        aim = f"{'at most' if bar.at_most else 'at least'} {bar.aim:g}"
        body.append([bar.what, aim, "" if found is None else f"{found:.2f}", met])
    return table(["step", "aim", "measured", "met"], body)


def stages_table(lines: list[Line], labels: list[str]) -> str:
    """Milliseconds, their spread and the peak memory of all that the measurements ``labels`` took the time of."""
    last = _by_label(lines)
    cases = [last[label] for label in labels if label in last]
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"]))
    body = [[name, *(_cell(case, name) for case in cases)] for name in names]
    reached = [f"{case['gflops']['fp32']:.0f}, {case['gflops']['bf16']:.0f}" for case in cases]
    for name in ("live", "cached"):
        shares = [case.get("of_limit", {}).get(name) for case in cases]
        if any(shares):
            words = ["" if share is None else f"{share:.0%}" for share in shares]
            body.append([f"{name}: share of its time that arithmetic and memory would take", *words])
    body.append(["GFLOP/s of products in float32, bf16", *reached])
    heads = ["ms (spread), peak MB", *(label for label in labels if label in last)]
    return f"{table(heads, body)}\n\n{_caption(cases)}"


def _cell(case: Line, name: str) -> str:
    if name not in case["seconds"]:
        return ""
    peak = case["peak_mb"].get(name)
    memory = "" if peak is None else f", {peak:.0f} MB"
    return f"{1000 * case['seconds'][name]:.0f} ({case['spread'][name]:.0%}){memory}"


def _caption(cases: list[Line]) -> str:
    turns = sorted({len(taken) for case in cases for taken in case["turns"].values()})
    return f"Medians of {', '.join(map(str, turns))} turns; spread: (slowest - fastest) / median. {_where(cases)}"


def _where(lines: list[Line]) -> str:
    """Machine, versions and commits of ``lines``; all of them were measured with one thread."""
    machines = sorted({f"{line['machine']['cpu']}, 1 thread" for line in lines})
    versions = sorted(
        {f"torch {line['versions']['torch']}, timm {line['versions']['timm']}" for line in lines}
    )
    commits = sorted({(line["commit"] or "")[:10] for line in lines})
    return f"{'; '.join(machines)}; {'; '.join(versions)}; commit {', '.join(commits)}."


INPUT_AIMS = {(224, "files"): 3, (224, "jpeg"): 8, (224, "raw"): 15, (64, "jpeg"): 18, (64, "raw"): 35}


def input_table(lines: list[Line]) -> str:
    """Times faster than the reference, for each size of view and store."""
    last = {line["settings"]["size"]: line for line in lines}
    body = []
    for size, line in sorted(last.items(), reverse=True):
        images = line["settings"]["images"]
        for name, ratio in line["ratios"].items():
            aim = INPUT_AIMS.get((size, name))
            per_second = f"{images / line['seconds'][name]:,.0f}"
            stored = f" (short side {line['settings']['store_side']} px)" if name in ("jpeg", "raw") else ""
            what = "Pillow, torchvision" if name == "reference" else f"{name}{stored}"
            body.append([f"{size} px", what, per_second, f"{ratio:.1f}", f"{aim}" if aim else ""])
    shown = table(["view", "read from", "images/s and core", "times the reference", "aim"], body, words=2)
    return f"{shown}\n\n{_where(list(last.values()))}"


QUEUE_AIMS = {
    ("reference_time_over_ours", 256, "fp32"): "at least 5",
    ("reference_time_over_ours", 1024, "bf16"): "at least 15",
    ("our_extra_memory_over_reference", 256, "fp32"): "at most 0.05",
    ("extra_memory_long_queue_over_short", 256, "fp32"): "at most 1.1",
}
_QUEUE_WORDS = {
    "reference_time_over_ours": "reference time / ours",
    "our_extra_memory_over_reference": "our extra memory / reference's",
    "extra_memory_long_queue_over_short": "extra memory, K 1,048,576 / 65,536",
}


def queue_table(lines: list[Line]) -> str:
    """A row per case of the queue loss."""
    last = {_queue_case(line): line for line in lines}
    body = []
    for (metric, batch, precision, flush), line in last.items():
        what = _QUEUE_WORDS[metric] + (", denormals flushed in both" if flush else "")
        aim = "" if flush else QUEUE_AIMS.get((metric, batch, precision), "")
        body.append([what, f"{batch:,}", precision, f"{line['value']:.3g}", aim])
    shown = table(["", "batch", "precision", "measured", "aim"], body)
    return f"{shown}\n\n{_where(list(last.values()))}"


def _queue_case(line: Line) -> tuple[str, int, str, bool]:
    settings = line["settings"]
    return line["metric"], settings["batch"], settings["precision"], settings.get("flush_denormal", False)


def peers_table(lines: list[Line]) -> str:
    """Each peer's time for an image beside ours, as last measured."""
    if not lines:
        return "No results yet."
    line = lines[-1]
    own = line["seconds_per_image"]["ours"]
    body = [
        [line["peers"][name], f"{1000 * taken:.0f}", f"{taken / own:.1f}"]
        for name, taken in line["seconds_per_image"].items()
    ]
    settings = line["settings"]
    about = (
        f"{settings['teacher']} -> {settings['student']}, {settings['size']} px, batch {settings['batch']}"
    )
    return f"{table([about, 'ms an image', 'times ours'], body)}\n\n{_where([line])}"


def exports_table(lines: list[Line]) -> str:
    """What int8 files lose: a row for each model and format, as last measured."""
    last = {(line["model"], line["format"]): line for line in lines if line["int8"]}
    body = []
    for line in last.values():
        int8, knn = line["int8"], line["int8"]["knn"]
        low, high = knn["interval"]
        float_layers = len(int8["choice"]["in_float"])
        body.append(
            [
                f"`{line['model'].removeprefix('seed:')}`",
                line["format"],
                f"{float_layers} of {int8['choice']['products']}",
                f"{line['size_mb']:.1f}",
                f"{int8['cosine']:.4f}",
                f"{knn['before']:.1f}",
                f"{knn['after']:.1f}",
                f"{knn['drop']:.2f} ({low:.2f} to {high:.2f})",
            ]
        )
    head = [
        "model",
        "format",
        "layers in float",
        "MB",
        "mean cosine",
        "k-NN, %",
        "in int8, %",
        "drop, points (95 %)",
    ]
    images = sorted({f"{line['int8']['images']:,} images of {line['compared_on']}" for line in last.values()})
    calibrated = sorted({str(line["int8"]["calibrated_on"]) for line in last.values()})
    where = f"k-NN leave-one-out on {', '.join(images)}; calibrated on {', '.join(calibrated)} others."
    return f"{table(head, body, words=2)}\n\n{where} {_where(list(last.values()))}"


def _by_label(lines: list[Line]) -> dict[str, Line]:
    return {line["settings"]["label"]: line for line in lines}
