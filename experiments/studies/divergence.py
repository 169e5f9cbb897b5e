"""Amplification depends on the divergence: the learner that is farthest in one is the nearest in another.

Log-loss minimises the KL divergence of whole documents, whatever their length (cf. joint KL in arXiv:2605.12316), and
covers what the expert writes (arXiv:2510.15020). In squared Hellinger distance and total variation, which count what is
wrong about most documents, its error grows with the horizon. The rho-estimator is the other way round: near in these
two, and it gives rare documents up, which KL and coverage see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import charts
from experiments.cells import Cell, Record
from experiments.measure import BEST, CHUNKED, POPULATION, fit_population, named, titled
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Places, Summary, Table, pivot
from ntp_envs import Task, distance, distance_curves, make_task
from ntp_envs.tasks import Contamination, RareMode
from ntp_envs.tasks.bernoulli import best_bernoulli


@dataclass(frozen=True)
class DivergenceOptions(Options):
    """Sizes of the sweep; the defaults are the full study."""

    horizons: tuple[int, ...] = option((16, 32, 64, 128, 256, 512, 1024), quick=(16, 32, 64, 128, 256), least=2)
    """Horizons H on Contamination."""
    chunk: int = option(16)
    """Chunk length K of the chunked rho-estimator, used where K < H."""
    rare_horizon: int = option(64, least=2)
    """Horizon of RareMode, where log-loss takes the worse policy."""
    thresholds: tuple[float, ...] = option((2.0, 1e3, 1e6), above=1.0)
    """N of the coverage profile Cov_N: the share of the expert's documents that are N times likelier under it."""


# -- cells: one learner with infinitely many demonstrations, in four divergences ---------------------------------------

RARE_EPS, RATIO = 0.01, 10.0
CONTAMINATION, RARE = "Contamination A", f"RareMode eps={RARE_EPS:g} W={RATIO:g}"
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    CONTAMINATION: ("Contamination", {}),
    RARE: ("RareMode", {"eps": RARE_EPS, "density_ratio": RATIO}),
}
RARE_LEARNERS = ("log-loss", "rho")
#: divergence: how tables call it, and the metric that is its ratio to the least in the class
FACTORS = {
    "hellinger2": ("D_H^2", "C_apx"),
    "tv": ("TV", "TV over the least in class"),
    "kl": ("KL", "KL over the least in class"),
}


def least_in_class(task: Task, metric: str) -> float:
    """The least distance from the expert to a member of the class, in the metric itself."""
    if isinstance(task, Contamination):
        return best_bernoulli(task.expert, task.policy_class, task.horizon, metric=metric).hellinger2
    assert isinstance(task, RareMode)
    return min(distance(task.expert, member, task, metric=metric).final for member in task.policy_class.policies)


def divergences(
    *, task: str, learner: str, H: int, K: int | None = None, thresholds: list[float], rng: np.random.Generator
) -> list[Record]:
    """The distances of one learner, their ratios to the least in the class, and its coverage profile."""
    name, parameters = TASKS[task]
    made = make_task(name, horizon=H, **parameters)
    policy = fit_population(learner, made, rng, K)
    curves = distance_curves(made.expert, policy, made, metrics=(*FACTORS, "coverage"), thresholds=thresholds)
    labels = named(task, learner, H, POPULATION, K)
    records = []
    for metric, (_, factor) in FACTORS.items():
        value, method = curves[metric].final, curves[metric].method
        records.append(Record(metric, value, labels, method=method))
        records.append(Record(factor, value / least_in_class(made, metric), labels, method=method))
    for N, share in zip(thresholds, curves["coverage"].values[-1], strict=True):
        records.append(Record("coverage", share, {**labels, "N": N}, method=curves["coverage"].method))
    return records


def cells(o: DivergenceOptions) -> Iterator[Cell]:
    asked = [(CONTAMINATION, learner, H, K) for H in o.horizons for learner, K in learners(o, H)]
    for task, learner, H, K in [*asked, *((RARE, learner, o.rare_horizon, None) for learner in RARE_LEARNERS)]:
        cell = {"task": task, "learner": learner, "H": H, "thresholds": list(o.thresholds)}
        yield Cell("divergences", divergences, cell if K is None else {**cell, "K": K})


# -- tables, figures and findings --------------------------------------------------------------------------------------


def learners(o: DivergenceOptions, H: int) -> list[tuple[str, int | None]]:
    """Names and chunk lengths at a horizon, from the learner that decides by tokens to the nearest in D_H^2."""
    return [("log-loss", None), *([(CHUNKED, o.chunk)] if o.chunk < H else []), ("rho", None), (BEST, None)]


def places(o: DivergenceOptions) -> dict[str, dict[str, Any]]:
    """The rows that are compared: name, and the labels that pick their numbers."""
    longest = max(o.horizons)
    rows = {f"Contamination: {titled(name, K)}": (CONTAMINATION, name, longest) for name, K in learners(o, longest)}
    rows |= {f"RareMode: {name}": (RARE, name, o.rare_horizon) for name in RARE_LEARNERS}
    return {row: {"task": task, "learner": name, "H": H} for row, (task, name, H) in rows.items()}


def subject(o: DivergenceOptions) -> str:
    return (
        f"Contamination (default A) at H={max(o.horizons)}, RareMode (eps={RARE_EPS:g}, W={RATIO:g}) at "
        f"H={o.rare_horizon}; infinitely many demonstrations, exact"
    )


def tables(o: DivergenceOptions, s: Summary) -> list[Table]:
    columns: Places = []
    for metric, (name, factor) in FACTORS.items():
        columns += [(name, {"metric": metric}), (f"{name} / least", {"metric": factor})]
    columns += [(f"Cov_{N:g}", {"metric": "coverage", "N": N}) for N in o.thresholds]
    note = (
        f"{subject(o)}. D_H^2 in [0, 2]; KL in nats, expert first; least: of the class, in that divergence. Cov_N: "
        "share of the expert's documents to which the learner gives 1/N of their probability or less."
    )
    one = pivot(s, "One choice, four divergences", "", places(o).items(), columns, digits=4, note=note)
    lines = [
        (f"{titled(learner, K)}, {name}", {"learner": learner, "metric": factor})
        for name, factor in FACTORS.values()
        for learner, K in learners(o, max(o.horizons))
    ]
    by_horizon = [(f"H={H}", {"task": CONTAMINATION, "H": H}) for H in o.horizons]
    return [one, pivot(s, "Contamination: divergence over the least in class", "", lines, by_horizon, digits=4)]


def at(s: Summary, metric: str, task: str, **where: Any) -> dict[str, float]:
    """A number by learner."""
    return {row["learner"]: row.mean for row in s.select(metric, task=task, **where)}


def title(o: DivergenceOptions, s: Summary) -> str:
    """What log-loss is on Contamination in two divergences, if that is the contrast it is in theory."""
    H = max(o.horizons)
    far, near = (at(s, FACTORS[metric][1], CONTAMINATION, H=H) for metric in ("hellinger2", "kl"))
    if not {"log-loss", "rho"} <= far.keys():
        return "Does the divergence decide who is near?"
    if max(far, key=far.__getitem__) == "log-loss" == min(near, key=near.__getitem__):
        return (
            f"Contamination, H={H}: log-loss, {far['log-loss']:.3g} times the least squared Hellinger, is nearest in KL"
        )
    return f"Log-loss: {far['log-loss']:.3g} times the least squared Hellinger distance, {near['log-loss']:.3g} the KL"


def headline(o: DivergenceOptions, s: Summary) -> charts.Figure:
    """A row for each learner, a panel for each divergence; the last is the share of documents that is not covered."""
    N, rows = max(o.thresholds), places(o)
    factor, share = "times the least in the class", "share of documents"
    titles = ["squared Hellinger", "total variation", "KL", f"not covered, $N={scientific(N)}$"]
    figure, panels = charts.new_panels(title(o, s), [factor] * 3 + [share], "", size=(12.0, 4.4), titles=titles)
    heights = charts.name_rows(
        panels[0], {row: charts.learner_style(place["learner"]).colour for row, place in rows.items()}
    )
    metrics: Places = [*((name, {}) for _, name in FACTORS.values()), ("coverage", {"N": N})]
    most = max([3.0, *(row.mean for metric, _ in metrics[:-1] for row in s.select(metric))])
    for axes, (metric, more) in zip(panels, metrics, strict=True):
        if not s.select(metric, **more):
            charts.no_data(axes)
            continue
        axes.grid(visible=False, axis="y")
        axes.axhline(len(RARE_LEARNERS) + 0.5, color=charts.COLOURS["grey"], linewidth=0.8)
        for row, place in rows.items():
            for found in s.select(metric, **place, **more):
                colour = charts.learner_style(place["learner"]).colour
                charts.interval_dot(axes, found, heights[row], colour, f"{found.mean:.3g}", fontweight="bold")
        if more:
            axes.set_xlim(-0.05 * axes.dataLim.x1 - 1e-6, 1.6 * axes.dataLim.x1 + 1e-5)
            continue
        axes.axvline(1.0, color="black", linestyle="--", linewidth=1.2)
        charts.round_ticks(axes, (1.0, 4 * most))
    charts.say_data(figure, (), subject(o))
    return figure


def scientific(N: float) -> str:
    """A threshold in mathtext: a power of ten where it is one."""
    power = round(math.log10(N))
    return f"10^{{{power}}}" if power > 2 and 10.0**power == N else f"{N:g}"


def growth_figure(o: DivergenceOptions, s: Summary) -> charts.Figure:
    """The factor against the horizon on one scale: linear in H in the first two, bounded in KL."""
    names = {"hellinger2": "squared Hellinger", "tv": "total variation", "kl": "KL"}
    panels = []
    for metric, words in names.items():
        where = [(titled(learner, K), learner) for learner, K in learners(o, max(o.horizons))]
        curves = [Curve({"task": CONTAMINATION, "learner": learner}, label) for label, learner in where]
        look: dict[str, Any] = {"ticks": o.horizons[::2]}
        panels.append(Panel("H", "horizon H (Contamination)", FACTORS[metric][1], curves, title=words, **look))
    H = max(o.horizons)
    hellinger2, tv, kl = (s.value(name, task=CONTAMINATION, learner="log-loss", H=H) for _, name in FACTORS.values())
    heading = "In which divergence does the error grow with the horizon?"
    if not math.isnan(hellinger2 + tv + kl):
        heading = (
            f"Log-loss at H={H}: {hellinger2:.3g} times the least in squared Hellinger, {tv:.3g} in TV, {kl:.3g} in KL"
        )
    return chart(s, heading, "distance / least in the class", *panels, size=(12.0, 4.6))


def findings(o: DivergenceOptions, s: Summary) -> Iterator[str]:
    for H in o.horizons:
        factor, kl = (at(s, metric, CONTAMINATION, H=H) for metric in ("C_apx", "kl"))
        if not {"log-loss", "rho", BEST} <= factor.keys():
            continue
        yield (
            f"Contamination, H={H}: log-loss has {factor['log-loss']:.4g} times the squared Hellinger distance of the "
            f"best in class and a KL divergence of {kl['log-loss']:.4g}; rho {factor['rho']:.3g} times and "
            f"{kl['rho']:.4g}; the nearest in squared Hellinger distance has {kl[BEST]:.4g}. Least in KL: "
            f"{min(kl, key=kl.__getitem__)}."
        )
    distances = at(s, "hellinger2", RARE)
    for learner, distance2 in distances.items():
        shares = {row["N"]: row.mean for row in s.select("coverage", task=RARE, learner=learner)}
        words = ", ".join(f"{share:.3g} at N={N:g}" for N, share in shares.items())
        yield f"RareMode, H={o.rare_horizon}: {learner} has D_H^2 = {distance2:.4f}; not covered: {words}."


def figures(o: DivergenceOptions, s: Summary) -> list[FigureSpec]:
    return [
        FigureSpec(
            "headline",
            "Does the divergence decide who is near?",
            f"{subject(o)}. Left to right: distance over the least in the class, in three divergences (dashed: 1), and "
            "the share of the expert's documents that the learner makes N times rarer or more.",
            lambda: headline(o, s),
        ),
        FigureSpec(
            "growth",
            "In which divergence does the factor grow with the horizon?",
            "Contamination, default A, infinitely many demonstrations, exact: distance over the least in the class.",
            lambda: growth_figure(o, s),
            f"eps = {Contamination().eps:g}",
        ),
    ]


STUDY = Study(
    name="divergence",
    question="Does it depend on the divergence who is near the expert, and whose error grows with the horizon?",
    options=DivergenceOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("N",),
)
