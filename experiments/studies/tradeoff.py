"""Compute against statistical power: what longer chunks buy, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import charts
from experiments.cells import Cell, Record
from experiments.measure import (
    CHUNK_KR,
    CHUNKED,
    IMPROPER,
    MEGABYTES,
    POPULATION,
    SECONDS,
    SLOPE_IN_K,
    build_learner,
    costed_fit,
    fit_population,
    measured,
    measured_fit,
    named,
)
from experiments.panels import Curve, Guide, Panel, chart
from experiments.studies.amplification import SAMPLED
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import (
    Places,
    Series,
    Summary,
    SummaryRow,
    Table,
    growth_factor,
    interval_words,
    loglog_slope,
    number,
    pivot,
    slope_rows,
)
from ntp_envs import Demonstrations, Task, collect, make_task

LEAST_BOUND = 0.5  # no function with a smaller norm sums to one everywhere


@dataclass(frozen=True)
class TradeoffOptions(Options):
    horizon: int = option(64, least=2)
    """Horizon H on Contamination."""
    n: int = option(10_000)
    """Demonstrations on Contamination."""
    seeds: int = option(20, quick=6)
    """Data sets on Contamination and on NoisyParity."""
    chunks: tuple[int, ...] = option((2, 3, 4, 5, 6, 7, 8), least=2, most="horizon")
    """Chunk lengths K of ChunkKR, over which its slope is fitted."""
    long_chunks: tuple[int, ...] = option((10, 12), quick=(10,), least=2, most="horizon", empty=True)
    """Longer ones, up to the practical limit, on fewer data sets; 12 takes minutes."""
    long_seeds: int = option(3, least=0)
    """Data sets for the longer chunks."""
    rho_chunks: tuple[int, ...] = option((4, 8, 16, 32), least=2, most="horizon")
    """Chunk lengths K of the chunked rho-estimator."""
    norm_bound: float = option(1.0, least=LEAST_BOUND)
    """Norm bound B of ChunkKR on Contamination, and where its cost on NoisyParity is shown."""
    episodes: int = option(4)
    """Episodes of five tokens in NoisyParity."""
    parity_n: int = option(4000)
    """Demonstrations in NoisyParity."""
    parity_chunks: tuple[int, ...] = option((1, 2, 5, 10))
    """Chunk lengths K of ChunkKR on NoisyParity; above 8 with one norm bound only."""
    norm_bounds: tuple[float, ...] = option((0.5, 1.0, 2.0, 4.0, 8.0), least=LEAST_BOUND, empty=True)
    """Norm bounds B of ChunkKR on NoisyParity, beside that one."""

    def check(self) -> None:
        if twice := set(self.chunks) & set(self.long_chunks):
            raise ValueError(f"long_chunks={self.long_chunks} repeats {sorted(twice)} of chunks={self.chunks}.")
        if (longest := max(self.parity_chunks)) > self.parity_horizon:
            raise ValueError(f"parity_chunks={longest} must be at most {self.parity_horizon}, five times episodes.")

    @property
    def parity_horizon(self) -> int:
        """H of NoisyParity."""
        return 5 * self.episodes

    @property
    def bounds(self) -> tuple[float, ...]:
        """All norm bounds on NoisyParity."""
        return tuple(sorted({self.norm_bound, *self.norm_bounds}))


# -- cells: every learner on the same data set, with its factor and its cost -------------------------------------------


CONTAMINATION, LIMIT, PARITY = "contamination", "contamination, limit", "parity"
EXCESS_SLOPE_IN_K = "slope of log (C_apx - 1) in log K"


def fitted(
    task: Task, demonstrations: Demonstrations, learner: str, K: int, place: dict[str, str | int | float],
    rng: np.random.Generator, *, B: float | None, memory: bool,
) -> list[Record]:  # fmt: skip
    """The factor and the cost of one learner on these demonstrations."""
    seed = int(rng.integers(1 << 31))
    fit = costed_fit(build_learner(learner, task, K, B), demonstrations, task.policy_class, seed, memory=memory)
    return measured_fit(task, fit, {**place, "learner": learner, "K": K}, rng)


def contamination(
    *, H: int, n: int, kernel: Sequence[int], rho: Sequence[int], whole: bool, B: float, replicate: int,
    rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """ChunkKR, the chunked rho-estimator and (if ``whole``) log-loss and the rho-estimator on one data set.

    Memory is traced on the first data set only: it hardly depends on the data.
    """
    task = make_task("Contamination", horizon=H, **SAMPLED)
    demonstrations = collect(task, n, rng)
    place = named("Contamination eps=.01", "", H, n)
    learners = [*((CHUNK_KR, K) for K in kernel), *((CHUNKED, K) for K in rho)]
    learners += [("log-loss", 1), ("rho", H)] if whole else []
    records = []
    for learner, K in learners:
        bound = B if learner == CHUNK_KR else None
        records += fitted(task, demonstrations, learner, K, place, rng, B=bound, memory=replicate == 0)
    return records


def limit(*, H: int, K: int, rng: np.random.Generator) -> list[Record]:
    """The expert's own chunks, drawn independently: what ChunkKR approaches with infinitely many demonstrations."""
    task = make_task("Contamination", horizon=H, **SAMPLED)
    policy = fit_population(IMPROPER, task, rng, K)
    return measured(task, policy, named("Contamination eps=.01", IMPROPER, H, POPULATION, K), rng)


def parity(
    *, episodes: int, n: int, K: int | None, bounds: Sequence[float], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """ChunkKR at one chunk length and every norm bound, or log-loss (``K=None``), on one data set."""
    task = make_task("NoisyParity", episodes=episodes)
    demonstrations = collect(task, n, rng)
    place = named(task.name, "", task.horizon, n)
    if K is None:
        return fitted(task, demonstrations, "log-loss", 1, place, rng, B=None, memory=replicate == 0)
    return [
        record
        for B in bounds
        for record in fitted(task, demonstrations, CHUNK_KR, K, {**place, "B": B}, rng, B=B, memory=replicate == 0)
    ]


def cells(options: TradeoffOptions) -> Iterator[Cell]:
    common = {"H": options.horizon, "n": options.n, "B": options.norm_bound}
    for replicate in range(options.seeds):
        chunks = {"kernel": options.chunks, "rho": options.rho_chunks, "whole": True}
        yield Cell(CONTAMINATION, contamination, {**common, **chunks, "replicate": replicate})
    for replicate in range(options.long_seeds):
        for K in options.long_chunks:
            chunks = {"kernel": (K,), "rho": (), "whole": False}
            yield Cell(CONTAMINATION, contamination, {**common, **chunks, "replicate": replicate})
    for K in sorted({*options.chunks, *options.long_chunks, *options.rho_chunks} - {options.horizon}):
        yield Cell(LIMIT, limit, {"H": options.horizon, "K": K})
    for replicate in range(options.seeds):
        for length in (None, *options.parity_chunks):
            bounds = options.bounds if (length or 1) <= 8 else (options.norm_bound,)
            cell = {"episodes": options.episodes, "n": options.parity_n, "K": length, "bounds": bounds}
            yield Cell(PARITY, parity, {**cell, "replicate": replicate})


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(o: TradeoffOptions, summary: Summary) -> Iterator[Table]:
    """On Contamination each chunk length with its factor, its limit, 1 + H/K and cost; on NoisyParity the bounds."""
    rows = [("log-loss", 1), *((CHUNK_KR, K) for K in sorted({*o.chunks, *o.long_chunks}))]
    rows += [*((CHUNKED, K) for K in o.rho_chunks), ("rho", o.horizon)]
    lines = []
    for learner, K in rows:
        place: dict[str, Any] = {"part": CONTAMINATION, "learner": learner, "K": K}
        exact = [summary.shown("C_apx", 4, part=LIMIT, K=K), number(1 + o.horizon / K)]
        cost = [number(summary.timings.value(metric, **place), 3) for metric in (SECONDS, MEGABYTES)]
        theory = exact if learner == CHUNK_KR else ["", ""]
        lines.append([f"{learner}, K={K}", summary.shown("C_apx", **place), *theory, *cost])
    heads = ["learner", "C_apx", "independent chunks, n=inf", "1 + H/K", "seconds", "megabytes"]
    longer = f" ({o.long_seeds} for K={', '.join(map(str, o.long_chunks))})" if o.long_chunks else ""
    note = f"{interval_words(o.seeds)}{longer}. Seconds are of one processor."
    yield Table(f"Contamination, H={o.horizon}, n={o.n}: what chunks buy and cost", heads, lines, note)
    learners: Places = [("log-loss", {"learner": "log-loss"})]
    learners += [(f"{CHUNK_KR}, K={K}", {"learner": CHUNK_KR, "K": K}) for K in o.parity_chunks]
    bounds = [(f"B={B:g}" if B else "no bound", {"part": PARITY, "B": B}) for B in (None, *o.bounds)]
    title = f"NoisyParity, H={o.parity_horizon}, n={o.parity_n}: C_apx by norm bound"
    note = "Below 1: better than every policy of the class, as ChunkKR is improper."
    yield pivot(summary, title, "C_apx", learners, bounds, note=note)


def slopes_in_chunks(o: TradeoffOptions, summary: Summary) -> list[SummaryRow]:
    """Slopes in K of each chunked learner, over the chunk lengths of every data set.

    Of the factor, and of what exceeds 1, which is proportional to 1/K if the factor is 1 + H/K.
    """
    found = []
    for learner, chunks in ((CHUNK_KR, o.chunks), (CHUNKED, o.rho_chunks)):
        rows = [row for row in summary.select("C_apx", part=CONTAMINATION, learner=learner) if row["K"] in chunks]
        found += slope_rows(rows, "K", SLOPE_IN_K) + slope_rows(rows, "K", EXCESS_SLOPE_IN_K, offset=1.0)
    return found


# -- figures -----------------------------------------------------------------------------------------------------------


def against_cost(summary: Summary, metric: str, **place: Any) -> tuple[np.ndarray, Series]:
    """Chunk lengths, and the factors there with their cost in the place of K, without intervals."""
    factors, costs = summary.series("K", "C_apx", **place), summary.timings.series("K", metric, **place)
    lengths, at, known = np.intersect1d(factors.x, costs.x, return_indices=True)
    return lengths, Series(costs.mean[known], *[factors.mean[at]] * 3)


def trade_title(summary: Summary, where: str, **place: Any) -> str:
    """From the shortest chunks of ChunkKR to those with the least factor, in numbers."""
    lengths, drawn = against_cost(summary, SECONDS, learner=CHUNK_KR, **place)
    if not len(lengths):
        return f"{where}: what do longer chunks buy, and what do they cost?"
    best = int(drawn.mean.argmin())
    return (
        f"{where}, ChunkKR from K={lengths[0]:g} to {lengths[best]:g}: C_apx {drawn.mean[0]:.2g} to "
        f"{drawn.mean[best]:.2g}, at {drawn.x[best] / drawn.x[0]:.2g} times the processor time"
    )


def trade_figure(
    title: str,
    summary: Summary,
    learners: Mapping[str, Mapping[str, Any]],
    marked: Mapping[str, Collection[int]],
    limit: Series | None = None,
) -> charts.Figure:
    """C_apx against K, seconds and megabytes, side by side; the points of a line are chunk lengths.

    The lengths that are ``marked`` for a learner are written at their points where K is not on the axis. ``limit``, if
    given, is 1 + H/K.
    """
    xlabels = ["chunk length K (tokens)", "processor seconds of a fit", "peak megabytes of a fit"]
    figure, panels = charts.new_panels(title, xlabels, charts.FACTOR)
    charts.say_data(
        figure, [row for name, place in learners.items() for row in summary.select("C_apx", learner=name, **place)]
    )
    for axes, metric in zip(panels, ("K", SECONDS, MEGABYTES), strict=True):
        for learner, place in learners.items():
            drawn = summary.series("K", "C_apx", learner=learner, **place)
            words = {len(drawn.x) // 2: learner}
            if metric != "K":
                lengths, drawn = against_cost(summary, metric, learner=learner, **place)
                words = {i: f"K={K:g}" for i, K in enumerate(lengths) if K in marked.get(learner, ())}
            alone = len(drawn.x) == 1
            charts.named_line(axes, drawn, learner, learner if alone else "", markersize=9 if alone else 5)
            for i, word in words.items() if len(drawn.x) > 1 else ():
                left = learner == CHUNK_KR and drawn.mean[i] == drawn.mean[: i + 1].min()  # the line is on its right
                if left:
                    axes.annotate(
                        word, (drawn.x[i], drawn.mean[i]), xytext=(-8, -7), ha="right", **charts.text(learner)
                    )
                else:
                    charts.end_labels(axes, [(drawn.x[i], drawn.mean[i], word, charts.learner_style(learner).colour)])
        if metric == "K" and limit is not None and len(limit.x):
            charts.named_line(axes, limit, IMPROPER)
            axes.annotate(
                "1 + H/K", (limit.x[-1], limit.mean[-1]), xytext=(-10, -6), ha="right", **charts.text(IMPROPER)
            )
        if not axes.lines:
            continue
        axes.set_xscale("log")
        charts.plain_log_axis(axes)
        low, high = axes.dataLim.x0, axes.dataLim.x1
        if metric == "K":
            powers = 2.0 ** np.arange(np.log2(high).round() + 1)
            axes.set_xticks(powers, labels=[f"{K:g}" for K in powers])
            axes.set_xticks([], minor=True)
        elif high > low:
            charts.round_ticks(axes, (low, high))
    return figure


def bound_figure(o: TradeoffOptions, summary: Summary) -> charts.Figure:
    """C_apx on NoisyParity against the norm bound, a line a chunk length."""
    curves = [Curve({"part": PARITY, "learner": CHUNK_KR, "K": K}, f"K={K}") for K in o.parity_chunks]
    plain = summary.value("C_apx", part=PARITY, learner="log-loss")
    at = (max(o.bounds), plain)
    guide = Guide(
        plain, note="log-loss", at=at, offset=(9, 0), colour=charts.COLOURS["vermilion"], dashes="--", style="log-loss"
    )
    xlabel = f"norm bound B (NoisyParity, H={o.parity_horizon})"
    panel = Panel("B", xlabel, "C_apx", curves, [guide] if plain == plain else [], yscale="log")
    return chart(summary, "Do longer chunks of ChunkKR need a smaller norm bound?", charts.FACTOR, panel)


def figures(o: TradeoffOptions, summary: Summary) -> list[FigureSpec]:
    at = summary.series("K", "C_apx", part=LIMIT, learner=IMPROPER).x
    limit = Series(at, *[1 + o.horizon / at] * 3)
    here, there = {"part": CONTAMINATION}, {"part": PARITY}
    bound = {**there, "B": o.norm_bound}
    every = {CHUNK_KR: here, CHUNKED: here, "log-loss": here, "rho": here}
    ends = {CHUNK_KR: (min(o.chunks), max(o.chunks), *o.long_chunks), CHUNKED: (min(o.rho_chunks), max(o.rho_chunks))}
    title = trade_title(summary, "Contamination", **here)
    parity_title = trade_title(summary, f"NoisyParity, B={o.norm_bound:g}", **bound)
    whole = {CHUNK_KR: [K for K in o.parity_chunks if K >= 5]}
    return [
        FigureSpec(
            "headline",
            "What longer chunks buy, and what they cost",
            f"Contamination, H={o.horizon}, n={o.n} ({interval_words(o.seeds)}, at each K). Left: the factor; in the "
            "limit of improper learners it is 1 + H/K. Middle and right: the time and memory of a fit. ChunkKR has 2^K "
            "strings a chunk; the rho game of this class has one parameter at any K.",
            lambda: trade_figure(title, summary, every, ends, limit),
        ),
        FigureSpec(
            "parity-bound",
            "NoisyParity: the norm bound",
            "No linear policy predicts the answer (dashed: C_apx = 1, the best of them). ChunkKR can if its norm bound "
            "B is large enough: how large, for chunks of length K?",
            lambda: bound_figure(o, summary),
        ),
        FigureSpec(
            "parity-cost",
            "NoisyParity: what it costs",
            f"The factor at B={o.norm_bound:g} against K, time and memory. The strings of a chunk as long as an "
            "episode (K=5) include the bits and the answer; longer ones have 2^K probabilities to learn from the same "
            "data.",
            lambda: trade_figure(parity_title, summary, {CHUNK_KR: bound, "log-loss": there}, whole),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------

#: growth of the cost is fitted from this chunk length on: below, fixed costs hide it
GROWTH_FROM = 8


def findings(o: TradeoffOptions, summary: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    said = [
        f"S{metric[1:]} at H={o.horizon}, n={o.n}, {learner}: {row.shown()} "
        f"({row.method}; {interval_words(row.seeds)})."
        for learner in (CHUNK_KR, CHUNKED)
        for metric in (SLOPE_IN_K, EXCESS_SLOPE_IN_K)
        for row in summary.select(metric, part=CONTAMINATION, learner=learner)
    ]
    limit = summary.series("K", "C_apx", part=LIMIT)
    inside = np.isin(limit.x, o.chunks)
    K = limit.x[inside]
    said.append(
        "Independent chunks of the expert itself, the limit of ChunkKR, have slope "
        f"{loglog_slope(K, limit.mean[inside]):.3f} there, and 1 + H/K has {loglog_slope(K, 1 + o.horizon / K):.3f}: "
        "where K does not divide H the number of chunks is rounded up."
    )
    growth = []
    for metric, what, unit in ((SECONDS, "the time", "s"), (MEGABYTES, "the memory", "MB")):
        cost = summary.timings.series("K", metric, part=CONTAMINATION, learner=CHUNK_KR)
        late = cost.x >= GROWTH_FROM
        factor = growth_factor(cost.x[late], cost.mean[late])
        if factor == factor:
            growth.append(f"{what} by {factor:.1f} (to {cost.mean[-1]:.3g} {unit} at K={cost.x[-1]:g})")
    if growth:
        said.append(f"From K={GROWTH_FROM} on each further token of the chunk multiplies {' and '.join(growth)}.")
    rho = {"part": CONTAMINATION, "learner": "rho"}
    said.append(
        f"With one parameter the rho-estimator on whole documents is no dearer: C_apx "
        f"{summary.value('C_apx', **rho):.2f} in {summary.timings.value(SECONDS, **rho):.2g} s. The dial of ChunkKR is "
        "for classes whose rho game cannot be searched."
    )

    def parity(K: int, B: float) -> float:
        return summary.value("C_apx", part=PARITY, learner=CHUNK_KR, K=K, B=B)

    short, low, high = min(o.parity_chunks), min(o.bounds), max(o.bounds)
    long = max((row["K"] for row in summary.select("C_apx", part=PARITY, learner=CHUNK_KR, B=low)), default=1)
    said.append(
        f"On NoisyParity C_apx falls below 1 with the norm bound and with K: at B={low:g} from "
        f"{parity(short, low):.3f} (K={short}) to {parity(long, low):.4f} (K={long}); at K={short} to "
        f"{parity(short, high):.4f} (B={high:g}); log-loss stays at "
        f"{summary.value('C_apx', part=PARITY, learner='log-loss'):.3f}."
    )
    return said


STUDY = Study(
    name="tradeoff",
    question="What do longer chunks buy in the approximation factor, and what do they cost in time and memory?",
    options=TradeoffOptions,
    cells=cells,
    analyse=analysis(
        rows=slopes_in_chunks,
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"norm bound of ChunkKR {o.norm_bound:g}",
    ),
    labels=("B",),
)
