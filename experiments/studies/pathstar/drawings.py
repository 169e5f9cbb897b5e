"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studies.pathstar.curves import PUBLISHED, Training, agrees, copies, trainings
from experiments.studies.pathstar.sweep import (
    CLOSED,
    EXPECTED,
    FORCED,
    FORCING,
    GREEDY,
    NETWORK,
    POINTER,
    REVERSED,
    SAMPLED,
    TEACHERLESS,
)
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SHOWN", "law_figure", "learning_figure", "pointer_figure"]

#: the modes of the headline, in its order
SHOWN = (FORCING, REVERSED, TEACHERLESS)
#: nodes of the path after the second, from near the start to the goal
BLUES = ("#A6CBE3", "#5AA3CF", "#2A7AB5", "#0B4F8A", "#062F54")


def colour_of(node: int, length: int) -> str:
    """Vermilion for the second node, which has to be planned; blue from there to the goal."""
    from experiments.figures import COLOURS

    if node == 2:
        return COLOURS["vermilion"]
    picks = np.linspace(0, len(BLUES) - 1, max(length - 2, 1)).round().astype(int)
    return BLUES[picks[node - 3]]


def name_of(node: int, length: int) -> str:
    """In the legend."""
    if node == 2:
        return "node 2, the choice of an arm"
    return f"node {node}, the goal" if node == length else f"node {node}"


def band(axes: Axes, series: Series, **look: Any) -> Any:
    """A line with its 95 % interval as a band."""
    from experiments.figures import say_band

    (line,) = axes.plot(series.x, series.mean, **look, marker="o" if len(series.x) == 1 else "")
    axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.15, linewidth=0)
    say_band(axes, "each point")
    return line


def learning_figure(summary: Summary, degree: int, metric: str, title: str, headings: dict[str, str]) -> Figure:
    """Accuracy by node of the path against updates, and whole answers; a panel for each mode."""
    from experiments.figures import COLOURS, new_panels

    found = trainings(summary, degree)
    modes = [mode for mode in SHOWN if mode in found]
    ylabel = "share right on fresh prompts"
    figure, panels = new_panels(title, ["updates"] * len(modes), ylabel, size=(13.0, 4.9))
    names: dict[str, Any] = {}
    for axes, mode in zip(panels, modes, strict=True):
        training = found[mode]
        axes.set_title(f"{mode.capitalize()}: {headings[mode]}", fontsize=11)
        axes.axhline(1 / degree, color=COLOURS["grey"], linestyle="--", linewidth=1.3, zorder=1)
        for node in range(training.length, 1, -1):
            look = {"color": colour_of(node, training.length), "linewidth": 3.0 if node == 2 else 2.0}
            names[name_of(node, training.length)] = band(axes, training.node(node, metric), **look)
        look = {"color": COLOURS["black"], "linewidth": 3.2, "linestyle": (0, (2.2, 1.1)), "zorder": 4}
        names["whole answer, running free"] = band(axes, training.whole(), **look)
        mark_chance(axes, training, copied=metric == FORCED)
    panels[0].set_ylim(-0.03, 1.06)
    order = sorted(names)
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=10)
    return figure


def mark_chance(axes: Axes, training: Training, *, copied: bool) -> None:
    """1/d over the right end of its line, clear of what wanders about it; and what is copied after true prefixes."""
    from experiments.figures import COLOURS

    chance = 1 / training.degree
    style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 10, "fontweight": "bold"}
    axes.set_xlim(0, training.steps * 1.02)
    axes.text(training.steps, chance + 0.085, f"1/d = {chance:g}", color=COLOURS["grey"], **style)
    if training.mode == FORCING and copies(training):
        if copied:
            nodes = f"nodes 3 to {training.length}: copied" if training.length > 3 else "node 3: copied"
            axes.text(training.steps, 0.95, nodes, color=BLUES[2], **style)
        axes.text(training.steps, chance - 0.13, "node 2: a guess", color=colour_of(2, training.length), **style)


def mode_looks() -> dict[str, tuple[str, str, float]]:
    """Colour, marker and place beside the others of each mode of the pointer learner."""
    from experiments.figures import COLOURS

    return {
        FORCING: (COLOURS["vermilion"], "o", -0.16),
        REVERSED: (COLOURS["green"], "s", 0.0),
        TEACHERLESS: (COLOURS["blue"], "D", 0.16),
    }


def pointer_figure(summary: Summary, length: int, degrees: tuple[int, ...]) -> Figure:
    """Exact match of the pointer learner against the hops that it sees, with the closed form; a panel for each d."""
    from experiments.drawing import plain_log_axis
    from experiments.figures import COLOURS, new_panels

    figure, panels = new_panels(
        "A learner that sees too few hops cannot plan, with a teacher or without; reversed, it need not",
        ["ancestors of the goal that it sees"] * len(degrees),
        "whole answers right, sampled",
        size=(11.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, degree in zip(panels, degrees, strict=True):
        axes.set_title(f"d={degree} arms of L={length} nodes", fontsize=11)
        hops: list[int] = []
        for mode, (colour, marker, shift) in mode_looks().items():
            place: dict[str, Any] = {"part": POINTER, "mode": mode, "degree": degree, "H": length}
            form = summary.series("hops", SAMPLED, **place, learner=CLOSED)
            got = summary.series("hops", SAMPLED, **place, learner=POINTER)
            if not len(got.x):
                continue
            hops = [int(value) for value in got.x]
            at = np.arange(len(hops)) + shift
            names["closed form"] = axes.hlines(form.mean, at - 0.07, at + 0.07, color=COLOURS["black"], linewidth=2.2)
            seen = got.mean > 0
            bars = np.abs(np.stack([got.mean - got.lower, got.upper - got.mean]))[:, seen]
            look: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "linestyle": "",
                "markersize": 8,
                "elinewidth": 1.5,
            }
            names[mode] = axes.errorbar(at[seen], got.mean[seen], bars, **look, capsize=3)
            for x, y, value in zip(at, np.maximum(got.mean, form.mean), got.mean, strict=True):
                axes.annotate(
                    f"{value:.2g}", (x, y), xytext=(0, 11), textcoords="offset points", ha="center", fontsize=9
                )
        axes.set_xticks(range(len(hops)), labels=[f"{h} (all)" if h == length - 2 else str(h) for h in hops])
        axes.set_xlim(-0.5, len(hops) - 0.5)
        axes.grid(visible=False, axis="x")
    rows = summary.select(SAMPLED, part=POINTER, H=length)
    low = min((row.mean for row in rows if row["degree"] in degrees and row.mean > 0), default=0.5)
    panels[0].axhline(low, linewidth=0)  # the limits of the first panel are those of all
    plain_log_axis(panels[0])
    panels[0].set_ylim(low / 2.0, 2.0)
    order = [name for name in (*mode_looks(), "closed form") if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=10)
    return figure


def law_figure(summary: Summary, length: int) -> Figure:
    """Exact match under teacher forcing against the number of arms: ours and the published."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    pointers = summary.select(EXPECTED, part=POINTER, mode=FORCING, H=length, hops=0)
    networks = [
        training.at_end(GREEDY)
        for degree in summary.distinct("degree", part=NETWORK)
        for mode, training in trainings(summary, degree).items()
        if mode == FORCING
    ]
    settled = all(agrees(row, row["degree"]) for row in [*pointers, *networks])
    figure, axes = new_figure(
        "Under teacher forcing one answer in d is right, whoever learns" if settled else "Is one answer in d right?",
        "arms d",
        "whole answers right",
        size=(8.2, 4.8),
    )
    shown = sorted({*(row["degree"] for row in [*pointers, *networks]), *(d for d, _ in PUBLISHED)})
    fine = np.geomspace(shown[0] / 1.1, shown[-1] * 1.1, 100)
    axes.plot(fine, 1 / fine, color=COLOURS["grey"], linestyle="--", linewidth=1.5, label="1/d: copying, and a guess")
    looks = (
        (pointers, f"log-linear pointers, L={length}, expected", COLOURS["orange"], "o", 1.0),
        (networks, f"transformer, L={length}, greedy", COLOURS["vermilion"], "s", 1.035),
    )
    for rows, label, colour, marker, shift in looks:
        if not rows:
            continue
        mean = np.array([row.mean for row in rows])
        bars = np.abs(np.array([[row.mean - row.lower, row.upper - row.mean] for row in rows])).T
        at = [row["degree"] * shift for row in rows]
        axes.errorbar(at, mean, bars, color=colour, marker=marker, linestyle="", capsize=3, markersize=8, label=label)
    axes.plot(
        [d for d, _ in PUBLISHED],
        list(PUBLISHED.values()),
        "*",
        color=COLOURS["black"],
        markerfacecolor="none",
        markersize=17,
        label="published, not ours: GPT, 12 layers, 384 wide",
    )
    for (d, L), value in PUBLISHED.items():
        words = f"({d}, {L}) {value:.1%}"
        axes.annotate(words, (d, value), xytext=(4, -20), textcoords="offset points", ha="right", fontsize=9)
    log2_axis(axes, shown)
    axes.set_xlim(shown[0] / 1.25, shown[-1] * 1.35)
    axes.set_ylim(0, 0.6)
    axes.legend(loc="upper right", fontsize=10)
    return figure
