"""Pieces of figures that studies share: lines with labels at their ends, and axes of factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.summary import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "DISTANCE",
    "FACTOR",
    "PURPLES",
    "Line",
    "draw_lines",
    "factor_axis",
    "log_range",
    "plain_log_axis",
    "room_for_labels",
    "shades",
    "text",
]

GREENS = ("#00402E", "#006B50", "#009E73", "#27AB85", "#4DBB98")  # chunked learners
PURPLES = ("#C58AB3", "#B06C9C", "#8E3B73", "#4A1A3B")  # ChunkKR, from small norm bounds or short chunks to large

FACTOR = "C_apx = distance to the expert / best in class"
DISTANCE = "squared Hellinger distance to the expert"


def text(learner: str) -> dict[str, Any]:
    """Style of a label that is placed by hand, in the learner's colour."""
    from experiments.figures import learner_style

    colour = learner_style(learner).colour
    return {"textcoords": "offset points", "color": colour, "fontweight": "bold", "fontsize": 10, "va": "center"}


class Line:
    """A line to draw with its label at the end."""

    def __init__(self, series: Series, learner: str, label: str, **changes: Any) -> None:
        self.series, self.learner, self.label, self.changes = series, learner, label, changes


def draw_lines(axes: Axes, lines: Sequence[Line], *, limits: Callable[[Axes], None] | None = None) -> None:
    """Lines, then limits that depend on them, then labels, which are placed for these limits."""
    from experiments.figures import end_labels, learner_style, plot_series

    shown = [line for line in lines if len(line.series.x)]
    for line in shown:
        plot_series(axes, line.series, line.learner, **line.changes)
    if limits is not None:
        limits(axes)
    ends = []
    for line in shown:
        if line.label:
            colour = line.changes.get("color", learner_style(line.learner).colour)
            ends.append((float(line.series.x[-1]), float(line.series.mean[-1]), line.label, colour))
    end_labels(axes, ends)


def room_for_labels(axes: Axes, low: float, high: float, factor: float) -> None:
    """Limits of a logarithmic x axis that leave room on the right."""
    axes.set_xlim(low / 1.15, high * factor)


def factor_axis(axes: Axes) -> None:
    """A logarithmic y axis for factors, from just below the best in class."""
    ticks = [1, 3, 10, 30, 100, 300]
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.8, 1.5 * float(axes.dataLim.y1))


def log_range(axes: Axes, axis: str = "y") -> tuple[float, float]:
    """The least and the largest number drawn that a logarithmic axis can show; intervals that reach to 0 run off it."""
    drawn = axes.dataLim
    return (drawn.minposx, drawn.x1) if axis == "x" else (drawn.minposy, drawn.y1)


def plain_log_axis(axes: Axes) -> None:
    """A logarithmic y axis that ends just outside the data, with 1, 3, 10, ... written out."""
    low, high = log_range(axes)
    axes.set_yscale("log")
    ticks = [base * 10.0**k for k in range(-9, 6) for base in (1, 3) if low / 2 < base * 10.0**k < 2 * high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low / 1.5, high * 1.5)


def shades(values: Sequence[float], ramp: Sequence[str] = GREENS) -> dict[Any, str]:
    """One hue, from the first colour of the ramp for the smallest value (shortest chunks, say) to its last."""
    picks = np.linspace(0, len(ramp) - 1, len(values)).round().astype(int)
    return {value: ramp[i] for value, i in zip(sorted(values), picks, strict=True)}
