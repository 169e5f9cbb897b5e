"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.drawing import FACTOR, Line, draw_lines, log_range, plain_log_axis
from experiments.studies.robust.options import RobustOptions
from experiments.studies.robust.sweep import FAMILIES, TASKS
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison_figure", "smoothing_figure"]


def comparison_figure(options: RobustOptions, summary: Summary) -> Figure:
    """A dot with its interval for each learner and task."""
    from experiments.figures import COLOURS, learner_style, new_panels

    title = "With the right lambda smoothing helps; ChunkKR helps on all three tasks"
    figure, panels = new_panels(title, ["C_apx"] * len(TASKS), "", size=(11.0, 4.6))
    heights = {name: len(FAMILIES) - place for place, name in enumerate(FAMILIES)}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        axes.set_xscale("log")
        axes.axvline(1.0, color=COLOURS["black"], linestyle="--", linewidth=1.2)
        for row in summary.select("C_apx", task=task):
            if row["learner"] not in FAMILIES:
                continue
            colour = learner_style(FAMILIES[row["learner"]]).colour
            height = heights[row["learner"]]
            axes.plot(
                [row.lower, row.upper], [height] * 2, color=colour, linewidth=6, alpha=0.35, solid_capstyle="butt"
            )
            axes.plot([row.mean], [height], "o", color=colour, markersize=7)
            note: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": colour}
            axes.annotate(f"{row.mean:.2g}", (max(row.top, row.mean), height), xytext=(8, 0), **note)
        low, high = log_range(axes, "x")
        axes.set_xlim(low / 1.4, high * (high / low) ** 0.25)
        ticks = [10.0**k for k in range(-4, 4) if low / 1.4 <= 10.0**k <= high]
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(visible=False, axis="y")
    names = {CHUNK: f"{CHUNK}, K={options.chunk}" for CHUNK in ("chunked rho", "ChunkKR")}
    panels[0].set_yticks(list(heights.values()), labels=[names.get(name, name) for name in heights])
    for label, name in zip(panels[0].get_yticklabels(), heights, strict=True):
        label.set_color(learner_style(FAMILIES[name]).colour)
        label.set_fontweight("bold")
        label.set_fontsize(9)
    return figure


def smoothing_figure(options: RobustOptions, summary: Summary) -> Figure:
    """C_apx against lambda."""
    from experiments.figures import COLOURS, learner_style, new_figure

    figure, axes = new_figure("No one lambda is right, and the best may not be enough", "smoothing lambda", FACTOR)
    axes.set_xscale("log")
    colour = learner_style("smoothed 1/H").colour
    lines = []
    for task, dashes in zip(TASKS, ("-", "--", ":"), strict=True):
        series = summary.series("lam", "C_apx", learner="smoothed", task=task)
        positive = series.x > 0
        label = task.split()[0]
        shown = Series(*(column[positive] for column in series))
        lines.append(Line(shown, "smoothed 1/H", label, linestyle=dashes, marker="o", color=colour))
    lams = [lam for lam in options.lams if lam > 0]
    axes.set_xticks(lams, labels=[f"{lam:g}" for lam in lams])
    axes.set_xticks([], minor=True)
    axes.set_xlim(min(lams) / 1.3, max(lams) * 6)
    draw_lines(axes, lines, limits=plain_log_axis)
    axes.set_ylim(0.7, None)
    axes.axvline(1 / options.horizon, color=COLOURS["grey"], linestyle=":", zorder=0)
    axes.annotate(
        "1/H",
        (1 / options.horizon, axes.get_ylim()[1]),
        xytext=(4, -8),
        textcoords="offset points",
        color=COLOURS["grey"],
    )
    return figure
