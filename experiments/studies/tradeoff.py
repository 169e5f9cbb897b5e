"""Compute against statistical power: what longer chunks buy, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.cells import Cell, Record
from experiments.charts import FACTOR, PURPLES, Line, draw_lines, plain_log_axis, room_for_labels, shades, text
from experiments.measure import (
    CHUNK_KR,
    CHUNKED,
    IMPROPER,
    MEGABYTES,
    POPULATION,
    SECONDS,
    SLOPE_IN_K,
    build_learner,
    check_distinct,
    costed_fit,
    fit_population,
    measured,
    measured_fit,
    named,
)
from experiments.studies.amplification import SAMPLED
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import (
    Series,
    Summary,
    SummaryRow,
    Table,
    growth_factor,
    interval_words,
    loglog_slope,
    number,
    slope_rows,
    with_interval,
)
from ntp_envs import Demonstrations, Task, collect, make_task
from ntp_envs.checks import check_int, check_real

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TradeoffOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizon: int = 64
    """Horizon H on Contamination."""
    n: int = 10_000
    """Demonstrations on Contamination."""
    seeds: int = 20
    """Data sets on Contamination and on NoisyParity."""
    chunks: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    """Chunk lengths K of ChunkKR, over which its slope is fitted."""
    long_chunks: tuple[int, ...] = (10, 12)
    """Longer ones, up to the practical limit, on fewer data sets; 12 takes minutes."""
    long_seeds: int = 3
    """Data sets for the longer chunks."""
    rho_chunks: tuple[int, ...] = (4, 8, 16, 32)
    """Chunk lengths K of the chunked rho-estimator."""
    norm_bound: float = 1.0
    """Norm bound B of ChunkKR on Contamination, and where its cost on NoisyParity is shown."""
    episodes: int = 4
    """Episodes of five tokens in NoisyParity."""
    parity_n: int = 4000
    """Demonstrations in NoisyParity."""
    parity_chunks: tuple[int, ...] = (1, 2, 5, 10)
    """Chunk lengths K of ChunkKR on NoisyParity; above 8 with one norm bound only."""
    norm_bounds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """Norm bounds B of ChunkKR on NoisyParity, beside that one."""

    def __post_init__(self) -> None:
        check_int("horizon", self.horizon, minimum=2)
        for name in ("chunks", "long_chunks", "rho_chunks"):
            if getattr(self, name) or name != "long_chunks":
                check_distinct(name, getattr(self, name), minimum=2, maximum=self.horizon)
        if twice := set(self.chunks) & set(self.long_chunks):
            raise ValueError(f"long_chunks={self.long_chunks} repeats {sorted(twice)} of chunks={self.chunks}.")
        for name in ("n", "seeds", "episodes", "parity_n"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("long_seeds", self.long_seeds, minimum=0)
        check_distinct("parity_chunks", self.parity_chunks, maximum=5 * self.episodes)
        for bound in (self.norm_bound, *self.norm_bounds):
            if check_real("norm_bound", bound, minimum=0.0) < 0.5:
                raise ValueError(f"norm bound {bound} is below 0.5: no function that small sums to one everywhere.")

    @property
    def bounds(self) -> tuple[float, ...]:
        """All norm bounds on NoisyParity."""
        return tuple(sorted({self.norm_bound, *self.norm_bounds}))

    @classmethod
    def quick(cls) -> TradeoffOptions:
        """About a minute on two cores."""
        return cls(seeds=6, long_chunks=(10,))


# -- The cells of the study: every learner on the same data set, with its factor and its cost -------------------------


CONTAMINATION, LIMIT, PARITY = "contamination", "contamination, limit", "parity"
EXCESS_SLOPE_IN_K = "slope of log (C_apx - 1) in log K"


def fitted(
    task: Task,
    demonstrations: Demonstrations,
    learner: str,
    K: int,
    place: dict[str, str | int | float],
    rng: np.random.Generator,
    *,
    B: float | None,
    memory: bool,
) -> list[Record]:
    """The factor and the cost of one learner on these demonstrations."""
    seed = int(rng.integers(1 << 31))
    agent = build_learner(learner, task, K, B)
    fit = costed_fit(agent, demonstrations, task.policy_class, seed, memory=memory)
    return measured_fit(task, fit, {**place, "learner": learner, "K": K}, rng)


def contamination(
    *,
    H: int,
    n: int,
    kernel: Sequence[int],
    rho: Sequence[int],
    whole: bool,
    B: float,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
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
    """All cells, part by part."""
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


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


def decades_axis(axes: Axes) -> None:
    """Powers of ten on the x axis, written out."""
    low, high = axes.get_xlim()
    ticks = [10.0**k for k in range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def against_cost(summary: Summary, metric: str, factors: Series, **labels: Any) -> Series:
    """The factors with their cost in the place of K, without intervals; lengths without a cost are left out."""
    costs = summary.timings.series("K", metric, **labels)
    known = dict(zip(costs.x, costs.mean, strict=True))
    kept = np.array([K in known for K in factors.x], dtype=bool)
    return Series(np.array([known[K] for K in factors.x[kept]]), *[factors.mean[kept]] * 3)


def trade_figure(
    title: str,
    summary: Summary,
    part: str,
    learners: Mapping[str, Mapping[str, Any]],
    *,
    marked: Mapping[str, Collection[int]],
    reference: NDArray[np.float64] | None = None,
    horizon: int = 0,
) -> Figure:
    """C_apx against K, seconds and megabytes, side by side; points are chunk lengths.

    Args:
        title: of the figure.
        summary: of the study.
        part: of the study.
        learners: their names, and the labels that pick one line of each.
        marked: by learner, chunk lengths to write at their points where K is not on the axis.
        reference: chunk lengths at which to draw 1 + H/K.
        horizon: H of that line.
    """
    from experiments.charts import log2_axis, new_panels

    xlabels = ["chunk length K (tokens)", "processor seconds of a fit", "peak megabytes of a fit"]
    figure, panels = new_panels(title, xlabels, FACTOR)
    lengths: set[float] = set()
    for axes, metric in zip(panels, ("K", SECONDS, MEGABYTES), strict=True):
        lines = []
        for learner, labels in learners.items():
            place = {"part": part, "learner": learner, **labels}
            series = summary.series("K", "C_apx", **place)
            lengths |= set(series.x)
            alone = len(series.x) == 1
            drawn = series if metric == "K" else against_cost(summary, metric, series, **place)
            lines.append(Line(drawn, learner, learner if alone else "", markersize=9 if alone else 5))
            if not alone and len(drawn.x):
                label_line(axes, drawn, learner, series.x, marked=() if metric == "K" else marked[learner])
        if metric == "K" and reference is not None and len(reference):
            value = 1 + horizon / reference
            lines.append(Line(Series(reference, value, value, value), IMPROPER, ""))
            axes.annotate("1 + H/K", (reference[-1], value[-1]), xytext=(-10, -6), ha="right", **text(IMPROPER))
        axes.set_xscale("log")
        draw_lines(axes, lines, limits=plain_log_axis)
        low, high = axes.dataLim.x0, axes.dataLim.x1
        room_for_labels(axes, low / 1.2, high, (high / low) ** 0.35)
        if metric != "K":
            decades_axis(axes)
        else:
            log2_axis(axes, sorted({2.0 ** round(np.log2(K)) for K in lengths}))
            axes.set_xlim(low / 1.3, high * 2.6)
    return figure


def label_line(
    axes: Axes, drawn: Series, learner: str, lengths: NDArray[np.float64], *, marked: Collection[int]
) -> None:
    """The learner's name on the line, or K at its ends where K is not on the axis."""
    side: dict[str, Any] = {"xytext": (9, 8), "ha": "left"}
    if learner == CHUNK_KR and not marked:
        side = {"xytext": (-8, -8), "ha": "right"}
    elif learner == CHUNKED and marked:
        side = {"xytext": (-8, -6), "ha": "right"}
    if not marked:
        at = len(drawn.x) // 2
        axes.annotate(learner, (drawn.x[at], drawn.mean[at]), **side, **text(learner))
        return
    for i in np.flatnonzero(np.isin(lengths, list(marked))):
        lowest = i == drawn.mean.argmin() and i < len(lengths) - 1  # the line goes up on its right
        place = {"xytext": (-9, 0), "ha": "right"} if lowest else side
        axes.annotate(f"K={lengths[i]:g}", (drawn.x[i], drawn.mean[i]), **place, **text(learner))


def bound_figure(options: TradeoffOptions, summary: Summary) -> Figure:
    """C_apx on NoisyParity against the norm bound, a line a chunk length."""
    from experiments.charts import log2_axis, new_figure

    title = "Longer chunks need a smaller norm bound"
    figure, axes = new_figure(title, f"norm bound B (NoisyParity, H={5 * options.episodes})", FACTOR)
    log2_axis(axes, options.bounds)
    colours = shades(options.parity_chunks, PURPLES)
    lines = []
    for K in options.parity_chunks:
        series = summary.series("B", "C_apx", part=PARITY, learner=CHUNK_KR, K=K)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, K={K}", color=colours[K]))
    value = summary.value("C_apx", part=PARITY, learner="log-loss")
    if value == value:
        ends = np.array([min(options.bounds), max(options.bounds)])
        lines.append(Line(Series(ends, *[np.full(2, value)] * 3), "log-loss", "log-loss", marker="", linestyle="--"))
    axes.set_xlim(min(options.bounds) / 1.15, max(options.bounds) * 2.4)
    draw_lines(axes, lines, limits=plain_log_axis)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


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


STUDY = Study(
    name="tradeoff",
    question="What do longer chunks buy in the approximation factor, and what do they cost in time and memory?",
    options=TradeoffOptions,
    cells=cells,
    analyse=analyse,
    labels=("B",),
)
