"""A map of the held-out images: near on paper what the network finds alike, by t-SNE (van der Maaten and Hinton 2008).

Legend: N images, D width, n dots.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from seed_hub.report.held_out import HeldOut, class_name

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

MOST, LEAST = 1_500, 10  # dots
PERPLEXITY = 30.0  # about how many neighbours each dot looks at; scikit-learn's default
COLOURS = 10
SIDE, MARGIN = 360, 10  # SVG units


@dataclass(frozen=True)
class Dots:
    """Which images are drawn, and how they are coloured."""

    index: np.ndarray
    """int64 ``[n]``, into the held-out images"""
    kind: np.ndarray
    """int64 ``[n]``: 0, 1, ... for the most frequent classes; -1: another, or unknown"""
    names: list[str]
    """of the kinds from 0 on"""


def choose_dots(held_out: HeldOut, seed: int) -> Dots:
    """At most :data:`MOST` images, drawn at random, and the classes that get a colour: their most frequent ones."""
    import numpy as np

    count = len(held_out.images)
    index = np.arange(count)
    if count > MOST:
        index = np.sort(np.random.default_rng(seed).choice(count, MOST, replace=False))
    if held_out.images.labels is None:
        return Dots(index, np.full(len(index), -1), [])
    labels = np.asarray(held_out.images.labels)[index]
    values, counts = np.unique(labels, return_counts=True)
    coloured = values[np.argsort(-counts, kind="stable")][:COLOURS]
    kind = np.full(len(index), -1)
    for number, label in enumerate(coloured):
        kind[labels == label] = number
    return Dots(index, kind, [class_name(held_out.images, int(label)) for label in coloured])


def place(x: Tensor, seed: int) -> np.ndarray | None:
    """Embeddings ``[n, D]`` -> places ``[n, 2]`` by t-SNE of the directions; None if all are the same."""
    import numpy as np
    from sklearn.manifold import TSNE
    from torch.nn.functional import normalize

    directions = normalize(x.double(), dim=1).numpy()
    if np.ptp(directions, axis=0).max() < 1e-6:  # nothing to tell apart: t-SNE would divide by zero
        return None
    perplexity = min(PERPLEXITY, (len(directions) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(directions)


def draw_maps(held_out: HeldOut, seed: int) -> str:
    """Student beside teacher, and what the colours mean; empty if there are too few images for a map."""
    if len(held_out.images) < LEAST:
        return ""
    dots = choose_dots(held_out, seed)
    pairs = [("Student", held_out.student), ("Teacher", held_out.teacher)]
    figures = "".join(_figure(title, place(x[dots.index], seed), dots) for title, x in pairs if x is not None)
    return f"<div class=curves>{figures}</div>{_legend(dots)}"


def _figure(title: str, places: np.ndarray | None, dots: Dots) -> str:
    if places is None:
        text = "<p>All images have the same embedding: there is nothing to map.</p>"
        return f"<figure class=curve><figcaption><b>{title}</b></figcaption>{text}</figure>"
    low = places.min(axis=0)
    scale = (SIDE - 2 * MARGIN) / (places.max(axis=0) - low).max()
    at = MARGIN + scale * (places - low)
    at += (SIDE - MARGIN - at.max(axis=0)) / 2  # the shorter side in the middle
    paths = []
    for kind in range(-1, len(dots.names)):
        found = at[dots.kind == kind]
        if len(found):
            name = dots.names[kind] if kind >= 0 else "other classes" if dots.names else "held-out images"
            path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in found)
            paths.append(f'<path class="{_style(kind)}" d="{path}"><title>{escape(name)}</title></path>')
    label = f"Map of {len(at):,} held-out images by the {title.lower()}"
    return (
        f"<figure class=curve><figcaption><b>{title}</b></figcaption>"
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role=img aria-label="{label}">{"".join(paths)}</svg></figure>'
    )


def _style(kind: int) -> str:
    """The second half of the kinds is square: what is near in colour differs in shape."""
    if kind < 0:
        return "dots rest"
    return f"dots k{kind}{' square' if kind >= COLOURS // 2 else ''}"


def _legend(dots: Dots) -> str:
    if not dots.names:
        return ""
    kinds = list(enumerate(dots.names))
    if (dots.kind < 0).any():
        kinds.append((-1, "other classes"))
    items = "".join(
        f'<li><svg viewBox="0 0 10 10" aria-hidden=true><path class="{_style(kind)}" d="M5 5h0"/></svg>{escape(name)}</li>'
        for kind, name in kinds
    )
    return f"<ul class=legend>{items}</ul>"
