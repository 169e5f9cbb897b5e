"""How the figures of the study are drawn; what each one says is in ``catalogue``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.drawing import FACTOR, Line, draw_lines, factor_axis, room_for_labels, shades, text
from experiments.learners import CHUNKED
from experiments.measure import POPULATION
from experiments.studies.barrier.options import BarrierOptions
from experiments.studies.barrier.sweep import BOUND, NEXT_TOKEN, SETS, switch_horizon
from experiments.summary import Series, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["data_figure", "halving_figure", "horizon_figure", "rare_figure", "same_choice"]

REDS = ("#F0A274", "#E37C45", "#D55E00", "#A34700", "#5E2900")  # log-loss, from little data to the population
THEORY = "reference"  # drawn in grey


def same_choice(summary: Summary, part: str, metric: str, **labels: object) -> list[str]:
    """The next-token learners whose numbers are those of log-loss, to rounding, log-loss first."""
    reference = summary.select(metric, part=part, learner="log-loss", **labels)
    found = []
    for learner in NEXT_TOKEN:
        rows = summary.select(metric, part=part, learner=learner, **labels)
        places = [[row[label] for label in ("H", "n")] for row in rows]
        if places == [[row[label] for label in ("H", "n")] for row in reference] and np.allclose(
            [row.mean for row in rows], [row.mean for row in reference], rtol=1e-9
        ):
            found.append(learner)
    return found


def several(learners: Sequence[str]) -> str:
    """A label for learners that are drawn as one line: both smoothings count as one."""
    return ", ".join(dict.fromkeys(name.partition(" ")[0] if "smooth" in name else name for name in learners))


def with_population(series: Series, limit: Series, at: float) -> Series:
    """The population value appended to a series in n, at the place drawn for infinity."""
    if not len(limit.x):
        return series
    return Series(np.append(series.x, at), *(np.append(a, b[-1]) for a, b in zip(series[1:], limit[1:], strict=True)))


def data_figure(options: BarrierOptions, summary: Summary) -> Figure:
    """C_apx against the number of demonstrations at one horizon."""
    from experiments.figures import COLOURS, new_figure

    H = options.data_horizon
    figure, axes = new_figure(
        "More data does not help a next-token learner", f"demonstrations n (H={H})", FACTOR, size=(8.2, 4.8)
    )
    numbers = sorted(options.n)
    infinity = numbers[-1] * 10.0

    def of(learner: str, K: int | None = None) -> Series:
        sampled = summary.series("n", "C_apx", part="multi-scale, samples", learner=learner, H=H, K=K)
        limit = summary.series("n", "C_apx", part="multi-scale, population", learner=learner, H=H, K=K)
        return with_population(sampled, limit, infinity)

    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [*(float(n) for n in numbers), infinity]
    axes.set_xticks(ticks, labels=[*(f"{n:,}" for n in numbers), "∞\n(population)"])
    axes.set_xticks([], minor=True)
    room_for_labels(axes, numbers[0], infinity, 90.0)
    same = same_choice(summary, "multi-scale, samples", "C_apx", H=H)
    lines = [Line(of(name), name, name) for name in NEXT_TOKEN if name not in same]
    lines.append(Line(of("log-loss"), "log-loss", several(same)))
    chunks = [K for K in options.chunks if H > K]
    colours = shades(chunks)
    lines += [Line(of(CHUNKED, K), CHUNKED, f"chunked rho, K={K}", color=colours[K]) for K in chunks]
    lines.append(Line(of("rho"), "rho", "rho (whole sequences)"))
    level = H * (1 - options.eta)
    for height, colour, dashes in ((level, COLOURS["grey"], ":"), (1.0, "black", "--")):
        axes.plot([numbers[0], infinity], [height, height], color=colour, linestyle=dashes, linewidth=1.2, zorder=1)
    label = f"Omega(H): every next-token learner ends at (1 - eta) H = {level:g}"
    axes.annotate(label, (numbers[0], level), xytext=(0, 8), **{**text(THEORY), "va": "bottom"})
    draw_lines(axes, lines, limits=_room_above)
    return figure


def _room_above(axes: Axes) -> None:
    factor_axis(axes)
    axes.set_ylim(0.8, 2.6 * float(axes.dataLim.y1))


def horizon_figure(options: BarrierOptions, summary: Summary) -> Figure:
    """C_apx of log-loss against H, a line for each n, with the learners that look further."""
    from experiments.figures import COLOURS, log2_axis, new_figure

    figure, axes = new_figure(
        "Linear in H at every sample size", "horizon H (tokens in a document)", FACTOR, size=(8.2, 5.0)
    )
    horizons = sorted(options.horizons)
    axes.set_yscale("log")
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], 5.0)
    sampled, population = "multi-scale, samples", "multi-scale, population"
    numbers = [*sorted(options.n), POPULATION]
    colours = shades(numbers, REDS)
    lines = []
    for n in numbers:
        part = population if n == POPULATION else sampled
        label = "log-loss, population" if n == POPULATION else f"log-loss, n={n:,}"
        series = summary.series("H", "C_apx", part=part, learner="log-loss", n=n)
        lines.append(Line(series, "log-loss", label, color=colours[n]))
    greens = shades(options.chunks)
    for K in options.chunks:
        series = summary.series("H", "C_apx", part=population, learner=CHUNKED, K=K)
        lines.append(Line(series, CHUNKED, f"chunks of {K}, population", color=greens[K]))
    lines.append(Line(summary.series("H", "C_apx", part=population, learner="rho"), "rho", "rho, population"))
    guide = horizons[0] * np.array([1.0, 4.0])
    axes.plot(guide, 4 * guide, color=COLOURS["grey"], linestyle=":")
    axes.annotate("slope 1: Omega(H)", (guide[1], 4 * guide[1]), xytext=(8, 0), **text(THEORY))
    draw_lines(axes, lines, limits=factor_axis)
    return figure


def halving_figure(options: BarrierOptions, summary: Summary) -> Figure:
    """Error sets used against H."""
    from experiments.figures import COLOURS, new_figure

    figure, axes = new_figure(
        "No layer-by-layer rule keeps to one error set", "horizon H (tokens)", SETS, size=(8.2, 4.6)
    )
    horizons = sorted(options.halving_horizons)
    axes.set_xticks(horizons)
    axes.set_xlim(horizons[0] - 0.3, horizons[-1] + 0.62 * (horizons[-1] - horizons[0]) + 0.5)
    part = "halving"

    def of(learner: str, K: int | None = None) -> Series:
        return summary.series("H", SETS, part=part, learner=learner, n=POPULATION, K=K)

    same = same_choice(summary, part, SETS, n=POPULATION)
    lines = [Line(of(name), name, name) for name in NEXT_TOKEN if name not in same]
    lines.append(Line(of("log-loss"), "log-loss", several(same)))
    bound = summary.series("H", BOUND, part=part)
    lines.append(Line(bound, THEORY, "lower bound 1 + (H - 1)/2", color=COLOURS["grey"], marker="", linestyle=":"))
    chunks = [K for K in options.chunks if len(of(CHUNKED, K).x)]
    greens = shades(chunks)
    lines += [Line(of(CHUNKED, K), CHUNKED, f"chunked rho, K={K}", color=greens[K]) for K in chunks]
    lines.append(Line(of("rho"), "rho", "rho = optimum: one set"))
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def rare_figure(options: BarrierOptions, summary: Summary) -> Figure:
    """C_apx of learners with shared parameters against H, a line for each n."""
    from experiments.figures import COLOURS, new_figure

    figure, axes = new_figure(
        "More data only makes log-loss surer of the wrong policy",
        "horizon H (RareMode, eps=.01, W=10)",
        FACTOR,
        size=(8.2, 4.8),
    )
    part = "rare mode"
    numbers = sorted(summary.distinct("n", part=part))
    colours = shades(numbers, REDS)
    lines = []
    for n in numbers:
        series = summary.series("H", "C_apx", part=part, learner="log-loss", n=n)
        look = {"drawstyle": "steps-post", "marker": ""} if n == POPULATION else {"marker": ""}
        label = "log-loss, population" if n == POPULATION else f"log-loss, n={n:,.0f}"
        lines.append(Line(series, "log-loss", label, color=colours[n], **look))
    for learner, label in (("smoothed 1/H", ""), ("rho", "rho")):
        series = summary.series("H", "C_apx", part=part, learner=learner, n=POPULATION)
        lines.append(Line(series, learner, label, drawstyle="steps-post", marker=""))
    smoothed = lines[-2].series
    horizons = sorted(summary.distinct("H", part=part))
    axes.set_xlim(horizons[0], 1.42 * horizons[-1])
    axes.set_xticks([H for H in horizons if H % 8 == 0])
    switch = switch_horizon()
    axes.axvline(switch, color=COLOURS["grey"], linestyle=":")
    axes.annotate(f"switch in closed form: H={switch:.1f}", (switch, 2.5), xytext=(22, 0), **text(THEORY))
    after = smoothed.x[smoothed.mean > 1 + 1e-9]
    if len(after):
        label = f"smoothed with 1/H, population: at H={after[0]:g}"
        axes.annotate(label, (after[0], 5.0), xytext=(8, 0), **text("smoothed 1/H"))
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(0, 1.08 * float(axes.dataLim.y1))
