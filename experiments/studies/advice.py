"""Is the advice any good? ``ntp-bench advise`` scored on tasks whose expert is known, ten of them drawn at random."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from agents import ConvergenceWarning
from experiments import charts
from experiments.advise import advise, evidence, learners
from experiments.advise_command import class_of
from experiments.aggregate import share_interval
from experiments.cells import Cell, Record
from experiments.evaluation import build_task
from experiments.measure import costed_fit
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, number
from ntp_envs import Task, collect, distance

#: task, class (its own if empty), and whether the class contains the expert
INSTANCES: tuple[tuple[str, str, bool], ...] = (
    ("ARLinear(misspecification=0.0, width=2)", "", True),
    ("ARLinear(misspecification=0.0, width=4, seed=1)", "", True),
    ("ARLinear(misspecification=0.0, vocab_size=3, horizon=16)", "", True),
    ("NoisyParity(bits=4, radius=12.0, subset=(0,))", "", True),
    ("Text(expert_order=1, learner_order=1, horizon=16)", "", True),
    ("Text(expert_order=2, learner_order=2)", "", True),
    ("Text(expert_order=3, learner_order=3, horizon=16)", "", True),
    ("Text(tokens='word', expert_order=2, learner_order=2, horizon=16)", "", True),
    ("ARLinear()", "", False),
    ("BernoulliMixture(weight=0.1)", "", False),
    ("ConsistencyGame(horizon=16, eps=0.03)", "", False),
    ("Contamination(eps=0.05, horizon=256)", "", False),
    ("Contamination(eps=0.02, horizon=16)", "", False),
    ("Documents()", "", False),
    ("HalvingGame(eps=0.05)", "", False),
    ("NoisyParity()", "", False),
    ("RareMode(eps=0.05)", "", False),
    ("Snowball(horizon=16)", "", False),
    ("Text()", "", False),
    ("Text(contamination=0.05, expert_order=3, learner_order=3)", "", False),
)
QUICK = tuple(INSTANCES[i] for i in (0, 4, 10, 12))
MEASURED = {"seconds": 0.1, "megabytes": 20.0}  # a fit that takes less is nobody's worry


def drawn(count: int, seed: int = 1) -> list[tuple[str, str, bool]]:
    """Instances from ranges of parameters."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        kind, horizon = rng.integers(4), int(rng.choice((16, 32, 64)))
        if kind == 0:
            task = f"Contamination(eps={10 ** rng.uniform(-2.5, -0.7):.4f}, horizon={horizon})"
            found.append((task, "", False))
        elif kind == 1:
            off = float(rng.choice((0.0, round(rng.uniform(0.1, 1.0), 2))))
            task = f"ARLinear(misspecification={off}, width={rng.integers(1, 5)}, seed={rng.integers(99)})"
            found.append((task, "", off == 0.0))
        elif kind == 2:
            mixed = f"weight={rng.uniform(0.02, 0.5):.3f}, q={rng.uniform(0.1, 0.9):.2f}"
            found.append((f"BernoulliMixture({mixed}, horizon={horizon})", "", False))
        else:
            expert, learner = (int(order) for order in rng.integers(1, 5, size=2))
            task = f"Text(expert_order={expert}, horizon={horizon}, learner_order={learner})"
            found.append((task, "", expert <= learner))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class AdviceOptions(Options):
    """Sizes; the defaults are the full study."""

    n: int = option(1000, quick=600, least=50)
    """Demonstrations that are given to the adviser."""
    draws: int = option(10, quick=1, least=0)
    """Instances drawn at random besides the fixed ones."""
    sizes: tuple[int, ...] = option((50, 100, 200, 500, 1000, 2000), quick=(50, 200, 600), least=50)
    """Demonstrations n in the curve of power."""
    eps: tuple[float, ...] = option((0.01, 0.05), above=0.0, below=0.5)
    """Contaminations in the curve of power."""
    seeds: int = option(20, quick=8)
    """Replicates of each point of that curve."""
    budget: float = option(20.0, quick=10.0, above=0.0)
    """Seconds that a fit may take."""
    samples: int = option(4000, quick=1000)
    """Sequences drawn for a distance that is not exact."""
    instances: str = option("all", quick="few", choices=("all", "few"))
    """All fixed instances, or four of them."""


# -- cells -------------------------------------------------------------------------------------------------------------

SCORED, POWER = "scored", "power"
FALSE, FOUND, RATIO, BOUND = "false alarm", "found out", "recommended over best", "bound above the truth"
SECONDS, MEMORY = "predicted over measured seconds", "predicted over measured megabytes"


def score(
    *, task: str, policy_class: str, well: bool, n: int, budget: float, samples: int, rng: np.random.Generator
) -> list[Record]:
    """The advice on one instance, and what every affordable learner does with all demonstrations."""
    made = build_task(task)
    data = collect(made, n, rng)
    among = class_of(policy_class, data) if policy_class else made.policy_class
    seed = int(rng.integers(1 << 31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = advise(data, among, budget=budget, rng=np.random.default_rng(seed))
        labels = {"task": task}
        records = [Record(FALSE if well else FOUND, float(found.misspecified), labels)]
        distances = {}
        for cost in found.costs:
            if cost.why_not:
                continue
            fit = costed_fit(learners(among, made.horizon)[cost.learner], data, among, seed, memory=True)
            curve = distance(made.expert, fit.agent.policy_, made, n=samples, rng=np.random.default_rng(seed))
            distances[cost.learner] = curve.final
            at = {**labels, "learner": cost.learner}
            records.append(Record("hellinger2", curve.final, at, machine=True))
            if fit.seconds >= MEASURED["seconds"]:
                records.append(Record(SECONDS, cost.seconds / fit.seconds, at, machine=True))
            if fit.megabytes >= MEASURED["megabytes"]:
                records.append(Record(MEMORY, cost.megabytes / fit.megabytes, at, machine=True))
    if distances:
        least = min(distances.values())
        ratio = distances[found.recommended] / least if least > 1e-9 else 1.0
        # what can be afforded hangs on the machine
        records.append(Record(RATIO, ratio, {**labels, "learner": found.recommended}, machine=True))
    return records


def contaminated(eps: float) -> Task:
    """What the curve of power is about."""
    return build_task(f"Contamination(eps={eps}, horizon=16)")


def power(*, eps: float, n: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """Whether the e-value finds a contamination out."""
    task = contaminated(eps)
    halves = [collect(task, n // 2, rng) for _ in range(2)]
    log_e = evidence(halves[0], halves[1], task.policy_class).log_e_value
    return [Record(FOUND, float(log_e >= math.log(20.0)), {"eps": eps, "n": n})]


def cells(o: AdviceOptions) -> Iterator[Cell]:
    fixed = INSTANCES if o.instances == "all" else QUICK
    for task, policy_class, well in dict.fromkeys([*fixed, *drawn(o.draws)]):
        asked = {"n": o.n, "budget": o.budget, "samples": o.samples}
        yield Cell(SCORED, score, {"task": task, "policy_class": policy_class, "well": well, **asked})
    for eps in o.eps:
        for n in o.sizes:
            for replicate in range(o.seeds):
                yield Cell(POWER, power, {"eps": eps, "n": n, "replicate": replicate})


# -- derived numbers, tables, figures ----------------------------------------------------------------------------------


def shares(s: Summary) -> dict[str, tuple[int, int]]:
    """How often each goal was met, of how many."""

    def count(metric: str, met: Callable[[float], bool]) -> tuple[int, int]:
        rows = [row for row in (*s, *s.timings) if row.part == SCORED and row.metric == metric]
        return sum(met(row.mean) for row in rows), len(rows)

    return {
        "well specified, and not called misspecified": count(FALSE, lambda v: v < 0.5),
        "misspecified, and found out": count(FOUND, lambda v: v > 0.5),
        "recommended within 20 % of the best": count(RATIO, lambda v: v <= 1.2),
        f"seconds within a factor 2 (fits of {MEASURED['seconds']:g} s and more)": count(
            SECONDS, lambda v: 0.5 <= v <= 2.0
        ),
        f"memory within a factor 2 (fits of {MEASURED['megabytes']:g} MB and more)": count(
            MEMORY, lambda v: 0.5 <= v <= 2.0
        ),
    }


def tables(o: AdviceOptions, s: Summary) -> list[Table]:
    goals = [[name, f"{met} of {total}"] for name, (met, total) in shares(s).items()]
    lines = []
    for task in s.distinct("task"):
        verdict = next(iter([*s.select(FALSE, task=task), *s.select(FOUND, task=task)]), None)
        ratio = next(iter(s.timings.select(RATIO, task=task)), None)
        if verdict is None:
            continue
        words = "contains it" if verdict.metric == FALSE else "does not"
        said = "misspecified" if verdict.mean > 0.5 else "no sign"
        chosen = ["", ""] if ratio is None else [ratio["learner"], number(ratio.mean, 3)]
        lines.append([str(task), words, said, *chosen])
    heads = ["task", "class and expert", "said", "recommended", "its distance over the best"]
    note = "Squared Hellinger distances from the expert at H after fits to all demonstrations, of what can be afforded."
    return [
        Table("How often the advice was right", ["goal", "met"], goals),
        Table("Instance by instance", heads, lines, note),
    ]


def ratio_figure(o: AdviceOptions, s: Summary) -> charts.Figure:
    """A dot an instance: how far the recommended learner is from the best."""
    rows = sorted(s.timings.select(RATIO), key=lambda row: row.mean)
    met, total = shares(s)["recommended within 20 % of the best"]
    title = f"The recommended learner is within 20 % of the best on {met} of {total} tasks"
    size = (11.0, 1.6 + 0.26 * len(rows))
    figure, (axes,) = charts.new_panels(
        title, ["its squared Hellinger distance over that of the best affordable"], "", size=size
    )
    axes.axvspan(1.0, 1.2, color=charts.COLOURS["sky"], alpha=0.25, linewidth=0)
    axes.plot([row.mean for row in rows], range(len(rows)), "o", color=charts.COLOURS["blue"])
    axes.set_yticks(range(len(rows)), [str(row["task"]) for row in rows], fontsize=8)
    axes.grid(visible=False, axis="y")
    style = {**charts.text(""), "xytext": (8, 0), "color": charts.COLOURS["blue"]}
    for height, row in enumerate(rows):
        axes.annotate(str(row["learner"]), (row.mean, height), **style)
    axes.set_xlim(0.95, max([2.0, *(1.3 * row.mean for row in rows)]))
    axes.set_ylim(-0.5, max(len(rows), 1) - 0.5)
    charts.say_data(figure, rows, charts.span("n", [o.n]))
    charts.say(figure, "shaded: within 20 %")
    return figure


def power_figure(s: Summary) -> charts.Figure:
    """The share of data sets whose e-value is 20 or more, with intervals; D is that of the best in class."""
    figure, axes = charts.new_figure(
        "How many demonstrations does it take to see a contamination?",
        "demonstrations n",
        "share found out (e-value of 20 or more)",
    )
    ends = []
    for eps, colour in charts.shades(s.distinct("eps"), charts.BLUES[::-1]).items():
        rows = sorted(s.select(FOUND, eps=eps), key=lambda row: float(row["n"]))
        n, mean = (
            np.array([float(value) for value in values]) for values in ([r["n"] for r in rows], [r.mean for r in rows])
        )
        lower, upper = share_interval(mean, rows[0].seeds)
        axes.plot(n, mean, color=colour, marker="o")
        axes.fill_between(n, lower, upper, color=colour, alpha=0.18, linewidth=0)
        away = contaminated(float(eps)).best_in_class().hellinger2
        ends.append((n[-1], mean[-1], f"eps = {eps:g}, D = {away:.2g}", colour))
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.05)
    if ends:
        ticks = sorted({float(row["n"]) for row in s.select(FOUND) if "eps" in row.labels})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlim(ticks[0] / 1.1, ticks[-1] * 1.1)
        if len(ticks) == 1:
            charts.round_ticks(axes, ticks)
    charts.say_data(figure, [row for row in s.select(FOUND) if "eps" in row.labels], what="replicates")
    charts.say_band(axes, "each n")
    charts.say(figure, "D: exact squared Hellinger distance of the best in class")
    charts.end_labels(axes, ends)
    return figure


def findings(o: AdviceOptions, s: Summary) -> Iterator[str]:
    for name, (met, total) in shares(s).items():
        if total:
            lower, upper = share_interval(met / total, total)
            yield f"{name}: {met} of {total} ({met / total:.0%}, 95 % [{lower:.0%}, {upper:.0%}])."


def figures(o: AdviceOptions, s: Summary) -> Iterator[FigureSpec]:
    yield FigureSpec(
        "headline",
        "Does the advice pick the right learner?",
        "A dot an instance; shaded: within 20 % of the nearest of the learners that could be afforded.",
        lambda: ratio_figure(o, s),
    )
    yield FigureSpec(
        "power",
        "How many demonstrations does it take to see a misspecification?",
        "Share of replicates whose e-value is 20 or more, Contamination at H = 16, by how far the class is at least "
        "from the expert (D, the squared Hellinger distance of its best member, exact); bands: 95 %.",
        lambda: power_figure(s),
    )


STUDY = Study(
    name="advice",
    question="Is the advice of `ntp-bench advise` any good, on tasks whose expert is known?",
    options=AdviceOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("eps",),
)
