"""The linear class at its limits: noisy parity, which it cannot represent, and contamination, which misleads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import DISTANCE, FACTOR, PURPLES, Figure, shades
from experiments.measure import (
    BEST,
    CHUNK_KR,
    CHUNKED,
    LEARNERS,
    POPULATION,
    SLOPE_IN_H,
    build_learner,
    measured,
    named,
    population_for,
    titled,
)
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import NAN, Places, Summary, SummaryRow, Table, interval_words, pivot, slope_rows
from ntp_envs import Demonstrations, Task, collect, make_task

BITS = 4  # of NoisyParity; the answer is the parity of three of them, wrong with probability .1
EPISODE = BITS + 1
PARITY, CONTAMINATED = "NoisyParity", "ARLinear contaminated"
LINEAR: dict[str, Any] = {"kind": "contamination", "width": 2, "radius": 16.0, "eps": 0.01, "misspecification": 1.0}
#: learners whose policy is a member of the class and which have no chunk length
IN_CLASS = tuple(LEARNERS)
SHOWN = ("log-loss", "smoothed 1/H", "rho")  # smoothing with 1/(nH) lies on log-loss, rho psi above rho
NOTHING = 1e-8  # distances below are what rounding leaves of 0


@dataclass(frozen=True)
class ParityOptions(Options):
    episodes: tuple[int, ...] = option((1, 2, 4, 8, 16, 32, 64), quick=(1, 4, 16, 64))
    """Episodes R of five tokens in NoisyParity: H = 5 R."""
    bounds: tuple[float, ...] = option((1.0, 2.0, 4.0, 8.0), least=1.0)  # below, some programs have no feasible point
    """Norm bounds B of ChunkKR."""
    n: int = option(1000)
    """Demonstrations of NoisyParity."""
    seeds: int = option(20, quick=4)
    """Data sets, of NoisyParity and of the contaminated linear class."""
    population_horizons: tuple[int, ...] = option((4, 6, 8, 10, 12), quick=(4, 8, 12), most=15)
    """Horizons of the contaminated linear class with its exact population, up to 15."""
    horizons: tuple[int, ...] = option((4, 16, 64, 256))
    """Horizons of the contaminated linear class with samples."""
    linear_n: int = option(4000, quick=1000)
    """Demonstrations of the contaminated linear class."""
    chunks: tuple[int, ...] = option((2, 4, 8), quick=(2, 8), least=2, most=10)
    """Chunk lengths K on the contaminated linear class, each used where K < H."""


# -- cells: what is fitted on what, and what is measured --------------------------------------------------------------


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
    kernels = [Fit(CHUNK_KR, K, float(B)) for K in (EPISODE, 1) for B in bounds]
    return [*(Fit(name) for name in IN_CLASS), Fit(CHUNKED, EPISODE), *kernels, Fit(BEST)]


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


def parity(
    *, R: int, bounds: Sequence[float], n: int | None, replicate: int = 0, rng: np.random.Generator
) -> list[Record]:
    """All learners on NoisyParity with R episodes; ``n=None`` is the population.

    The law of an episode is 2^-n times that of its answer (the bits are free), and so is its norm: B / 2^n on episodes
    means the bound B on the answer.
    """
    task = make_task(PARITY, bits=BITS, subset=(0, 1, 2), noise=0.1, episodes=R)
    demonstrations = None if n is None else collect(task, n, rng)
    records = []
    for fit in fits_parity(bounds):
        if n is None and R > 2 and fit.learner.startswith("rho"):
            continue  # no tractable population for whole sequences
        bound = fit.B if fit.K == 1 or fit.B is None else fit.B / 2**BITS
        records += fitted(fit, task, demonstrations, bound, rng)
    return records


def linear(
    *, horizons: Sequence[int], bounds: Sequence[float], chunks: Sequence[int], n: int | None, replicate: int = 0,
    rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """All learners on the contaminated linear class, at every horizon; ``n=None`` is the population."""
    records = []
    for H in horizons:
        task = make_task("ARLinear", horizon=H, **LINEAR)
        demonstrations = None if n is None else collect(task, n, rng)
        for fit in fits_linear(bounds, chunks, H):
            records += fitted(fit, task, demonstrations, fit.B, rng)
    return records


def cells(options: ParityOptions) -> Iterator[Cell]:
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


# -- tables -----------------------------------------------------------------------------------------------------------


def tables(o: ParityOptions, s: Summary) -> list[Table]:
    spread = f"{interval_words(o.seeds)}."
    lengths = [EPISODE * R for R in o.episodes]

    def table(title: str, part: str, metric: str, fits: list[Fit], horizons: Sequence[int], note: str = "") -> Table:
        lines = [(titled(f.learner, f.K, f.B), {"learner": f.learner, "K": f.K, "B": f.B}) for f in fits]
        columns: Places = [(f"H={H}", {"part": part, "H": H}) for H in sorted(horizons)]
        if part.startswith("contaminated"):
            columns.append(("slope in H", {"part": part, "metric": SLOPE_IN_H, "digits": 3}))
        return pivot(s, title, metric, lines, columns, digits=3 if note else 6, note=note)

    fits = fits_parity(o.bounds)
    limit, sampled = (fits_linear(o.bounds, o.chunks, max(H)) for H in (o.population_horizons, o.horizons))
    distances = table("D_H^2 on NoisyParity, population", "parity, population", "hellinger2", fits, lengths)
    rows = [
        [name, *("< 1e-8" if x and float(x) < NOTHING else x for x in entries)] for name, *entries in distances.rows
    ]
    title = "C_apx on the contaminated linear class"
    return [
        dataclasses.replace(distances, rows=rows),
        table(f"C_apx on NoisyParity, n={o.n}", "parity, samples", "C_apx", fits, lengths, spread),
        table(f"{title}, population", "contaminated, population", "C_apx", limit, o.population_horizons),
        table(f"{title}, n={o.linear_n}", "contaminated, samples", "C_apx", sampled, o.horizons, spread),
    ]


# -- figures: each answers one question, and its caption says what it shows -------------------------------------------


def kernels(o: ParityOptions, part: str) -> list[Curve]:
    """ChunkKR on episodes, a line a norm bound."""
    place = {"part": part, "learner": CHUNK_KR, "K": EPISODE}
    purples = shades(o.bounds, PURPLES)
    return [Curve({**place, "B": B}, f"ChunkKR, norm bound {B:g}", look={"color": purples[B]}) for B in purples]


def episode_panel(o: ParityOptions, metric: str, curves: list[Curve], guide: Guide, low: float) -> Panel:
    """From a little below 0, where some of the lines have their names."""
    return Panel("H", "horizon H (episodes of 5 tokens)", metric, curves, [guide], "log2", "zero", ylim=(low, None))


def parity_figure(o: ParityOptions, s: Summary) -> Figure:
    """D_H^2 against H on the population: the whole class goes to 2, ChunkKR leaves it."""
    part, H = "parity, population", EPISODE * max(o.episodes)
    curves = [
        Curve({"part": part, "learner": "log-loss"}, "log-loss, smoothed, rho"),
        Curve({"part": part, "learner": BEST}, "best linear policy (C_apx = 1)", look={"linewidth": 1.4}),
        *kernels(o, part),
    ]
    panel = episode_panel(o, "hellinger2", curves, Guide(level=2.0, note="2: disjoint laws"), -0.16)
    best = s.value("hellinger2", part=part, learner=BEST, H=H)
    title = f"Squared distance of the best linear policy at H={H}: {best:.3g} (2 at most)"
    return chart(s, title, DISTANCE, panel, size=(8.6, 4.8))


def proper_figure(o: ParityOptions, s: Summary) -> Figure:
    """C_apx against H from samples: 1 for every member of the class, below for ChunkKR."""
    part = "parity, samples"
    curves = [Curve({"part": part, "learner": name}) for name in SHOWN[1:]]
    curves.append(Curve({"part": part, "learner": "log-loss"}, "every learner in the class"))
    best = Guide(level=1.0, colour="black", dashes="--")
    panel = episode_panel(o, "C_apx", [*curves, *kernels(o, part)], best, -0.08)
    means = [row.mean for name in SHOWN for row in s.select("C_apx", part=part, learner=name)] or [NAN]
    title = f"Learners in the class: C_apx {min(means):.3f} to {max(means):.3f} (n={o.n})"
    return chart(s, title, FACTOR, panel, size=(8.6, 4.8))


def contaminated_figure(o: ParityOptions, s: Summary, *, sampled: bool) -> Figure:
    """C_apx against H on the contaminated linear class."""
    part, data = ("contaminated, samples", f"n={o.linear_n}") if sampled else ("contaminated, population", "population")
    horizons, chunks, B = sorted(o.horizons if sampled else o.population_horizons), sorted(o.chunks), max(o.bounds)
    curves = [Curve({"part": part, "learner": name}, name) for name in SHOWN]
    for K in chunks:
        curves.append(Curve({"part": part, "learner": CHUNK_KR, "K": K, "B": B}, f"ChunkKR, K={K}"))
    K = chunks[-1]  # one chunked rho is enough beside the ChunkKR of every length
    place = {"part": part, "learner": CHUNKED, "K": K}
    curves.append(Curve(place, f"chunked rho, K={K}"))
    end, offset = (horizons[-1], 1.0), (9, 0)
    guide = Guide(level=1.0, note="best linear policy", at=end, offset=offset, colour="black", dashes="--", style=BEST)
    H = horizons[-1]
    loss, rho = (s.value("C_apx", part=part, learner=name, H=H) for name in ("log-loss", "rho"))
    title = f"Contaminated: C_apx at H={H} is {loss:.3g} for log-loss, {rho:.3g} for rho ({data})"
    panel = Panel("H", "horizon H (tokens)", "C_apx", curves, [guide], "log2", "factor")
    figure = chart(s, title, FACTOR, panel, size=(8.6, 5.4))
    if not sampled:  # a short range
        low, high = figure.axes[0].get_ylim()
        ticks = [tick for tick in (1, 2, 3, 5, 8) if low < tick < high]
        figure.axes[0].set_yticks(ticks, labels=[str(tick) for tick in ticks])
    return figure


GAME = "NoisyParity, 4 free bits and the parity of three of them, wrong with probability .1, R times over."
TWO_KINDS = (
    "ARLinear, a window of two tokens: with probability .01 the whole document follows the opposite member of the "
    "class. The best in class comes from a local search; the rho learners too search, and certify against the replies "
    "they found."
)


def figures(o: ParityOptions, s: Summary) -> list[FigureSpec]:
    return [
        FigureSpec(
            "headline",
            "What can the linear class say at all?",
            f"{GAME} Population, exact. No linear function of the bits predicts the answer, so the best linear "
            "policy guesses and its distance grows with H towards 2: a learner in the class that finds it has C_apx = "
            "1, and no better learner would help. ChunkKR is not confined to the class: its space of functions holds "
            "the parity where the norm bound is large enough. (K = 5, an episode; the norm bound is that on the "
            "answer's law.)",
            lambda: parity_figure(o, s),
            "4 bits, noise 0.1",
        ),
        FigureSpec(
            "parity-samples",
            "Is the error on parity one of learning?",
            f"{GAME} n={o.n}, {o.seeds} data sets, bands: 95 % intervals of the mean at each point. "
            "No policy of the class is below 1. (Distances end at 2, so the factor of any policy that is wrong a "
            "little in every episode comes back to 1.)",
            lambda: proper_figure(o, s),
            "4 bits, noise 0.1",
        ),
        FigureSpec(
            "contaminated-population",
            "And where the class can say something?",
            f"{TWO_KINDS} Population, exact. There the class has a good policy; log-loss averages the two kinds of "
            "document, the rho-estimator compares whole sequences, and chunks are between the two. ChunkKR (norm bound "
            f"{max(o.bounds):g}) is not confined to the class and may go below 1.",
            lambda: contaminated_figure(o, s, sampled=False),
        ),
        FigureSpec(
            "contaminated-samples",
            "The same from samples, at longer horizons",
            f"{TWO_KINDS} n={o.linear_n}, {o.seeds} data sets, bands: 95 % intervals of the mean "
            "at each point. Smoothing with 1/H can help only while 1/H is large beside the contamination; a chunk of "
            "ChunkKR has 2^K strings, each with a probability of its own to be learned.",
            lambda: contaminated_figure(o, s, sampled=True),
        ),
    ]


# -- findings ---------------------------------------------------------------------------------------------------------


def findings(o: ParityOptions, s: Summary) -> list[str]:
    low, high = (EPISODE * R for R in (min(o.episodes), max(o.episodes)))
    top, B = max(o.horizons), max(o.bounds)
    longest = max(K for K in (1, *o.chunks) if top > K)
    limit, sampled = "parity, population", "contaminated, samples"
    best, worst = (f"{s.value('hellinger2', part=limit, learner='log-loss', H=H):.6g}" for H in (low, high))
    rows = [row for name in IN_CLASS for row in s.select("C_apx", part="parity, samples", learner=name)]
    most = max((row.mean for row in rows), default=NAN)
    at: dict[str, Any] = {"part": limit, "learner": CHUNK_KR, "K": EPISODE, "H": low}
    distances = {bound: s.value("hellinger2", B=bound, **at) for bound in o.bounds}
    shown = ", ".join(f"{'below 1e-8' if d < NOTHING else f'{d:.6f}'} (B={bound:g})" for bound, d in distances.items())

    def factor(learner: str) -> str:
        slope = s.shown(SLOPE_IN_H, learner=learner, part=sampled)
        return f"{s.shown('C_apx', learner=learner, H=top, part=sampled)} (slope {slope})"

    def kernel(K: int) -> str:
        return s.shown("C_apx", learner=CHUNK_KR, H=top, B=B, K=K, part=sampled)

    return [
        f"On parity D_H^2 of every learner in the class is that of the uniform guess: {best} at H={low}, {worst} at "
        f"H={high} (2 is the largest possible), with C_apx = 1 exactly; from n={o.n} it is at most {most:.3f} on "
        "average. The limit is what the class can represent.",
        f"ChunkKR leaves the class: D_H^2 at H={low} (population) is {shown}.",
        f"On the contaminated linear class the learner matters: C_apx at H={top}, n={o.linear_n}: log-loss "
        f"{factor('log-loss')}, smoothed with 1/H {factor('smoothed 1/H')}, rho {factor('rho')}.",
        f"ChunkKR with B={B:g} there: {kernel(1)} on tokens, {kernel(longest)} on chunks of {longest}.",
    ]


def slopes(o: ParityOptions, s: Summary) -> list[SummaryRow]:
    contaminated = [row for row in s.select("C_apx") if row.part.startswith("contaminated")]
    return slope_rows(contaminated, "H", SLOPE_IN_H, above="K")


STUDY = Study(
    name="parity",
    question="Is the error of a linear policy what its class cannot say, or what its learner amplifies?",
    options=ParityOptions,
    cells=cells,
    analyse=analysis(rows=slopes, tables=tables, figures=figures, findings=findings),
    labels=("B",),
)
