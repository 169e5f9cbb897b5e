"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.studies.snowball.sweep import (
    AGAIN,
    BUDGETS,
    COST,
    CURVE,
    DEPTH_FIRST,
    EXACT,
    FORM,
    FREE,
    LENGTH,
    LOCAL,
    PATH,
    POSITIONS,
    SNOW,
    TOKENS,
)
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["budget_figure", "cost_figure", "length_figure", "position_figure"]

HEADINGS = {SNOW: "Snowball: slips while writing", PATH: "PathStar: no plan was learned"}


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by decoding."""
    from experiments.figures import COLOURS

    return {
        FREE: {"color": COLOURS["vermilion"], "marker": "o"},
        LOCAL: {"color": COLOURS["green"], "marker": "s"},
        DEPTH_FIRST: {"color": COLOURS["blue"], "marker": "D"},
        AGAIN: {"color": COLOURS["orange"], "marker": "^"},
        FORM: {"color": COLOURS["grey"], "marker": "", "linestyle": ":", "linewidth": 1.5},
    }


def draw(axes: Axes, series: Series, decoding: str, **changes: Any) -> None:
    """A line with its 95 % intervals as bars."""
    if not len(series.x):
        return
    look = {**looks()[decoding], **changes}
    axes.plot(series.x, series.mean, **look)
    if series.sampled:
        bars = np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))
        axes.errorbar(series.x, series.mean, bars, fmt="none", ecolor=look["color"], elinewidth=1.2, capsize=2)


def note(axes: Axes, at: tuple[float, float], words: str, decoding: str, **changes: Any) -> None:
    """Words beside a line, in its colour."""
    style = {"fontweight": "bold", "fontsize": 10, "va": "center", "color": looks()[decoding]["color"], **changes}
    axes.text(*at, words, **style)


def share_axis(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.09)


def length_figure(summary: Summary) -> Figure:
    """Exact match against the length of the answer, with and without a verifier; a panel for each task."""
    from experiments.figures import log2_axis, new_panels

    figure, panels = new_panels(
        "A verifier that sees one token repairs slips; it does not repair a plan that was never learned",
        ["length of the answer H"] * 2,
        EXACT,
        size=(11.0, 4.6),
    )
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        axes.set_title(HEADINGS[task], fontsize=11)

        def of(decoding: str, task: str = task) -> Series:
            return summary.series("H", EXACT, part=LENGTH, task=task, decoding=decoding)

        horizons = list(of(FREE).x)
        if not horizons:
            continue
        log2_axis(axes, horizons)
        axes.set_xlim(horizons[0] / 1.15, horizons[-1] * 1.2)
        share_axis(axes)
        if len(of(FORM).x):
            fine = np.geomspace(horizons[0], horizons[-1], 100)  # both forms are exponential in H, one with rate 0
            last = float(of(FORM).mean[-1])
            axes.plot(fine, last ** (fine / horizons[-1]) if task == SNOW else np.full(100, last), **looks()[FORM])
        draw(axes, of(FREE), FREE, linestyle="", markersize=8)
        draw(axes, of(LOCAL), LOCAL, markersize=5, linestyle="--" if task == PATH else "-")
        middle = float(np.sqrt(horizons[0] * horizons[-1]))
        low = float(of(FREE).mean[-1])
        if task == SNOW:
            price = summary.series("H", TOKENS, part=LENGTH, task=task, decoding=LOCAL).mean
            words = f" ({price[-1]:.2f} tokens drawn a token)" if len(price) else ""
            note(axes, (middle, 1.05), f"verifier, going back one token{words}", LOCAL, ha="center")
            note(axes, (horizons[0], 0.15), "no verifier: (1 - eps)$^H$", FREE)
        else:
            note(axes, (middle, low + 0.13), "verifier, going back one token", LOCAL, ha="center")
            note(axes, (middle, low - 0.13), "no verifier: 1 / d", FREE, ha="center")
    return figure


def budget_figure(summary: Summary) -> Figure:
    """Share answered against the tokens drawn; a panel for each task."""
    from experiments.figures import log2_axis, new_panels

    figure, panels = new_panels(
        "Going back one token repairs slips at once; a missing plan takes a search over plans",
        ["tokens drawn, in lengths of the answer"] * 2,
        "share answered right",
        size=(11.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        horizon = summary.distinct("H", part=CURVE)
        axes.set_title(f"{HEADINGS[task]}, H={horizon[0]}" if horizon else task, fontsize=11)
        log2_axis(axes, [1, 2, 4, 8, 16, 32])
        axes.set_xlim(0.93, BUDGETS[-1] * 1.1)
        share_axis(axes)
        for decoding in (FORM, AGAIN, DEPTH_FIRST, LOCAL):
            series = summary.series("budget", EXACT, part=CURVE, task=task, decoding=decoding)
            draw(axes, series, decoding, **({"linestyle": "", "markersize": 7} if decoding == AGAIN else {}))
            if len(series.x) and decoding == LOCAL and task == PATH:
                words = "the choice is never taken back"
                note(axes, (float(series.x[-1]) * 1.1, float(series.mean[-1])), words, LOCAL, fontsize=9)
            if len(series.x):
                names[decoding] = axes.plot([], [], **looks()[decoding])[0]
    labels = {FORM: "1 - (1 - p)$^k$, k whole answers"}
    order = [name for name in (LOCAL, DEPTH_FIRST, AGAIN, FORM) if name in names]
    figure.legend(
        [names[name] for name in order],
        [labels.get(name, name) for name in order],
        loc="outside lower center",
        ncols=len(order),
        fontsize=9,
    )
    return figure


def position_figure(summary: Summary) -> Figure:
    """Probability of the right token by position, forced and free; a panel for each task."""
    from experiments.figures import COLOURS, new_panels

    figure, panels = new_panels(
        "Under teacher forcing both look fine",
        ["position h"] * 2,
        "probability of the right token",
        size=(11.0, 4.6),
    )
    for axes, task in zip(panels, (SNOW, PATH), strict=True):
        axes.set_title(HEADINGS[task], fontsize=11)
        share_axis(axes)
        forced = summary.series("h", "cross_entropy", part=POSITIONS, task=task)
        free = summary.series("h", "sampled_accuracy", part=POSITIONS, task=task)
        if not len(forced.x):
            continue
        right = np.exp(-forced.mean)
        axes.plot(forced.x, right, color=COLOURS["blue"], marker="s", markersize=5, label="after the true prefix")
        axes.errorbar(
            free.x,
            free.mean,
            np.abs(np.stack([free.mean - free.lower, free.upper - free.mean])),
            color=COLOURS["vermilion"],
            fmt="o",
            markersize=4,
            elinewidth=1.2,
            label="after its own tokens",
        )
        whole = summary.value("sampled_exact", part=POSITIONS, task=task)
        words = f"mean after the true prefix {right.mean():.3f}\nwhole answers right {whole:.2f}"
        axes.text(0.97, 0.55, words, transform=axes.transAxes, ha="right", va="center", fontsize=10)
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(loc="lower left", fontsize=9)
    return figure


def cost_figure(summary: Summary) -> Figure:
    """Mean tokens until the answer is right: against H on Snowball, against the number of plans on PathStar."""
    from experiments.drawing import plain_log_axis
    from experiments.figures import log2_axis, new_panels

    figure, panels = new_panels(
        "Slips cost little with a verifier; without a plan one pays for every plan",
        ["length of the answer H", "arms d: plans to choose from"],
        "tokens drawn until right,\nin lengths of the answer",
        size=(11.0, 4.6),
    )
    for axes, task, x, search in ((panels[0], SNOW, "H", LOCAL), (panels[1], PATH, "degree", DEPTH_FIRST)):
        axes.set_title(HEADINGS[task], fontsize=11)
        for decoding in (AGAIN, search):
            form = summary.series(x, TOKENS, part=COST, task=task, decoding=f"{decoding}, {FORM}")
            measured = summary.series(x, TOKENS, part=COST, task=task, decoding=decoding)
            draw(axes, form, FORM)
            draw(axes, measured, decoding, linestyle="")
            if len(form.x):
                log2_axis(axes, list(form.x))
                axes.set_xlim(form.x[0] / 1.2, form.x[-1] * 1.25)
                short = {AGAIN: "whole answers again", LOCAL: "one token back", DEPTH_FIRST: "depth-first"}[decoding]
                above = decoding == AGAIN
                at = (
                    float(form.x[-1]) * (0.8 if above else 1.1),
                    float(form.mean[-1]) * (1.0 if above else 0.85 if task == SNOW else 0.7),
                )
                note(axes, at, short, decoding, ha="right", va="bottom" if above else "top")
    panels[0].axhline(1.0, linewidth=0)
    plain_log_axis(panels[0])
    panels[0].set_ylim(0.6, None)
    return figure
