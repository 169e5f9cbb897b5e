"""One style for all figures: colours by learner, labels on the lines, and files that are the same every time.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers; a learner has the same one everywhere.
Figures are made without pyplot, so no window system and no global state is involved.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from experiments.summary import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "LineStyle",
    "end_labels",
    "learner_style",
    "new_figure",
    "new_panels",
    "plot_series",
    "render",
    "spread",
    "styled",
]

COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#6E6E6E",
}

STYLE: dict[str, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.hashsalt": "ntp-envs",
    "svg.fonttype": "path",
}


class LineStyle(NamedTuple):
    """How a learner is drawn, in every figure."""

    colour: str
    marker: str = "o"
    dashes: str = "-"


_STYLES = {
    "log-loss": LineStyle(COLOURS["vermilion"], "o"),
    "smoothed 1/(nH)": LineStyle(COLOURS["orange"], "v", "--"),
    "smoothed 1/H": LineStyle(COLOURS["orange"], "^", ":"),
    "layerwise": LineStyle(COLOURS["purple"], "X", "--"),
    "layerwise, random ties": LineStyle(COLOURS["purple"], "x", ":"),
    "rho": LineStyle(COLOURS["blue"], "s"),
    "rho psi": LineStyle(COLOURS["sky"], "D", "--"),
    "best in class": LineStyle(COLOURS["black"], "", "--"),
}
_CHUNKED = LineStyle(COLOURS["green"], "o")
_CHUNK_KR = LineStyle("#8E3B73", "P")  # a darker purple than that of the layerwise learner
_IMPROPER = LineStyle(COLOURS["grey"], "", ":")


def learner_style(learner: str) -> LineStyle:
    """Colour, marker and dashes of a learner; all chunked rho share one, all ChunkKR another; unknown ones are grey."""
    if learner.startswith("chunked"):
        return _CHUNKED
    if learner.startswith("ChunkKR"):
        return _CHUNK_KR
    if learner.startswith("improper"):
        return _IMPROPER
    return _STYLES.get(learner, LineStyle(COLOURS["grey"], "x", "-."))


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and rendered inside have the shared style."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        for name, value in STYLE.items():
            matplotlib.rcParams[name] = value  # type: ignore[index]
        yield


def new_figure(title: str, xlabel: str, ylabel: str, *, size: tuple[float, float] = (7.2, 4.4)) -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    return figure, axes


def new_panels(
    title: str, xlabels: Sequence[str], ylabel: str, *, size: tuple[float, float] = (11.0, 4.4), share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side that share their y axis (unless ``share`` is false), one for each x label."""
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    panels = list(figure.subplots(1, len(xlabels), sharey=share, squeeze=False)[0])
    for axes, xlabel in zip(panels, xlabels, strict=True):
        axes.set_xlabel(xlabel)
    panels[0].set_ylabel(ylabel)
    return figure, panels


def plot_series(axes: Axes, series: Series, learner: str, **changes: Any) -> None:
    """A line with its interval as a band, in the learner's style."""
    if not len(series.x):
        return
    style = learner_style(learner)
    look: dict[str, Any] = {"color": style.colour, "marker": style.marker, "linestyle": style.dashes, **changes}
    axes.plot(series.x, series.mean, **look)
    if series.sampled:
        axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.22, linewidth=0)
        say_band(axes)


def say_band(axes: Axes, at: str = "each point") -> None:
    """Under the x axis, once: what the bands are."""
    label, words = axes.get_xlabel(), f"bands: 95 % at {at}"
    if words not in label:
        axes.set_xlabel(f"{label}\n({words})")


def log2_axis(axes: Axes, values: Sequence[float], *, which: str = "x") -> None:
    """A logarithmic axis whose ticks are these values, written out."""
    getattr(axes, f"set_{which}scale")("log", base=2)
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks(list(values), labels=[f"{value:g}" for value in values])
    axis.set_ticks([], minor=True)


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]], *, gap: float = 1.25) -> None:
    """Text to the right of the last point of each line, moved apart where two would overlap.

    Args:
        axes: with its lines drawn and its scales and limits set.
        labels: ``(x, y, text, colour)`` of each.
        gap: least distance between two baselines, in font heights.
    """
    labels = [label for label in labels if np.isfinite(label[:2]).all()]
    if not labels:
        return
    figure = axes.figure
    FigureCanvasAgg(figure)  # type: ignore[arg-type]
    figure.draw_without_rendering()  # type: ignore[union-attr]
    height = matplotlib.rcParams["font.size"] * figure.dpi / 72 * gap
    wanted = np.array([axes.transData.transform((x, y))[1] for x, y, *_ in labels])
    placed = spread(wanted, height)
    for (x, y, text, colour), at, was in zip(labels, placed, wanted, strict=True):
        axes.annotate(
            text,
            (x, y),
            xytext=(9, (at - was) * 72 / figure.dpi),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            fontsize=10,
            annotation_clip=False,
        )


def spread(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Positions nearest to ``wanted`` (least squares) in the same order and at least ``gap`` apart."""
    order = np.argsort(wanted, kind="stable")
    shifted = wanted[order] - gap * np.arange(len(wanted))
    blocks: list[list[float]] = []  # pool adjacent violators: [mean, size]
    for value in shifted:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, size = blocks.pop()
            last = blocks[-1]
            last[0], last[1] = (last[0] * last[1] + mean * size) / (last[1] + size), last[1] + size
    flat = np.concatenate([np.full(int(size), mean) for mean, size in blocks])
    placed = np.empty_like(flat)
    placed[order] = flat + gap * np.arange(len(wanted))
    return placed


def render(figure: Figure) -> tuple[bytes, bytes]:
    """The figure as PNG and as SVG bytes, without dates: the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    FigureCanvasAgg(figure).print_figure(png, format="png", metadata={"Software": None})
    FigureCanvasSVG(figure).print_figure(svg, format="svg", metadata={"Date": None, "Creator": "ntp-envs"})
    return png.getvalue(), svg.getvalue()
