"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from experiments.studies.turing.options import TuringOptions
from experiments.studies.turing.sweep import (
    BEAVER,
    CELLS,
    CHAIN,
    COUNT,
    DIRECT,
    EXACT,
    INCREMENT,
    LEARNERS,
    PARITY,
    RUNS,
    STEP,
    TRAINED,
)
from experiments.summary import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["control_figure", "headline_figure", "step_figure"]

MARKERS: dict[str, tuple[Any, Any]] = {"perceptron": ("o", "-"), "log-loss": ("s", "--")}


def colour(chain: str) -> str:
    from experiments.figures import COLOURS

    return COLOURS["blue"] if chain == CHAIN else COLOURS["vermilion"]


def draw_runs(axes: Axes, summary: Summary, part: str, task: str) -> list[Any]:
    """Exact match against length, with and without the chain, and the end of the training lengths as a line."""
    from experiments.figures import COLOURS, log2_axis, plot_series

    lengths = sorted({row["length"] for row in summary.select(EXACT, part=part, task=task)})
    for chain in (CHAIN, DIRECT):
        for learner in LEARNERS:
            marker, dashes = MARKERS[learner]
            series = summary.series("length", EXACT, part=part, task=task, learner=learner, chain=chain)
            plot_series(axes, series, learner, color=colour(chain), marker=marker, linestyle=dashes)
    if lengths:
        log2_axis(axes, lengths)
        axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    if part == RUNS:
        axes.axvspan(1e-3, TRAINED[task], color=COLOURS["blue"], alpha=0.07, linewidth=0)
    axes.set_ylim(-0.03, 1.08)
    return lengths


def legend(figure: Figure, rows: int = 1) -> None:
    """Which line is which, below the panels: colour is the chain, marker and dashes the learner."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from experiments.figures import COLOURS

    handles: list[Any] = [
        Line2D([], [], color=colour(CHAIN), linewidth=4, label="with the chain of thought"),
        Line2D([], [], color=colour(DIRECT), linewidth=4, label="answer at once"),
        Patch(facecolor=COLOURS["blue"], alpha=0.12, label="lengths in the chain's data"),
        *(
            Line2D([], [], color=COLOURS["grey"], marker=marker, linestyle=dashes, label=learner)
            for learner, (marker, dashes) in MARKERS.items()
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows), fontsize=9.5)


def headline_figure(summary: Summary, options: TuringOptions) -> Figure:
    """The busy beaver, the parity machine and counting, side by side."""
    from experiments.figures import new_panels

    panels: Sequence[tuple[str, str, str, str]] = (
        (RUNS, BEAVER, "busy beaver with 4 states, random tapes", "steps of the machine"),
        (RUNS, PARITY, "Turing machine for parity", "bits of the word"),
        (COUNT, "ParityCoT", f"parity of k among {options.prompt_bits} bits, by counting them", "k"),
    )
    figure, drawn = new_panels(
        "A linear model computes if it may write the steps down",
        [xlabel for *_, xlabel in panels],
        "answers entirely right",
        size=(13.0, 4.6),
    )
    for axes, (part, task, title, _) in zip(drawn, panels, strict=True):
        axes.set_title(title, fontsize=11)
        draw_runs(axes, summary, part, task)
    legend(figure)
    return figure


def control_figure(summary: Summary) -> Figure:
    """The increment machine."""
    from experiments.figures import new_panels

    figure, (axes,) = new_panels(
        "Not every computation needs its steps", ["bits of the number"], "answers entirely right", size=(8.6, 4.6)
    )
    axes.set_title("Turing machine that adds one", fontsize=11)
    draw_runs(axes, summary, RUNS, INCREMENT)
    legend(figure, rows=2)
    return figure


def step_figure(summary: Summary) -> Figure:
    """Fresh cells against the number of configurations learned from, a panel for each learner."""
    from experiments.figures import COLOURS, end_labels, new_panels, plot_series

    figure, panels = new_panels(
        "How many configurations teach a linear model one step of a machine?",
        ["configurations learned from"] * len(LEARNERS),
        "cells of fresh configurations right",
        size=(11.6, 4.6),
    )
    looks = {BEAVER: (COLOURS["green"], "o"), PARITY: (COLOURS["purple"], "D"), INCREMENT: (COLOURS["orange"], "s")}
    for axes, learner in zip(panels, LEARNERS, strict=True):
        axes.set_title(learner, fontsize=11)
        sizes = sorted({row["n"] for row in summary.select(CELLS, part=STEP)})
        axes.set_xscale("log")
        axes.set_xticks(sizes, labels=[f"{size:g}" for size in sizes])
        axes.set_xticks([], minor=True)
        if sizes:
            axes.set_xlim(sizes[0] / 1.15, sizes[-1] * (1.15 if axes is not panels[-1] else 3.2))
        lines = []
        for machine, (shade, marker) in looks.items():
            series = summary.series("n", CELLS, part=STEP, task=machine, learner=learner)
            plot_series(axes, series, learner, color=shade, marker=marker, linestyle="-")
            if len(series.x) and axes is panels[-1]:
                lines.append((float(series.x[-1]), float(series.mean[-1]), machine, shade))
    panels[0].set_ylim(None, 1.003)
    end_labels(panels[-1], lines)
    return figure
