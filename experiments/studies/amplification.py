"""The headline: how log-loss, chunked and sequence-level learners amplify misspecification as the horizon grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.cells import Cell, Record
from experiments.charts import DISTANCE, FACTOR, Line, draw_lines, factor_axis, room_for_labels, shades, text
from experiments.measure import (
    BEST,
    CHUNKED,
    IMPROPER,
    LEARNERS,
    POPULATION,
    SLOPE_IN_H,
    SLOPE_IN_K,
    build_learner,
    fit_population,
    measured,
    named,
    powers_of_two,
)
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, interval_words, number, slope_rows, with_interval
from ntp_envs import BernoulliPolicy, collect, distance, make_task
from ntp_envs.checks import check_int
from ntp_envs.tasks import ConsistencyGame

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class AmplificationOptions:
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Horizons H on Contamination."""
    chunks: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Chunk lengths K of the chunked rho-estimator, each used where K <= H."""
    n: int = 10_000
    """Demonstrations in the parts with samples."""
    seeds: int = 20
    """Data sets in the parts with samples."""
    chunk_horizon: int = 256
    """Horizon at which K is varied on the population, and of the curves over the prefix (a power of two)."""
    sampled_chunk_horizon: int = 64
    """Horizon at which K is varied with samples (a power of two)."""
    control_n: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """Numbers of demonstrations in the well-specified control."""
    control_horizons: tuple[int, ...] = (4, 16, 64, 256)
    """Horizons in the well-specified control."""
    control_seeds: int = 100
    """Data sets in the well-specified control."""
    add: tuple[str, ...] = ()
    """Agents of your own to run beside ours on Contamination: names or package.module:Class."""

    def __post_init__(self) -> None:
        for name in ("horizons", "chunks", "control_n", "control_horizons"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold distinct integers, at least one.")
            for value in values:
                check_int(name, value, minimum=1)
        for name in ("n", "seeds", "control_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("chunk_horizon", "sampled_chunk_horizon"):
            value = check_int(name, getattr(self, name), minimum=4)
            if value & (value - 1):
                raise ValueError(f"{name}={value} must be a power of two: K runs over the powers of two up to it.")

    @classmethod
    def quick(cls) -> AmplificationOptions:
        """About a minute on two cores."""
        return cls(
            chunks=(4, 16, 64),
            seeds=5,
            control_n=(100, 1000, 10_000),
            control_horizons=(4, 16, 64),
            control_seeds=50,
        )


# -- The figures of the study: each answers one question, and its caption says what it shows --------------------------


def figures(options: AmplificationOptions, summary: Summary, slopes: Summary) -> list[FigureSpec]:
    """All figures, the headline first."""
    population, sampled = "horizon, population", "horizon, samples"
    ours = [*LEARNERS, *options.add]
    few = sorted(options.chunks)[:: max(1, (len(options.chunks) + 1) // 3)][:3]
    largest = max(options.horizons)
    return [
        FigureSpec(
            "headline",
            "Next-token log-loss amplifies misspecification; the rho-estimator does not",
            "Squared Hellinger distance to the expert over that of the best policy of the class, for infinitely many "
            "demonstrations: log-loss in proportion to the horizon H, the rho-estimator flat, chunks between.",
            lambda: horizon_figure(
                "Log-loss drifts with the horizon; the rho-estimator does not",
                summary,
                population,
                ["log-loss", "rho"],
                few,
                slopes,
            ),
        ),
        FigureSpec(
            "horizon-population",
            "All learners, infinitely many demonstrations",
            "Contamination A, exact: smoothing with 1/(nH) vanishes with infinitely many demonstrations, smoothing "
            "with 1/H happens to solve this family; the improper limit of K-token chunks follows 1 + H/K.",
            lambda: horizon_figure(
                "Infinite data does not help log-loss",
                summary,
                population,
                ours,
                options.chunks,
                slopes,
                improper=[K for K in few if largest > 2 * K],
                size=(7.6, 5.6),
            ),
        ),
        FigureSpec(
            "horizon-samples",
            f"All learners, {options.n} demonstrations",
            f"Contamination with eps=.01, n={options.n}, {options.seeds} data sets: the same picture, but smoothing "
            "with 1/H stops helping as 1/(2H) falls below eps (bands: 95 % intervals of the mean at each point).",
            lambda: horizon_figure(
                f"The same from {options.n} demonstrations",
                summary,
                sampled,
                ours,
                options.chunks,
                slopes,
                size=(7.6, 5.2),
            ),
        ),
        FigureSpec(
            "chunk-population",
            "The dial from tokens to documents",
            "The factor falls almost like 1/K as the rho-estimator looks at longer chunks "
            f"(H={options.chunk_horizon}); the improper limit is 1 + H/K.",
            lambda: chunk_figure(options, summary, slopes, sampled=False),
        ),
        FigureSpec(
            "chunk-samples",
            "The dial, from samples",
            f"The same from n={options.n} demonstrations at H={options.sampled_chunk_horizon}, between log-loss and "
            "the rho-estimator on whole documents.",
            lambda: chunk_figure(options, summary, slopes, sampled=True),
        ),
        FigureSpec(
            "rare-mode-switch",
            "RareMode: a jump at a known horizon",
            "With eps=.01 log-loss changes to the worse of two policies at H=64.7 (W=e) and H=28.7 (W=10), and the "
            "factor jumps from 1 to 22.57; the rho-estimator stays at 1.",
            lambda: rare_switch_figure(summary),
        ),
        FigureSpec(
            "rare-mode-growth",
            "RareMode: linear in H with a bounded density ratio",
            "With a rare mode of probability 1/H and density ratio 10 the factor of log-loss doubles with H.",
            lambda: rare_growth_figure(summary),
        ),
        FigureSpec(
            "consistency",
            "ConsistencyGame: a barrier for every layer-by-layer learner",
            "Chunks of K tokens find the error sets of their own scale: the measured factors lie on the closed form, "
            "and next-token learners are at K=1 however much data they have.",
            lambda: consistency_figure(summary),
        ),
        FigureSpec(
            "prefix",
            "Where along the document the distance arises",
            f"Squared Hellinger distance of every prefix of length h (Contamination A, H={options.chunk_horizon}): "
            "learners that look at short units pay a little at every token.",
            lambda: prefix_figure(options, summary),
        ),
        FigureSpec(
            "control-n",
            "Control: well specified, against n",
            f"The expert is a member of the class (flip rate {CONTROL_THETA}); C_apx is not defined there, and both "
            "learners follow the asymptotic 1/(4n) of a regular one-parameter class.",
            lambda: control_figure(options, summary, "n"),
        ),
        FigureSpec(
            "control-horizon",
            "Control: well specified, against H",
            "In the well-specified case the distance at fixed n does not grow with the horizon, for log-loss either.",
            lambda: control_figure(options, summary, "H"),
        ),
    ]


# -- The cells of the study: what is fitted on what, and what is measured. Every function here is pure ----------------


SAMPLED = {"eps": 1e-2, "p": 1e-4, "q": 1 - 1e-4, "theta_min": 1e-4}  # Contamination in the parts with samples
CONTROL_THETA = 0.3
RARE_RATIOS = {"e": math.e, "10": 10.0}
RARE_HORIZONS = (8, 12, 16, 20, 24, 27, 28, 29, 30, 34, 40, 48, 56, 62, 63, 64, 65, 66, 67, 72, 80, 96)


def population(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on Contamination with infinitely many demonstrations."""
    task = make_task("Contamination", horizon=H)
    policy = fit_population(learner, task, rng, K)
    return measured(task, policy, named("Contamination A", learner, H, POPULATION, K), rng)


def samples(
    *, H: int, n: int, learners: Sequence[str], chunks: Sequence[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """All learners on one data set of Contamination."""
    task = make_task("Contamination", horizon=H, **SAMPLED)
    demonstrations = collect(task, n, rng)
    records = []
    for learner, K in [*((name, None) for name in learners), *((CHUNKED, chunk) for chunk in chunks)]:
        agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
        records += measured(task, agent.policy_, named("Contamination eps=.01", learner, H, n, K), rng)
    return records


def rare_mode(*, H: int, ratio: str, eps: float | None, rng: np.random.Generator) -> list[Record]:
    """Log-loss and rho on the two policies of RareMode; ``eps=None`` is 1/H."""
    task = make_task("RareMode", horizon=H, eps=1 / H if eps is None else eps, density_ratio=RARE_RATIOS[ratio])
    name = f"RareMode eps={'1/H' if eps is None else eps:} W={ratio}"
    return [
        record
        for learner in ("log-loss", "rho")
        for record in measured(task, fit_population(learner, task, rng), named(name, learner, H, POPULATION), rng)
    ]


def consistency(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on ConsistencyGame, and the closed form for its chunk length."""
    task = make_task("ConsistencyGame", horizon=H, eta=0.1)
    assert isinstance(task, ConsistencyGame)
    labels = named("ConsistencyGame eta=.1", learner, H, POPULATION, 1 if K is None else K)
    exact = Record("C_apx in closed form", task.chunk_factor(1 if K is None else K), labels, method="theory")
    return [*measured(task, fit_population(learner, task, rng, K), labels, rng), exact]


def prefix(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """The distance at prefix lengths spaced evenly on a logarithmic scale."""
    task = make_task("Contamination", horizon=H)
    curve = distance(task.expert, fit_population(learner, task, rng, K), task, metric="hellinger2")
    labels = named("Contamination A", learner, H, POPULATION, K)
    lengths = np.unique(np.geomspace(1, H, 33).round().astype(int))
    return [
        Record("hellinger2", float(curve.values[h - 1]), {**labels, "h": int(h)}, method=curve.method) for h in lengths
    ]


def control(*, H: int, n: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """Well specified: the expert is a member of the class, so the approximation factor is not defined."""
    task = make_task("Contamination", horizon=H, theta_min=0.01)
    expert = BernoulliPolicy(CONTROL_THETA, on="flips")
    demonstrations = collect(task, n, rng, policy=expert)
    records = []
    for learner in ("log-loss", "rho"):
        policy = build_learner(learner, task).fit(demonstrations, task.policy_class, rng=rng).policy_
        curve = distance(expert, policy, task, metric="hellinger2")
        labels = named(f"flips, theta={CONTROL_THETA}", learner, H, n)
        records.append(Record("hellinger2", curve.final, labels, method=curve.method))
    return records


def cells(options: AmplificationOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    ours = [*LEARNERS, *options.add]
    for H in options.horizons:
        for learner in (*ours, BEST):
            yield Cell("horizon, population", population, {"H": H, "learner": learner})
        for K in options.chunks:
            if K <= H:
                yield Cell("horizon, population", population, {"H": H, "learner": CHUNKED, "K": K})
            if K < H:  # at K = H the improper limit is the expert itself
                yield Cell("horizon, population", population, {"H": H, "learner": IMPROPER, "K": K})
    for K in powers_of_two(options.chunk_horizon):
        for learner in (CHUNKED, IMPROPER) if options.chunk_horizon > K else (CHUNKED,):
            cell = {"H": options.chunk_horizon, "learner": learner, "K": K}
            yield Cell("chunk, population", population, cell)
    for ratio in RARE_RATIOS:
        for H in RARE_HORIZONS:
            yield Cell("rare mode, switch", rare_mode, {"H": H, "ratio": ratio, "eps": 0.01})
    for H in (16, 32, 64, 128, 256):
        yield Cell("rare mode, growth", rare_mode, {"H": H, "ratio": "10", "eps": None})
    for learner in ("log-loss", "layerwise"):
        yield Cell("consistency", consistency, {"H": 256, "learner": learner})
    for K in powers_of_two(256):
        yield Cell("consistency", consistency, {"H": 256, "learner": CHUNKED, "K": K})
    for learner, chunk in (("log-loss", None), ("rho", None), (BEST, None), (CHUNKED, 4), (CHUNKED, 16), (CHUNKED, 64)):
        if chunk is None or chunk < options.chunk_horizon:
            yield Cell("prefix", prefix, {"H": options.chunk_horizon, "learner": learner, "K": chunk})
    for H in options.control_horizons:
        for n in options.control_n:
            if n == _middle(options.control_n) or _middle(options.control_horizons) == H:
                for replicate in range(options.control_seeds):
                    yield Cell("control", control, {"H": H, "n": n, "replicate": replicate})
    for replicate in range(options.seeds):
        for H in options.horizons:
            cell = {"H": H, "n": options.n, "learners": ours, "chunks": [K for K in options.chunks if K <= H]}
            yield Cell("horizon, samples", samples, {**cell, "replicate": replicate})
        cell = {"H": options.sampled_chunk_horizon, "n": options.n, "learners": ["log-loss", "rho"]}
        cell["chunks"] = powers_of_two(options.sampled_chunk_horizon)
        yield Cell("chunk, samples", samples, {**cell, "replicate": replicate})


def _middle(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


# -- Tables, slopes and findings from the summary of the study; its figures are in ``catalogue`` ----------------------


IN_H, IN_K = SLOPE_IN_H, SLOPE_IN_K


def learner_rows(options: AmplificationOptions) -> list[tuple[str, int | None]]:
    """``(learner, K)`` in the order of the tables."""
    chunked = [(learner, K) for learner in (CHUNKED, IMPROPER) for K in options.chunks]
    return [*((learner, None) for learner in (*LEARNERS, *options.add)), *chunked, (BEST, None)]


def title_of(learner: str, K: int | None) -> str:
    """A learner as the tables call it."""
    return learner if K is None else f"{learner}, K={K}"


def horizon_slopes(summary: Summary) -> list[SummaryRow]:
    """Slopes in H of every learner, over the horizons above its K where there are at least two."""
    rows = [row for row in summary.select("C_apx") if row.part in ("horizon, population", "horizon, samples")]
    return slope_rows(rows, "H", IN_H, above="K")


def chunk_slopes(summary: Summary) -> list[SummaryRow]:
    """Slope in K of the chunked estimator from K = 16 to H / 2, where it is neither a token's nor a document's."""
    places = (("chunk, population", CHUNKED), ("chunk, population", IMPROPER), ("chunk, samples", CHUNKED))
    rows = [row for part, learner in places for row in summary.select("C_apx", part=part, learner=learner)]
    inside = [row for row in rows if min(16, row["H"] / 8) <= row["K"] <= row["H"] / 2]
    return slope_rows(inside, "K", IN_K)


def horizon_table(options: AmplificationOptions, summary: Summary, slopes: Summary, part: str, title: str) -> Table:
    """C_apx, a line a learner, a column a horizon, and the slope."""
    lines: list[list[Any]] = []
    for learner, K in learner_rows(options):
        cells = []
        for H in options.horizons:
            found = summary.select("C_apx", part=part, learner=learner, H=H, K=K)
            cells.append(
                with_interval(found[0].mean, found[0].lower, found[0].upper, _digits(part)) if len(found) else ""
            )
        if any(cells):
            slope = [
                with_interval(row.mean, row.lower, row.upper)
                for row in slopes.select(IN_H, part=part, learner=learner, K=K)
            ]
            lines.append([title_of(learner, K), *cells, *(slope or [""])])
    note = "Slope: least squares of log C_apx on log H."
    if part.endswith("samples"):
        note = f"{interval_words(options.seeds)}. {note}"
    return Table(title, ["learner", *(f"H={H}" for H in options.horizons), "slope"], lines, note)


def _digits(part: str) -> int:
    return 6 if part.endswith("population") else 3


def chunk_table(options: AmplificationOptions, summary: Summary) -> Table:
    """C_apx against K: population, the improper limit, samples."""
    sources = [
        ("chunk, population", CHUNKED, options.chunk_horizon),
        ("chunk, population", IMPROPER, options.chunk_horizon),
        ("chunk, samples", CHUNKED, options.sampled_chunk_horizon),
    ]
    lines = []
    for K in summary.distinct("K", part="chunk, population"):
        cells = []
        for part, learner, H in sources:
            found = summary.select("C_apx", part=part, learner=learner, H=H, K=K)
            cells.append(with_interval(found[0].mean, found[0].lower, found[0].upper, 4) if len(found) else "")
        lines.append([str(K), *cells])
    heads = [f"chunked rho, H={sources[0][2]}", f"improper limit, H={sources[1][2]}"]
    heads.append(f"chunked rho, H={sources[2][2]}, n={options.n}")
    return Table("C_apx against the chunk length K (Contamination)", ["K", *heads], lines)


def consistency_table(summary: Summary) -> Table:
    """The measured factor next to its closed form."""
    part = "consistency"
    lines = [
        [title_of(row["learner"], row["K"]), row.mean, summary.value("C_apx in closed form", part=part, **row.labels)]
        for row in summary.select("C_apx", part=part)
    ]
    return Table("C_apx on ConsistencyGame, H=256, eta=.1", ["learner", "measured", "closed form"], lines)


def rare_table(summary: Summary) -> Table:
    """The first horizon at which log-loss leaves the better policy, next to the closed form."""
    from ntp_envs.tasks import RareMode

    lines: list[list[Any]] = []
    for ratio, value in RARE_RATIOS.items():
        series = summary.series(
            "H", "C_apx", part="rare mode, switch", learner="log-loss", task=f"RareMode eps=0.01 W={ratio}"
        )
        above = series.mean > 1 + 1e-9
        first = f"{series.x[above][0]:g}" if above.any() else "none"
        jump = number(float(series.mean[above][0]), 6) if above.any() else ""
        switch = RareMode(eps=0.01, density_ratio=value).switch_horizon()
        lines.append([f"W={ratio}", first, number(switch, 5), jump])
    heads = ["density ratio", "first H above the switch", "switch in closed form", "C_apx there"]
    return Table("RareMode, eps=.01: where log-loss takes the worse policy", heads, lines)


def analyse(options: AmplificationOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    slopes = Summary([*horizon_slopes(summary), *chunk_slopes(summary)])
    titles = {
        "horizon, population": "C_apx against the horizon: Contamination A, infinitely many demonstrations",
        "horizon, samples": f"C_apx against the horizon: Contamination eps=.01, n={options.n}",
    }
    tables = [horizon_table(options, summary, slopes, part, title) for part, title in titles.items()]
    tables += [chunk_table(options, summary), rare_table(summary), consistency_table(summary)]
    return Analysis(
        rows=slopes.rows,
        tables=tables,
        figures=figures(options, summary, slopes),
        findings=findings(options, summary, slopes),
    )


def findings(options: AmplificationOptions, summary: Summary, slopes: Summary) -> list[str]:
    """What the numbers say, with the numbers."""
    population = {"part": "horizon, population"}
    H = max(options.horizons)
    of = {name: summary.value("C_apx", learner=name, H=H, **population) for name in ("log-loss", "rho")}
    slope = {name: slopes.value(IN_H, learner=name, **population) for name in of}
    in_k = slopes.value(IN_K, part="chunk, population", learner=CHUNKED)
    found = [
        f"At H={H}, with infinitely many demonstrations, the squared Hellinger distance of the log-loss learner to the "
        f"expert is {of['log-loss']:.1f} times that of the best policy of the class; of the rho-estimator "
        f"{of['rho']:.2f} times.",
        f"Log-log slope in H: log-loss {slope['log-loss']:.3f}, rho {slope['rho']:.3f}.",
        f"Chunks of K tokens lie between: slope in K at H={options.chunk_horizon}: {in_k:.3f}.",
    ]
    return [line for line in found if "nan" not in line]


# -- How the figures of the study are drawn; what each one says is in ``catalogue`` -----------------------------------


def horizon_figure(
    title: str,
    summary: Summary,
    part: str,
    learners: Sequence[str],
    chunks: Sequence[int],
    slopes: Summary,
    *,
    improper: Sequence[int] = (),
    size: tuple[float, float] = (7.6, 4.8),
) -> Figure:
    """C_apx against H, both logarithmic, a line a learner."""
    from experiments.charts import log2_axis, new_figure

    figure, axes = new_figure(title, "horizon H (tokens in a document)", FACTOR, size=size)
    axes.set_yscale("log")
    horizons = summary.distinct("H", part=part)
    log2_axis(axes, horizons)
    room_for_labels(axes, min(horizons), max(horizons), 3.6)

    def slope(learner: str, **labels: Any) -> str:
        found = [row.mean for row in slopes.select(part=part, learner=learner, **labels)]
        return f" (slope {found[0]:.2f})" if found else ""

    def of(learner: str, **labels: Any) -> Series:
        return summary.series("H", "C_apx", part=part, learner=learner, **labels)

    lines = [Line(of(name), name, f"{name}{slope(name, K=None)}") for name in learners]
    colours = shades(chunks) if chunks else {}
    lines += [Line(of(CHUNKED, K=K), CHUNKED, f"chunks of {K}", color=colours[K]) for K in chunks]
    lines += [Line(of(IMPROPER, K=K), IMPROPER, f"improper, K={K}") for K in improper]
    if part.endswith("samples"):
        axes.axhline(1.0, color="black", linestyle="--", linewidth=1.2)
    else:
        lines.append(Line(of(BEST), BEST, "best in class", linewidth=1.2))
    draw_lines(axes, lines, limits=factor_axis)
    return figure


def chunk_figure(options: AmplificationOptions, summary: Summary, slopes: Summary, *, sampled: bool) -> Figure:
    """C_apx against K at a fixed horizon."""
    from experiments.charts import log2_axis, new_figure

    part = "chunk, samples" if sampled else "chunk, population"
    horizon = options.sampled_chunk_horizon if sampled else options.chunk_horizon
    data = f"n={options.n}" if sampled else "population"
    figure, axes = new_figure("Longer chunks, smaller factor", f"chunk length K (H={horizon}, {data})", FACTOR)
    chunked = summary.series("K", "C_apx", part=part, learner=CHUNKED)
    axes.set_yscale("log")
    log2_axis(axes, [float(K) for K in chunked.x])
    room_for_labels(axes, 1, horizon, 2.5 if sampled else 1.15)
    found = [row.mean for row in slopes.select(part=part, learner=CHUNKED)]
    label = f"chunked rho (slope {found[0]:.2f})" if found else "chunked rho"
    lines = [Line(chunked, CHUNKED, "")]
    if len(chunked.x) > 4:
        axes.annotate(label, (chunked.x[4], chunked.mean[4]), xytext=(10, 10), **text(CHUNKED))
    if sampled:
        for name in ("log-loss", "rho"):
            value = summary.series("H", "C_apx", part=part, learner=name)
            flat = Series(*(np.repeat(column, 2) for column in value))._replace(x=np.array([1.0, horizon]))
            lines.append(Line(flat, name, name, marker=""))
    else:
        K = chunked.x[chunked.x < horizon]
        line = 1 + horizon / K
        reference = Series(K, line, line, line)
        improper = summary.series("K", "C_apx", part=part, learner=IMPROPER)
        lines.append(Line(improper, IMPROPER, "", marker="D", linestyle=""))
        lines.append(Line(reference, IMPROPER, ""))
        at = len(K) // 2
        axes.annotate(
            "improper limit (dots)\nand 1 + H/K (line)", (K[at], line[at]), xytext=(-150, -32), **text(IMPROPER)
        )
    draw_lines(axes, lines, limits=factor_axis)
    return figure


def rare_switch_figure(summary: Summary) -> Figure:
    """The jump of log-loss in RareMode."""
    from experiments.charts import new_figure
    from ntp_envs.tasks import RareMode

    part = "rare mode, switch"
    figure, axes = new_figure("One more token, and log-loss takes the wrong policy", "horizon H", FACTOR)
    dashes = {"e": "--", "10": "-"}
    lines, last = [], 1.0
    for ratio, value in RARE_RATIOS.items():
        task = f"RareMode eps=0.01 W={ratio}"
        series = summary.series("H", "C_apx", part=part, learner="log-loss", task=task)
        lines.append(Line(series, "log-loss", "", linestyle=dashes[ratio], drawstyle="steps-post", marker=""))
        last = float(series.mean[-1]) if len(series.x) else 1.0
        switch = RareMode(eps=0.01, density_ratio=value).switch_horizon()
        label = f"log-loss, W={ratio}:\nswitches at H={switch:.1f}"
        axes.annotate(label, (switch, last / 2), xytext=(8, 0), **text("log-loss"))
    rho = summary.series("H", "C_apx", part=part, learner="rho", task="RareMode eps=0.01 W=10")
    axes.set_xlim(0, 112)
    draw_lines(axes, [*lines, Line(rho, "rho", "rho", marker="")])
    axes.set_ylim(0, None)
    return figure


def rare_growth_figure(summary: Summary) -> Figure:
    """Linear growth with a bounded density ratio."""
    from experiments.charts import log2_axis, new_figure

    part = "rare mode, growth"
    title = "A bounded density ratio does not save log-loss"
    figure, axes = new_figure(title, "horizon H (rare mode of probability 1/H, W=10)", FACTOR)
    series = {name: summary.series("H", "C_apx", part=part, learner=name) for name in ("log-loss", "rho")}
    axes.set_yscale("log", base=2)
    log2_axis(axes, list(series["log-loss"].x))
    log2_axis(axes, [1, 2, 4, 8, 16, 32, 64], which="y")
    room_for_labels(axes, 16, 256, 1.9)
    draw_lines(axes, [Line(series[name], name, name) for name in series])
    return figure


def consistency_figure(summary: Summary) -> Figure:
    """The multi-scale game: measured factors on their closed form."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    part = "consistency"
    figure, axes = new_figure("Deciding token by token cannot be consistent", "chunk length K (H=256)", FACTOR)
    chunked = summary.series("K", "C_apx", part=part, learner=CHUNKED)
    exact = summary.series("K", "C_apx in closed form", part=part, learner=CHUNKED)
    axes.set_yscale("log")
    log2_axis(axes, [float(K) for K in chunked.x])
    room_for_labels(axes, 1, 256, 2.0)
    axes.plot(exact.x, exact.mean, color=COLOURS["grey"], linestyle=":")
    axes.plot(chunked.x, chunked.mean, color=COLOURS["green"], marker="o", linestyle="")
    names = [name for name in ("log-loss", "layerwise") if len(summary.select("C_apx", part=part, learner=name))]
    for name, marker, colour, size in zip(("log-loss", "layerwise"), ("o", "x"), ("vermilion", "black"), (13, 7)):
        value = summary.series("K", "C_apx", part=part, learner=name)
        axes.plot(
            value.x, value.mean, marker=marker, color=COLOURS[colour], markersize=size, fillstyle="none", linestyle=""
        )
    if names and len(exact.x):
        axes.annotate(" = ".join(names), (1, exact.mean[0]), xytext=(14, 4), **text("log-loss"))
    if len(exact.x) > 4:
        axes.annotate("chunked rho (dots)", (exact.x[4], exact.mean[4]), xytext=(12, 12), **text(CHUNKED))
        label = "closed form (line):\n(H/K)(1 - eta (J - k)/J)"
        axes.annotate(label, (exact.x[4], exact.mean[4]), xytext=(-200, -30), **text(IMPROPER))
    factor_axis(axes)
    return figure


def prefix_figure(options: AmplificationOptions, summary: Summary) -> Figure:
    """How the distance grows along the document."""
    from experiments.charts import log2_axis, new_figure

    part = "prefix"
    figure, axes = new_figure("Errors accumulate token by token", "prefix length h (tokens)", DISTANCE)
    chunks = summary.distinct("K", part=part)
    colours = shades(chunks) if chunks else {}

    def of(learner: str, K: int | None = None) -> Series:
        return summary.series("h", "hellinger2", part=part, learner=learner, K=K)

    axes.set_yscale("log")
    log2_axis(axes, [2.0**k for k in range(options.chunk_horizon.bit_length())])
    room_for_labels(axes, 1, options.chunk_horizon, 4.5)
    lines = [Line(of("log-loss"), "log-loss", "log-loss", marker="")]
    lines += [Line(of(CHUNKED, K), CHUNKED, f"chunks of {K}", marker="", color=colours[K]) for K in chunks]
    lines += [Line(of("rho"), "rho", "rho", marker=""), Line(of(BEST), BEST, "best in class")]
    low, high = of(BEST).mean, of("log-loss").mean
    if len(low) and len(high):
        axes.set_ylim(low[-1] / 3, high.max() * 1.5)  # log-loss has the first token exactly right: far below
    draw_lines(axes, lines)
    return figure


def control_figure(options: AmplificationOptions, summary: Summary, x: str) -> Figure:
    """The well-specified case: 1/n and no horizon."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    part = "control"
    other = "H" if x == "n" else "n"
    values = sorted(options.control_horizons if other == "H" else options.control_n)
    fixed = values[len(values) // 2]
    series = {
        name: summary.series(x, "hellinger2", part=part, learner=name, **{other: fixed}) for name in ("log-loss", "rho")
    }
    xs = series["log-loss"].x
    title = "Well specified: the error falls like 1/n ..." if x == "n" else "... and does not depend on the horizon"
    label = f"demonstrations n (H={fixed})" if x == "n" else f"horizon H (n={fixed})"
    figure, axes = new_figure(title, label, DISTANCE)
    axes.set_yscale("log")
    log2_axis(axes, list(xs))
    room_for_labels(axes, float(xs.min()), float(xs.max()), (xs.max() / xs.min()) ** 0.28)
    reference = 1 / (4 * (xs if x == "n" else np.full_like(xs, fixed)))
    lines = [Line(series["log-loss"], "log-loss", "log-loss"), Line(series["rho"], "rho", "rho", linestyle="--")]
    lines.append(
        Line(
            Series(xs, reference, reference, reference),
            "reference",
            "1/(4n)",
            color=COLOURS["grey"],
            marker="",
            linestyle=":",
        )
    )
    if x == "H":
        axes.set_ylim(reference[0] / 10, reference[0] * 10)
    draw_lines(axes, lines)
    return figure


STUDY = Study(
    name="amplification",
    question="How much does each learner amplify misspecification as the horizon H grows?",
    options=AmplificationOptions,
    cells=cells,
    analyse=analyse,
)
