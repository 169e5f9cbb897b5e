"""The linear class at its limits: noisy parity, which it cannot represent, and contamination, which misleads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import (
    DISTANCE,
    FACTOR,
    PURPLES,
    Axes,
    Figure,
    Line,
    draw_lines,
    factor_axis,
    room_for_labels,
    shades,
    text,
)
from experiments.measure import (
    BEST,
    CHUNK_KR,
    CHUNKED,
    LEARNERS,
    POPULATION,
    SLOPE_IN_H,
    build_learner,
    check_distinct,
    measured,
    named,
    population_for,
)
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Summary, Table, interval_words, slope_rows, with_interval
from ntp_envs import Demonstrations, Task, collect, make_task
from ntp_envs.checks import check_int, check_real

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParityOptions:
    """Sizes of the sweep; the defaults are the full study."""

    episodes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Episodes R of five tokens in NoisyParity: H = 5 R."""
    bounds: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """Norm bounds B of ChunkKR."""
    n: int = 1000
    """Demonstrations of NoisyParity."""
    seeds: int = 20
    """Data sets, of NoisyParity and of the contaminated linear class."""
    population_horizons: tuple[int, ...] = (4, 6, 8, 10, 12)
    """Horizons of the contaminated linear class with its exact population, up to 15."""
    horizons: tuple[int, ...] = (4, 16, 64, 256)
    """Horizons of the contaminated linear class with samples."""
    linear_n: int = 4000
    """Demonstrations of the contaminated linear class."""
    chunks: tuple[int, ...] = (2, 4, 8)
    """Chunk lengths K on the contaminated linear class, each used where K < H."""

    def __post_init__(self) -> None:
        for name, most in (("episodes", None), ("population_horizons", 15), ("horizons", None), ("chunks", 10)):
            check_distinct(name, getattr(self, name), minimum=2 if name == "chunks" else 1, maximum=most)
        if not self.bounds or len(set(self.bounds)) < len(self.bounds):
            raise ValueError(f"bounds={self.bounds} must hold distinct numbers, at least one.")
        for bound in self.bounds:
            if check_real("bounds", bound) < 1.0:
                raise ValueError(f"bounds={bound} must be at least 1: below, some programs have no feasible point.")
        for name in ("n", "seeds", "linear_n"):
            check_int(name, getattr(self, name), minimum=1)

    @classmethod
    def quick(cls) -> ParityOptions:
        """About a minute on two cores."""
        return cls(
            episodes=(1, 4, 16, 64),
            seeds=5,
            population_horizons=(4, 8, 12),
            linear_n=2000,
            chunks=(2, 8),
        )


# -- The figures of the study: each answers one question, and its caption says what it shows --------------------------


PARITY = "NoisyParity, 4 free bits and the parity of three of them, wrong with probability .1, R times over."
CONTAMINATED = (
    "ARLinear, a window of two tokens: with probability .01 the whole document follows the opposite member of the "
    "class. The best in class comes from a local search; the rho learners too search, and certify against the replies "
    "they found."
)


def figures(options: ParityOptions, summary: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    return [
        FigureSpec(
            "headline",
            "What can the linear class say at all?",
            f"{PARITY} Population, exact. No linear function of the bits predicts the answer, so the best linear "
            "policy guesses and its distance grows with H towards 2. Learners in the class find just that policy: "
            "C_apx = 1, nothing is amplified, and no better learner would help. ChunkKR with norm bound 8 has left the "
            "class for a space of functions that holds the parity. (K = 5, an episode; the norm bound is that on the "
            "answer's law.)",
            lambda: parity_figure(options, summary),
        ),
        FigureSpec(
            "parity-samples",
            "Is the error on parity one of learning?",
            f"{PARITY} n={options.n}, {options.seeds} data sets, bands: 95 % intervals of the mean at each point. "
            "Log-loss, both smoothings, rho and chunked rho all have the factor of the best policy; only leaving the "
            "class gets below 1. (Distances end at 2, so the factor of any policy that is wrong a little in every "
            "episode comes back to 1.)",
            lambda: proper_figure(options, summary),
        ),
        FigureSpec(
            "contaminated-population",
            "And where the class can say something?",
            f"{CONTAMINATED} Population, exact. There the class has a good policy, but log-loss averages the two kinds "
            "of document and drifts away from it as H grows; the rho-estimator on whole sequences does not, longer "
            "chunks lie between. ChunkKR (norm bound "
            f"{max(options.bounds):g}) is not confined to the class and may go below 1.",
            lambda: contaminated_figure(options, summary, sampled=False),
        ),
        FigureSpec(
            "contaminated-samples",
            "The same from samples, at longer horizons",
            f"{CONTAMINATED} n={options.linear_n}, {options.seeds} data sets, bands: 95 % intervals of the mean "
            "at each point. Smoothing with 1/H helps only while 1/H is large beside the contamination; long chunks of "
            "ChunkKR cost data, as each of 2^K strings has a probability of its own.",
            lambda: contaminated_figure(options, summary, sampled=True),
        ),
    ]


# -- The cells of the study: what is fitted on what, and what is measured. Every function here is pure ----------------


BITS = 4  # of NoisyParity; the answer is the parity of three of them, wrong with probability .1
PARITY, CONTAMINATED = "NoisyParity", "ARLinear contaminated"
LINEAR: dict[str, Any] = {
    "kind": "contamination",
    "width": 2,
    "radius": 16.0,
    "eps": 0.01,
    "misspecification": 1.0,
}
#: learners whose policy is a member of the class and which have no chunk length
IN_CLASS = tuple(LEARNERS)


@dataclass(frozen=True)
class Fit:
    """A learner with its chunk length and norm bound."""

    learner: str
    K: int | None = None
    B: float | None = None

    def labels(self, task: str, H: int, n: float) -> dict[str, str | int | float]:
        """Of its records."""
        found = named(task, self.learner, H, n, self.K)
        return found if self.B is None else {**found, "B": self.B}


def fits_parity(bounds: Sequence[float]) -> list[Fit]:
    """ChunkKR plays on whole episodes (K = 5), and on tokens; chunked rho on episodes."""
    episode = BITS + 1
    kernels = [Fit(CHUNK_KR, K, float(B)) for K in (episode, 1) for B in bounds]
    return [*(Fit(name) for name in IN_CLASS), Fit(CHUNKED, episode), *kernels, Fit(BEST)]


def fits_linear(bounds: Sequence[float], chunks: Sequence[int], H: int) -> list[Fit]:
    """ChunkKR on tokens at every norm bound, on longer chunks at the largest."""
    lengths = [K for K in chunks if H > K]
    tokens = [Fit(CHUNK_KR, 1, float(B)) for B in bounds]
    longer = [Fit(CHUNK_KR, K, float(max(bounds))) for K in lengths]
    return [*(Fit(name) for name in IN_CLASS), *(Fit(CHUNKED, K) for K in lengths), *tokens, *longer, Fit(BEST)]


def fitted(
    fit: Fit, task: Task, demonstrations: Demonstrations | None, bound: float | None, rng: np.random.Generator
) -> list[Record]:
    """Records of one fit, on the population where there are no demonstrations."""
    agent = build_learner(fit.learner, task, fit.K, bound)
    data = population_for(agent, task) if demonstrations is None else demonstrations
    policy = agent.fit(data, task.policy_class, rng=rng).policy_
    name = PARITY if task.name == PARITY else CONTAMINATED
    labels = fit.labels(name, task.horizon, POPULATION if demonstrations is None else len(demonstrations))
    return measured(task, policy, labels, rng)


def episode_bound(fit: Fit) -> float | None:
    """The norm bound that the program of a chunk gets on NoisyParity.

    The law of an episode is 2^-n times that of its answer (the bits are free), and so is its norm: B / 2^n on episodes
    means the bound B on the answer.
    """
    return fit.B if fit.K == 1 or fit.B is None else fit.B / 2**BITS


def parity(
    *, R: int, bounds: Sequence[float], n: int | None, replicate: int = 0, rng: np.random.Generator
) -> list[Record]:
    """All learners on NoisyParity with R episodes; ``n=None`` is the population."""
    task = make_task(PARITY, bits=BITS, subset=(0, 1, 2), noise=0.1, episodes=R)
    demonstrations = None if n is None else collect(task, n, rng)
    records = []
    for fit in fits_parity(bounds):
        if n is None and R > 2 and fit.learner.startswith("rho"):
            continue  # no tractable population for whole sequences
        records += fitted(fit, task, demonstrations, episode_bound(fit), rng)
    return records


def linear(
    *,
    horizons: Sequence[int],
    bounds: Sequence[float],
    chunks: Sequence[int],
    n: int | None,
    replicate: int = 0,
    rng: np.random.Generator,
) -> list[Record]:
    """All learners on the contaminated linear class, at every horizon; ``n=None`` is the population."""
    records = []
    for H in horizons:
        task = make_task("ARLinear", horizon=H, **LINEAR)
        demonstrations = None if n is None else collect(task, n, rng)
        for fit in fits_linear(bounds, chunks, H):
            records += fitted(fit, task, demonstrations, fit.B, rng)
    return records


def cells(options: ParityOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    bounds, chunks = list(options.bounds), list(options.chunks)
    for R in options.episodes:
        yield Cell("parity, population", parity, {"R": R, "bounds": bounds, "n": None})
        for replicate in range(options.seeds):
            cell = {"R": R, "bounds": bounds, "n": options.n, "replicate": replicate}
            yield Cell("parity, samples", parity, cell)
    common = {"bounds": bounds, "chunks": chunks}
    horizons = list(options.population_horizons)
    yield Cell("contaminated, population", linear, {**common, "horizons": horizons, "n": None})
    for replicate in range(options.seeds):
        cell = {**common, "horizons": list(options.horizons), "n": options.linear_n, "replicate": replicate}
        yield Cell("contaminated, samples", linear, cell)


# -- How the figures of the study are drawn; what each one says is in ``catalogue`` -----------------------------------


EPISODE = BITS + 1
SHOWN = ("log-loss", "smoothed 1/H", "rho")  # smoothing with 1/(nH) lies on log-loss, rho psi above rho


def parity_figure(options: ParityOptions, summary: Summary) -> Figure:
    """D_H^2 against H on the population: the whole class goes to 2, ChunkKR leaves it."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    title = "Parity is beyond the linear class: its best policy drifts to distance 2"
    figure, axes = new_figure(title, "horizon H (episodes of 5 tokens)", DISTANCE, size=(8.6, 4.8))
    part, horizons = "parity, population", [EPISODE * R for R in sorted(options.episodes)]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.62)
    best = summary.series("H", "hellinger2", part=part, learner=BEST)
    fitted = summary.series("H", "hellinger2", part=part, learner="log-loss")
    lines = [
        Line(fitted, "log-loss", "log-loss, smoothed, rho"),
        Line(best, BEST, "best linear policy (C_apx = 1)", linewidth=1.4),
    ]
    colours = shades(options.bounds, PURPLES)
    for B in options.bounds:
        series = summary.series("H", "hellinger2", part=part, learner=CHUNK_KR, K=EPISODE, B=B)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, norm bound {B:g}", color=colours[B]))
    axes.plot([horizons[0], horizons[-1]], [2, 2], color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    axes.annotate("2: disjoint laws", (horizons[0], 2.0), xytext=(0, 9), **text("reference"))
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def _from_zero(axes: Axes) -> None:
    top = float(axes.dataLim.y1)
    axes.set_ylim(-0.03 * top, 1.15 * top)


def proper_figure(options: ParityOptions, summary: Summary) -> Figure:
    """C_apx against H from samples: 1 for every member of the class, below for ChunkKR."""
    from experiments.charts import log2_axis, new_figure

    title = f"In the class there is nothing to gain: C_apx = 1 (n={options.n})"
    figure, axes = new_figure(title, "horizon H (episodes of 5 tokens)", FACTOR, size=(8.6, 4.8))
    part, horizons = "parity, samples", [EPISODE * R for R in sorted(options.episodes)]
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.62)
    lines = [Line(summary.series("H", "C_apx", part=part, learner=name), name, "") for name in SHOWN[1:]]
    lines.append(
        Line(summary.series("H", "C_apx", part=part, learner="log-loss"), "log-loss", "every learner in the class")
    )
    colours = shades(options.bounds, PURPLES)
    for B in options.bounds:
        series = summary.series("H", "C_apx", part=part, learner=CHUNK_KR, K=EPISODE, B=B)
        lines.append(Line(series, CHUNK_KR, f"ChunkKR, norm bound {B:g}", color=colours[B]))
    axes.plot([horizons[0], horizons[-1]], [1, 1], color="black", linestyle="--", linewidth=1.2, zorder=1)
    draw_lines(axes, lines, limits=_from_zero)
    return figure


def contaminated_figure(options: ParityOptions, summary: Summary, *, sampled: bool) -> Figure:
    """C_apx against H on the contaminated linear class."""
    from experiments.charts import log2_axis, new_figure

    part = "contaminated, samples" if sampled else "contaminated, population"
    horizons = sorted(options.horizons if sampled else options.population_horizons)
    data = f"n={options.linear_n}" if sampled else "population"
    title = f"Contaminated: log-loss amplifies with H, rho does not ({data})"
    figure, axes = new_figure(title, "horizon H (tokens)", FACTOR, size=(8.6, 5.4))
    axes.set_yscale("log")
    log2_axis(axes, horizons)
    room_for_labels(axes, horizons[0], horizons[-1], (horizons[-1] / horizons[0]) ** 0.58)
    lines = [Line(summary.series("H", "C_apx", part=part, learner=name), name, name) for name in SHOWN]
    chunks = sorted(options.chunks)
    longest = chunks[-1]  # one chunked rho is enough beside the ChunkKR of every length
    greens, purples = shades(chunks), shades(chunks, PURPLES)
    for K in chunks:
        kernel = summary.series("H", "C_apx", part=part, learner=CHUNK_KR, K=K, B=float(max(options.bounds)))
        lines.append(Line(kernel, CHUNK_KR, f"ChunkKR, K={K}", color=purples[K]))
    chunked = summary.series("H", "C_apx", part=part, learner=CHUNKED, K=longest)
    lines.append(Line(chunked, CHUNKED, f"chunked rho, K={longest}", color=greens[longest]))

    def limits(axes: Axes) -> None:
        factor_axis(axes)
        if not sampled:  # a short range
            axes.set_yticks([1, 2, 3, 5, 8], labels=["1", "2", "3", "5", "8"])

    axes.plot([horizons[0], horizons[-1]], [1, 1], color="black", linestyle="--", linewidth=1.2, zorder=1)
    axes.annotate("best linear policy", (horizons[-1], 1.0), xytext=(9, 0), **text(BEST))
    draw_lines(axes, [line for line in lines if np.isfinite(line.series.mean).all()], limits=limits)
    return figure


# -- Tables and findings from the summary of the study; its figures are in ``catalogue`` ------------------------------


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


STUDY = Study(
    name="parity",
    question="Is the error of a linear policy what its class cannot say, or what its learner amplifies?",
    options=ParityOptions,
    cells=cells,
    analyse=analyse,
    labels=("B",),
)
