"""Consistency games: what no next-token learner can do, however much data it has, and what looking further does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import Agent
from experiments.cells import Cell, Record
from experiments.charts import FACTOR, Line, draw_lines, factor_axis, room_for_labels, shades, text
from experiments.measure import (
    CHUNKED,
    LAYERWISE,
    POPULATION,
    SLOPE_IN_H,
    build_learner,
    check_distinct,
    draw,
    fit_population,
    measured,
    named,
)
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, Table, interval_words, slope_rows, with_interval
from ntp_envs.checks import check_int, check_probability
from ntp_envs.policy_classes import ErrorSetPolicy
from ntp_envs.tasks import ConsistencyGame, HalvingGame, RareMode

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class BarrierOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    """Horizons H of the multi-scale game, powers of two from 4."""
    eta: float = 0.5
    """Advantage of the finest scale in the multi-scale game: next-token learners end at C_apx = H (1 - eta)."""
    n: tuple[int, ...] = (100, 1000, 10_000, 100_000)
    """Numbers of demonstrations."""
    data_horizon: int = 64
    """Horizon, one of ``horizons``, at which the number of demonstrations is varied in the figure."""
    chunks: tuple[int, ...] = (4, 16)
    """Chunk lengths K (powers of two) of the learners that look further than a token."""
    seeds: int = 20
    """Data sets in the multi-scale game."""
    halving_horizons: tuple[int, ...] = (2, 4, 6, 8, 10)
    """Horizons of the halving game, 2 to 12."""
    halving_seeds: int = 200
    """Games drawn in the halving form."""
    halving_n: int = 10_000
    """Demonstrations in the halving game, beside the population."""
    rare_seeds: int = 100
    """Data sets in RareMode."""

    def __post_init__(self) -> None:
        check_distinct("horizons", self.horizons, minimum=4)
        check_distinct("chunks", self.chunks, minimum=2)
        check_distinct("halving_horizons", self.halving_horizons, minimum=2, maximum=12)
        check_distinct("n", self.n)
        for name in ("horizons", "chunks"):
            for value in getattr(self, name):
                if value & (value - 1):
                    raise ValueError(f"{name}={value} must be a power of two: the scales of the game are.")
        for name in ("seeds", "halving_seeds", "halving_n", "rare_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        if self.data_horizon not in self.horizons:
            raise ValueError(f"data_horizon={self.data_horizon} must be one of horizons={self.horizons}.")
        check_probability("eta", self.eta)

    @classmethod
    def quick(cls) -> BarrierOptions:
        """About a minute on two cores."""
        return cls(horizons=(4, 16, 64, 256), seeds=6, halving_horizons=(2, 4, 6, 8), halving_seeds=60, rare_seeds=20)


# -- The figures of the study: each answers one question, and its caption says what the learners are allowed to see ---


SEES = (
    "A next-token learner chooses the option of layer h from the law of (x, a_1:h) and that layer's options alone; "
    "chunked rho sees K layers together, rho all of them."
)


def figures(options: BarrierOptions, summary: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    return [
        FigureSpec(
            "headline",
            "Does more data help?",
            f"{SEES} Multi-scale consistency game, {options.seeds} data sets a point, bands: 95 % intervals of "
            "the mean at each. With more data a next-token learner sees better which of its options is lightest, takes "
            "the finest error sets and ends at (1 - eta) H; learners that look further use the same data to find the "
            "shared ones. At n=100 most error sets have not been hit once: options tie, the first one is taken, and "
            "nobody can tell sets apart.",
            lambda: data_figure(options, summary),
        ),
        FigureSpec(
            "horizon",
            "How does the factor grow with H, for each number of demonstrations?",
            "The factor of log-loss (smoothed and layer-by-layer learners make the same choices) is linear in H from "
            "100 demonstrations to the population; learners on chunks of K tokens are K times lower or more, whole "
            "sequences have factor 1. Dotted: slope 1.",
            lambda: horizon_figure(options, summary),
        ),
        FigureSpec(
            "halving",
            "Could a cleverer rule for ties help?",
            "Halving game, population: each layer offers a random half of the previous layer's error sets, all of the "
            "same mass, so that ties are all a layer sees. Any learner that decides layer by layer, even one that "
            "randomises and remembers its choices, uses 1 + (H - 1)/2 sets or more in expectation; taking the first "
            f"attains it. One set would do. Means over {options.halving_seeds} draws of the game, 95 % intervals.",
            lambda: halving_figure(options, summary),
        ),
        FigureSpec(
            "rare-mode",
            "Is it only because layers share no parameters?",
            "RareMode: two policies, each for all layers, with bounded density ratio. Log-loss adds up the tokens of "
            "all layers and still changes to the worse policy at H=28.7; fewer demonstrations blur the switch, more "
            "make it certain (of 100 documents none is rare in 37 % of the data sets, and then log-loss cannot go "
            "wrong). Smoothing with 1/H puts it off by a few tokens. The rho-estimator (population) keeps the "
            f"better one. Means over {options.rare_seeds} data sets, 95 % intervals.",
            lambda: rare_figure(options, summary),
        ),
    ]


# -- The cells of the study: what is fitted on what, and what is measured. Every function here is pure ----------------


#: every next-token learner there is for a product class
NEXT_TOKEN = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", *LAYERWISE)
SHARED = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", "rho")  # in RareMode, which has no layers to choose in
GAME, HALVING, RARE_MODE = "ConsistencyGame", "HalvingGame", "RareMode"
RARE_HORIZONS = (8, 16, 20, 24, 28, 29, 30, 31, 32, 36, 40, 48, 56, 64)
RARE_LARGEST_N = 10_000  # there the switch is already as sharp as in the population
SETS, BOUND = "error sets used", "least expected number of sets, layer by layer"
TIES = "share of layers decided by a tie"

Learner = tuple[str, int | None]


def game(H: int, eta: float) -> ConsistencyGame:
    """The multi-scale game, with error sets as heavy as they can be, so that samples show as much as they can."""
    return ConsistencyGame(horizon=H, eta=eta, eps=0.5 / H)


def learners_at(H: int, chunks: Sequence[int]) -> list[Learner]:
    """``(learner, K)`` of the multi-scale game."""
    return [*((name, None) for name in NEXT_TOKEN), *((CHUNKED, K) for K in chunks if H >= K), ("rho", None)]


def multi_scale_population(
    *, horizons: Sequence[int], eta: float, learner: str, K: int | None = None, rng: np.random.Generator
) -> list[Record]:
    """One learner with infinitely many demonstrations, at every horizon, and the closed form of its factor."""
    records = []
    for H in horizons:
        if (K or 1) > H:
            continue
        task = game(H, eta)
        labels = named(GAME, learner, H, POPULATION, K)
        records += measured(task, fit_population(learner, task, rng, K), labels, rng)
        unit = H if learner == "rho" else K or 1
        records.append(Record("C_apx in closed form", task.chunk_factor(unit), labels, method="theory"))
    return records


def multi_scale_samples(
    *, horizons: Sequence[int], eta: float, n: int, chunks: Sequence[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """All learners on the same data set, one for every horizon."""
    records = []
    for H in horizons:
        task = game(H, eta)
        demonstrations = draw(task, n, rng)
        for learner, K in learners_at(H, chunks):
            agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
            labels = named(GAME, learner, H, n, K)
            records += measured(task, agent.policy_, labels, rng)
            if learner == "log-loss":
                records.append(Record(TIES, agent.fit_report_.details["ties"] / H, labels))
    return records


def halving(*, H: int, n: int | None, replicate: int, chunks: Sequence[int], rng: np.random.Generator) -> list[Record]:
    """One draw of the halving game: how many error sets each learner uses. ``n=None`` is the population."""
    seed = int(rng.integers(1 << 31))
    task = HalvingGame(horizon=H, eps=0.5**H, seed=seed)
    demonstrations = task.population() if n is None else draw(task, n, rng)
    records = []
    for learner, K in learners_at(H, chunks if n is None else ()):
        if learner == "rho" and n is not None:
            continue
        agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
        labels = named(HALVING, learner, H, POPULATION if n is None else n, K)
        records.append(Record(SETS, sets_used(agent), labels, method="counted"))
    if n is None:
        labels = named(HALVING, "layer by layer", H, POPULATION)
        records.append(Record(BOUND, task.expected_sets_lower_bound(), labels, method="theory"))
    return records


def sets_used(agent: Agent) -> float:
    """The number of distinct contexts on which the learned policy errs at some layer."""
    policy = agent.policy_
    assert isinstance(policy, ErrorSetPolicy)
    return float(len(np.unique(policy.error_contexts)))


def rare_task(H: int) -> RareMode:
    """RareMode as it is used here."""
    return RareMode(horizon=H, eps=0.01, density_ratio=10.0)


def switch_horizon() -> float:
    """Where log-loss changes to the worse policy of RareMode, in closed form."""
    return rare_task(RARE_HORIZONS[0]).switch_horizon()


def rare_mode(*, horizons: Sequence[int], n: int | None, replicate: int = 0, rng: np.random.Generator) -> list[Record]:
    """Learners that share parameters between layers, on the two policies of RareMode. ``n=None`` is the population.

    One draw of the number of rare documents serves all horizons.
    """
    seed, records = int(rng.integers(1 << 31)), []
    for H in horizons:
        task = rare_task(H)
        demonstrations = task.population() if n is None else draw(task, n, np.random.default_rng(seed))
        for learner in SHARED:
            agent = build_learner(learner, task).fit(demonstrations, task.policy_class, rng=rng)
            labels = named(RARE_MODE, learner, H, POPULATION if n is None else n)
            records += measured(task, agent.policy_, labels, rng)
    return records


def cells(options: BarrierOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    horizons, eta, chunks = list(options.horizons), options.eta, list(options.chunks)
    for learner, K in learners_at(max(horizons), options.chunks):
        cell = {"horizons": horizons, "eta": eta, "learner": learner}
        yield Cell("multi-scale, population", multi_scale_population, cell if K is None else {**cell, "K": K})
    for n in options.n:
        for replicate in range(options.seeds):
            cell = {"horizons": horizons, "eta": eta, "n": n, "chunks": chunks}
            yield Cell("multi-scale, samples", multi_scale_samples, {**cell, "replicate": replicate})
    for H in options.halving_horizons:
        for sampled in (None, options.halving_n):
            for replicate in range(options.halving_seeds):
                cell = {"H": H, "n": sampled, "replicate": replicate, "chunks": [K for K in chunks if K < H]}
                yield Cell("halving", halving, cell)
    horizons = list(RARE_HORIZONS)
    yield Cell("rare mode", rare_mode, {"horizons": horizons, "n": None})
    for n in (n for n in options.n if n <= RARE_LARGEST_N):
        for replicate in range(options.rare_seeds):
            yield Cell("rare mode", rare_mode, {"horizons": horizons, "n": n, "replicate": replicate})


# -- Tables and findings from the summary of the study; its figures are in ``catalogue`` ------------------------------


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


# -- How the figures of the study are drawn; what each one says is in ``catalogue`` -----------------------------------


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
    from experiments.charts import COLOURS, new_figure

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
    from experiments.charts import COLOURS, log2_axis, new_figure

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
    from experiments.charts import COLOURS, new_figure

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
    from experiments.charts import COLOURS, new_figure

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


STUDY = Study(
    name="barrier",
    question="Does more data help a learner that decides token by token to be consistent over H tokens?",
    options=BarrierOptions,
    cells=cells,
    analyse=analyse,
)
