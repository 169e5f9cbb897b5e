"""How long must a chain of thought be? Accuracy against length, samples, vocabulary and the richness of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from agents import LogLossBC
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure
from experiments.measure import costed_fit
from experiments.panels import Curve, Guide, Panel, chart, dots
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import NOT_MEASURED, Places, Summary, Table, interval_words, intervals_over, pivot
from ntp_envs import Demonstrations, GreedyPolicy, Policy, Task, collect
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import ParityCoT


@dataclass(frozen=True)
class LengthOptions(Options):
    bits: int = option(20, least=3)
    """Bits n of the prompt where formats are compared."""
    subset_size: int = option(6, least=3, most="bits")
    """Hidden bits k whose parity is asked for, there."""
    n: tuple[int, ...] = option((12, 25, 50, 100, 200, 400, 800, 1600, 3200))
    """Numbers of demonstrations there."""
    seeds: int = option(20, quick=5)
    """Data sets (and hidden subsets) of every format, in both parts."""
    fresh: int = option(4000)
    """Fresh prompts that accuracies are measured on."""
    trade_bits: int = option(12, quick=10, least=3, most=12)
    """Bits n where a step may be a product of several signs, at most 12: all prompts are listed to judge by."""
    trade_subset_size: int = option(4, least=3, most="trade_bits")
    """Hidden bits k there, at least 3."""
    target: float = option(0.95, above=0.0, below=1.0)
    """The accuracy of the answer that counts as learned, there."""
    most: int = option(4096, least=2)
    """Samples after which the search for that accuracy is given up."""


# -- cells: formats, and the trade of length against samples -----------------------------------------------------------

FORMATS, TRADE = "formats", "trade"
#: measures, all but one of greedy decoding
ANSWER, FORCED, CHAIN, SAMPLED = "answer right", "token right, true prefix", "chain right", "answer right, sampled"
NEEDED, FEATURES = "samples needed", "weights"
THRESHOLD = "best threshold function"
#: what is put before the name of a measure that comes from a closed form and not from a fit
CLOSED = "closed form: "
BISECTIONS = 3
TOLERANCE = 1e-2  # of a fit, in nats a sequence: far below what an accuracy shows


def parity_formats() -> dict[str, dict[str, Any]]:
    """The formats compared with a linear step: the parameters of `ParityCoT` of each."""
    names = ("none", "prefix", "xor_3", "count", "andxor", "token")
    return {name: {"cot": "xor_q", "fan_in": 3} if name == "xor_3" else {"cot": name} for name in names}


def trade_formats(k: int) -> dict[str, dict[str, Any]]:
    """Linear formats, and steps of fan-in q with a class of products of q signs, down to no chain at all."""
    linear = {name: {"cot": name} for name in ("andxor", "count", "token")}
    products = {f"xor_{q}": {"cot": "xor_q", "fan_in": q, "degree": q} for q in range(2, k)}
    return {**linear, **products, "none": {"cot": "none", "degree": k}}


def learned(task: Task, demonstrations: Demonstrations, rng: Generator, tolerance: float = TOLERANCE) -> Policy:
    """The log-loss optimum in the task's class, within the tolerance (nats a sequence)."""
    agent, seed = LogLossBC(tol=tolerance), int(rng.integers(1 << 31))
    return costed_fit(agent, demonstrations, task.policy_class, seed, memory=False).agent.policy_


def place_of(task: ParityCoT, name: str, n: int) -> dict[str, Label]:
    """Labels of a record."""
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "format": name, "n": n}
    return {**labels, "H": task.horizon, "V": task.vocab_size, "degree": task.degree}


def closed_forms(values: dict[str, float], labels: dict[str, Label]) -> list[Record]:
    return [Record(CLOSED + metric, value, labels, method="closed form") for metric, value in values.items()]


def accuracy(
    *, name: str, parameters: dict[str, Any], n: list[int], fresh: int, replicate: int, rng: Generator, **sizes: Any
) -> list[Record]:
    """Accuracies of one format after each number of demonstrations, the first ones of the same."""
    task = ParityCoT(**sizes, seed=replicate, **parameters)
    demonstrations = collect(task, max(n), rng)
    test = collect(task, fresh, rng)
    records = []
    for size in sorted(n):
        policy = learned(task, demonstrations.subset(np.arange(size)), rng)
        result = evaluate(policy, task, rng=rng, demonstrations=test, samples=0)
        values = {
            ANSWER: result.greedy_success,
            FORCED: result.forced_token_accuracy,
            CHAIN: result.greedy_exact,
            SAMPLED: result.sampled_success,
        }
        labels = place_of(task, name, size)
        records += [Record(metric, float(value), labels) for metric, value in values.items() if value is not None]
    if replicate == 0:
        forced, answer = task.population_accuracy()
        labels = {"task": task.name, "format": name, "H": task.horizon, "V": task.vocab_size}
        records += closed_forms({FORCED: forced, ANSWER: answer, THRESHOLD: task.threshold_accuracy()}, labels)
    return records


def samples_needed(
    *, name: str, parameters: dict[str, Any], target: float, most: int, replicate: int, rng: Generator, **sizes: Any
) -> list[Record]:
    """How many demonstrations one format needs to reach the target, to a factor of about 2^(1/8).

    The answers of greedy decoding to all prompts are judged, after doublings and then by bisection of the last one (as
    if accuracy grew with every demonstration); ``inf`` where ``most`` are not enough.
    """
    task = ParityCoT(**sizes, seed=replicate, **parameters)
    demonstrations, everything = collect(task, most, rng), task.population()

    def reached(size: int) -> bool:
        policy = GreedyPolicy(learned(task, demonstrations.subset(np.arange(size)), rng))
        tokens = policy.sample(everything.prompts, task.horizon, rng)
        return float(task.success(everything.prompts, tokens).mean()) >= target

    high = 2
    while not reached(high) and high < most:
        high = min(2 * high, most)
    needed = float("inf")
    if high < most or reached(high):
        low = high / 2
        for _ in range(BISECTIONS):
            middle = math.sqrt(low * high)
            if reached(round(middle)):
                high = round(middle)
            else:
                low = middle
        needed = float(high)
    labels = place_of(task, name, 0)
    del labels["n"]
    records = [Record(NEEDED, needed, labels)]
    if replicate == 0:
        records.append(Record(FEATURES, float(task.policy_class.features.dimension), labels, method="exact"))
    return records


def cells(options: LengthOptions) -> Iterator[Cell]:
    """The slow cells first, so that workers end together."""
    for replicate in range(options.seeds):
        sizes = {"bits": options.trade_bits, "subset_size": options.trade_subset_size}
        for name, parameters in reversed(trade_formats(options.trade_subset_size).items()):
            cell = {"name": name, "parameters": parameters, **sizes, "target": options.target, "most": options.most}
            yield Cell(TRADE, samples_needed, {**cell, "replicate": replicate})
        sizes = {"bits": options.bits, "subset_size": options.subset_size}
        for name, parameters in parity_formats().items():
            cell = {"name": name, "parameters": parameters, **sizes, "n": list(options.n), "fresh": options.fresh}
            yield Cell(FORMATS, accuracy, {**cell, "replicate": replicate})


# -- tables ------------------------------------------------------------------------------------------------------------

#: formats every step of which is linear
LINEAR = ("count", "andxor", "token")


def shape_of(summary: Summary, name: str) -> str:
    """``T=3, V=2`` of a format."""
    rows = summary.select(part=FORMATS, format=name)
    return f"T={rows[0]['H']}, V={rows[0]['V']}" if len(rows) else ""


def tables(o: LengthOptions, summary: Summary) -> Iterator[Table]:
    """Every format at the largest number of demonstrations; length, vocabulary, richness of a step, and samples."""
    n = max(summary.distinct("n", part=FORMATS), default=0)
    names = {name: f"{name}, {shape_of(summary, name)}" for name in parity_formats()}
    rows = [(heading, {"part": FORMATS, "format": name}) for name, heading in names.items()]
    columns: Places = []
    for head, metric in (("token, true prefix", FORCED), ("answer", ANSWER)):
        columns += [(head, {"metric": metric, "n": n}), ("limit", {"metric": CLOSED + metric})]
    columns += [("whole chain", {"metric": CHAIN, "n": n}), ("answer, sampled", {"metric": SAMPLED, "n": n})]
    spread = intervals_over(summary.select(part=FORMATS))
    note = f"Share right on fresh prompts, greedy but in the last column. {spread}. "
    note += "Limits are closed forms for the population optimum."
    yield pivot(summary, f"Formats of the chain, {n} demonstrations", "", rows, columns, corner="format", note=note)
    lines = []
    for name, parameters in trade_formats(o.trade_subset_size).items():
        for row in summary.select(NEEDED, part=TRADE, format=name):
            weights = summary.shown(FEATURES, 5, part=TRADE, format=name)
            needed = summary.shown(NEEDED, part=TRADE, format=name)
            lines.append([name, row["H"], row["V"], parameters.get("degree", 1), weights, needed])
    heads = ["format", "T", "V", "degree", "weights", "demonstrations"]
    note = (
        f"Demonstrations until {o.target:.0%} of all prompts are answered right (greedy), n={o.trade_bits} "
        f"bits, k={o.trade_subset_size}; inf: not from {o.most}. {interval_words(o.seeds)}. "
        "Degree: signs multiplied in a feature."
    )
    yield Table("Length against samples", heads, lines, note)


# -- figures -----------------------------------------------------------------------------------------------------------

LOOKS: dict[str, dict[str, Any]] = {
    "count": {"color": COLOURS["blue"], "marker": "o", "linestyle": "-"},
    "andxor": {"color": COLOURS["green"], "marker": "s", "linestyle": "-"},
    "token": {"color": COLOURS["orange"], "marker": "D", "linestyle": "-"},
    "none": {"color": COLOURS["black"], "marker": "o", "linestyle": ":"},
    "prefix": {"color": COLOURS["vermilion"], "marker": "v", "linestyle": "--"},
    "xor_3": {"color": COLOURS["purple"], "marker": "^", "linestyle": "--"},
}


def sample_figure(o: LengthOptions, summary: Summary) -> Figure:
    """Accuracy of the answer against the number of demonstrations, a line a format."""
    n = max(o.n)
    curves = [
        Curve(
            {"part": FORMATS, "format": name},
            f"{name}, {shape_of(summary, name)}: {'linear' if name in LINEAR else 'exclusive or'}",
            look=look,
        )
        for name, look in LOOKS.items()
    ]
    guides = [
        Guide(row.mean, note="best threshold function", at=(n, row.mean), offset=(9, 8))
        for row in summary.select(CLOSED + THRESHOLD, part=FORMATS, format="none")
    ]
    right = {row["format"]: row.mean for row in summary.select(ANSWER, part=FORMATS, n=n)}
    title = "Which chains of thought make a parity learnable?"
    if set(right) == set(LOOKS):
        least, most = min(right[name] for name in LINEAR), max(right[name] for name in LOOKS if name not in LINEAR)
        title = f"n = {n}: at least {least:.3f} right if every step is linear, at most {most:.3f} if not"
    look: dict[str, Any] = {"yscale": "linear", "ylim": (0.43, 1.04)}
    panel = Panel("n", "demonstrations n", ANSWER, curves, guides, **look)
    return chart(summary, title, "share of answers right (greedy)", panel, size=(9.2, 4.8))


def format_figure(summary: Summary) -> Figure:
    """Forced accuracy of a token beside the accuracy of the answer, at the largest number of demonstrations."""
    rows = summary.select(part=FORMATS)
    n = max(rows.distinct("n"), default=0)
    panels = {"a token, after the true ones": FORCED, "the answer, after its own chain": ANSWER}
    forced, answer = (rows.value(metric, format="prefix", n=n) for metric in panels.values())
    said = f"prefix: {forced:.0%} of tokens right after the true ones, {answer:.0%} of the answers"
    names = [name for name in ("andxor", "count", "token", "prefix", "xor_3", "none") if shape_of(rows, name)]
    figure = dots(
        Summary(replace(row, metric="share right", labels={**row.labels, "of": row.metric}) for row in rows),
        "Does teacher-forced accuracy show it?" if NOT_MEASURED in said else said,
        "share right",
        {f"{name}  ({shape_of(rows, name)})": ({"format": name, "n": n}, "log-loss") for name in names},
        {heading: {"of": metric} for heading, metric in panels.items()},
        xscale="linear",
        level=0.5,
    )
    for axes, metric in zip(figure.axes, panels.values(), strict=True):
        axes.set_xlim(0.42, 1.12)
        for height, name in enumerate(reversed(names), start=1):
            for row in rows.select(CLOSED + metric, format=name):
                axes.plot([row.mean] * 2, [height - 0.3, height + 0.3], color="black", linewidth=1.2)
    return figure


def trade_figure(o: LengthOptions, summary: Summary) -> Figure:
    """Samples needed by each format, from the shortest chain to the longest, with what a step of it is."""
    found = [row for row in summary.select(NEEDED, part=TRADE) if math.isfinite(row.mean)]
    rows = {}
    for row in sorted(found, key=lambda row: (row["H"], -row["degree"])):
        name, degree = row["format"], row["degree"]
        kind = f"products of {degree}" if degree > 1 else f"linear, V={row['V']}"
        weights = summary.shown(FEATURES, 5, part=TRADE, format=name)
        heading = f"T={row['H']}  {'no chain' if name == 'none' else name}: {kind}, {weights} weights"
        rows[heading] = ({"format": name}, "log-loss" if degree > 1 else "rho")
    title, label = "Does a shorter chain need more samples?", f"demonstrations for {o.target:.0%} right"
    figure = dots(
        summary, title, NEEDED, rows, {"": {"part": TRADE}}, xlabel=label, level=None, digits=4, size=(8.6, 4.2)
    )
    if found:  # intervals that reach to 0 run off the axis
        ends = min(row.mean for row in found) / 2, 3 * max(row.mean for row in found)
        ticks = [2**i for i in range(1, 20) if ends[0] <= 2**i <= ends[1]]
        figure.axes[0].set_xticks(ticks, labels=[str(tick) for tick in ticks])
        figure.axes[0].set_xticks([], minor=True)
        figure.axes[0].set_xlim(*ends)
    return figure


def figures(o: LengthOptions, summary: Summary) -> list[FigureSpec]:
    n, k, spread = o.bits, o.subset_size, interval_words(o.seeds)
    return [
        FigureSpec(
            "headline",
            "Which chains of thought make a parity learnable?",
            f"ParityCoT, n={n}, k={k}, log-loss in a class linear in the whole prefix; greedy answers. {spread}. T: "
            "tokens written, V: vocabulary. count: the number of ones in binary; token: that number as one token; "
            "andxor: and, then exclusive or, with each bit; prefix: running parities; xor_3: those after bits 3, 5, 7, "
            "... An exclusive or of fair bits is no linear step: theory has the last two and none guess.",
            lambda: sample_figure(o, summary),
            f"{n} bits, subset of {k}",
        ),
        FigureSpec(
            "trade",
            "What does a short chain cost?",
            f"ParityCoT, n={o.trade_bits}, k={o.trade_subset_size}: demonstrations until "
            f"{o.target:.0%} of all prompts are answered right. {spread}. xor_q is in a class with "
            "products of q signs, down to no chain at all.",
            lambda: trade_figure(o, summary),
            f"{o.trade_bits} bits, subset of {o.trade_subset_size}",
        ),
        FigureSpec(
            "formats",
            "Does teacher-forced accuracy show it?",
            f"ParityCoT, n={n}, k={k}, {max(o.n)} demonstrations. {spread}; ticks: closed forms; dashed: a guess.",
            lambda: format_figure(summary),
            f"{n} bits, subset of {k}",
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def findings(o: LengthOptions, summary: Summary) -> Iterator[str]:
    """Linear steps against the others, and samples for length."""
    prefix: dict[str, Any] = {"part": FORMATS, "format": "prefix"}
    answer = {name: summary.shown(ANSWER, part=FORMATS, format=name, n=max(o.n)) for name in parity_formats()}
    if all(answer.values()):
        each = {name: f"{name} ({shape_of(summary, name)}) {answer[name]}" for name in answer}
        linear = "; ".join(each[name] for name in LINEAR)
        guesses = "; ".join(each[name] for name in each if name not in LINEAR)
        yield (
            f"The parity of {o.subset_size} of {o.bits} bits from {max(o.n)} demonstrations, share of answers right: "
            f"{linear}; {guesses}. In the first three each step is linear in what came before."
        )
        yield (
            f"Teacher forced and free: after the true prefix prefix has {summary.shown(FORCED, n=max(o.n), **prefix)} "
            f"of its tokens right (limit {summary.shown(CLOSED + FORCED, **prefix)}), its own answer is right "
            f"{answer['prefix']} of the time."
        )
    words = []
    for name, parameters in reversed(trade_formats(o.trade_subset_size).items()):
        for row in summary.select(NEEDED, part=TRADE, format=name):
            step = f"products of {parameters['degree']}" if "degree" in parameters else "linear"
            needed = summary.shown(NEEDED, part=TRADE, format=name)
            if math.isfinite(row.mean):
                words.append(f"{needed} for {name} (T={row['H']}, V={row['V']}, {step})")
    if words:
        yield (
            f"Samples by length: {o.target:.0%} on the parity of {o.trade_subset_size} of "
            f"{o.trade_bits} bits takes {'; '.join(words)} demonstrations."
        )


STUDY = Study(
    name="length",
    question="Which chains of thought make a parity learnable by a linear predictor, and what does a short one cost?",
    options=LengthOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    labels=("format", "V", "degree"),
)
