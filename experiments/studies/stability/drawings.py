"""How the figures of the study are drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import FACTOR, PURPLES, Line, draw_lines, log_range, plain_log_axis
from experiments.fits import SECONDS
from experiments.learners import CHUNK_KR
from experiments.studies.stability.sweep import GROWTH, LOW_RANK, REFUSED, SHARE, TASKS
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["condition_figure", "cost_figure", "kernel_figure", "limit_figure", "low_rank_figure", "solver_figure"]

_LOOKS: tuple[dict[str, Any], ...] = ({"color": PURPLES[2]}, {"color": PURPLES[0], "linestyle": "--", "marker": "s"})
LOOKS = dict(zip(TASKS, _LOOKS, strict=True))
TOLERANCE = 1e-6  # of the gap, in nats a sequence


def short(task: str) -> str:
    """The task's name without its parameters."""
    return task.split()[0]


def task_lines(summary: Summary, metric: str, *, label: str = "{task}", **changes: Any) -> list[Line]:
    """A line for each task against K."""
    return [
        Line(
            summary.series("K", metric, part=GROWTH, task=task),
            CHUNK_KR,
            label.format(task=short(task)),
            **LOOKS[task],
            **changes,
        )
        for task in TASKS
    ]


def chunk_axis(axes: Axes, summary: Summary, metric: str = "converged", room: float = 1.35) -> None:
    """K on a linear axis with a tick for every length with this metric, fewer where crowded, and room for labels."""
    lengths = sorted({row["K"] for row in summary.select(metric, part=GROWTH)})
    axes.set_xticks(lengths[:: 1 + len(lengths) // 14 if room < 1.5 else 2])
    axes.set_xlim(min(lengths) - 0.4, max(lengths) * room)


def limit_figure(summary: Summary, broken: Summary) -> Figure:
    """C_apx against K until it breaks."""
    from experiments.figures import COLOURS, new_figure

    figure, axes = new_figure("More tokens a chunk help, until the points no longer fit", "chunk length K", FACTOR)
    plain = summary.select("C_apx", part=GROWTH)
    lines = []
    for task in TASKS:
        series = plain.series("K", "C_apx", task=task)
        bad = {row["K"] for row in broken.select(task=task)}
        good = ~np.isin(series.x, list(bad))
        lines.append(Line(Series(*(column[good] for column in series)), CHUNK_KR, short(task), **LOOKS[task]))
        axes.plot(series.x[~good], series.mean[~good], "X", color=LOOKS[task]["color"], markersize=10)
        for K, value in zip(series.x[~good], series.mean[~good], strict=True):
            note: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "center", "fontsize": 10}
            axes.annotate("low rank", (K, value), xytext=(-10, 0), color=LOOKS[task]["color"], **note)
    chunk_axis(axes, summary)
    refused = [row["K"] for row in summary.select(REFUSED, part=GROWTH)]
    axes.set_xlim(None, max([axes.get_xlim()[1], *(K + 0.5 for K in refused)]))
    draw_lines(axes, lines, limits=plain_log_axis)
    for row in summary.select(REFUSED, part=GROWTH):
        note = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "rotation": 90, "va": "top"}
        axes.axvline(row["K"], color=COLOURS["grey"], linestyle=":", linewidth=1.5)
        top = axes.get_ylim()[1]
        axes.annotate(f"{short(row['task'])}: refused", (row["K"], top), xytext=(-3, -4), color="#6E6E6E", **note)
    return figure


def kernel_figure(summary: Summary) -> Figure:
    """The range of the log kernel products."""
    from experiments.figures import COLOURS, new_figure

    title = "Kernel products stay far from overflow"
    figure, axes = new_figure(title, "chunk length K", "log of a kernel product")
    lengths = np.array([0.0, max(row["K"] for row in summary.select("converged", part=GROWTH))])
    for edge in (math.log(2.0), math.log(2.0 / 3.0)):
        axes.plot(lengths, lengths * edge, color=COLOURS["grey"], linestyle=":")
    lines = [
        *task_lines(summary, "largest log kernel product", label="largest, {task}"),
        *task_lines(summary, "smallest log kernel product", label="smallest, {task}"),
    ]
    chunk_axis(axes, summary)
    draw_lines(axes, lines)
    note = "bounds K log 2 and K log(2/3) (dotted);\ndouble precision ends at 709, K = 1023"
    axes.annotate(note, (0.03, 0.97), xycoords="axes fraction", va="top", color=COLOURS["grey"])
    return figure


def condition_figure(summary: Summary) -> Figure:
    """The condition number of the Gram matrix."""
    from experiments.figures import COLOURS, new_figure

    title = "The Gram matrix stays well conditioned"
    figure, axes = new_figure(title, "chunk length K", "condition number of the Gram matrix")
    axes.set_yscale("log")
    chunk_axis(axes, summary)
    whole = Summary(row for row in summary.select("condition number", part=GROWTH) if full_rank(summary, row))
    lines = task_lines(whole, "condition number")
    axes.set_ylim(1, 1e11)
    draw_lines(axes, lines)
    axes.axhline(1e9, color=COLOURS["grey"], linestyle=":")
    axes.annotate(
        "eigenvalues below 1e-9 of the largest would be dropped",
        (1, 1e9),
        xytext=(0, 7),
        textcoords="offset points",
        color=COLOURS["grey"],
    )
    return figure


def full_rank(summary: Summary, row: Any) -> bool:
    """Whether the fit of this row left nothing out."""
    return summary.value("trace left out", part=GROWTH, task=row["task"], K=row["K"]) < 1e-6


def solver_figure(summary: Summary) -> Figure:
    """Gap and iterations against K."""
    from experiments.figures import COLOURS, new_panels

    xlabels = ["chunk length K", "chunk length K"]
    figure, (left, right) = new_panels(
        "The solver needs no more iterations for longer chunks", xlabels, "certified gap (nats a sequence)", share=False
    )
    left.set_yscale("log")
    left.axhline(TOLERANCE, color=COLOURS["grey"], linestyle=":")
    left.annotate("tolerance", (1, TOLERANCE), xytext=(0, 5), textcoords="offset points", color=COLOURS["grey"])
    right.set_ylabel("iterations")
    for axes, metric in ((left, "gap"), (right, "iterations")):
        chunk_axis(axes, summary)
        draw_lines(axes, task_lines(summary, metric))
    right.set_ylim(0, None)
    return figure


def decades(axes: Axes) -> None:
    """A logarithmic y axis with powers of ten written out."""
    low, high = log_range(axes)
    axes.set_yscale("log")
    ticks = [10.0**k for k in range(-6, 7) if low / 10 < 10.0**k < 10 * high]
    axes.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_yticks([], minor=True)
    axes.set_ylim(low / 2, high * 2)


def cost_figure(summary: Summary) -> Figure:
    """Time, memory and the share of projections against K."""
    from experiments.figures import new_panels

    labels = ["processor seconds of a fit", "megabytes (estimated peak)", "share of the solver's time"]
    figure, panels = new_panels(
        "Time and memory grow exponentially; projections weigh only on short chunks",
        ["chunk length K"] * 3,
        labels[0],
        share=False,
    )
    titles = ["time", "memory", "projections in the solver"]
    sources = [(summary.timings, SECONDS), (summary, "estimated megabytes"), (summary.timings, SHARE)]
    for axes, ylabel, title, (source, metric) in zip(panels, labels, titles, sources, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(ylabel)
        chunk_axis(axes, summary, room=1.7)
        if metric == SHARE:
            axes.set_ylim(0, 1)
        first, second = task_lines(source, metric)
        label, second.label = second.label, ""  # on its left, where no line is
        draw_lines(axes, [first, second], limits=None if metric == SHARE else decades)
        if len(second.series.x):
            at = len(second.series.x) - 2
            side: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": 10, "fontweight": "bold"}
            place = (second.series.x[at], second.series.mean[at])
            axes.annotate(label, place, xytext=(-8, -6), color=second.changes["color"], **side)
    return figure


def low_rank_figure(summary: Summary) -> Figure:
    """C_apx against the rank."""
    from experiments.figures import learner_style, new_figure

    title = "Low rank loses what longer chunks gain"
    figure, axes = new_figure(title, "rank, as a share of the number of points", FACTOR)
    lines = []
    for task in TASKS:
        place: dict[str, Any] = {"part": LOW_RANK, "task": task}
        series = summary.series("rank", "C_apx", learner=CHUNK_KR, **place)
        K = max(summary.select("C_apx", learner=CHUNK_KR, **place), key=lambda row: row["K"])["K"]
        lines.append(Line(series, CHUNK_KR, f"{short(task)}, K={K}", **LOOKS[task]))
        value = summary.value("C_apx", learner="log-loss", **place)
        axes.axhline(value, color=learner_style("log-loss").colour, linestyle=LOOKS[task].get("linestyle", "-"))
        axes.annotate(
            f"log-loss, {short(task)}",
            (1.35, value),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right",
            color=learner_style("log-loss").colour,
            fontsize=9,
            fontweight="bold",
            va="center",
        )
    axes.set_xlim(0, 1.36)
    axes.set_xticks(np.linspace(0, 1, 5), labels=["0", "25 %", "50 %", "75 %", "100 %"])
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure
