"""How the figures of the study are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import Line, draw_lines
from experiments.studies.length.options import LengthOptions
from experiments.studies.length.sweep import (
    ANSWER,
    CLOSED,
    FEATURES,
    FORCED,
    FORMATS,
    GREEDY,
    MIX,
    NEEDED,
    ROUNDS,
    SAMPLED,
    SHARE,
    THRESHOLD,
    TRADE,
)
from experiments.summary import Series, Summary, SummaryRow
from ntp_envs.tasks.parity_mix import GREEDY_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINEAR", "format_figure", "mix_figure", "sample_figure", "shape_of", "trade_figure"]

#: formats every step of which is linear
LINEAR = ("count", "andxor", "token")


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by format."""
    from experiments.figures import COLOURS

    return {
        "count": {"color": COLOURS["blue"], "marker": "o", "linestyle": "-"},
        "andxor": {"color": COLOURS["green"], "marker": "s", "linestyle": "-"},
        "token": {"color": COLOURS["orange"], "marker": "D", "linestyle": "-"},
        "none": {"color": COLOURS["black"], "marker": "o", "linestyle": ":"},
        "prefix": {"color": COLOURS["vermilion"], "marker": "v", "linestyle": "--"},
        "xor_3": {"color": COLOURS["purple"], "marker": "^", "linestyle": "--"},
    }


def note(axes: Axes, at: tuple[float, float], words: str, colour: str, **changes: Any) -> None:
    """Words beside a point, in its colour."""
    style: dict[str, Any] = {"fontweight": "bold", "fontsize": 10, "va": "center", "color": colour, **changes}
    axes.annotate(words, at, **{"xytext": (9, 0), "textcoords": "offset points", **style})


def shape_of(summary: Summary, part: str, name: str) -> str:
    """``T=3, V=2`` of a format."""
    rows = summary.select(part=part, format=name)
    return f"T={rows[0]['H']}, V={rows[0]['V']}" if len(rows) else ""


def share_axis(axes: Axes) -> None:
    """From below a guess to just above certainty."""
    axes.set_ylim(0.43, 1.04)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def sample_figure(options: LengthOptions, summary: Summary) -> Figure:
    """Accuracy of the answer against the number of demonstrations, a line a format."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    title = "A chain helps if each of its steps is linear, not if it is long"
    figure, axes = new_figure(title, "demonstrations", "share of answers right (greedy)", size=(9.2, 4.8))
    sizes = sorted(options.n)
    log2_axis(axes, sizes)
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42)

    def of(name: str) -> Series:
        return summary.series("n", ANSWER, part=FORMATS, format=name)

    lines = [
        Line(of(name), name, f"{name}: {shape_of(summary, FORMATS, name)}", **looks()[name])
        for name in (*LINEAR, "none", "prefix", "xor_3")
    ]
    best = summary.select(CLOSED + THRESHOLD, part=FORMATS, format="none")
    if len(best):
        axes.axhline(best[0].mean, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
        words = "best threshold function of the bits"
        note(axes, (sizes[-1], best[0].mean), words, COLOURS["grey"], xytext=(9, 8), fontweight="normal")
    draw_lines(axes, lines, limits=share_axis)
    middle = sizes[len(sizes) // 2]
    plain: dict[str, Any] = {"xytext": (0, 0), "fontweight": "normal", "fontsize": 11}
    note(axes, (middle, 0.535), "a step is an exclusive or: a guess", COLOURS["grey"], **plain)
    note(axes, (2 * middle, 0.9), "every step is linear", COLOURS["grey"], **plain)
    return figure


def format_figure(summary: Summary) -> Figure:
    """Forced accuracy of a token beside the accuracy of the answer, at the largest number of demonstrations."""
    from experiments.figures import COLOURS, new_figure

    title = "After true prefixes a useless chain looks better than a guess"
    figure, axes = new_figure(title, "share right", "", size=(8.6, 4.2))
    names = [
        name for name in ("none", "xor_3", "prefix", "token", "count", "andxor") if shape_of(summary, FORMATS, name)
    ]
    n = max(summary.distinct("n", part=FORMATS), default=0)
    for place, name in enumerate(names):
        for metric, colour, marker, shift in (
            (FORCED, COLOURS["blue"], "s", 0.14),
            (ANSWER, COLOURS["vermilion"], "o", -0.14),
        ):
            for row in summary.select(metric, part=FORMATS, format=name, n=n):
                bar = [[row.mean - row.lower], [row.upper - row.mean]]
                axes.errorbar([row.mean], [place + shift], xerr=bar, color=colour, marker=marker, markersize=8)
            for row in summary.select(CLOSED + metric, part=FORMATS, format=name):
                axes.plot([row.mean] * 2, [place + shift - 0.13, place + shift + 0.13], color="black", linewidth=1.2)
    axes.set_yticks(range(len(names)), labels=[f"{name}  ({shape_of(summary, FORMATS, name)})" for name in names])
    axes.grid(False, axis="y")
    axes.set_xlim(0.45, 1.03)
    axes.set_ylim(-0.5, len(names) - 0.5)
    last = len(names) - 1
    note(axes, (0.985, last + 0.14), "a token, after the true ones", COLOURS["blue"], xytext=(-4, 1), ha="right")
    note(
        axes, (0.985, last - 0.14), "the answer, after its own chain", COLOURS["vermilion"], xytext=(-4, -1), ha="right"
    )
    return figure


def trade_figure(options: LengthOptions, summary: Summary) -> Figure:
    """Samples needed against the length of the chain."""
    from experiments.figures import COLOURS, new_figure

    title = "A shorter chain needs richer steps, and more samples"
    label = f"demonstrations for {options.target:.0%} right"
    figure, axes = new_figure(title, "T, tokens of the answer", label, size=(8.6, 4.8))
    axes.set_yscale("log", base=2)
    rows = [row for row in summary.select(NEEDED, part=TRADE) if np.isfinite(row.mean)]
    chain = sorted((row for row in rows if row["degree"] > 1), key=lambda row: row["H"])
    colour = COLOURS["purple"]
    axes.plot([row["H"] for row in chain], [row.mean for row in chain], color=colour, linestyle="--", linewidth=1.5)
    for row in rows:
        product = row["degree"] > 1
        look = {"color": colour, "marker": "^"} if product else looks()[row["format"]]
        bar = [[row.mean - row.lower], [row.upper - row.mean]]
        axes.errorbar([row["H"]], [row.mean], yerr=bar, capsize=3, markersize=8, **look)
        side: dict[str, Any] = {"xytext": (10, 5 if product else -3)}
        if row["format"] == "token":  # others are to its right
            side = {"xytext": (0, -40), "ha": "center"}
        note(axes, (row["H"], row.mean), trade_label(summary, row), look["color"], **side)
    longest = max((row["H"] for row in rows), default=1)
    axes.set_xlim(0.5, 1.5 * longest)
    axes.set_xticks(range(1, longest + 1))
    low, high = axes.get_ylim()
    ticks = [2**i for i in range(4, 14) if low <= 2**i <= high]
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    return figure


def trade_label(summary: Summary, row: SummaryRow) -> str:
    """What a step is, and how many weights the class has."""
    name = row["format"]
    weights = summary.value(FEATURES, part=TRADE, format=name)
    if row["degree"] > 1:
        said = "no chain" if name == "none" else f"xor of {row['degree']} a step"
        return f"{said}: products of {row['degree']}, {weights:.0f} weights"
    comma = "\n" if name == "token" else ", "
    return f"{name}: linear, V={row['V']}{comma}{weights:.0f} weights"


def mix_figure(summary: Summary) -> Figure:
    """Accuracy against the share of chains, and the share under filtered rounds."""
    from experiments.figures import COLOURS, new_panels

    title = "Keep the right answers, and they grow: chains take over above 1/3"
    labels = ["p, share of demonstrations with a chain", "rounds of sampling, filtering, fitting"]
    figure, (left, right) = new_panels(title, labels, "share of answers right", share=False, size=(11.4, 4.6))
    for metric, colour, marker, words, height in (
        (GREEDY, COLOURS["blue"], "s", "greedy", 0.93),
        (SAMPLED, COLOURS["orange"], "o", "sampled", 0.0),
    ):
        series = summary.series("p", metric, part=MIX)
        form = summary.series("p", CLOSED + metric, part=MIX)
        _points(left, series, colour, marker)
        if metric == GREEDY and len(form.x):
            cut = [form.x[0], GREEDY_THRESHOLD, GREEDY_THRESHOLD, form.x[-1]]
            left.plot(cut, [0.5, 0.5, 1.0, 1.0], color=colour, linewidth=1.4)
            note(left, (form.x[-1], height), words, colour, xytext=(0, 0), ha="right")
        elif len(form.x):
            left.plot(form.x, form.mean, color=colour, linewidth=1.4)
            note(left, (form.x[-1], float(form.mean[-1])), f"{words}: (1 + p)/2", colour, xytext=(0, -44), ha="right")
    left.axvline(GREEDY_THRESHOLD, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    note(left, (GREEDY_THRESHOLD, 0.44), "1/3", COLOURS["grey"], xytext=(5, 0))
    left.set_ylim(0.4, 1.05)

    right.set_ylabel("share of chains in samples")
    shades = (COLOURS["purple"], COLOURS["vermilion"], COLOURS["green"])
    starts = sorted(summary.distinct("p", part=ROUNDS))
    for p, colour in zip(starts, shades * len(starts)):
        form = summary.series("round", CLOSED + SHARE, part=ROUNDS, p=p)
        right.plot(form.x, form.mean, color=colour, linewidth=1.4, label=f"from p = {p:g}")
        _points(right, summary.series("round", SHARE, part=ROUNDS, p=p), colour, "o")
    right.legend(loc="upper left", reverse=True, labelcolor="linecolor", handlelength=1.2)
    right.axhline(GREEDY_THRESHOLD, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    words = "1/3: greedy decoding\nwrites the chain above"
    note(right, (1.0, GREEDY_THRESHOLD), words, COLOURS["grey"], xycoords=("axes fraction", "data"), **AT_RIGHT)
    right.set_ylim(-0.03, 1.03)
    return figure


AT_RIGHT: dict[str, Any] = {"xytext": (-2, -16), "ha": "right", "fontsize": 9}


def _points(axes: Axes, series: Series, colour: str, marker: str) -> None:
    """Means with their 95 % intervals."""
    if len(series.x):
        bars = np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))
        axes.errorbar(series.x, series.mean, bars, color=colour, marker=marker, linestyle="", capsize=2, markersize=6)
