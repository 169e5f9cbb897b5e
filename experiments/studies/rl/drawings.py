"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import DISTANCE, Line, draw_lines, plain_log_axis, room_for_labels
from experiments.learners import BEST
from experiments.studies.rl.measures import ENTROPY, EXPERT_LOG_PROB, MODE
from experiments.studies.rl.sweep import CLOSED_FORMS, COST, COSTS, DAGGER, EXPERT, IMITATION, REWARDED, REWARDS, TASKS
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SUCCESS_REWARD", "cost_figure", "curve_figure", "entropy_figure", "return_figure", "shown_learners"]

SUCCESS_REWARD = next(iter(REWARDS))


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes of the learners of this study; solid for rewards, broken for imitation.

    Markers shrink in the order of drawing, so that lines that coincide show all of them.
    """
    from experiments.figures import COLOURS

    success, mode, law = REWARDS
    return {
        success: {"color": COLOURS["grey"], "marker": "v", "markersize": 10},
        mode: {"color": COLOURS["purple"], "marker": "D", "markersize": 7},
        law: {"color": COLOURS["green"], "marker": "o", "markersize": 4},
        "log-loss": {"color": COLOURS["vermilion"], "marker": "o", "linestyle": "--", "markersize": 10},
        "rho": {"color": COLOURS["blue"], "marker": "s", "linestyle": "--", "markersize": 7},
        DAGGER: {"color": "#7A4B00", "marker": "^", "linestyle": "--", "markersize": 4},
        BEST: {"color": COLOURS["black"], "marker": "", "linestyle": ":"},
    }


def shown_learners(summary: Summary, task: str) -> list[str]:
    """The learners that the summary has on this task, in the order of the tables."""
    return [name for name in (*REWARDS, *IMITATION, BEST) if len(summary.select(ENTROPY, task=task, learner=name))]


def curve_figure(summary: Summary, title: str) -> Figure:
    """The distance curve of every learner, a panel for each task."""
    from experiments.figures import new_panels, say_band

    figure, panels = new_panels(
        title,
        ["prefix length h"] * len(TASKS),
        DISTANCE,
        size=(13.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        for learner in shown_learners(summary, task):
            series = summary.series("h", "hellinger2", part=REWARDED, task=task, learner=learner)
            look = looks()[learner]
            (names[learner],) = axes.plot(series.x, series.mean, **look, label=learner)
            axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.2, linewidth=0)
            say_band(axes, "each h")
    order = [name for name in looks() if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=9)
    panels[0].set_ylim(-0.03, None)
    return figure


def entropy_figure(summary: Summary) -> Figure:
    """A dot for each learner and task at its entropy rate, with the expert's as a line."""
    from experiments.figures import COLOURS, new_panels

    figure, panels = new_panels(
        "Is the policy as random as the expert? (numbers: probability of its most likely sequence)",
        ["entropy rate (nats a token)"] * len(TASKS),
        "",
        size=(13.0, 4.2),
    )
    learners = [name for name in looks() if any(name in shown_learners(summary, task) for task in TASKS)]
    heights = {name: len(learners) - place for place, name in enumerate(learners)}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        expert = summary.value(ENTROPY, part=REWARDED, task=task, learner=EXPERT)
        axes.axvline(expert, color=COLOURS["black"], linestyle="--", linewidth=1.2)
        for learner in learners:
            for row in summary.select(ENTROPY, part=REWARDED, task=task, learner=learner):
                colour, height = looks()[learner]["color"], heights[learner]
                axes.plot([row.lower, row.upper], [height] * 2, color=colour, linewidth=6, alpha=0.35)
                axes.plot([row.mean], [height], "o", color=colour, markersize=7)
                mode = summary.value(MODE, part=REWARDED, task=task, learner=learner)
                axes.annotate(
                    f"{mode:.2g}",
                    (row.top, height),
                    xytext=(8, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                    color=colour,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
                )
        axes.set_xlim(-0.03, 0.87)
        axes.grid(visible=False, axis="y")
        if SUCCESS_REWARD in learners and SUCCESS_REWARD not in shown_learners(summary, task):
            at = heights[SUCCESS_REWARD]
            axes.annotate("(no success)", (0.0, at), va="center", fontsize=8.5, color=COLOURS["grey"])
        axes.annotate(
            f"expert, {summary.value(MODE, part=REWARDED, task=task, learner=EXPERT):.2g}",
            (expert, len(learners) + 0.75),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    panels[0].set_ylim(0.4, len(learners) + 1.1)
    panels[0].set_yticks(list(heights.values()), labels=list(heights))
    for label, name in zip(panels[0].get_yticklabels(), heights, strict=True):
        label.set(color=looks()[name]["color"], fontweight="bold", fontsize=9)
    return figure


def return_figure(summary: Summary) -> Figure:
    """Distance at H against the return of the reward "expert log-probability", the expert's own as a line."""
    from experiments.figures import COLOURS, new_panels

    figure, panels = new_panels(
        "More expert log-probability than the expert has means less of its distribution",
        ["expert log-probability (nats a token)"] * len(TASKS),
        DISTANCE,
        size=(13.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, TASKS, strict=True):
        axes.set_title(task, fontsize=11)
        expert = summary.value(EXPERT_LOG_PROB, part=REWARDED, task=task, learner=EXPERT)
        axes.axvline(expert, color=COLOURS["black"], linestyle="--", linewidth=1.2, zorder=1)
        for learner in (name for name in shown_learners(summary, task) if name != BEST):
            (reward,) = summary.select(EXPERT_LOG_PROB, part=REWARDED, task=task, learner=learner)
            curve = summary.select("hellinger2", part=REWARDED, task=task, learner=learner)
            last = max(curve, key=lambda row: row["h"])
            look = looks()[learner]
            axes.plot([reward.lower, reward.upper], [last.mean] * 2, color=look["color"], linewidth=1.5)
            axes.plot([reward.mean] * 2, [last.lower, last.upper], color=look["color"], linewidth=1.5)
            style = {**look, "linestyle": "", "markersize": look["markersize"] + 1}
            (names[learner],) = axes.plot([reward.mean], [last.mean], **style)
        axes.margins(x=0.2)
    order = [name for name in looks() if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=9)
    panels[0].set_ylim(-0.06, None)
    return figure


def cost_figure(summary: Summary) -> Figure:
    """Expected cost against H, with the closed forms as lines under the points of the learners."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    figure, axes = new_figure(
        "The same distance, another cost: quadratic for cloning, linear for DAgger",
        "horizon H",
        "expected steps off the rope",
        size=(8.2, 4.8),
    )

    def of(learner: str) -> Series:
        return summary.series("H", COST, part=COSTS, learner=learner)

    worse, better = CLOSED_FORMS
    horizons = [float(H) for H in of(worse).x]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], 4.5)
    axes.set_yscale("log")
    look: dict[str, Any] = {"linestyle": "", "markersize": 8}
    lines = [
        Line(of(worse), worse, "sum of 1 - (1 - eps)^h", color=COLOURS["grey"], marker="", linestyle="-"),
        Line(of(better), better, "", color=COLOURS["grey"], marker="", linestyle="-"),
        Line(of("log-loss"), "log-loss", "", **{**look, "markersize": 11}),
        Line(of("rho"), "rho", "", **{**look, "markersize": 5}),
        Line(of(DAGGER), DAGGER, "", **{**look, "color": looks()[DAGGER]["color"], "marker": "^"}),
    ]
    draw_lines(axes, lines[1:2] + lines[:1] + lines[2:], limits=plain_log_axis)
    axes.annotate(
        "about eps H",
        (horizons[-1], float(of(better).mean[-1])),
        xytext=(9, 0),
        textcoords="offset points",
        color=COLOURS["grey"],
        fontweight="bold",
        fontsize=10,
        va="center",
    )
    middle = len(horizons) // 2
    for learner, label, shift in (("log-loss", "log-loss and rho", 16), (DAGGER, "DAgger", -16)):
        series = of(learner)
        if len(series.x) and np.isfinite(series.mean).all():
            axes.annotate(
                label,
                (series.x[middle], series.mean[middle]),
                xytext=(0, shift),
                textcoords="offset points",
                color=looks()[learner]["color"],
                fontweight="bold",
                ha="right" if shift > 0 else "left",
                va="center",
            )
    return figure
