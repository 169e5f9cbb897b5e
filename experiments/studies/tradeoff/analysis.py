"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from experiments.fits import MEGABYTES, SECONDS
from experiments.learners import CHUNK_KR, CHUNKED, IMPROPER
from experiments.measure import SLOPE_IN_K
from experiments.statistics import growth_factor, interval_words, loglog_slope
from experiments.studies.tradeoff.drawings import bound_figure, trade_figure
from experiments.studies.tradeoff.options import TradeoffOptions
from experiments.studies.tradeoff.sweep import CONTAMINATION, EXCESS_SLOPE_IN_K, LIMIT, PARITY
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, slope_rows
from experiments.tables import Table, number, with_interval

__all__ = ["analyse"]

#: growth of the cost is fitted from this chunk length on: below, fixed costs hide it
GROWTH_FROM = 8


def shown(summary: Summary, metric: str, digits: int = 3, **labels: Any) -> str:
    """The one number that matches, with its interval; empty if there is none."""
    found = summary.select(metric, **labels)
    return with_interval(found[0].mean, found[0].lower, found[0].upper, digits) if len(found) else ""


def contamination_table(options: TradeoffOptions, summary: Summary) -> Table:
    """A line for each learner and chunk length: factor, its limit, 1 + H/K, cost."""
    lines = []
    rows = [("log-loss", 1), *((CHUNK_KR, K) for K in sorted({*options.chunks, *options.long_chunks}))]
    rows += [*((CHUNKED, K) for K in options.rho_chunks), ("rho", options.horizon)]
    for learner, K in rows:
        place: dict[str, Any] = {"part": CONTAMINATION, "learner": learner, "K": K}
        exact = summary.value("C_apx", part=LIMIT, K=K) if learner == CHUNK_KR else math.nan
        line = 1 + options.horizon / K if learner == CHUNK_KR else math.nan
        cost = [number(summary.timings.value(metric, **place), 3) for metric in (SECONDS, MEGABYTES)]
        lines.append([f"{learner}, K={K}", shown(summary, "C_apx", **place), number(exact), number(line), *cost])
    heads = ["learner", "C_apx", "independent chunks, n=inf", "1 + H/K", "seconds", "megabytes"]
    note = interval_words(options.seeds)
    note += f" ({options.long_seeds} for K={', '.join(map(str, options.long_chunks))})." if options.long_chunks else "."
    note += " Seconds are of one processor."
    return Table(f"Contamination, H={options.horizon}, n={options.n}: what chunks buy and cost", heads, lines, note)


def parity_table(options: TradeoffOptions, summary: Summary) -> Table:
    """C_apx by chunk length and norm bound."""
    place: dict[str, Any] = {"part": PARITY}
    lines = [["log-loss", shown(summary, "C_apx", learner="log-loss", **place), *[""] * (len(options.bounds) - 1)]]
    for K in options.parity_chunks:
        ours = {**place, "learner": CHUNK_KR, "K": K}
        lines.append([f"{CHUNK_KR}, K={K}", *(shown(summary, "C_apx", B=B, **ours) for B in options.bounds)])
    note = "Below 1: better than every policy of the class, as ChunkKR is improper. Log-loss has no norm bound B."
    title = f"NoisyParity, H={5 * options.episodes}, n={options.parity_n}: C_apx by norm bound"
    return Table(title, ["learner", *(f"B={B:g}" for B in options.bounds)], lines, note)


def slopes_in_chunks(options: TradeoffOptions, summary: Summary) -> list[SummaryRow]:
    """Slopes in K of each chunked learner, over the chunk lengths of every data set.

    Of the factor, and of what exceeds 1, which is proportional to 1/K if the factor is 1 + H/K.
    """
    found = []
    for learner, chunks in ((CHUNK_KR, options.chunks), (CHUNKED, options.rho_chunks)):
        rows = [row for row in summary.select("C_apx", part=CONTAMINATION, learner=learner) if row["K"] in chunks]
        found += slope_rows(rows, "K", SLOPE_IN_K) + slope_rows(rows, "K", EXCESS_SLOPE_IN_K, offset=1.0)
    return found


def findings(options: TradeoffOptions, summary: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    said = []
    for learner in (CHUNK_KR, CHUNKED):
        for metric in (SLOPE_IN_K, EXCESS_SLOPE_IN_K):
            for row in summary.select(metric, part=CONTAMINATION, learner=learner):
                said.append(
                    f"S{metric[1:]} at H={options.horizon}, n={options.n}, {learner}: "
                    f"{with_interval(row.mean, row.lower, row.upper)} ({row.method}; {interval_words(row.seeds)})."
                )
    reference = summary.series("K", "C_apx", part=LIMIT)
    inside = np.isin(reference.x, options.chunks)
    exact, line = reference.mean[inside], 1 + options.horizon / reference.x[inside]
    slopes = [loglog_slope(reference.x[inside], factors) for factors in (exact, line)]
    said.append(
        f"Independent chunks of the expert itself, the limit of ChunkKR, have slope {slopes[0]:.3f} there, and "
        f"1 + H/K has {slopes[1]:.3f}: where K does not divide H the number of chunks is rounded up."
    )
    growth = []
    for metric, what in ((SECONDS, "the time"), (MEGABYTES, "the memory")):
        cost = summary.timings.series("K", metric, part=CONTAMINATION, learner=CHUNK_KR)
        late = cost.x >= GROWTH_FROM
        factor = growth_factor(cost.x[late], cost.mean[late])
        if late.any() and factor == factor:
            top = f"{cost.mean[-1]:.3g} {'s' if metric == SECONDS else 'MB'} at K={cost.x[-1]:g}"
            growth.append(f"{what} by {factor:.1f} (to {top})")
    if growth:
        said.append(f"From K={GROWTH_FROM} on each further token of the chunk multiplies {' and '.join(growth)}.")
    rho = {"part": CONTAMINATION, "learner": "rho"}
    said.append(
        f"With one parameter the rho-estimator on whole documents is no dearer: C_apx "
        f"{summary.value('C_apx', **rho):.2f} in {summary.timings.value(SECONDS, **rho):.2g} s. The dial of ChunkKR is "
        "for classes whose rho game cannot be searched."
    )
    at: dict[str, Any] = {"part": PARITY, "learner": CHUNK_KR}
    lowest = min(options.bounds)
    K = max((row["K"] for row in summary.select("C_apx", B=lowest, **at)), default=1)
    said.append(
        f"On NoisyParity C_apx falls below 1 with the norm bound and with K: at B={lowest:g} from "
        f"{summary.value('C_apx', K=min(options.parity_chunks), B=lowest, **at):.3f} "
        f"(K={min(options.parity_chunks)}) to {summary.value('C_apx', K=K, B=lowest, **at):.4f} (K={K}); at "
        f"K={min(options.parity_chunks)} to "
        f"{summary.value('C_apx', K=min(options.parity_chunks), B=max(options.bounds), **at):.4f} "
        f"(B={max(options.bounds):g}); log-loss stays at {summary.value('C_apx', part=PARITY, learner='log-loss'):.3f}."
    )
    return [line for line in said if "nan" not in line]


def analyse(options: TradeoffOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    slopes = slopes_in_chunks(options, summary)
    summary = Summary([*summary, *slopes], summary.timings)
    H = options.horizon
    figures = [
        FigureSpec(
            "headline",
            "What longer chunks buy, and what they cost",
            f"Contamination, H={H}, n={options.n} ({interval_words(options.seeds)}, at each K). Left: the factor "
            "falls as 1 + H/K. Middle and right: ChunkKR pays for each step down with time and memory that grow "
            "exponentially in K; in this class of one parameter the rho games stay cheap.",
            lambda: trade_figure(
                "Longer chunks: a smaller factor, exponentially more compute",
                summary,
                CONTAMINATION,
                {CHUNK_KR: {}, CHUNKED: {}, "log-loss": {}, "rho": {}},
                marked={
                    CHUNK_KR: (min(options.chunks), max(options.chunks), *options.long_chunks),
                    CHUNKED: (min(options.rho_chunks), max(options.rho_chunks)),
                },
                reference=summary.series("K", "C_apx", part=LIMIT, learner=IMPROPER).x,
                horizon=H,
            ),
        ),
        FigureSpec(
            "parity-bound",
            "NoisyParity: the norm bound",
            "No linear policy predicts the answer (C_apx = 1 for log-loss, dashed). ChunkKR does if its norm bound B "
            "is large enough; the longer the chunk, the smaller the bound that is needed.",
            lambda: bound_figure(options, summary),
        ),
        FigureSpec(
            "parity-cost",
            "NoisyParity: what it costs",
            f"The factor at B={options.norm_bound:g} against K, time and memory. A chunk as long as an episode (K=5) "
            "is what is needed: its strings include the bits and the answer. Longer ones cost more and have 2**K "
            "probabilities to learn from the same data.",
            lambda: trade_figure(
                f"NoisyParity at B={options.norm_bound:g}: chunks of one episode (K=5) learn it",
                summary,
                PARITY,
                {CHUNK_KR: {"B": options.norm_bound}, "log-loss": {}},
                marked={CHUNK_KR: [K for K in options.parity_chunks if K >= 5]},
            ),
        ),
    ]
    tables = [contamination_table(options, summary), parity_table(options, summary)]
    return Analysis(rows=slopes, tables=tables, figures=figures, findings=findings(options, summary))
