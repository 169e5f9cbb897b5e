"""Consistency games: what no next-token learner can do, however much data it has, and what looking further does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import COLOURS, FACTOR, Figure, say, text
from experiments.measure import (
    CHUNKED,
    LAYERWISE,
    POPULATION,
    SLOPE_IN_H,
    build_learner,
    draw,
    fit_population,
    measured,
    named,
    titled,
)
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Places, Summary, SummaryRow, Table, interval_words, pivot, slope_rows
from ntp_envs.policy_classes import ErrorSetPolicy
from ntp_envs.tasks import ConsistencyGame, HalvingGame, RareMode

#: every next-token learner there is for a product class
NEXT_TOKEN = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", *LAYERWISE)
SHARED = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", "rho")  # in RareMode, which has no layers to choose in
LIMIT, SAMPLES, HALVING, RARE = "multi-scale, population", "multi-scale, samples", "halving", "rare mode"
RARE_HORIZONS = (8, 16, 20, 24, 28, 29, 30, 31, 32, 36, 40, 48, 56, 64)
RARE_LARGEST_N = 10_000  # there the switch is already as sharp as in the population
SETS, BOUND = "error sets used", "least expected number of sets, layer by layer"
TIES = "share of layers decided by a tie"
Curves = Callable[[str, str], Curve]  # of a learner and its label


@dataclass(frozen=True)
class BarrierOptions(Options):
    horizons: tuple[int, ...] = option((4, 8, 16, 32, 64, 128, 256), quick=(4, 16, 64, 256), least=4, power_of_two=True)
    """Horizons H of the multi-scale game, powers of two from 4."""
    eta: float = option(0.5, above=0.0, below=1.0)
    """Advantage of the finest scale in the multi-scale game: next-token learners end at C_apx = H (1 - eta)."""
    n: tuple[int, ...] = option((100, 1000, 10_000, 100_000))
    """Numbers of demonstrations."""
    data_horizon: int = option(64, one_of="horizons")
    """Horizon, one of ``horizons``, at which the number of demonstrations is varied in the figure."""
    chunks: tuple[int, ...] = option((4, 16), least=2, power_of_two=True)
    """Chunk lengths K (powers of two) of the learners that look further than a token."""
    seeds: int = option(20, quick=6)
    """Data sets in the multi-scale game."""
    halving_horizons: tuple[int, ...] = option((2, 4, 6, 8, 10), quick=(2, 4, 6, 8), least=2, most=12)
    """Horizons of the halving game, 2 to 12."""
    halving_seeds: int = option(200, quick=60)
    """Games drawn in the halving form."""
    halving_n: int = option(10_000)
    """Demonstrations in the halving game, beside the population."""
    rare_seeds: int = option(100, quick=20)
    """Data sets in RareMode."""


# -- cells: what is fitted on what, and what is measured --------------------------------------------------------------


def game(H: int, eta: float) -> ConsistencyGame:
    """The multi-scale game, with error sets as heavy as they can be, so that samples show as much as they can."""
    return ConsistencyGame(horizon=H, eta=eta, eps=0.5 / H)


def learners_at(H: int, chunks: Sequence[int]) -> list[tuple[str, int | None]]:
    """``(learner, K)`` of the multi-scale game."""
    return [*((name, None) for name in NEXT_TOKEN), *((CHUNKED, K) for K in chunks if H >= K), ("rho", None)]


def multi_scale_population(
    *, horizons: Sequence[int], eta: float, learner: str, K: int | None = None, rng: np.random.Generator
) -> list[Record]:
    """One learner with infinitely many demonstrations, at every horizon, and the closed form of its factor."""
    records = []
    for H in (H for H in horizons if (K or 1) <= H):
        task, labels = game(H, eta), named("ConsistencyGame", learner, H, POPULATION, K)
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
            labels = named("ConsistencyGame", learner, H, n, K)
            records += measured(task, agent.policy_, labels, rng)
            if learner == "log-loss":
                records.append(Record(TIES, agent.fit_report_.details["ties"] / H, labels))
    return records


def halving(*, H: int, n: int | None, replicate: int, chunks: Sequence[int], rng: np.random.Generator) -> list[Record]:
    """One draw of the halving game: how many error sets each learner uses. ``n=None`` is the population."""
    task = HalvingGame(horizon=H, eps=0.5**H, seed=int(rng.integers(1 << 31)))
    demonstrations = task.population() if n is None else draw(task, n, rng)
    records = []
    for learner, K in learners_at(H, chunks if n is None else ()):
        if learner == "rho" and n is not None:
            continue
        policy = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng).policy_
        assert isinstance(policy, ErrorSetPolicy)
        used = float(len(np.unique(policy.error_contexts)))
        labels = named("HalvingGame", learner, H, POPULATION if n is None else n, K)
        records.append(Record(SETS, used, labels, method="counted"))
    if n is None:
        bound, labels = task.expected_sets_lower_bound(), named("HalvingGame", "layer by layer", H, POPULATION)
        records.append(Record(BOUND, bound, labels, method="theory"))
    return records


def rare_task(H: int = RARE_HORIZONS[0]) -> RareMode:
    """RareMode as it is used here; where log-loss changes to the worse policy does not depend on the horizon."""
    return RareMode(horizon=H, eps=0.01, density_ratio=10.0)


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
            labels = named("RareMode", learner, H, POPULATION if n is None else n)
            records += measured(task, agent.policy_, labels, rng)
    return records


def cells(options: BarrierOptions) -> Iterator[Cell]:
    horizons, eta, chunks = list(options.horizons), options.eta, list(options.chunks)
    for learner, K in learners_at(max(horizons), options.chunks):
        cell = {"horizons": horizons, "eta": eta, "learner": learner}
        yield Cell(LIMIT, multi_scale_population, cell if K is None else {**cell, "K": K})
    for n in options.n:
        for replicate in range(options.seeds):
            cell = {"horizons": horizons, "eta": eta, "n": n, "chunks": chunks}
            yield Cell(SAMPLES, multi_scale_samples, {**cell, "replicate": replicate})
    for H in options.halving_horizons:
        for sampled in (None, options.halving_n):
            for replicate in range(options.halving_seeds):
                cell = {"H": H, "n": sampled, "replicate": replicate, "chunks": [K for K in chunks if K < H]}
                yield Cell(HALVING, halving, cell)
    rare = {"horizons": list(RARE_HORIZONS)}
    yield Cell(RARE, rare_mode, {**rare, "n": None})
    for n in (n for n in options.n if n <= RARE_LARGEST_N):
        for replicate in range(options.rare_seeds):
            yield Cell(RARE, rare_mode, {**rare, "n": n, "replicate": replicate})


# -- tables -----------------------------------------------------------------------------------------------------------


def heading(n: float) -> str:
    return "population" if n == POPULATION else f"n={n:,.0f}"


def places(o: BarrierOptions) -> list[tuple[float, str]]:
    """Every n of the multi-scale game with the part it is in, the population last."""
    return [*((n, SAMPLES) for n in sorted(o.n)), (POPULATION, LIMIT)]


def tables(o: BarrierOptions, s: Summary) -> list[Table]:
    H, top, spread = o.data_horizon, max(o.horizons), interval_words(o.seeds)
    by_n = [(heading(n), {"part": part, "n": n}) for n, part in places(o)]

    def learners(H: int) -> Places:
        return [(titled(learner, K), {"learner": learner, "K": K}) for learner, K in learners_at(H, o.chunks)]

    def at(name: str, n: float, **place: Any) -> tuple[str, dict[str, Any]]:
        return f"{name}, {heading(n)}", {**place, "n": n}

    title = f"C_apx in the multi-scale game at H={H}, eta={o.eta}"
    lines = [*learners(H), (f"({TIES}, log-loss)", {"metric": TIES, "digits": 2})]
    columns = [(name, {**place, "H": H}) for name, place in by_n]
    data = pivot(s, title, "C_apx", lines, columns, note=f"{spread}; the best in class has 1.")

    title = f"Slope of log C_apx in log H, H={min(o.horizons)}..{top} (multi-scale game)"
    note = f"{spread}. Slope of the means, over the horizons above K."
    slopes = pivot(s, title, SLOPE_IN_H, learners(top), by_n, note=note)

    horizons = sorted(o.halving_horizons)
    lines = [at(name, n, **place) for name, place in learners(horizons[-1]) for n in (POPULATION, o.halving_n)]
    lines.append(("lower bound, layer by layer", {"metric": BOUND}))
    columns = [(f"H={H}", {"part": HALVING, "H": H}) for H in horizons]
    note = f"{interval_words(o.halving_seeds, 'draws of the game (and of the data)')}."
    sets = pivot(s, f"{SETS} in the halving game", SETS, lines, columns, note=note)
    sets = dataclasses.replace(sets, rows=[*sets.rows, ["optimum", *("1" for _ in horizons)]])

    numbers = sorted(s.distinct("n", part=RARE))
    lines = [at(name, n, learner=name) for name in s.distinct("learner", part=RARE) for n in numbers]
    columns = [(f"H={H}", {"part": RARE, "H": H}) for H in s.distinct("H", part=RARE)]
    rare = pivot(s, "C_apx in RareMode, eps=.01, W=10", "C_apx", lines, columns)

    # what each learner is allowed to see
    layer = "law of (x, a_1:h), options of layer h"
    first = "least log-loss at the layer; ties: first option"
    chooses = (first, *["the same, options mixed with uniform noise"] * 2, first, "the same; ties: one at random")
    rules = [
        *([name, layer, how] for name, how in zip(NEXT_TOKEN, chooses, strict=True)),
        [f"{CHUNKED}, K", "law of (x, a_1:t), options of K layers", "rho game on the chunk; ties: first options"],
        ["rho", "law of (x, a_1:H), all options", "rho game on whole sequences"],
    ]
    note = (
        "In a product class no parameters are shared, so the sum that log-loss minimises separates into the layers. In "
        "RareMode all learners see everything; log-loss adds up tokens."
    )
    seen = Table("What each learner sees, and how it chooses", ["learner", "sees", "chooses by"], rules, note)
    return [data, slopes, sets, rare, seen]


# -- figures: each answers one question, and its caption says what the learners are allowed to see --------------------


def next_token_curves(s: Summary, part: str, metric: str, curve: Curves, **where: Any) -> list[Curve]:
    """Those whose numbers are those of log-loss, to rounding, as one line; both smoothings count as one name."""
    found = {
        learner: {(row["H"], row["n"]): row.mean for row in s.select(metric, part=part, learner=learner, **where)}
        for learner in NEXT_TOKEN
    }
    reference = found["log-loss"]
    same = [
        learner
        for learner, at in found.items()
        if at.keys() == reference.keys() and np.allclose([at[k] for k in reference], [*reference.values()], rtol=1e-9)
    ]
    names = dict.fromkeys(name.partition(" ")[0] if "smooth" in name else name for name in same)
    return [*(curve(name, name) for name in NEXT_TOKEN if name not in same), curve("log-loss", ", ".join(names))]


def data_figure(o: BarrierOptions, s: Summary) -> Figure:
    """C_apx against the number of demonstrations at one horizon."""
    H, level, few = o.data_horizon, o.data_horizon * (1 - o.eta), min(o.n)

    def curve(learner: str, label: str, K: int | None = None, **look: Any) -> Curve:
        at = {"learner": learner, "H": H, "K": K}
        return Curve({"part": SAMPLES, **at}, label, look=look, limit={"part": LIMIT, **at})

    curves = [
        *next_token_curves(s, SAMPLES, "C_apx", curve, H=H),
        *(curve(CHUNKED, f"chunked rho, K={K}", K) for K in o.chunks if H > K),
        curve("rho", "rho (whole sequences)"),
    ]
    guides = [
        Guide(level=level, note=rf"every next-token learner ends at $(1 - \eta) H$ = {level:g}", offset=(2, 13)),
        Guide(level=1.0, colour="black", dashes="--"),
    ]
    ends = [s.value("C_apx", part=part, learner="log-loss", H=H, n=n) for n, part in (places(o)[0], places(o)[-1])]
    title = f"Log-loss: factor {ends[0]:.3g} from {few:,} demonstrations, {ends[1]:.3g} from infinitely many"
    return chart(s, title, FACTOR, Panel("n", "demonstrations n", "C_apx", curves, guides, "log"))


def horizon_figure(o: BarrierOptions, s: Summary) -> Figure:
    """C_apx of log-loss against H, a line for each n, with the learners that look further."""
    curves, ends = [], (places(o)[0], places(o)[-1])
    for n, part in places(o):  # one colour: it is one learner; the numbers in between are thin, and have no names
        label = f"log-loss, {heading(n)}"
        look: dict[str, Any] = {"linestyle": "-" if n == POPULATION else "--"}
        if (n, part) not in ends:
            label, look = "", {"linewidth": 0.8, "marker": ""}
        curves.append(Curve({"part": part, "learner": "log-loss", "n": n}, label, look=look))
    for K in o.chunks:
        curves.append(Curve({"part": LIMIT, "learner": CHUNKED, "K": K}, f"chunks of {K}, population"))
    curves.append(Curve({"part": LIMIT, "learner": "rho"}, "rho, population"))
    first = float(min(o.horizons))
    guide = Guide(points=[(first, 4 * first), (4 * first, 16 * first)], note="slope 1: in proportion to H")
    slopes = [row.mean for row in s.select(SLOPE_IN_H, learner="log-loss")]
    title = "Does the factor of log-loss grow with H?"
    if slopes:
        title = f"Log-loss: slope {min(slopes):.2f} to {max(slopes):.2f} in H, at every sample size"
    panel = Panel("H", "horizon H (tokens in a document)", "C_apx", curves, [guide])
    return chart(s, title, FACTOR, panel, size=(8.2, 5.0))


def halving_figure(o: BarrierOptions, s: Summary) -> Figure:
    def curve(learner: str, label: str, K: int | None = None, **look: Any) -> Curve:
        return Curve({"part": HALVING, "learner": learner, "n": POPULATION, "K": K}, label, look=look)

    dotted = {"color": COLOURS["grey"], "marker": "", "linestyle": ":"}
    chunks = [K for K in o.chunks if len(s.select(SETS, part=HALVING, learner=CHUNKED, K=K))]
    curves = [
        *next_token_curves(s, HALVING, SETS, curve, n=POPULATION),
        Curve({"part": HALVING}, "least expected, 1 + (H - 1)/2", BOUND, "reference", dotted),
        *(curve(CHUNKED, f"chunked rho, K={K}", K) for K in chunks),
        curve("rho", "rho = optimum: one set"),
    ]
    H = max(o.halving_horizons)
    used = {name: s.value(SETS, part=HALVING, learner=name, n=POPULATION, H=H) for name in ("log-loss", "rho")}
    title = f"Error sets at H={H}: {used['log-loss']:.3g} layer by layer (log-loss), {used['rho']:.3g} at once (rho)"
    panel = Panel("H", "horizon H (tokens)", SETS, curves, (), "linear", "zero")
    figure = chart(s, title, f"{SETS}, mean", panel, size=(8.2, 4.6))
    say(figure, "the bound is on the expectation, from which means over draws stray either way")
    return figure


def leaves(s: Summary, learner: str) -> float | None:
    """The first horizon at which the learner takes the worse policy of RareMode in the population."""
    series = s.series("H", "C_apx", part=RARE, learner=learner, n=POPULATION)
    return next((float(H) for H, factor in zip(series.x, series.mean, strict=True) if factor > 1 + 1e-9), None)


def rare_figure(o: BarrierOptions, s: Summary) -> Figure:
    """C_apx of learners with shared parameters against H, a line for each n."""
    sizes = sorted(s.distinct("n", part=RARE))
    dashes = dict(zip(sizes[:-1], (":", "-.", "--", (0, (5, 1))), strict=False))
    looks: dict[float, dict[str, Any]] = {n: {"linestyle": dashes.get(n, "-")} for n in sizes}

    def curve(learner: str, label: str, n: float = POPULATION, **look: Any) -> Curve:
        steps = {"drawstyle": "steps-post"} if n == POPULATION else {}
        return Curve({"part": RARE, "learner": learner, "n": n}, label, look={"marker": "", **steps, **look})

    switch, ticks, top = rare_task().switch_horizon(), [H for H in RARE_HORIZONS if H % 8 == 0], max(RARE_HORIZONS)
    curves = [
        *(curve("log-loss", f"log-loss, {heading(n)}", n, **look) for n, look in looks.items()),
        curve("smoothed 1/H", ""),
        curve("rho", "rho"),
    ]
    note = f"switch in closed form: H={switch:.1f}"
    guide = Guide(place=switch, note=note, at=(switch, 2.5), offset=(22, 0))
    panel = Panel("H", "horizon H (tokens in a document)", "C_apx", curves, [guide], "linear", "zero", ticks)
    least = min(sizes, default=min(o.n))
    few, many = (s.value("C_apx", part=RARE, learner="log-loss", n=n, H=top) for n in (least, POPULATION))
    title = f"Log-loss at H={top}: factor {few:.3g} with {heading(least)}, {many:.3g} in the population"
    figure = chart(s, title, FACTOR, panel)
    (axes,) = figure.axes
    if (later := leaves(s, "smoothed 1/H")) is not None:
        label = f"smoothed with 1/H, population: at H={later:g}"
        axes.annotate(label, (later, 5.0), xytext=(8, 0), **text("smoothed 1/H"))
    return figure


SEES = (
    "A next-token learner chooses the option of layer h from the law of (x, a_1:h) and that layer's options alone; "
    "chunked rho sees K layers together, rho all of them."
)


def figures(o: BarrierOptions, s: Summary) -> list[FigureSpec]:
    return [
        FigureSpec(
            "headline",
            "Does more data help?",
            f"{SEES} Multi-scale consistency game, {o.seeds} data sets a point, bands: 95 % intervals of "
            "the mean at each. In the population a next-token learner takes the lightest of its options, the finest "
            "error sets, and ends at (1 - eta) H; learners that look further find the sets that layers share. While "
            "error sets have not been hit once, options tie, and the first one is taken.",
            lambda: data_figure(o, s),
            f"eta = {o.eta:g}, eps = 1/(2H)",
        ),
        FigureSpec(
            "horizon",
            "How does the factor grow with H, for each number of demonstrations?",
            f"The factor of log-loss, of learners on chunks of K tokens and on whole sequences, from {min(o.n)} "
            "demonstrations to the population. Dotted: slope 1, in proportion to H.",
            lambda: horizon_figure(o, s),
            f"eta = {o.eta:g}, eps = 1/(2H)",
        ),
        FigureSpec(
            "halving",
            "Could a cleverer rule for ties help?",
            "Halving game, population: each layer offers a random half of the previous layer's error sets, all of the "
            "same mass, so that ties are all a layer sees. Any learner that decides layer by layer, even one that "
            "randomises and remembers its choices, uses 1 + (H - 1)/2 sets or more in expectation; taking the first "
            f"attains it. One set would do. Means over {o.halving_seeds} draws of the game, 95 % intervals.",
            lambda: halving_figure(o, s),
        ),
        FigureSpec(
            "rare-mode",
            "Is it only because layers share no parameters?",
            "RareMode: two policies, each for all layers, with bounded density ratio. Log-loss adds up the tokens of "
            "all layers; in the population it changes to the worse policy at H=28.7 (closed form). With few "
            "demonstrations the switch is blurred: of 100 documents none is rare in 37 % of the data sets, and then "
            f"log-loss cannot go wrong. Means over {o.rare_seeds} data sets, 95 % intervals.",
            lambda: rare_figure(o, s),
            f"eps = {rare_task().eps:g}, W = {rare_task().density_ratio:g}",
        ),
    ]


# -- findings ---------------------------------------------------------------------------------------------------------


def findings(o: BarrierOptions, s: Summary) -> list[str]:
    H, top, few, many = o.data_horizon, max(o.horizons), min(o.n), max(o.n)

    def factor(learner: str, n: float, at: int = H) -> str:
        return s.shown("C_apx", part=LIMIT if n == POPULATION else SAMPLES, learner=learner, n=n, H=at)

    slopes = {n: s.shown(SLOPE_IN_H, part=part, learner="log-loss", n=n) for n, part in places(o)}
    last = max(o.halving_horizons)
    first, random = (s.shown(SETS, part=HALVING, learner=name, n=POPULATION, H=last) for name in NEXT_TOKEN[3:])
    jump = s.value("C_apx", part=RARE, learner="log-loss", n=POPULATION, H=max(RARE_HORIZONS))
    at = {name: "none" if (H_ := leaves(s, name)) is None else f"H={H_:g}" for name in SHARED}
    return [
        f"With infinitely many demonstrations all {len(NEXT_TOKEN)} next-token learners have C_apx = (1 - eta) H: "
        f"{factor('log-loss', POPULATION, top)} at H={top}, log-log slope {slopes[POPULATION]}.",
        f"More data does not help: at H={H} the factor of log-loss is {factor('log-loss', few)} from n={few:,} and "
        f"{factor('log-loss', many)} from n={many:,} (population {factor('log-loss', POPULATION)}); its slope in H is "
        f"{slopes[few]} and {slopes[many]}.",
        f"Looking at whole sequences does: rho goes from {factor('rho', few)} to {factor('rho', many)} on the same "
        f"data. At n={few:,} it cannot see the error sets either: {s.shown(TIES, 2, part=SAMPLES, n=few, H=H)} of the "
        "layers are decided by a tie.",
        f"Halving, H={last}: layer by layer {first} error sets are used when ties go to the first option, {random} at "
        f"random; the lower bound for any such rule is {s.value(BOUND, part=HALVING, H=last):g}, the optimum 1.",
        f"With shared parameters (RareMode, W=10, population) the factor jumps to {jump:.4g} for log-loss from "
        f"{at['log-loss']} on (closed form {rare_task().switch_horizon():.1f}), smoothed with 1/(nH) from "
        f"{at['smoothed 1/(nH)']}, with 1/H from {at['smoothed 1/H']}; rho: {at['rho']}.",
    ]


def slopes(o: BarrierOptions, s: Summary) -> list[SummaryRow]:
    factors = [row for part in (SAMPLES, LIMIT) for row in s.select("C_apx", part=part)]
    return slope_rows(factors, "H", SLOPE_IN_H, above="K")


STUDY = Study(
    name="barrier",
    question="Does more data help a learner that decides token by token to be consistent over H tokens?",
    options=BarrierOptions,
    cells=cells,
    analyse=analysis(rows=slopes, tables=tables, figures=figures, findings=findings),
)
