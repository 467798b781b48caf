"""The demo's picture: how each network does, and whom two of them think alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from torch import Tensor

    from seed_hub.demo import Row
    from seed_hub.demo.digits import Digits

QUERIES, SHOWN = 6, 5  # test digits, and neighbours of each
RIGHT, WRONG, GREY = "#0b7a75", "#e07a5f", "#63656e"


def draw(rows: list[Row], features: dict[str, tuple[Tensor, Tensor]], digits: Digits, seed: int) -> Figure:
    """Accuracies as bars; beside them test digits with their nearest neighbours, by both students."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), facecolor="white")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.75), wspace=0.02)
    left, right = halves
    _bars(left, rows)
    _neighbours(right, features, digits, seed)
    return figure


def _bars(figure: SubFigure, rows: list[Row]) -> None:
    colours = {"untrained": "#c9c6bd", "alone": "#8fa3b8", "distilled": RIGHT, "teacher": "#3b3f46"}
    axes = figure.add_axes((0.24, 0.08, 0.7, 0.72))
    axes.barh(
        [row.name for row in rows],
        [row.accuracy for row in rows],
        color=[colours[r.name] for r in rows],
        height=0.68,
    )
    for place, row in enumerate(rows):
        axes.text(
            row.accuracy - 1.5,
            place,
            f"{row.accuracy:.1f} %",
            ha="right",
            va="center",
            color="white",
            weight="bold",
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=12)
    axes.spines[:].set_visible(False)
    figure.text(0.03, 0.93, "Digits, learned without labels", size=15, weight="bold", va="center")
    figure.text(0.03, 0.86, "k-NN accuracy on test digits", size=10.5, color=GREY, va="center")


def _neighbours(
    figure: SubFigure, features: dict[str, tuple[Tensor, Tensor]], digits: Digits, seed: int
) -> None:
    import numpy as np

    from seed_hub.eval.knn import neighbours

    queries = np.random.default_rng(seed).choice(len(digits.test), QUERIES, replace=False)
    grid = {"left": 0.03, "right": 0.99, "bottom": 0.04, "top": 0.8, "wspace": 0.08, "hspace": 0.16}
    widths = [1, 0.35, *[1] * SHOWN, 0.35, *[1] * SHOWN]
    axes = figure.subplots(QUERIES, len(widths), gridspec_kw=grid | {"width_ratios": widths})
    for ax in axes.flat:
        ax.set_axis_off()
    for line, query in enumerate(queries):
        _digit(axes[line, 0], digits.test.load(int(query)))
    for first, name in ((2, "alone"), (3 + SHOWN, "distilled")):
        bank, tested = features[name]
        _, found = neighbours(bank, tested[queries], SHOWN)  # [Q, k]
        for line, query in enumerate(queries):
            for place, index in enumerate(found[line].tolist()):
                same = bool(digits.train_labels[index] == digits.test_labels[query])
                _digit(axes[line, first + place], digits.train.load(index), RIGHT if same else WRONG)
        axes[0, first].set_title(f"nearest, {name}", loc="left", size=10.5, color=GREY)
    figure.text(0.03, 0.93, "Test digits and their nearest neighbours", size=15, weight="bold", va="center")
    axes[0, 0].set_title("digit", loc="left", size=10.5, color=GREY)
    figure.text(0.99, 0.93, "queries drawn at random", size=10.5, color=GREY, ha="right", va="center")


def _digit(axes: Any, image: Any, frame: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    if frame:
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=frame, linewidth=2.5)
