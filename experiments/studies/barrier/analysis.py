"""Tables and findings from the summary of the study; its figures are in ``catalogue``."""

from __future__ import annotations

from typing import Any

from experiments.learners import CHUNKED
from experiments.measure import POPULATION, SLOPE_IN_H
from experiments.statistics import interval_words
from experiments.studies.barrier.catalogue import figures
from experiments.studies.barrier.options import BarrierOptions
from experiments.studies.barrier.sweep import BOUND, NEXT_TOKEN, SETS, TIES, Learner, learners_at, switch_horizon
from experiments.study import Analysis
from experiments.summary import Summary, slope_rows
from experiments.tables import Table, with_interval

__all__ = ["analyse"]

PARTS = {"multi-scale, samples": "samples", "multi-scale, population": "population"}


def analyse(options: BarrierOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    parts = [row for part in PARTS for row in summary.select("C_apx", part=part)]
    slopes = slope_rows(parts, "H", SLOPE_IN_H, above="K")
    summary = Summary([*summary, *slopes], summary.timings)
    return Analysis(
        rows=slopes,
        tables=[
            data_table(options, summary),
            slope_table(options, summary),
            halving_table(options, summary),
            rare_table(summary),
            sight_table(),
        ],
        figures=figures(options, summary),
        findings=findings(options, summary),
    )


def title_of(learner: Learner) -> str:
    """A learner as the tables call it."""
    return learner[0] if learner[1] is None else f"{learner[0]}, K={learner[1]}"


def interval(summary: Summary, metric: str, digits: int = 3, **labels: Any) -> str:
    """The one number with these labels, with its interval; empty where its cell failed."""
    rows = summary.select(metric, **labels)
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper, digits) if len(rows) else ""


def numbers(options: BarrierOptions) -> list[tuple[float, str]]:
    """Every n, with the part it is in; the population last."""
    return [*((n, "multi-scale, samples") for n in sorted(options.n)), (POPULATION, "multi-scale, population")]


def heading(n: float) -> str:
    """The heading of a column."""
    return "population" if n == POPULATION else f"n={n:,.0f}"


def data_table(options: BarrierOptions, summary: Summary) -> Table:
    """C_apx at one horizon, a line a learner, a column an n; and how often log-loss was decided by a tie."""
    H = options.data_horizon
    lines = [
        [
            title_of((learner, K)),
            *(interval(summary, "C_apx", part=part, learner=learner, K=K, n=n, H=H) for n, part in numbers(options)),
        ]
        for learner, K in learners_at(H, options.chunks)
    ]
    ties = [interval(summary, TIES, 2, part=part, n=n, H=H) for n, part in numbers(options)]
    lines.append([f"({TIES}, log-loss)", *ties])
    note = f"{interval_words(options.seeds)}; the best in class has 1."
    heads = ["learner", *(heading(n) for n, _ in numbers(options))]
    return Table(f"C_apx in the multi-scale game at H={H}, eta={options.eta}", heads, lines, note)


def slope_table(options: BarrierOptions, summary: Summary) -> Table:
    """Log-log slopes in H, with intervals over the data sets."""
    lines = [
        [
            title_of((learner, K)),
            *(interval(summary, SLOPE_IN_H, part=part, learner=learner, K=K, n=n) for n, part in numbers(options)),
        ]
        for learner, K in learners_at(max(options.horizons), options.chunks)
    ]
    note = f"{interval_words(options.seeds)}. Slope of the means, over the horizons above K."
    return Table(
        f"Slope of log C_apx in log H, H={min(options.horizons)}..{max(options.horizons)} (multi-scale game)",
        ["learner", *(heading(n) for n, _ in numbers(options))],
        lines,
        note,
    )


def halving_table(options: BarrierOptions, summary: Summary) -> Table:
    """Error sets used in the halving game."""
    part, horizons = "halving", sorted(options.halving_horizons)
    lines = []
    for learner, K in learners_at(max(horizons), options.chunks):
        for n in (POPULATION, options.halving_n):
            cells = [interval(summary, SETS, part=part, learner=learner, K=K, n=n, H=H) for H in horizons]
            if any(cells):
                lines.append([f"{title_of((learner, K))}, {heading(n)}", *cells])
    lines.append(["lower bound, layer by layer", *(f"{summary.value(BOUND, part=part, H=H):g}" for H in horizons)])
    lines.append(["optimum", *("1" for _ in horizons)])
    note = f"{interval_words(options.halving_seeds, 'draws of the game (and of the data)')}."
    return Table(f"{SETS} in the halving game", ["learner", *(f"H={H}" for H in horizons)], lines, note)


def rare_table(summary: Summary) -> Table:
    """C_apx in RareMode."""
    part = "rare mode"
    horizons, counts = summary.distinct("H", part=part), sorted(summary.distinct("n", part=part))
    lines = [
        [
            f"{learner}, {heading(n)}",
            *(interval(summary, "C_apx", part=part, learner=learner, n=n, H=H) for H in horizons),
        ]
        for learner in summary.distinct("learner", part=part)
        for n in counts
    ]
    return Table("C_apx in RareMode, eps=.01, W=10", ["learner", *(f"H={H}" for H in horizons)], lines)


def sight_table() -> Table:
    """What each learner is allowed to see."""
    layer = "law of (x, a_1:h), options of layer h"
    lines = [[name, layer, "least log-loss at the layer; ties: first option"] for name in NEXT_TOKEN[:1]]
    lines += [[name, layer, "the same, options mixed with uniform noise"] for name in NEXT_TOKEN[1:3]]
    lines += [[NEXT_TOKEN[3], layer, "least log-loss at the layer; ties: first option"]]
    lines += [[NEXT_TOKEN[4], layer, "the same; ties: one at random"]]
    lines += [[f"{CHUNKED}, K", "law of (x, a_1:t), options of K layers", "rho game on the chunk; ties: first options"]]
    lines += [["rho", "law of (x, a_1:H), all options", "rho game on whole sequences"]]
    note = (
        "In a product class no parameters are shared, so the sum that log-loss minimises separates into the layers. In "
        "RareMode all learners see everything; log-loss adds up tokens."
    )
    return Table("What each learner sees, and how it chooses", ["learner", "sees", "chooses by"], lines, note)


def findings(options: BarrierOptions, summary: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    H, top = options.data_horizon, max(options.horizons)
    few, many = min(options.n), max(options.n)
    limit = "multi-scale, population"

    def factor(learner: str, n: float, at: int = H) -> str:
        part = limit if n == POPULATION else "multi-scale, samples"
        return interval(summary, "C_apx", part=part, learner=learner, n=n, H=at)

    slopes = {n: interval(summary, SLOPE_IN_H, part=part, learner="log-loss", n=n) for n, part in numbers(options)}
    found = [
        f"With infinitely many demonstrations all {len(NEXT_TOKEN)} next-token learners have C_apx = (1 - eta) H: "
        f"{factor('log-loss', POPULATION, top)} at H={top}, log-log slope {slopes[POPULATION]}.",
        f"More data does not help: at H={H} the factor of log-loss is {factor('log-loss', few)} from n={few:,} and "
        f"{factor('log-loss', many)} from n={many:,} (population {factor('log-loss', POPULATION)}); its slope in H is "
        f"{slopes[few]} and {slopes[many]}.",
        f"Looking at whole sequences does: rho goes from {factor('rho', few)} to {factor('rho', many)} on the same "
        f"data. At n={few:,} it cannot see the error sets either: "
        f"{interval(summary, TIES, 2, part='multi-scale, samples', n=few, H=H)} of the layers are decided by a tie.",
    ]
    H = max(options.halving_horizons)
    first, random = (
        interval(summary, SETS, part="halving", learner=name, n=POPULATION, H=H) for name in NEXT_TOKEN[3:]
    )
    found.append(
        f"Halving, H={H}: layer by layer {first} error sets are used when ties go to the first option, {random} at "
        f"random; the lower bound for any such rule is {summary.value(BOUND, part='halving', H=H):g}, the optimum 1."
    )
    rare = summary.select("C_apx", part="rare mode", n=POPULATION)
    first_at = {}
    for name in ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", "rho"):
        series = rare.series("H", "C_apx", learner=name)
        first_at[name] = next((f"H={x:g}" for x, y in zip(series.x, series.mean, strict=True) if y > 1 + 1e-9), "none")
    jump = rare.value("C_apx", learner="log-loss", H=max(rare.distinct("H")))
    found.append(
        f"With shared parameters (RareMode, W=10, population) the factor jumps to {jump:.4g} for log-loss from "
        f"{first_at['log-loss']} on (closed form {switch_horizon():.1f}), smoothed with 1/(nH) from "
        f"{first_at['smoothed 1/(nH)']}, with 1/H from {first_at['smoothed 1/H']}; rho: {first_at['rho']}."
    )
    return [line for line in found if "nan" not in line]
