"""Tables and findings from the summary of the study; its figures are in ``catalogue``."""

from __future__ import annotations

from typing import Any

from experiments.learners import CHUNK_KR
from experiments.measure import SLOPE_IN_H
from experiments.statistics import interval_words
from experiments.studies.parity.catalogue import figures
from experiments.studies.parity.options import ParityOptions
from experiments.studies.parity.sweep import BITS, IN_CLASS, Fit, fits_linear, fits_parity
from experiments.study import Analysis
from experiments.summary import Summary, slope_rows
from experiments.tables import Table, with_interval

__all__ = ["analyse"]

EPISODE = BITS + 1
NOTHING = 1e-8  # distances below are what rounding leaves of 0


def analyse(options: ParityOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    contaminated = [row for row in summary.select("C_apx") if row.part.startswith("contaminated")]
    slopes = slope_rows(contaminated, "H", SLOPE_IN_H, above="K")
    summary = Summary([*summary, *slopes], summary.timings)
    parity = fits_parity(options.bounds)
    horizons = [EPISODE * R for R in sorted(options.episodes)]
    spread = f"{interval_words(options.seeds)}."
    tables = [
        horizon_table(
            "D_H^2 on NoisyParity, population", summary, "parity, population", "hellinger2", parity, horizons
        ),
        horizon_table(
            f"C_apx on NoisyParity, n={options.n}", summary, "parity, samples", "C_apx", parity, horizons, note=spread
        ),
    ]
    for part, lengths, data, note in (
        ("contaminated, population", options.population_horizons, "population", ""),
        ("contaminated, samples", options.horizons, f"n={options.linear_n}", spread),
    ):
        rows = fits_linear(options.bounds, options.chunks, max(lengths))
        title = f"C_apx on the contaminated linear class, {data}"
        tables.append(horizon_table(title, summary, part, "C_apx", rows, sorted(lengths), slopes=True, note=note))
    return Analysis(rows=slopes, tables=tables, figures=figures(options, summary), findings=findings(options, summary))


def title_of(fit: Fit) -> str:
    """A fit as the tables call it."""
    parts = [fit.learner, *(f"{name}={value:g}" for name, value in (("K", fit.K), ("B", fit.B)) if value is not None)]
    return ", ".join(parts)


def interval(summary: Summary, metric: str, digits: int, **labels: Any) -> str:
    """The one number with these labels, with its interval; empty where there is none."""
    rows = summary.select(metric, **labels)
    if len(rows) and rows[0].top < NOTHING:
        return "< 1e-8"
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper, digits) if len(rows) else ""


def horizon_table(
    title: str,
    summary: Summary,
    part: str,
    metric: str,
    fits: list[Fit],
    horizons: list[int],
    *,
    slopes: bool = False,
    note: str = "",
) -> Table:
    """A line a learner, a column a horizon, and the slope."""
    digits = 3 if part.endswith("samples") else 6
    lines = []
    for fit in fits:
        labels = {"part": part, "learner": fit.learner, "K": fit.K, "B": fit.B}
        cells = [interval(summary, metric, digits, H=H, **labels) for H in horizons]
        if any(cells):
            slope = [interval(summary, SLOPE_IN_H, 3, **labels)] if slopes else []
            lines.append([title_of(fit), *cells, *slope])
    heads = ["learner", *(f"H={H}" for H in horizons), *(["slope in H"] if slopes else [])]
    return Table(title, heads, lines, note)


def findings(options: ParityOptions, summary: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    low, high = (EPISODE * R for R in (min(options.episodes), max(options.episodes)))
    population, sampled = "parity, population", "parity, samples"

    def best(H: int) -> str:
        return f"{summary.value('hellinger2', part=population, learner='log-loss', H=H):.6g}"

    rows = [row for name in IN_CLASS for row in summary.select("C_apx", part=sampled, learner=name)]
    worst = max((row.mean for row in rows), default=float("nan"))
    kernels = ", ".join(
        f"{_small(summary.value('hellinger2', part=population, learner=CHUNK_KR, K=EPISODE, B=B, H=low))} (B={B:g})"
        for B in options.bounds
    )
    found = [
        f"On parity D_H^2 of every learner in the class is that of the uniform guess: {best(low)} at H={low}, "
        f"{best(high)} at H={high} (2 is the largest possible), with C_apx = 1 exactly; from n={options.n} it is at "
        f"most {worst:.3f} on average. The limit is what the class can represent.",
        f"ChunkKR leaves the class: D_H^2 at H={low} (population) is {kernels}.",
    ]
    part, top = "contaminated, samples", max(options.horizons)

    def factor(learner: str) -> str:
        at = interval(summary, "C_apx", 3, part=part, learner=learner, H=top)
        return f"{at} (slope {interval(summary, SLOPE_IN_H, 3, part=part, learner=learner)})"

    found.append(
        f"On the contaminated linear class the learner matters: C_apx at H={top}, n={options.linear_n}: log-loss "
        f"{factor('log-loss')}, smoothed with 1/H {factor('smoothed 1/H')}, rho {factor('rho')}."
    )
    longest = max(K for K in (1, *options.chunks) if top > K)
    at = {"part": part, "learner": CHUNK_KR, "H": top, "B": float(max(options.bounds))}
    found.append(
        f"ChunkKR with B={max(options.bounds):g} there: {interval(summary, 'C_apx', 3, K=1, **at)} on tokens, "
        f"{interval(summary, 'C_apx', 3, K=longest, **at)} on chunks of {longest}."
    )
    return [line for line in found if "nan" not in line]


def _small(value: float) -> str:
    return f"{value:.6f}" if value >= NOTHING else "below 1e-8"
