"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.drawing import DISTANCE, Line, draw_lines, plain_log_axis, room_for_labels, shades
from experiments.learners import CHUNKED
from experiments.studies.text.corpus import DIAL, MAIN, NETWORKS
from experiments.studies.text.drift import BITS, DISTANCE2, EXPERT, LINEAR, MLP, NGRAM, name_of
from experiments.studies.text.options import TextOptions
from experiments.studies.text.shuffled import CLEAN, CLIPPED, EXACT, NETWORK, RHO
from experiments.studies.text.sweep import learners
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bits_figure", "curve_figure", "dial_figure", "drift_figure", "network_figure"]

BLUES = ("#0B2A45", "#0B4F83", "#0072B2", "#3C98CF", "#6FB8E3")  # few tokens seen to many
ORANGES = ("#7A2E00", "#B04600", "#D55E00", "#E69F00")
#: distances at the ticks of the additive scale, the last of which is its top
TICKS = (0.0, 0.5, 1.0, 1.3, 1.5, 1.7, 1.8, 1.85, 1.9)
#: where the lower end of an interval is beyond this, too little is in common to measure
MEASURABLE = 1.97


def additive(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-2 log(1 - D^2 / 2)``: adds up over independent errors."""
    return -2.0 * np.log1p(-np.clip(distance, 0.0, 2.0 - 1e-12) / 2.0)


def additive_inverse(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return -2.0 * np.expm1(-np.asarray(value) / 2.0)


def looks(options: TextOptions) -> dict[tuple[str, int], dict[str, Any]]:
    """Colour and dashes of every learner of the first part."""
    from experiments.figures import COLOURS

    ramps = {NGRAM: shades(sorted(options.orders), BLUES), LINEAR: shades(sorted(options.windows), ORANGES)}
    dashes = {NGRAM: "-", LINEAR: "--", MLP: "-"}
    return {
        (kind, size): {
            "color": COLOURS["green"] if kind == MLP else ramps[kind][size],
            "linestyle": dashes[kind],
            "marker": "",
        }
        for kind, size in learners(options, networks=True)
    }


def curve_of(summary: Summary, kind: str, size: int) -> Series:
    return summary.series("h", DISTANCE2, part=MAIN, learner=name_of(kind, size))


def drawn(axes: Axes, series: Series, look: dict[str, Any]) -> None:
    """A line and its band."""
    from experiments.figures import say_band

    axes.plot(series.x, series.mean, **look)
    axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.22, linewidth=0)
    say_band(axes, "each h")


def drift_figure(options: TextOptions, summary: Summary) -> Figure:
    """All learners on the additive scale, each labelled where its line leaves the picture."""
    from experiments.figures import end_labels, new_figure

    figure, axes = new_figure(
        "Free-running text drifts from the expert's, faster for the more restricted learner",
        "tokens written after the prompt",
        DISTANCE,
        size=(9.6, 5.6),
    )
    axes.set_yscale("function", functions=(additive, additive_inverse))
    curves = {place: series for place in looks(options) if len((series := curve_of(summary, *place)).x)}
    if not curves:
        return figure
    leaving = {place: exit_of(series) for place, series in curves.items()}
    gone = [x for x, _ in leaving.values() if np.isfinite(x)]
    right = float(options.horizon) if len(gone) < 2 else min(1.1 * max(gone), float(options.horizon))
    top = TICKS[-1] if gone else max(float(series.mean.max()) for series in curves.values())
    labels = []
    for place, series in curves.items():
        look = looks(options)[place]
        kept = ~(series.lower > MEASURABLE)
        start = Series(*(np.concatenate([[0.0], column[kept]]) for column in series))  # nothing written, no distance
        drawn(axes, start, look)
        if not np.isfinite(leaving[place][0]) or leaving[place][0] > right:
            at = float(np.interp(right, series.x, series.mean))
            labels.append((right, at, name_of(*place), look["color"]))
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, top)
    axes.set_yticks([tick for tick in TICKS if tick <= top], labels=[f"{tick:g}" for tick in TICKS if tick <= top])
    axes.set_yticks([], minor=True)
    end_labels(axes, labels)
    outs = [(x, name_of(*place), looks(options)[place]["color"]) for place, (x, _) in leaving.items() if x <= right]
    top_labels(axes, outs, top)
    return figure


def exit_of(series: Series) -> tuple[float, float]:
    """Where a curve passes the top of the additive scale, between two lengths; ``inf`` if it does not."""
    above = np.flatnonzero(series.mean >= TICKS[-1])
    if not len(above):
        return np.inf, np.inf
    i = int(above[0])
    ends = np.concatenate([[0.0], additive(series.mean[: i + 1])])
    places = np.concatenate([[0.0], series.x[: i + 1]])
    x = np.interp(additive(np.array(TICKS[-1])), ends[-2:], places[-2:])
    return float(x), TICKS[-1]


def top_labels(axes: Axes, outs: list[tuple[float, str, str]], top: float) -> None:
    """Slanted words above the places where lines leave through the top, moved apart where they would overlap."""
    from experiments.figures import spread

    if not outs:
        return
    width = axes.get_xlim()[1]
    places = spread(np.array([x for x, *_ in outs]), 0.036 * width)
    for (x, words, colour), at in zip(outs, places, strict=True):
        axes.annotate(
            words,
            (x, top),
            xytext=(at, 1.025),
            textcoords=("data", "axes fraction"),
            rotation=40,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            color=colour,
            fontweight="bold",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
            annotation_clip=False,
        )
    axes.set_title(axes.get_title(loc="left"), pad=84)


def curve_figure(options: TextOptions, summary: Summary) -> Figure:
    """Plain squared distances against the logarithm of the length; n-grams on the left, the others on the right."""
    from experiments.figures import log2_axis, new_panels

    figure, panels = new_panels(
        "The distance grows with every token, until the two laws have nothing in common",
        ["tokens written after the prompt"] * 2,
        DISTANCE,
        size=(11.0, 4.8),
    )
    for axes, kinds in zip(panels, ((NGRAM,), (LINEAR, MLP)), strict=True):
        for place, look in looks(options).items():
            series = curve_of(summary, *place)
            if place[0] in kinds and len(series.x):
                drawn(axes, series, {**look, "label": name_of(*place)})
        log2_axis(axes, [2.0**k for k in range(int(np.log2(options.horizon)) + 1)])
        axes.set_ylim(0.0, 2.05)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="lower right", fontsize=10)
    return figure


def bits_figure(options: TextOptions, summary: Summary) -> Figure:
    """A point with its interval for every learner, best at the top, and the expert as a line."""
    from experiments.figures import new_figure

    rows = [
        (row, look)
        for place, look in looks(options).items()
        for row in summary.select(BITS, part=MAIN, learner=name_of(*place))
    ]
    rows.sort(key=lambda item: -item[0].mean)
    size = (8.2, 1.8 + 0.38 * len(rows))
    experts = list(summary.select(BITS, part=MAIN, learner=EXPERT))
    said = "New text under teacher forcing"
    if rows and experts:
        ends = f"{rows[-1][0].mean:.2f} to {rows[0][0].mean:.2f}"
        said = f"New text: expert {experts[0].mean:.2f} bits a character, learners {ends}"
    figure, axes = new_figure(said, BITS, "", size=size)
    for y, (row, look) in enumerate(rows):
        axes.plot([row.lower, row.upper], [y, y], color=look["color"], linewidth=3, alpha=0.4)
        axes.plot([row.mean], [y], "o", color=look["color"], markersize=8)
        axes.annotate(f"{row.mean:.2f}", (row.top, y), xytext=(6, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), labels=[str(row["learner"]) for row, _ in rows])
    axes.set_xlim(0.0, 1.12 * float(axes.dataLim.x1))
    for row in experts:
        axes.axvspan(row.lower, row.upper, color="black", alpha=0.08, linewidth=0)
        axes.axvline(row.mean, color="black", linestyle="--", linewidth=1.5)
        axes.annotate(
            f"expert {row.mean:.2f} ",
            (row.mean, 0),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontweight="bold",
        )
    return figure


def dial_figure(options: TextOptions, summary: Summary) -> Figure:
    """Distance at the full length against the length, on logarithmic axes."""
    from experiments.figures import log2_axis, new_figure

    ends = {
        learner: summary.value(DISTANCE2, part=DIAL, learner=learner, H=max(options.dial_horizons))
        for learner in ("log-loss", "rho")
    }
    figure, axes = new_figure(
        "Log-loss pays for shuffled documents again and again, rho once"
        if ends["rho"] < 0.5 * ends["log-loss"]
        else "Log-loss and rho on text with some shuffled documents",
        "length of the documents H",
        DISTANCE,
        size=(8.2, 4.8),
    )
    horizons = sorted(float(H) for H in options.dial_horizons)
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], 1.25 * (horizons[-1] / horizons[0]) ** 0.28)

    def of(learner: str, **more: int) -> Series:
        return summary.series("H", DISTANCE2, part=DIAL, learner=learner, **more)

    colours = shades(options.chunks)
    lines = [
        *(Line(of(CHUNKED, K=K), CHUNKED, f"rho, chunks of {K}", color=colours[K]) for K in options.chunks),
        Line(of("log-loss"), "log-loss", "log-loss"),
        Line(of("rho"), "rho", "rho, whole document"),
        Line(of(CLEAN), "best in class", CLEAN),
    ]
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure


def network_figure(options: TextOptions, summary: Summary) -> Figure:
    """Distance of the first h tokens, for log-loss and for what is trained on whole documents."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    ends = summary.select(DISTANCE2, part=NETWORKS, h=options.network_horizon)
    values = {row["learner"]: row.mean for row in ends}
    better = [name for name in (RHO, CLIPPED) if values.get(name, np.inf) < values.get(EXACT, 0.0)]
    said = {
        2: "Training on whole documents comes nearer to the expert than log-loss",
        1: f"Of the two, the {(better or [''])[0].removesuffix(', network')} comes nearer to the expert than log-loss",
        0: "Log-loss on contaminated text: the distance keeps growing with the length",
    }[len(better)]
    figure, axes = new_figure(said, "tokens written after the prompt", DISTANCE, size=(8.6, 4.8))
    H = options.network_horizon
    first = max(H // 32, 1)
    log2_axis(axes, [float(first << k) for k in range(int(np.log2(H / first)) + 1)])
    room_for_labels(axes, first, H, 3.2)
    styles: dict[str, dict[str, Any]] = {
        NETWORK: {"color": COLOURS["orange"], "linestyle": "--"},
        EXACT: {"color": COLOURS["vermilion"]},
        RHO: {"color": COLOURS["blue"]},
        CLIPPED: {"color": COLOURS["green"]},
        CLEAN: {"color": COLOURS["black"], "linestyle": "--"},
    }
    lines = []
    for learner, style in styles.items():
        series = summary.series("h", DISTANCE2, part=NETWORKS, learner=learner)
        kept = series.x >= first
        style = {"linestyle": "-", "marker": "", **style}
        lines.append(Line(Series(*(column[kept] for column in series)), learner, learner, **style))
    draw_lines(axes, lines)
    axes.set_ylim(0.0, None)
    return figure
