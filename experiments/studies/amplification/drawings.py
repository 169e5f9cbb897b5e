"""How the figures of the study are drawn; what each one says is in ``catalogue``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.drawing import (
    DISTANCE,
    FACTOR,
    Line,
    draw_lines,
    factor_axis,
    room_for_labels,
    shades,
    text,
)
from experiments.learners import BEST, CHUNKED, IMPROPER
from experiments.studies.amplification.options import AmplificationOptions
from experiments.studies.amplification.sweep import RARE_RATIOS
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "chunk_figure",
    "consistency_figure",
    "control_figure",
    "horizon_figure",
    "prefix_figure",
    "rare_growth_figure",
    "rare_switch_figure",
]


def horizon_figure(
    title: str,
    summary: Summary,
    part: str,
    learners: Sequence[str],
    chunks: Sequence[int],
    slopes: Summary,
    *,
    improper: Sequence[int] = (),
    size: tuple[float, float] = (7.6, 4.8),
) -> Figure:
    """C_apx against H, both logarithmic, a line a learner."""
    from experiments.figures import log2_axis, new_figure

    figure, axes = new_figure(title, "horizon H (tokens in a document)", FACTOR, size=size)
    axes.set_yscale("log")
    horizons = summary.distinct("H", part=part)
    log2_axis(axes, horizons)
    room_for_labels(axes, min(horizons), max(horizons), 3.6)

    def slope(learner: str, **labels: Any) -> str:
        found = [row.mean for row in slopes.select(part=part, learner=learner, **labels)]
        return f" (slope {found[0]:.2f})" if found else ""

    def of(learner: str, **labels: Any) -> Series:
        return summary.series("H", "C_apx", part=part, learner=learner, **labels)

    lines = [Line(of(name), name, f"{name}{slope(name, K=None)}") for name in learners]
    colours = shades(chunks) if chunks else {}
    lines += [Line(of(CHUNKED, K=K), CHUNKED, f"chunks of {K}", color=colours[K]) for K in chunks]
    lines += [Line(of(IMPROPER, K=K), IMPROPER, f"improper, K={K}") for K in improper]
    if part.endswith("samples"):
        axes.axhline(1.0, color="black", linestyle="--", linewidth=1.2)
    else:
        lines.append(Line(of(BEST), BEST, "best in class", linewidth=1.2))
    draw_lines(axes, lines, limits=factor_axis)
    return figure


def chunk_figure(options: AmplificationOptions, summary: Summary, slopes: Summary, *, sampled: bool) -> Figure:
    """C_apx against K at a fixed horizon."""
    from experiments.figures import log2_axis, new_figure

    part = "chunk, samples" if sampled else "chunk, population"
    horizon = options.sampled_chunk_horizon if sampled else options.chunk_horizon
    data = f"n={options.n}" if sampled else "population"
    figure, axes = new_figure("Longer chunks, smaller factor", f"chunk length K (H={horizon}, {data})", FACTOR)
    chunked = summary.series("K", "C_apx", part=part, learner=CHUNKED)
    axes.set_yscale("log")
    log2_axis(axes, [float(K) for K in chunked.x])
    room_for_labels(axes, 1, horizon, 2.5 if sampled else 1.15)
    found = [row.mean for row in slopes.select(part=part, learner=CHUNKED)]
    label = f"chunked rho (slope {found[0]:.2f})" if found else "chunked rho"
    lines = [Line(chunked, CHUNKED, "")]
    if len(chunked.x) > 4:
        axes.annotate(label, (chunked.x[4], chunked.mean[4]), xytext=(10, 10), **text(CHUNKED))
    if sampled:
        for name in ("log-loss", "rho"):
            value = summary.series("H", "C_apx", part=part, learner=name)
            flat = Series(*(np.repeat(column, 2) for column in value))._replace(x=np.array([1.0, horizon]))
            lines.append(Line(flat, name, name, marker=""))
    else:
        K = chunked.x[chunked.x < horizon]
        line = 1 + horizon / K
        reference = Series(K, line, line, line)
        improper = summary.series("K", "C_apx", part=part, learner=IMPROPER)
        lines.append(Line(improper, IMPROPER, "", marker="D", linestyle=""))
        lines.append(Line(reference, IMPROPER, ""))
        at = len(K) // 2
        axes.annotate(
            "improper limit (dots)\nand 1 + H/K (line)", (K[at], line[at]), xytext=(-150, -32), **text(IMPROPER)
        )
    draw_lines(axes, lines, limits=factor_axis)
    return figure


def rare_switch_figure(summary: Summary) -> Figure:
    """The jump of log-loss in RareMode."""
    from experiments.figures import new_figure
    from ntp_envs.tasks import RareMode

    part = "rare mode, switch"
    figure, axes = new_figure("One more token, and log-loss takes the wrong policy", "horizon H", FACTOR)
    dashes = {"e": "--", "10": "-"}
    lines, last = [], 1.0
    for ratio, value in RARE_RATIOS.items():
        task = f"RareMode eps=0.01 W={ratio}"
        series = summary.series("H", "C_apx", part=part, learner="log-loss", task=task)
        lines.append(Line(series, "log-loss", "", linestyle=dashes[ratio], drawstyle="steps-post", marker=""))
        last = float(series.mean[-1]) if len(series.x) else 1.0
        switch = RareMode(eps=0.01, density_ratio=value).switch_horizon()
        label = f"log-loss, W={ratio}:\nswitches at H={switch:.1f}"
        axes.annotate(label, (switch, last / 2), xytext=(8, 0), **text("log-loss"))
    rho = summary.series("H", "C_apx", part=part, learner="rho", task="RareMode eps=0.01 W=10")
    axes.set_xlim(0, 112)
    draw_lines(axes, [*lines, Line(rho, "rho", "rho", marker="")])
    axes.set_ylim(0, None)
    return figure


def rare_growth_figure(summary: Summary) -> Figure:
    """Linear growth with a bounded density ratio."""
    from experiments.figures import log2_axis, new_figure

    part = "rare mode, growth"
    title = "A bounded density ratio does not save log-loss"
    figure, axes = new_figure(title, "horizon H (rare mode of probability 1/H, W=10)", FACTOR)
    series = {name: summary.series("H", "C_apx", part=part, learner=name) for name in ("log-loss", "rho")}
    axes.set_yscale("log", base=2)
    log2_axis(axes, list(series["log-loss"].x))
    log2_axis(axes, [1, 2, 4, 8, 16, 32, 64], which="y")
    room_for_labels(axes, 16, 256, 1.9)
    draw_lines(axes, [Line(series[name], name, name) for name in series])
    return figure


def consistency_figure(summary: Summary) -> Figure:
    """The multi-scale game: measured factors on their closed form."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    part = "consistency"
    figure, axes = new_figure("Deciding token by token cannot be consistent", "chunk length K (H=256)", FACTOR)
    chunked = summary.series("K", "C_apx", part=part, learner=CHUNKED)
    exact = summary.series("K", "C_apx in closed form", part=part, learner=CHUNKED)
    axes.set_yscale("log")
    log2_axis(axes, [float(K) for K in chunked.x])
    room_for_labels(axes, 1, 256, 2.0)
    axes.plot(exact.x, exact.mean, color=COLOURS["grey"], linestyle=":")
    axes.plot(chunked.x, chunked.mean, color=COLOURS["green"], marker="o", linestyle="")
    names = [name for name in ("log-loss", "layerwise") if len(summary.select("C_apx", part=part, learner=name))]
    for name, marker, colour, size in zip(("log-loss", "layerwise"), ("o", "x"), ("vermilion", "black"), (13, 7)):
        value = summary.series("K", "C_apx", part=part, learner=name)
        axes.plot(
            value.x, value.mean, marker=marker, color=COLOURS[colour], markersize=size, fillstyle="none", linestyle=""
        )
    if names and len(exact.x):
        axes.annotate(" = ".join(names), (1, exact.mean[0]), xytext=(14, 4), **text("log-loss"))
    if len(exact.x) > 4:
        axes.annotate("chunked rho (dots)", (exact.x[4], exact.mean[4]), xytext=(12, 12), **text(CHUNKED))
        label = "closed form (line):\n(H/K)(1 - eta (J - k)/J)"
        axes.annotate(label, (exact.x[4], exact.mean[4]), xytext=(-200, -30), **text(IMPROPER))
    factor_axis(axes)
    return figure


def prefix_figure(options: AmplificationOptions, summary: Summary) -> Figure:
    """How the distance grows along the document."""
    from experiments.figures import log2_axis, new_figure

    part = "prefix"
    figure, axes = new_figure("Errors accumulate token by token", "prefix length h (tokens)", DISTANCE)
    chunks = summary.distinct("K", part=part)
    colours = shades(chunks) if chunks else {}

    def of(learner: str, K: int | None = None) -> Series:
        return summary.series("h", "hellinger2", part=part, learner=learner, K=K)

    axes.set_yscale("log")
    log2_axis(axes, [2.0**k for k in range(options.chunk_horizon.bit_length())])
    room_for_labels(axes, 1, options.chunk_horizon, 4.5)
    lines = [Line(of("log-loss"), "log-loss", "log-loss", marker="")]
    lines += [Line(of(CHUNKED, K), CHUNKED, f"chunks of {K}", marker="", color=colours[K]) for K in chunks]
    lines += [Line(of("rho"), "rho", "rho", marker=""), Line(of(BEST), BEST, "best in class")]
    low, high = of(BEST).mean, of("log-loss").mean
    if len(low) and len(high):
        axes.set_ylim(low[-1] / 3, high.max() * 1.5)  # log-loss has the first token exactly right: far below
    draw_lines(axes, lines)
    return figure


def control_figure(options: AmplificationOptions, summary: Summary, x: str) -> Figure:
    """The well-specified case: 1/n and no horizon."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    part = "control"
    other = "H" if x == "n" else "n"
    values = sorted(options.control_horizons if other == "H" else options.control_n)
    fixed = values[len(values) // 2]
    series = {
        name: summary.series(x, "hellinger2", part=part, learner=name, **{other: fixed}) for name in ("log-loss", "rho")
    }
    xs = series["log-loss"].x
    title = "Well specified: the error falls like 1/n ..." if x == "n" else "... and does not depend on the horizon"
    label = f"demonstrations n (H={fixed})" if x == "n" else f"horizon H (n={fixed})"
    figure, axes = new_figure(title, label, DISTANCE)
    axes.set_yscale("log")
    log2_axis(axes, list(xs))
    room_for_labels(axes, float(xs.min()), float(xs.max()), (xs.max() / xs.min()) ** 0.28)
    reference = 1 / (4 * (xs if x == "n" else np.full_like(xs, fixed)))
    lines = [Line(series["log-loss"], "log-loss", "log-loss"), Line(series["rho"], "rho", "rho", linestyle="--")]
    lines.append(
        Line(
            Series(xs, reference, reference, reference),
            "reference",
            "1/(4n)",
            color=COLOURS["grey"],
            marker="",
            linestyle=":",
        )
    )
    if x == "H":
        axes.set_ylim(reference[0] / 10, reference[0] * 10)
    draw_lines(axes, lines)
    return figure
