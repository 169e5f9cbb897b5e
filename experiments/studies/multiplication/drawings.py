"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studies.multiplication.reading import (
    FORMATS,
    LEARNERS,
    NAMES,
    SEGMENTS,
    at_end,
    decided,
    forced_rows,
    segment_of,
)
from experiments.studies.multiplication.sweep import (
    ALONE,
    CARRY,
    CHAIN,
    COLUMNS,
    DIGIT,
    EXACT,
    EXPLICIT,
    LINEAR,
    MLP,
    TRAINED,
)
from experiments.summary import Series, Summary
from ntp_envs.tasks import Multiplication

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["chain_figure", "column_figure", "training_figure"]

MOST_TICKS = 40
GUESS: dict[str, Any] = {"color": "#444444", "linestyle": ":", "linewidth": 1.5, "marker": ""}


def looks() -> dict[str, dict[str, Any]]:
    """Colour and marker of a learner."""
    from experiments.figures import COLOURS

    return {
        EXPLICIT: {"color": COLOURS["grey"], "marker": "", "linestyle": "--", "linewidth": 1.5},
        LINEAR: {"color": COLOURS["vermilion"], "marker": "o"},
        MLP: {"color": COLOURS["sky"], "marker": "s", "markersize": 4, "linewidth": 1.5},
    }


def bars(series: Series) -> np.ndarray:
    """``(2, m)`` lengths of error bars."""
    return np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))


def draw(axes: Axes, series: Series, look: dict[str, Any]) -> None:
    """A line with its 95 % intervals as bars."""
    if len(series.x):
        axes.plot(series.x, series.mean, **look)
        axes.errorbar(series.x, series.mean, bars(series), fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=2)


# -- along the chain ---------------------------------------------------------------------------------------------------


def chain_figure(summary: Summary, digits: int) -> Figure:
    """Forced accuracy along the chain, and whole answers right; a row for each format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.6), layout="constrained")
    figure.suptitle(chain_title(summary, digits), x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(3, 2, width_ratios=(3.2, 1.0))
    width = len(decided(Multiplication(digits, "carry")))
    for (left, right), (cot, name) in zip(grid, FORMATS.items(), strict=True):
        task = Multiplication(digits, cot)
        start = 0 if cot != "none" else len(decided(Multiplication(digits, "source"))) - 2 * digits
        left.set_title(name, fontsize=11)
        left.set_ylim(-0.06, 1.45)
        left.set_yticks([0, 0.5, 1])
        left.set_xlim(-0.7, width - 0.3)
        left.grid(visible=False, axis="x")
        if width <= MOST_TICKS:
            ticks(left, task, start)
        if start:
            left.text(start / 2, 0.5, "the product follows the prompt", ha="center", va="center", color="#444444")
        segments(left, task, start)
        for part, learner in LEARNERS:
            along(left, summary, task, start, part, learner)
        answers(right, summary, digits, cot)
    grid[1, 0].set_ylabel("share right after the true prefix")
    if width <= MOST_TICKS:
        words = ("a, b: digits of the factors", "t, u: tens and units of a x b", "c: carry", "1, 10, ...: the product")
        grid[2, 0].set_xlabel("    ".join(words), fontsize=10)
    else:
        grid[2, 0].set_xlabel("digits and carries, as they are written", fontsize=10)
    grid[0, 1].set_title("whole answers right", fontsize=11)
    return figure


def chain_title(summary: Summary, digits: int) -> str:
    """The answer, from its numbers."""

    def share(part: str, learner: str, cot: str) -> str:
        row = at_end(summary, EXACT, part, learner, digits=digits, format=cot)
        return "" if row is None else f"{row.mean:.0%}"

    written, learned, carried = (
        share(EXPLICIT, EXPLICIT, "source"),
        share(TRAINED, LINEAR, "source"),
        share(TRAINED, LINEAR, "carry"),
    )
    if learned and carried:
        return (
            f"One linear predictor: weights written down multiply exactly ({written}); SGD learns the chain but\n"
            f"not the sum ({learned} of answers right), unless carries are written ({carried})"
            if float(learned.rstrip("%")) < 50 <= float(carried.rstrip("%"))
            else f"Linear predictors: {written} of answers right with weights written down, {learned} learned by SGD,\n"
            f"{carried} where carries are written"
        )
    return f"A linear predictor with weights written down: {written} of answers right" if written else "No data"


def along(axes: Axes, summary: Summary, task: Multiplication, start: int, part: str, learner: str) -> None:
    """The line of a learner, broken between segments."""
    found = forced_rows(summary, part, learner, task)
    places = {position: start + number for number, position in enumerate(decided(task))}
    for segment in range(len(SEGMENTS)):
        rows = [(places[position], row) for position, row in found if segment_of(task, position) == segment]
        if rows:
            columns = [[x for x, _ in rows], *([getattr(row, end) for _, row in rows] for end in Series._fields[1:])]
            draw(axes, Series(*(np.array(column, dtype=np.float64) for column in columns)), looks()[learner])


def segments(axes: Axes, task: Multiplication, start: int) -> None:
    """A name for each segment, and a shade for every other one."""
    of = np.array([segment_of(task, position) for position in decided(task)])
    for segment, name in enumerate(SEGMENTS):
        inside = start + np.flatnonzero(of == segment)
        if len(inside):
            low, high = inside[0] - 0.5, inside[-1] + 0.5
            if segment % 2:
                axes.axvspan(low, high, color="#F3F3F3", zorder=0, linewidth=0)
            words = name.replace(" by ", "\nby ")
            axes.text((low + high) / 2, 1.41, words, ha="center", va="top", fontsize=9.5, color="#444444")


def ticks(axes: Axes, task: Multiplication, start: int) -> None:
    """What each token is."""
    marks = []
    for position in decided(task):
        kind, place = task.layout.slots[position]
        if kind == "product":
            marks.append(f"$10^{place[0]}$" if place[0] > 1 else str(10 ** place[0]))
        else:
            marks.append({"digit": "a" if place[0] == 0 else "b", "tens": "t", "units": "u", "carry": "c"}[kind])
    axes.set_xticks(range(start, start + len(marks)), labels=marks, fontsize=8)
    axes.tick_params(axis="x", length=0)


def answers(axes: Axes, summary: Summary, digits: int, cot: str) -> None:
    """Bars of whole answers right."""
    axes.set_xlim(0, 1.32)
    axes.set_xticks([0, 0.5, 1.0])
    axes.set_ylim(2.6, -0.6)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    short = {EXPLICIT: "written down", LINEAR: "linear, SGD", MLP: "MLP, SGD"}
    for number, (part, learner) in enumerate(LEARNERS):
        row = at_end(summary, EXACT, part, learner, digits=digits, format=cot)
        colour = looks()[learner]["color"]
        if row is None:
            words = "no weights can" if learner == EXPLICIT and cot == "none" else "no data"
            axes.text(0.02, number, words, va="center", fontsize=10, color=colour)
            continue
        axes.barh(number, row.mean, color=colour, height=0.75)
        error = [[row.mean - row.lower], [row.upper - row.mean]]
        axes.errorbar([row.mean], [number], xerr=error, fmt="none", ecolor="black", elinewidth=1.2, capsize=2)
        inside = row.mean > 0.75
        axes.text(
            0.03 if inside else row.top + 0.04,
            number,
            f"{short[learner]} {row.mean:.2f}",
            va="center",
            fontsize=10,
            fontweight="bold",
            color="white" if inside else colour,
        )


# -- columns and training ----------------------------------------------------------------------------------------------


def column_figure(summary: Summary) -> Figure:
    """Accuracy on one column against the digits in it."""
    from experiments.figures import COLOURS, end_labels, new_figure

    figure, axes = new_figure(
        "One column of a sum: a token for the carry makes it linear",
        "digits in the column",
        "share right",
        size=(8, 4.6),
    )
    lines = {
        CARRY: ("the carry", {"color": COLOURS["blue"], "marker": "o"}),
        DIGIT: ("the digit after its carry", {"color": COLOURS["green"], "marker": "s", "linestyle": "--"}),
        ALONE: ("the digit, no carry token", {"color": COLOURS["vermilion"], "marker": "^"}),
    }
    axes.set_ylim(-0.03, 1.06)
    ends = []
    for metric, (name, look) in lines.items():
        series = summary.series("addends", metric, part=COLUMNS)
        draw(axes, series, look)
        if len(series.x):
            ends.append((float(series.x[-1]), float(series.mean[-1]), name, look["color"]))
            axes.set_xticks([int(x) for x in series.x])
            axes.set_xlim(series.x[0] - 0.3, series.x[-1] + 0.45 * max(series.x[-1] - series.x[0], 1))
    axes.plot([axes.get_xlim()[0], max((x for x, *_ in ends), default=1.0)], [0.1, 0.1], **GUESS)
    axes.text(axes.get_xlim()[0] + 0.05, 0.12, "guessing: 0.10", color="#444444", va="bottom", fontsize=10)
    end_labels(axes, ends)
    return figure


def training_figure(summary: Summary, digits: int) -> Figure:
    """What is right over training; a panel for each network."""
    from experiments.figures import COLOURS, end_labels, new_panels

    figure, panels = new_panels(
        "The chain is learned first; the sum after it, sooner where its carries are written",
        ["updates"] * 2,
        "share of fresh pairs right",
        size=(11.0, 4.8),
    )
    lines = (
        (CHAIN, "source", "chain", {"color": COLOURS["grey"], "marker": "", "linestyle": "--"}),
        (EXACT, "carry", "answer, with carries", {"color": COLOURS["green"], "marker": "o"}),
        (EXACT, "source", "answer, no carries", {"color": COLOURS["vermilion"], "marker": "s"}),
        (EXACT, "none", "answer, no chain", {"color": COLOURS["black"], "marker": "^", "linestyle": ":"}),
    )
    for axes, learner in zip(panels, (LINEAR, MLP), strict=True):
        axes.set_title(NAMES[learner], fontsize=11)
        axes.set_ylim(-0.04, 1.08)
        ends = []
        for metric, cot, name, look in lines:
            series = summary.series("step", metric, part=TRAINED, learner=learner, digits=digits, format=cot)
            draw(axes, series, look)
            if len(series.x):
                ends.append((float(series.x[-1]), float(series.mean[-1]), name, look["color"]))
                axes.set_xlim(0, 1.62 * float(series.x[-1]))
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= max((x for x, *_ in ends), default=1.0)])
        if not ends:
            axes.text(0.5, 0.5, "not trained", transform=axes.transAxes, ha="center")
        end_labels(axes, ends)
    return figure
