"""The headline: how log-loss, chunked and sequence-level learners amplify misspecification as the horizon grows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_high
from typing import Any

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import COLOURS, DISTANCE, FACTOR, Figure, say, tick_words
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
    titled,
)
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Places, Summary, SummaryRow, Table, interval_words, pivot, slope_rows
from ntp_envs import BernoulliPolicy, collect, distance, make_task
from ntp_envs.tasks import ConsistencyGame, Contamination

SAMPLED = {"eps": 1e-2, "p": 1e-4, "q": 1 - 1e-4, "theta_min": 1e-4}  # Contamination in the parts with samples
CONTROL_THETA = 0.3
CLOSED_FORM = "C_apx in closed form"


@dataclass(frozen=True)
class AmplificationOptions(Options):
    horizons: tuple[int, ...] = option((16, 32, 64, 128, 256))
    """Horizons H on Contamination."""
    chunks: tuple[int, ...] = option((4, 8, 16, 32, 64), quick=(4, 16, 64))
    """Chunk lengths K of the chunked rho-estimator, each used where K <= H."""
    n: int = option(10_000)
    """Demonstrations in the parts with samples."""
    seeds: int = option(20, quick=5)
    """Data sets in the parts with samples."""
    chunk_horizon: int = option(256, least=4, power_of_two=True)
    """Horizon at which K is varied on the population, and of the curves over the prefix (a power of two)."""
    sampled_chunk_horizon: int = option(64, least=4, power_of_two=True)
    """Horizon at which K is varied with samples (a power of two)."""
    control_n: tuple[int, ...] = option((100, 300, 1000, 3000, 10_000), quick=(100, 1000, 10_000))
    """Numbers of demonstrations in the well-specified control."""
    control_horizons: tuple[int, ...] = option((4, 16, 64, 256), quick=(4, 16, 64))
    """Horizons in the well-specified control."""
    control_seeds: int = option(100, quick=50)
    """Data sets in the well-specified control."""
    add: tuple[str, ...] = ()
    """Agents of your own to run beside ours on Contamination: names or package.module:Class."""

    def check(self) -> None:
        for name in self.add:
            build_learner(name, make_task("Contamination"))


# -- cells: what is fitted on what, and what is measured --------------------------------------------------------------


def population(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on Contamination with infinitely many demonstrations."""
    task = make_task("Contamination", horizon=H)
    return measured(
        task, fit_population(learner, task, rng, K), named("Contamination A", learner, H, POPULATION, K), rng
    )


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


def consistency(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on ConsistencyGame, and the closed form for its chunk length."""
    task, unit = ConsistencyGame(horizon=H, eta=0.1), 1 if K is None else K
    labels = named("ConsistencyGame eta=.1", learner, H, POPULATION, unit)
    exact = Record(CLOSED_FORM, task.chunk_factor(unit), labels, method="theory")
    return [*measured(task, fit_population(learner, task, rng, K), labels, rng), exact]


def prefix(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """The distance at prefix lengths spaced evenly on a logarithmic scale."""
    task = make_task("Contamination", horizon=H)
    curve = distance(task.expert, fit_population(learner, task, rng, K), task, metric="hellinger2")
    labels = named("Contamination A", learner, H, POPULATION, K)
    lengths = np.unique(np.geomspace(1, H, 33).round().astype(int)).tolist()
    return [Record("hellinger2", float(curve.values[h - 1]), {**labels, "h": h}, method=curve.method) for h in lengths]


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
            yield Cell("chunk, population", population, {"H": options.chunk_horizon, "learner": learner, "K": K})
    for learner in ("log-loss", "layerwise"):
        yield Cell("consistency", consistency, {"H": 256, "learner": learner})
    for K in powers_of_two(256):
        yield Cell("consistency", consistency, {"H": 256, "learner": CHUNKED, "K": K})
    for learner, chunk in (("log-loss", None), ("rho", None), (BEST, None), (CHUNKED, 4), (CHUNKED, 16), (CHUNKED, 64)):
        if chunk is None or chunk < options.chunk_horizon:
            yield Cell("prefix", prefix, {"H": options.chunk_horizon, "learner": learner, "K": chunk})
    middle_n, middle_h = median_high(options.control_n), median_high(options.control_horizons)
    for H in options.control_horizons:
        for n in options.control_n:
            if n == middle_n or middle_h == H:
                for replicate in range(options.control_seeds):
                    yield Cell("control", control, {"H": H, "n": n, "replicate": replicate})
    for replicate in range(options.seeds):
        for H in options.horizons:
            cell = {"H": H, "n": options.n, "learners": ours, "chunks": [K for K in options.chunks if K <= H]}
            yield Cell("horizon, samples", samples, {**cell, "replicate": replicate})
        cell = {"H": options.sampled_chunk_horizon, "n": options.n, "learners": ["log-loss", "rho"]}
        cell["chunks"] = powers_of_two(options.sampled_chunk_horizon)
        yield Cell("chunk, samples", samples, {**cell, "replicate": replicate})


# -- tables -----------------------------------------------------------------------------------------------------------


def tables(o: AmplificationOptions, s: Summary) -> list[Table]:
    chunked = [(learner, K) for learner in (CHUNKED, IMPROPER) for K in o.chunks]
    rows = [*((learner, None) for learner in (*LEARNERS, *o.add)), *chunked, (BEST, None)]
    lines = [(titled(learner, K), {"learner": learner, "K": K}) for learner, K in rows]
    title, note = "C_apx against the horizon: Contamination", "Slope: least squares of log C_apx on log H."

    def by_horizon(part: str) -> Places:
        slope = ("slope", {"part": part, "metric": SLOPE_IN_H, "digits": 3})
        return [*((f"H={H}", {"part": part, "H": H}) for H in o.horizons), slope]

    data = f"{title} A, infinitely many demonstrations"
    limit = pivot(s, data, "C_apx", lines, by_horizon("horizon, population"), digits=6, note=note)
    data, note = f"{title} eps=.01, n={o.n}", f"{interval_words(o.seeds)}. {note}"
    sampled = pivot(s, data, "C_apx", lines, by_horizon("horizon, samples"), note=note)

    H, fewer, part = o.chunk_horizon, o.sampled_chunk_horizon, "chunk, population"
    columns = [
        (f"chunked rho, H={H}", {"part": part, "learner": CHUNKED, "H": H}),
        (f"improper limit, H={H}", {"part": part, "learner": IMPROPER, "H": H}),
        (f"chunked rho, H={fewer}, n={o.n}", {"part": "chunk, samples", "learner": CHUNKED, "H": fewer}),
    ]
    by_chunk = [(str(K), {"K": K}) for K in s.distinct("K", part=part)]
    title = "C_apx against the chunk length K (Contamination)"
    chunks = pivot(s, title, "C_apx", by_chunk, columns, digits=4, corner="K")

    lines = [(titled(row["learner"], row["K"]), {**row.labels}) for row in s.select("C_apx", part="consistency")]
    columns = [("measured", {"part": "consistency"}), ("closed form", {"part": "consistency", "metric": CLOSED_FORM})]
    game = pivot(s, "C_apx on ConsistencyGame, H=256, eta=.1", "C_apx", lines, columns, digits=4)
    return [limit, sampled, chunks, game]


# -- figures: each answers one question, and its caption says what it shows -------------------------------------------


def line(part: str, learner: str, label: str = "", K: int | None = None, metric: str = "", **look: Any) -> Curve:
    where = {"part": part, "learner": learner}
    return Curve(where if K is None else {**where, "K": K}, label, metric, look=look)


def sloped(s: Summary, metric: str, part: str, learner: str, **where: Any) -> str:
    """A learner with its slope, where it has one."""
    slope = s.value(metric, part=part, learner=learner, **where)
    return learner if math.isnan(slope) else f"{learner} (slope {slope:.2f})"


def horizon_figure(o: AmplificationOptions, s: Summary, *, sampled: bool, every: bool, height: float) -> Figure:
    """C_apx against H, both logarithmic, a line for every learner or for a few."""
    part, H = "horizon, samples" if sampled else "horizon, population", max(o.horizons)
    few = sorted(o.chunks)[:: max(1, (len(o.chunks) + 1) // 3)][:3]
    learners, chunks = ([*LEARNERS, *o.add], o.chunks) if every else (["log-loss", "rho"], few)
    curves = [line(part, name, sloped(s, SLOPE_IN_H, part, name, K=None)) for name in learners]
    curves += [line(part, CHUNKED, f"chunks of {K}", K) for K in chunks]
    if every and not sampled:
        curves += [line(part, IMPROPER, f"improper, K={K}", K) for K in few if H > 2 * K]
    curves.append(line(part, BEST, "best in class", linewidth=1.2))  # with samples the line at 1 stands for it
    guides = [Guide(level=1.0, colour="black", dashes="--")] if sampled else []
    loss, rho = (s.value("C_apx", part=part, learner=name, H=H) for name in ("log-loss", "rho"))
    title = f"At H={H} the approximation factor of log-loss is {loss:.3g}, that of rho {rho:.3g}"
    panel = Panel("H", "horizon H (tokens in a document)", "C_apx", curves, guides)
    return chart(s, title, FACTOR, panel, size=(8.2, height))


def chunk_figure(o: AmplificationOptions, s: Summary, *, sampled: bool) -> Figure:
    """C_apx against K at a fixed horizon."""
    part = "chunk, samples" if sampled else "chunk, population"
    H = o.sampled_chunk_horizon if sampled else o.chunk_horizon
    rows, guides = s.select("C_apx", part=part), []
    curves = [line(part, CHUNKED, sloped(s, SLOPE_IN_K, part, CHUNKED))]
    if sampled:  # learners without a chunk length are drawn from one end to the other
        flat = [row for row in rows if row["K"] is None]
        ends = [dataclasses.replace(row, labels={**row.labels, "K": K}) for row in flat for K in (1, H)]
        rows = Summary([*rows.select(learner=CHUNKED), *ends])
        curves += [line(part, name, name, marker="") for name in ("log-loss", "rho")]
    else:
        curves.append(line(part, IMPROPER, marker="D", linestyle=""))
        limit = [(float(K), 1 + H / K) for K in powers_of_two(H // 2)]
        note, middle = "improper limit (dots)\nand 1 + H/K (line)", limit[len(limit) // 2]
        guides.append(Guide(points=limit, note=note, at=middle, offset=(-150, -32), style=IMPROPER))
    first, last = (s.value("C_apx", part=part, learner=CHUNKED, K=K) for K in (1, H))
    title = f"The rho-estimator: approximation factor {first:.3g} on tokens, {last:.3g} on whole documents"
    panel = Panel("K", "chunk length K (tokens)", "C_apx", curves, guides)
    return chart(rows, title, FACTOR, panel)


def consistency_figure(s: Summary) -> Figure:
    """The multi-scale game: measured factors on their closed form."""
    part, form = "consistency", "closed form (line):\n" + r"$(H/K)\,(1 - \eta\,(J - k)/J)$"
    loss, layerwise = (s.value("C_apx", part=part, learner=name) for name in ("log-loss", "layerwise"))
    note = "log-loss = layerwise" if math.isclose(loss, layerwise) else "log-loss (circle), layerwise (cross)"
    curves = [
        line(part, CHUNKED, metric=CLOSED_FORM, color=COLOURS["grey"], linestyle=":", marker=""),
        line(part, CHUNKED, "chunked rho (dots)", linestyle=""),
        line(part, "log-loss", linestyle="", markersize=13, fillstyle="none"),
        line(part, "layerwise", linestyle="", marker="x", color="black", markersize=7),
    ]
    guides = [
        Guide(points=[(1.0, loss)], note=note, offset=(14, 4), style="log-loss"),
        Guide(points=[(16.0, 15.2)], note=form, offset=(-200, -30), style=IMPROPER),  # left of the line
    ]
    whole = s.value("C_apx", part=part, learner=CHUNKED, K=256)
    title = f"Approximation factor {loss:.4g} token by token, {whole:.3g} on whole sequences"
    return chart(s, title, FACTOR, Panel("K", "chunk length K (tokens)", "C_apx", curves, guides))


def prefix_figure(o: AmplificationOptions, s: Summary) -> Figure:
    curves = [line("prefix", name, name, marker="") for name in ("log-loss", "rho")]
    curves += [line("prefix", CHUNKED, f"chunks of {K}", K, marker="") for K in s.distinct("K", part="prefix")]
    curves.append(line("prefix", BEST, "best in class"))
    drawn = s.select("hellinger2", part="prefix")
    least = max((row.mean for row in drawn.select(learner=BEST)), default=0.0) / 3
    drawn, under = (Summary(row for row in drawn if (row.mean >= least) is above) for above in (True, False))
    ticks = powers_of_two(o.chunk_horizon)
    panel = Panel("h", "prefix length h (tokens)", "hellinger2", curves, (), "log2", "log", ticks)
    figure = chart(drawn, "Where along the document does the distance arise?", DISTANCE, panel)
    if len(under):  # log-loss has the first token right, say
        say(
            figure,
            f"lines begin where the distance is {least:.1g} (at h={max(row['h'] for row in under)} some are below)",
        )
    return figure


def control_figure(o: AmplificationOptions, s: Summary, x: str) -> Figure:
    """The well-specified case against n or H, next to the theory."""
    H, n = median_high(o.control_horizons), median_high(o.control_n)
    title, label, fixed = "does the error fall like 1/n?", "demonstrations n", {"H": H}
    values, shown, offset = sorted(o.control_n), None, (10, 12)
    theory = [(value, 1 / (4 * value)) for value in values]
    if x == "H":
        title, label, fixed = "does the horizon matter?", "horizon H (tokens in a document)", {"n": n}
        values, shown, offset = sorted(o.control_horizons), (0.025 / n, 2.5 / n), (14, 0)
        theory = [(value, 1 / (4 * n)) for value in reversed(values)]
    loss, rho = ({"part": "control", "learner": name, **fixed} for name in ("log-loss", "rho"))
    curves = [Curve(loss, "log-loss"), Curve(rho, "rho", look={"linestyle": "--"})]
    guide = Guide(points=theory, note="1/(4n)", at=theory[0], offset=offset)
    panel = Panel(x, label, "hellinger2", curves, [guide], "log2", "log", ylim=shown)
    return chart(s, f"Well specified: {title}", DISTANCE, panel)


def parameters(**changed: float) -> str:
    """Those of Contamination, its horizon aside."""
    task = Contamination(**changed)  # type: ignore[arg-type]
    return f"eps = {task.eps:g}, p = 1 - q = {tick_words(task.p)}, least rate {tick_words(task.theta_min)}"


def figures(o: AmplificationOptions, s: Summary) -> list[FigureSpec]:
    limit, sampled = parameters(), parameters(**SAMPLED)
    return [
        FigureSpec(
            "headline",
            "Who amplifies misspecification as documents grow?",
            "Squared Hellinger distance to the expert over that of the best policy of the class, for infinitely many "
            "demonstrations, exact. Flat is a learner that does not amplify; slope 1 is in proportion to the horizon "
            "H.",
            lambda: horizon_figure(o, s, sampled=False, every=False, height=4.8),
            limit,
        ),
        FigureSpec(
            "horizon-population",
            "All learners, infinitely many demonstrations",
            "Contamination A, exact. Smoothing with 1/(nH) vanishes with infinitely many demonstrations; the improper "
            "limit of K-token chunks is 1 + H/K.",
            lambda: horizon_figure(o, s, sampled=False, every=True, height=5.6),
            limit,
        ),
        FigureSpec(
            "horizon-samples",
            f"All learners, {o.n} demonstrations",
            f"Contamination with eps=.01, n={o.n}, {o.seeds} data sets; bands: 95 % intervals of the mean at each "
            "point. Smoothing with 1/H can help while 1/(2H) is above eps.",
            lambda: horizon_figure(o, s, sampled=True, every=True, height=5.2),
            sampled,
        ),
        FigureSpec(
            "chunk-population",
            "The dial from tokens to documents",
            "The factor as the rho-estimator looks at longer chunks "
            f"(H={o.chunk_horizon}); the improper limit is 1 + H/K.",
            lambda: chunk_figure(o, s, sampled=False),
            limit,
        ),
        FigureSpec(
            "chunk-samples",
            "The dial, from samples",
            f"The same from n={o.n} demonstrations at H={o.sampled_chunk_horizon}, between log-loss and "
            "the rho-estimator on whole documents.",
            lambda: chunk_figure(o, s, sampled=True),
            sampled,
        ),
        FigureSpec(
            "consistency",
            "ConsistencyGame: what does deciding layer by layer cost?",
            "Chunks of K tokens find the error sets of their own scale, next-token learners those of K=1. Dotted: the "
            "closed form.",
            lambda: consistency_figure(s),
        ),
        FigureSpec(
            "prefix",
            "Where along the document the distance arises",
            f"Squared Hellinger distance of every prefix of length h (Contamination A, H={o.chunk_horizon}): does it "
            "come a little at every token?",
            lambda: prefix_figure(o, s),
            limit,
        ),
        FigureSpec(
            "control-n",
            "Control: well specified, against n",
            f"The expert is a member of the class (flip rate {CONTROL_THETA}), so that C_apx is not defined. Dotted: "
            "1/(4n), the asymptotic distance in a regular class of one parameter.",
            lambda: control_figure(o, s, "n"),
        ),
        FigureSpec(
            "control-horizon",
            "Control: well specified, against H",
            "The same at fixed n: in theory it does not grow with the horizon, for log-loss either.",
            lambda: control_figure(o, s, "H"),
        ),
    ]


# -- findings ---------------------------------------------------------------------------------------------------------


def findings(o: AmplificationOptions, s: Summary) -> list[str]:
    part, H = "horizon, population", max(o.horizons)
    of = {name: s.value("C_apx", part=part, learner=name, H=H) for name in ("log-loss", "rho")}
    slope = {name: s.value(SLOPE_IN_H, part=part, learner=name) for name in of}
    in_k = s.value(SLOPE_IN_K, part="chunk, population", learner=CHUNKED)
    return [
        f"At H={H}, with infinitely many demonstrations, the squared Hellinger distance of the log-loss learner to the "
        f"expert is {of['log-loss']:.1f} times that of the best policy of the class; of the rho-estimator "
        f"{of['rho']:.2f} times.",
        f"Log-log slope in H: log-loss {slope['log-loss']:.3f}, rho {slope['rho']:.3f}.",
        f"Chunks of K tokens lie between: slope in K at H={o.chunk_horizon}: {in_k:.3f}.",
    ]


def slopes(o: AmplificationOptions, s: Summary) -> list[SummaryRow]:
    """In H over the horizons above K, and in K from 16 to H / 2, between a token and a document."""
    in_h = [row for row in s.select("C_apx") if row.part in ("horizon, population", "horizon, samples")]
    places = (("chunk, population", CHUNKED), ("chunk, population", IMPROPER), ("chunk, samples", CHUNKED))
    in_k = [row for part, learner in places for row in s.select("C_apx", part=part, learner=learner)]
    inside = [row for row in in_k if min(16, row["H"] / 8) <= row["K"] <= row["H"] / 2]
    return [*slope_rows(in_h, "H", SLOPE_IN_H, above="K"), *slope_rows(inside, "K", SLOPE_IN_K)]


STUDY = Study(
    name="amplification",
    question="How much does each learner amplify misspecification as the horizon H grows?",
    options=AmplificationOptions,
    cells=cells,
    analyse=analysis(rows=slopes, tables=tables, figures=figures, findings=findings),
)
