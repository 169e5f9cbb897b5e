"""How the figures of the study are drawn; what each one says is in ``catalogue``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import (
    DISTANCE,
    FACTOR,
    PURPLES,
    Line,
    draw_lines,
    factor_axis,
    room_for_labels,
    shades,
    text,
)
from experiments.learners import BEST, CHUNK_KR, CHUNKED
from experiments.studies.parity.options import ParityOptions
from experiments.studies.parity.sweep import BITS
from experiments.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["contaminated_figure", "parity_figure", "proper_figure"]

EPISODE = BITS + 1
SHOWN = ("log-loss", "smoothed 1/H", "rho")  # smoothing with 1/(nH) lies on log-loss, rho psi above rho


def parity_figure(options: ParityOptions, summary: Summary) -> Figure:
    """D_H^2 against H on the population: the whole class goes to 2, ChunkKR leaves it."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    title = "Parity is beyond the linear class: its best policy drifts to distance 2"
    figure, axes = new_figure(title, "horizon H (episodes of 5 tokens)", DISTANCE, size=(8.6, 4.8))
    part, horizons = "parity, population", [EPISODE * R for R in sorted(options.episodes)]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.62)
    best = summary.series("H", "hellinger2", part=part, learner=BEST)
    fitted = summary.series("H", "hellinger2", part=part, learner="log-loss")
    lines = [
        Line(fitted, "log-loss", "log-loss, smoothed, rho"),
        Line(best, BEST, "best linear policy (C_apx = 1)", linewidth=1.4),
    ]
    colours = shades(options.bounds, PURPLES)
    for B in options.bounds:
        series = summary.series("H", "hellinger2", part=part, learner=CHUNK_KR, K=EPISODE, B=B)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, norm bound {B:g}", color=colours[B]))
    axes.plot([horizons[0], horizons[-1]], [2, 2], color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    axes.annotate("2: disjoint laws", (horizons[0], 2.0), xytext=(0, 9), **text("reference"))
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def _from_zero(axes: Axes) -> None:
    top = float(axes.dataLim.y1)
    axes.set_ylim(-0.03 * top, 1.15 * top)


def proper_figure(options: ParityOptions, summary: Summary) -> Figure:
    """C_apx against H from samples: 1 for every member of the class, below for ChunkKR."""
    from experiments.figures import log2_axis, new_figure

    title = f"In the class there is nothing to gain: C_apx = 1 (n={options.n})"
    figure, axes = new_figure(title, "horizon H (episodes of 5 tokens)", FACTOR, size=(8.6, 4.8))
    part, horizons = "parity, samples", [EPISODE * R for R in sorted(options.episodes)]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.62)
    lines = [Line(summary.series("H", "C_apx", part=part, learner=name), name, "") for name in SHOWN[1:]]
    lines.append(
        Line(summary.series("H", "C_apx", part=part, learner="log-loss"), "log-loss", "every learner in the class")
    )
    colours = shades(options.bounds, PURPLES)
    for B in options.bounds:
        series = summary.series("H", "C_apx", part=part, learner=CHUNK_KR, K=EPISODE, B=B)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, norm bound {B:g}", color=colours[B]))
    axes.plot([horizons[0], horizons[-1]], [1, 1], color="black", linestyle="--", linewidth=1.2, zorder=1)
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def contaminated_figure(options: ParityOptions, summary: Summary, *, sampled: bool) -> Figure:
    """C_apx against H on the contaminated linear class."""
    from experiments.figures import log2_axis, new_figure

    part = "contaminated, samples" if sampled else "contaminated, population"
    horizons = sorted(options.horizons if sampled else options.population_horizons)
    data = f"n={options.linear_n}" if sampled else "population"
    title = f"Contaminated: log-loss amplifies with H, rho does not ({data})"
    figure, axes = new_figure(title, "horizon H (tokens)", FACTOR, size=(8.6, 5.4))
    axes.set_yscale("log")
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.58)
    lines = [Line(summary.series("H", "C_apx", part=part, learner=name), name, name) for name in SHOWN]
    chunks = sorted(options.chunks)
    longest = chunks[-1]  # one chunked rho is enough beside the ChunkKR of every length
    greens, purples = shades(chunks), shades(chunks, PURPLES)
    for K in chunks:
        kernel = summary.series("H", "C_apx", part=part, learner=CHUNK_KR, K=K, B=float(max(options.bounds)))
        lines.append(Line(kernel, CHUNK_KR, f"ChunkKR, K={K}", color=purples[K]))
    chunked = summary.series("H", "C_apx", part=part, learner=CHUNKED, K=longest)
    lines.append(Line(chunked, CHUNKED, f"chunked rho, K={longest}", color=greens[longest]))

    def limits(axes: Axes) -> None:
        factor_axis(axes)
        if not sampled:  # a short range
            axes.set_yticks([1, 2, 3, 5, 8], labels=["1", "2", "3", "5", "8"])

    axes.plot([horizons[0], horizons[-1]], [1, 1], color="black", linestyle="--", linewidth=1.2, zorder=1)
    axes.annotate("best linear policy", (horizons[-1], 1.0), xytext=(9, 0), **text(BEST))
    draw_lines(axes, [line for line in lines if np.isfinite(line.series.mean).all()], limits=limits)
    return figure
