"""How the figures of the study are drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.drawing import FACTOR, PURPLES, Line, draw_lines, plain_log_axis, room_for_labels, shades, text
from experiments.fits import MEGABYTES, SECONDS
from experiments.learners import CHUNK_KR, CHUNKED, IMPROPER
from experiments.studies.tradeoff.options import TradeoffOptions
from experiments.studies.tradeoff.sweep import PARITY
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bound_figure", "trade_figure"]


def decades_axis(axes: Axes) -> None:
    """Powers of ten on the x axis, written out."""
    low, high = axes.get_xlim()
    ticks = [10.0**k for k in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def against_cost(summary: Summary, metric: str, factors: Series, **labels: Any) -> Series:
    """The factors with their cost in the place of K, without intervals; lengths without a cost are left out."""
    costs = summary.timings.series("K", metric, **labels)
    known = dict(zip(costs.x, costs.mean, strict=True))
    kept = np.array([K in known for K in factors.x], dtype=bool)
    return Series(np.array([known[K] for K in factors.x[kept]]), *[factors.mean[kept]] * 3)


def trade_figure(
    title: str,
    summary: Summary,
    part: str,
    learners: Mapping[str, Mapping[str, Any]],
    *,
    marked: Mapping[str, Collection[int]],
    reference: NDArray[np.float64] | None = None,
    horizon: int = 0,
) -> Figure:
    """C_apx against K, seconds and megabytes, side by side; points are chunk lengths.

    Args:
        title: of the figure.
        summary: of the study.
        part: of the study.
        learners: their names, and the labels that pick one line of each.
        marked: by learner, chunk lengths to write at their points where K is not on the axis.
        reference: chunk lengths at which to draw 1 + H/K.
        horizon: H of that line.
    """
    from experiments.figures import log2_axis, new_panels

    xlabels = ["chunk length K (tokens)", "processor seconds of a fit", "peak megabytes of a fit"]
    figure, panels = new_panels(title, xlabels, FACTOR)
    lengths: set[float] = set()
    for axes, metric in zip(panels, ("K", SECONDS, MEGABYTES), strict=True):
        lines = []
        for learner, labels in learners.items():
            place = {"part": part, "learner": learner, **labels}
            series = summary.series("K", "C_apx", **place)
            lengths |= set(series.x)
            alone = len(series.x) == 1
            drawn = series if metric == "K" else against_cost(summary, metric, series, **place)
            lines.append(Line(drawn, learner, learner if alone else "", markersize=9 if alone else 5))
            if not alone and len(drawn.x):
                label_line(axes, drawn, learner, series.x, marked=() if metric == "K" else marked[learner])
        if metric == "K" and reference is not None and len(reference):
            value = 1 + horizon / reference
            lines.append(Line(Series(reference, value, value, value), IMPROPER, ""))
            axes.annotate("1 + H/K", (reference[-1], value[-1]), xytext=(-10, -6), ha="right", **text(IMPROPER))
        axes.set_xscale("log")
        draw_lines(axes, lines, limits=plain_log_axis)
        low, high = axes.dataLim.x0, axes.dataLim.x1
        room_for_labels(axes, low / 1.2, high, (high / low) ** 0.35)
        if metric != "K":
            decades_axis(axes)
        else:
            log2_axis(axes, sorted({2.0 ** round(np.log2(K)) for K in lengths}))
            axes.set_xlim(low / 1.3, high * 2.6)
    return figure


def label_line(
    axes: Axes, drawn: Series, learner: str, lengths: NDArray[np.float64], *, marked: Collection[int]
) -> None:
    """The learner's name on the line, or K at its ends where K is not on the axis."""
    side: dict[str, Any] = {"xytext": (9, 8), "ha": "left"}
    if learner == CHUNK_KR and not marked:
        side = {"xytext": (-8, -8), "ha": "right"}
    elif learner == CHUNKED and marked:
        side = {"xytext": (-8, -6), "ha": "right"}
    if not marked:
        at = len(drawn.x) // 2
        axes.annotate(learner, (drawn.x[at], drawn.mean[at]), **side, **text(learner))
        return
    for i in np.flatnonzero(np.isin(lengths, list(marked))):
        lowest = i == drawn.mean.argmin() and i < len(lengths) - 1  # the line goes up on its right
        place = {"xytext": (-9, 0), "ha": "right"} if lowest else side
        axes.annotate(f"K={lengths[i]:g}", (drawn.x[i], drawn.mean[i]), **place, **text(learner))


def bound_figure(options: TradeoffOptions, summary: Summary) -> Figure:
    """C_apx on NoisyParity against the norm bound, a line a chunk length."""
    from experiments.figures import log2_axis, new_figure

    title = "Longer chunks need a smaller norm bound"
    figure, axes = new_figure(title, f"norm bound B (NoisyParity, H={5 * options.episodes})", FACTOR)
    log2_axis(axes, options.bounds)
    colours = shades(options.parity_chunks, PURPLES)
    lines = []
    for K in options.parity_chunks:
        series = summary.series("B", "C_apx", part=PARITY, learner=CHUNK_KR, K=K)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, K={K}", color=colours[K]))
    value = summary.value("C_apx", part=PARITY, learner="log-loss")
    if value == value:
        ends = np.array([min(options.bounds), max(options.bounds)])
        lines.append(Line(Series(ends, *[np.full(2, value)] * 3), "log-loss", "log-loss", marker="", linestyle="--"))
    axes.set_xlim(min(options.bounds) / 1.15, max(options.bounds) * 2.4)
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure
