"""The figure: a panel for each task, a row for each agent; left is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.specs import parse_spec, short_names
from experiments.studies.compare.estimates import Estimates

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["comparison_figure"]

PANELS_A_ROW = 4
#: our agents in the colours they have in the other figures; yours are black
STYLES = {
    "LogLossBC": "log-loss",
    "SmoothedLogLossBC": "smoothed 1/H",
    "LayerwiseBC": "layerwise",
    "ChunkedRhoBC": "chunked rho",
    "RhoEstimatorBC": "rho",
    "ChunkKR": "ChunkKR",
}


def colour_of(agent: str) -> str:
    """The colour of an agent's row."""
    from experiments.figures import COLOURS, learner_style

    style = STYLES.get(parse_spec(agent).name)
    return COLOURS["black"] if style is None else learner_style(style).colour


def comparison_figure(estimates: Estimates) -> Figure:
    """Dots for C_apx, or for the distance where the class contains the expert."""
    from matplotlib.figure import Figure

    options = estimates.options
    tasks, agents = [task for task in options.tasks if estimates.horizons[task]], options.agents
    if not tasks:
        raise ValueError("every run failed; there is nothing to draw.")
    lines = -(-len(tasks) // PANELS_A_ROW)
    columns = -(-len(tasks) // lines)
    width = 0.085 * max(map(len, agents)) + 0.6
    figure = Figure(figsize=(width + 2.5 * columns, lines * (0.34 * len(agents) + 1.3) + 0.7), layout="constrained")
    figure.suptitle("How far from the expert? Left is better", x=0.01, ha="left", fontsize=13, fontweight="bold")
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    names = short_names(options.tasks)
    for axes, task in zip(grid.ravel(), tasks):
        _panel(axes, estimates, task, names[task])
    for axes in grid.ravel()[len(tasks) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(agents)), labels=list(agents))
        axes.set_ylim(len(agents) - 0.5, -0.5)
        for label, agent in zip(axes.get_yticklabels(), agents):
            label.set_color(colour_of(agent))
            label.set_fontweight("bold")
    return figure


def _panel(axes: Axes, estimates: Estimates, task: str, title: str) -> None:
    horizons = estimates.horizons[task]
    factor = any(estimates.runs(task, H, agent, "C_apx") for H in horizons for agent in estimates.options.agents)
    metric = "C_apx" if factor else "hellinger2"
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for agent in estimates.options.agents:
        at = {H: estimates.estimate(task, H, agent, metric) for H in horizons}
        found[agent] = {H: interval for H, interval in at.items() if interval is not None}
    positive = [value for at in found.values() for interval in at.values() for value in interval if value > 0]
    floor = min(positive, default=1.0) / 2.0  # zeros are drawn here, and say so
    axes.set_xscale("log")
    if factor:
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1.2)
    for row, agent in enumerate(estimates.options.agents):
        if found[agent]:
            _row(axes, row, found[agent], horizons, floor, colour_of(agent))
        else:
            refused = [estimates.reason(task, H, agent) for H in horizons]
            text = "failed" if None in refused else "not applicable"
            place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "backgroundcolor": "white"}
            axes.text(0.5, row, text, transform=axes.get_yaxis_transform(), color="#6E6E6E", **place)
    zeros = any(interval[0] <= 0.0 for at in found.values() for interval in at.values())
    _limits(axes, [*positive, *([floor] if zeros else []), *([1.0] if factor or not positive else [])])
    sizes = f"H={horizons[0]}" + (f" (small dot) to {horizons[-1]} (large)" if len(horizons) > 1 else "")
    axes.set_title(f"{title}\n", fontsize=11)
    axes.text(0, 1.02, sizes, transform=axes.transAxes, fontsize=9, color="#6E6E6E", va="bottom")
    axes.set_xlabel("C_apx (1 = best in class)" if factor else "distance (expert in class)", fontsize=9)
    axes.tick_params(axis="y", length=0)


def _row(
    axes: Axes,
    row: int,
    found: dict[int, tuple[float, float, float]],
    horizons: list[int],
    floor: float,
    colour: str,
) -> None:
    x = [max(found[H][0], floor) for H in found]
    sizes = np.interp(list(found), horizons, np.linspace(14, 70, len(horizons))) if len(horizons) > 1 else [70]
    axes.plot(x, [row] * len(x), color=colour, linewidth=1.2, alpha=0.5)
    axes.scatter(x, [row] * len(x), s=sizes, color=colour, zorder=3)
    mean, lower, upper = found[max(found)]
    if upper > lower:
        axes.plot(
            [max(lower, floor), upper], [row, row], color=colour, linewidth=4.5, alpha=0.35, solid_capstyle="butt"
        )
    if mean <= 0.0:
        axes.annotate("0", (floor, row), xytext=(0, 6), textcoords="offset points", fontsize=8, ha="center")


def _limits(axes: Axes, values: list[float]) -> None:
    """Room on both sides, and ticks at a few round numbers."""
    low, high = min(values) / 1.6, max(values) * 1.6
    axes.set_xlim(low, high)
    decades = np.log10(high / low)
    steps = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**e for e in exponents for step in steps if low <= step * 10.0**e <= high]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
