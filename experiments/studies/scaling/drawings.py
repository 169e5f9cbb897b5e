"""How the figures of the study are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studies.scaling.curves import NAMES, compared_windows, drift_points, frontier, ngrams, trainings
from experiments.studies.scaling.measures import BITS
from experiments.studies.scaling.options import ScalingOptions
from experiments.studies.scaling.sweep import ARCHITECTURES, NGRAM
from experiments.summary import Summary, SummaryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compute_figure", "drift_figure", "window_figure"]

GIGA = 1e9
COMPUTE = "floating-point operations of training"


def looks() -> dict[str, dict[str, Any]]:
    """Colour and marker by learner."""
    from experiments.figures import COLOURS

    return {
        "linear": {"color": COLOURS["vermilion"], "marker": "o"},
        "mlp": {"color": COLOURS["green"], "marker": "s"},
        "transformer": {"color": COLOURS["blue"], "marker": "D"},
        NGRAM: {"color": COLOURS["grey"], "marker": "^"},
    }


def bars(axes: Axes, x: Sequence[float], rows: Sequence[SummaryRow], colour: str) -> None:
    """95 % intervals."""
    mean, lower, upper = (np.array([getattr(row, name) for row in rows]) for name in ("mean", "lower", "upper"))
    ends = np.maximum(np.stack([mean - lower, upper - mean]), 0.0)
    axes.errorbar(x, mean, ends, fmt="none", ecolor=colour, elinewidth=1.2, capsize=2)


def ngram_lines(axes: Axes, summary: Summary, right: float) -> list[tuple[float, float, str, str]]:
    """Horizontal lines of the n-gram models, and the labels for their ends at ``right``."""
    colour = looks()[NGRAM]["color"]
    labels = []
    for row in ngrams(summary):
        axes.axhline(row.mean, color=colour, linestyle=":", linewidth=1.2, zorder=1)
        order = row["window"] + 1
        labels.append((right, row.mean, "unigram" if order == 1 else f"{order}-gram", colour))
    return labels


def compute_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """Held-out bits against compute: the best width of every architecture as a line, the others as faint points."""
    from experiments.figures import end_labels, new_figure

    figure, axes = new_figure(title, COMPUTE, BITS, size=(9.0, 5.2))
    labels = []
    for architecture in ARCHITECTURES:
        rows = trainings(summary, options, architecture)
        if not rows:
            continue
        look, best = looks()[architecture], frontier(summary, options, architecture)
        x, faint = [row["budget"] * GIGA for row in best], {**look, "linestyle": "", "markersize": 5}
        axes.plot([row["budget"] * GIGA for row in rows], [row.mean for row in rows], **faint, alpha=0.35)
        axes.plot(x, [row.mean for row in best], **look, markersize=7, zorder=3)
        bars(axes, x, best, look["color"])
        labels.append((x[-1], best[-1].mean, f"{NAMES[architecture]}, width {best[-1]['width']}", look["color"]))
    axes.set_xscale("log")
    if labels:
        low, high = min(options.budgets) * GIGA, max(options.budgets) * GIGA
        room = max((high / low) ** 0.36, 4.0)
        axes.set_xlim(low / 1.3, high * room)
        end_labels(axes, [*labels, *ngram_lines(axes, summary, high * room)])
    return figure


def window_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """Held-out bits against the window, at one width and budget."""
    from experiments.figures import end_labels, log2_axis, new_figure

    figure, axes = new_figure(title, "characters that the predictor sees", BITS, size=(8.2, 4.8))
    windows = sorted(options.windows)
    log2_axis(axes, windows)
    labels = []
    for architecture in ("linear", "mlp"):
        rows = compared_windows(summary, options, architecture)
        if not rows:
            continue
        look, x = looks()[architecture], [row["window"] for row in rows]
        axes.plot(x, [row.mean for row in rows], **look, markersize=7)
        bars(axes, x, rows, look["color"])
        labels.append((x[-1], rows[-1].mean, NAMES[architecture], look["color"]))
    models = [row for row in ngrams(summary) if row["window"] > 0]
    if models:
        look = looks()[NGRAM]
        x = [row["window"] for row in models]
        axes.plot(x, [row.mean for row in models], **look, linestyle=":", markersize=6)
        labels.append((x[-1], models[-1].mean, "n-gram", look["color"]))
    seen = [*windows, *(row["window"] for row in models)]
    axes.set_xlim(min(seen) / 1.1, max(seen) * 1.35)
    end_labels(axes, labels)
    return figure


def drift_figure(summary: Summary, options: ScalingOptions, title: str) -> Figure:
    """When the text written drifts from the expert's, against the held-out bits; a point for every training."""
    from experiments.figures import log2_axis, new_figure

    figure, axes = new_figure(
        title, BITS, "characters written until the distance\nto the expert's text passes 1", size=(8.6, 5.0)
    )
    budgets = sorted(options.budgets)
    sizes = dict(zip(budgets, np.linspace(5, 12, len(budgets)), strict=True))
    found = {learner: drift_points(summary, options, learner) for learner in (NGRAM, *ARCHITECTURES)}
    for learner, points in found.items():
        look = {**looks()[learner], "linestyle": ""}
        for bits, passed in points:
            size = sizes.get(bits["budget"], 8)
            axes.plot([bits.mean], [passed.mean], **look, markersize=size, markeredgecolor="white", zorder=3)
            axes.plot([bits.mean] * 2, [passed.lower, passed.upper], color=look["color"], linewidth=1.2)
            if learner == NGRAM:
                words = "unigram" if bits["window"] == 0 else f"{bits['window'] + 1}-gram"
                axes.annotate(
                    words,
                    (bits.mean, passed.mean),
                    xytext=(8, 6),
                    textcoords="offset points",
                    color=look["color"],
                    fontsize=9,
                )
        if points and learner != NGRAM:
            axes.plot([], [], **look, markersize=8, label=NAMES[learner])
    if axes.get_legend_handles_labels()[0]:
        legend_title = f"larger: more compute ({budgets[0]} to {budgets[-1]} GFLOP)"
        axes.legend(loc="upper right", title=legend_title, fontsize=10, title_fontsize=9)
        top = max(passed.top for points in found.values() for _, passed in points)
        log2_axis(axes, [2.0**k for k in range(-2, 10) if 2.0**k < 2 * top], which="y")
        axes.set_ylim(0.6, 1.4 * top)
    return figure
