"""README.md of a published model: metadata the Hub reads, and text in which every number is of the run or its results."""

from __future__ import annotations

import hashlib
from typing import Any

from seed_hub.model_folder import WEIGHTS, load_model_folder
from seed_hub.project import GITHUB_REPOSITORY, HUB_ORGANISATION
from seed_hub.publishing.plots import BARS, CURVES, curves_in_words, scores_in_words
from seed_hub.publishing.publication import RESULTS, TERMS, Measured, Publication
from seed_hub.publishing.usage import blocks

TASK = "image-feature-extraction"
DIRTY = ", where + stands for changes that were not committed"


def readme(publication: Publication) -> str:
    """The card: YAML between dashes, then Markdown.

    Raises:
        SeedHubError: the model folder is not complete.
    """
    config = publication.config
    encoder = load_model_folder(publication.model, head=False)
    parameters = sum(weight.numel() for weight in encoder.backbone.parameters())
    student, side = publication.settings["student"], config["pretrained_cfg"]["input_size"][-1]
    sections = [
        _opening(publication, config, encoder.width, parameters),
        _section("Use it", _usage(publication.repository, student, encoder.width, side)),
        _section("Measured", _measured(publication)),
        _section("Recipe", _recipe(publication, config["seed_hub"])),
        _section("Cost", _cost(publication)),
        _section("Limits", _limits(publication, side)),
        _section("Licence and lineage", _lineage(publication)),
    ]
    return f"---\n{metadata(publication)}---\n\n" + "\n\n".join(sections) + "\n"


def metadata(publication: Publication) -> str:
    """The YAML block, ending in a newline."""
    from huggingface_hub import ModelCardData

    licence = publication.lineage.licence
    method = publication.settings["method"]
    tags = ["timm", "transformers"]
    tags += ["self-supervised-learning"] if publication.label_free else []
    tags += ["knowledge-distillation"] if publication.settings.get("teacher") else []
    results = [_eval_result(each) for each in publication.measured if "shortened" not in each.line]
    data = ModelCardData(
        library_name="timm",
        pipeline_tag=TASK,
        license=licence.identifier if licence.listed else "other",
        tags=[*tags, method],
        datasets=list(publication.datasets) or None,
        base_model=publication.base_model or None,
        model_name=publication.repository.partition("/")[2] if results else None,
        eval_results=results or None,
        license_name=None if licence.listed else licence.identifier,
        license_link=None if licence.listed else TERMS,
    )
    return data.to_yaml() + "\n"


def _eval_result(measured: Measured) -> Any:
    from huggingface_hub import EvalResult

    line = measured.line
    test = line["data"]["test"]
    spread = {} if line["std"] is None else {"std": line["std"]}
    return EvalResult(
        task_type=TASK,
        dataset_type=test["source"],
        dataset_name=f"{test['source']} ({test['images']:,} images)",
        dataset_split=test["split"],
        metric_type=f"{line['protocol']}_{line['metric']}",
        metric_name=f"{measured.protocol} {line['metric']}"
        + (f" ({measured.unit})" if measured.unit else ""),
        metric_value=line["mean"],
        metric_args={"n": line["n"], **spread, "images": test["fingerprint"]},
    )


def _opening(publication: Publication, config: dict[str, Any], width: int, parameters: int) -> str:
    facts, settings = config["seed_hub"], publication.settings
    teacher = facts.get("teacher")
    taught = f"distilled from `{teacher}`" if teacher else "trained by itself"
    labels = "It learnt from labels in this run" if publication.labelled else "No label was used in this run"
    if publication.teacher_labelled:
        labels += f", {'and' if publication.labelled else 'but'} its teacher had learnt from labels"
    look = [f"\n\nAt the end of the run: {publication.verdict}"] if publication.verdict else []
    return (
        f"# {publication.repository.partition('/')[2]}\n\n"
        f"A `{config['architecture']}` {taught} by the method `{settings['method']}`, made with "
        f"[{GITHUB_REPOSITORY}](https://github.com/{GITHUB_REPOSITORY}). It turns an image into an embedding and has no "
        f"classifier. {labels}.\n\n"
        f"- {parameters / 1e6:.1f} M parameters; embedding of {width} numbers\n"
        f"- trained on views of {settings['size']} px; mean {config['pretrained_cfg']['mean']}, std "
        f"{config['pretrained_cfg']['std']}\n"
        f"- `{WEIGHTS}` sha256 `{hashlib.sha256(publication.weights).hexdigest()}`" + "".join(look)
    )


def _usage(repository: str, student: str, width: int, side: int) -> str:
    parts = [
        f"### {title}\n\n```python\n{code}```" for title, code in blocks(repository, student, width, side)
    ]
    if repository.startswith(f"{HUB_ORGANISATION}/"):
        name = repository.partition("/")[2]
        here = f'timm.create_model("local-dir:model_cards/{name}", pretrained=True)'
        parts.insert(
            0, f"A checkout of {GITHUB_REPOSITORY} holds these weights, and needs no network: `{here}`."
        )
    return "\n\n".join(parts)


def _measured(publication: Publication) -> str:
    if not publication.measured:
        return "These weights have not been measured yet."
    rows = [_row(each) for each in publication.measured]
    head = "| protocol | metric | value | test images | side | others, measured alike |\n|---|---|---|---|---|---|\n"
    closed = [
        f"{_short(each)} {each.gap_closed:.1%}"
        for each in publication.measured
        if each.gap_closed is not None
    ]
    gap = "Gap closed, of the way from this network trained without a teacher to the teacher: "
    picture = f"![{scores_in_words(publication.measured)}]({BARS})"
    parts = [
        head + "\n".join(rows),
        _notes(publication.measured),
        f"{gap}{'; '.join(closed)}." if closed else "",
        publication.published,
        picture,
    ]
    return "\n\n".join(part for part in parts if part)


def _short(measured: Measured) -> str:
    """Protocols that are told apart by their images are called by them."""
    line = measured.line
    return line["data"]["test"]["source"] if line["protocol"] == "transfer" else measured.protocol


def _notes(measured: tuple[Measured, ...]) -> str:
    """What the signs of the table mean."""
    notes = [f"Every line, with its settings, machine and commit, is in `{RESULTS}`."]
    if any(each.line.get("interval") for each in measured):
        notes.append("In brackets: 95 % interval over the test images.")
    if any("shortened" in each.line for each in measured):
        notes.append("†: not the whole measurement; it was shortened to fit a time.")
    other = {f"{each.protocol}: {each.departures}" for each in measured if each.departures}
    if other:
        notes.append(f"\\*: with other settings than the protocol's own ({'; '.join(sorted(other))}).")
    return " ".join(notes)


def _row(measured: Measured) -> str:
    line = measured.line
    test = line["data"]["test"]
    value = f"{line['mean']:.2f} {measured.unit}".strip()
    if line.get("interval"):
        value += " [{:.2f}, {:.2f}]".format(*line["interval"])
    elif line["std"] is not None:
        value += f" ± {line['std']:.2f} (n = {line['n']})"
    cells = [
        measured.protocol + (" \\*" if measured.departures else ""),
        line["metric"],
        value + (" †" if "shortened" in line else ""),
        f"{test['images']:,} of {test['source']} {test['split'] or ''}".strip(),
        f"{line['settings']['size']} px" if line["settings"].get("size") else "",
        "; ".join(f"{name} {other:.2f}" for name, other, _ in measured.beside) or "none",
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _recipe(publication: Publication, facts: dict[str, Any]) -> str:
    settings = {
        name: value for name, value in publication.settings.items() if value not in ("", None, [], ())
    }
    table = "| setting | value |\n|---|---|\n" + "\n".join(
        f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in settings.items()
    )
    packages = (publication.environment.get("packages") or {}).items()
    versions = ", ".join(f"{name} {version}" for name, version in packages if version)
    commit = publication.environment.get("commit")
    origin = [
        f"Made with {versions}" if versions else "",
        f"Code at commit `{commit}`{DIRTY if commit.endswith('+') else ''}" if commit else "",
        f"Script `{publication.script}`" if publication.script else "",
        f"Training images of fingerprint `{publication.fingerprint}`" if publication.fingerprint else "",
    ]
    made = "\n".join(f"- {part}" for part in origin if part)
    seen = f"These weights had seen {facts['images_seen']:,} views" if facts.get("images_seen") else ""
    if seen:
        seen += f" of the {publication.images_seen:,} of the whole run; they are those that its held-out images chose."
        if start := publication.settings.get("start"):
            seen += f" It went on from `{start}`, whose own images and hours come on top of those told here."
    command = publication.command
    if command and publication.script:
        command = f"python {publication.script} {command.partition(' ')[2]}"
    command = f"```sh\n{command}\n```" if command else ""
    return "\n\n".join(part for part in (command, seen, _curves(publication), table, made) if part)


def _curves(publication: Publication) -> str:
    curves = publication.curves
    if not curves:
        return ""
    notes = [f"{curve.title}: {curve.note}." for curve in curves if curve.note]
    before = publication.before
    if any(curve.first is not None for curve in curves):
        notes.append(f"Dashed: the student {before}.")
    if any(curve.marked is not None for curve in curves):
        notes.append("Ring: where these weights were saved.")
    return f"![{curves_in_words(curves, before)}]({CURVES})" + ("\n\n" + " ".join(notes) if notes else "")


def _cost(publication: Publication) -> str:
    environment = publication.environment
    cores = f", {environment['cores']} cores" if environment.get("cores") else ""
    machine = environment.get("gpu") or f"{environment.get('cpu') or 'a processor not recorded'}{cores}"
    text = f"{publication.hours:.2f} hours of training on {machine}. "
    if not publication.watts:
        return text + "Energy was not estimated: no power draw was stated."
    energy = publication.hours * publication.watts / 1000
    return (
        f"{text}About {energy:.3g} kWh, on the assumption of {publication.watts:g} W for the whole machine; "
        "the power was not measured."
    )


def _limits(publication: Publication, side: int) -> str:
    shown = "the table above" if publication.measured else "nothing yet"
    trained = publication.settings["size"]
    made_for = "" if trained == side else f" and is published for {side} px"
    points = [
        f"How good it is, is known for {shown}; other images may be another matter.",
        f"It was trained at {trained} px{made_for}: larger and smaller images are a change it was not measured for, unless the table says so.",
        "What its teacher and its images are biased to, it may be biased to as well; nobody has looked.",
        "It is not made to identify people.",
    ]
    return "\n".join(f"- {point}" for point in points)


def _lineage(publication: Publication) -> str:
    lineage = publication.lineage
    rows = [
        f"| {source.role} | {source.name} | {source.licence} | {terms.obligations} |"
        for source, terms in zip(lineage.sources, lineage.terms, strict=True)
    ]
    text = f"Licence of these weights: **{lineage.licence.identifier}**. What they were made from:\n\n"
    text += "| | name | terms | asks for |\n|---|---|---|---|\n" + "\n".join(rows)
    if lineage.override:
        asked = f"`{lineage.allowed}`" if lineage.allowed else "no licence that would satisfy all of them"
        text += (
            f"\n\n**Overridden.** These terms ask for {asked}; the publisher chose "
            f"`{lineage.licence.identifier}` and states as reason: {lineage.override}"
        )
    return text + "\n\nThe table is how this project reads the terms, and no legal advice."


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"
