"""How long must a chain of thought be? Accuracy against length, samples, vocabulary and the richness of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import LogLossBC
from experiments.cells import Cell, Label, Record
from experiments.charts import Line, draw_lines
from experiments.measure import check_distinct, costed_fit
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import (
    Series,
    Summary,
    SummaryRow,
    Table,
    interval_words,
    intervals_over,
    number,
    with_interval,
)
from ntp_envs import Demonstrations, GreedyPolicy, Policy, collect
from ntp_envs.checks import check_int, check_probability
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import ParityCoT, ParityMix
from ntp_envs.tasks.parity import GREEDY_THRESHOLD, filtered_share, rounds_to_pass

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LengthOptions:
    """Sizes of the sweep; the defaults are the full study."""

    bits: int = 20
    """Bits n of the prompt where formats are compared."""
    subset_size: int = 6
    """Hidden bits k whose parity is asked for, there."""
    n: tuple[int, ...] = (12, 25, 50, 100, 200, 400, 800, 1600, 3200)
    """Numbers of demonstrations there."""
    seeds: int = 20
    """Data sets (and hidden subsets) of every format, in both parts on ParityCoT."""
    fresh: int = 4000
    """Fresh prompts that accuracies are measured on."""
    trade_bits: int = 12
    """Bits n where a step may be a product of several signs, at most 12: all prompts are listed to judge by."""
    trade_subset_size: int = 4
    """Hidden bits k there, at least 3."""
    target: float = 0.95
    """The accuracy of the answer that counts as learned, there."""
    most: int = 4096
    """Samples after which the search for that accuracy is given up."""
    mix_bits: int = 5
    """Bits d of ParityMix, at least 4."""
    shares: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.32, 0.35, 0.4, 0.5, 0.6)
    """Shares p of chains whose accuracy is measured."""
    starts: tuple[float, ...] = (0.01, 0.05, 0.1)
    """Shares p from which filtered rounds start."""
    rounds: int = 8
    """Filtered rounds."""
    mix_n: int = 100_000
    """Demonstrations of ParityMix, and samples a round."""
    mix_seeds: int = 10
    """Data sets of ParityMix, in both of its parts."""

    def __post_init__(self) -> None:
        for name in ("seeds", "fresh", "rounds", "mix_seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("bits", self.bits, minimum=3)
        check_int("subset_size", self.subset_size, minimum=3, maximum=self.bits)
        check_int("trade_bits", self.trade_bits, minimum=3, maximum=12)
        check_int("trade_subset_size", self.trade_subset_size, minimum=3, maximum=self.trade_bits)
        check_int("most", self.most, minimum=2)
        check_int("mix_bits", self.mix_bits, minimum=4)
        check_int("mix_n", self.mix_n, minimum=100)
        check_distinct("n", self.n)
        for name in ("shares", "starts"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}={values} must hold distinct probabilities, at least one.")
            for value in values:
                check_probability(name, value)
        check_probability("target", self.target)

    @classmethod
    def quick(cls) -> LengthOptions:
        """About a minute on two cores."""
        return cls(seeds=5, shares=(0.1, 0.2, 0.3, 0.35, 0.4, 0.6), mix_seeds=3, mix_n=30_000)


# -- The cells of the study: formats, the trade of length against samples, and the growth of answers under a filter ---


FORMATS, TRADE, MIX, ROUNDS = "formats", "trade", "mix", "rounds"
#: measures on ParityCoT, all but one of greedy decoding
ANSWER, FORCED, CHAIN, SAMPLED = "answer right", "token right, true prefix", "chain right", "answer right, sampled"
NEEDED, FEATURES = "samples needed", "weights"
THRESHOLD = "best threshold function"
#: measures on ParityMix; SAMPLED as above
GREEDY, SHARE, LENGTH = "answer right, greedy", "share of chains", "length of an answer"
PASSED = "rounds until the share of chains is above 1/3"
#: what is put before the name of a measure that comes from a closed form and not from a fit
CLOSED = "closed form: "
BISECTIONS = 3
#: of a fit, in nats a sequence: far below what an accuracy shows; in ParityMix rare chains count
TOLERANCE = {"ParityCoT": 1e-2, "ParityMix": 1e-4}


def parity_formats() -> dict[str, dict[str, Any]]:
    """The formats compared with a linear step: the parameters of `ParityCoT` of each."""
    return {
        "none": {"cot": "none"},
        "prefix": {"cot": "prefix"},
        "xor_3": {"cot": "xor_q", "fan_in": 3},
        "count": {"cot": "count"},
        "andxor": {"cot": "andxor"},
        "token": {"cot": "token"},
    }


def trade_formats(k: int) -> dict[str, dict[str, Any]]:
    """Linear formats, and steps of fan-in q with a class of products of q signs, down to no chain at all."""
    linear = {name: {"cot": name} for name in ("andxor", "count", "token")}
    products = {f"xor_{q}": {"cot": "xor_q", "fan_in": q, "degree": q} for q in range(2, k)}
    return {**linear, **products, "none": {"cot": "none", "degree": k}}


def learned(task: ParityCoT | ParityMix, demonstrations: Demonstrations, rng: np.random.Generator) -> Policy:
    """The log-loss optimum in the task's class."""
    seed = int(rng.integers(1 << 31))
    return costed_fit(
        LogLossBC(tol=TOLERANCE[task.name]), demonstrations, task.policy_class, seed, memory=False
    ).agent.policy_


def place_of(task: ParityCoT, name: str, n: int) -> dict[str, Label]:
    """Labels of a record."""
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "format": name, "n": n}
    return {**labels, "H": task.horizon, "V": task.vocab_size, "degree": task.degree}


def accuracy(
    *,
    name: str,
    parameters: dict[str, Any],
    bits: int,
    subset_size: int,
    n: list[int],
    fresh: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """Accuracies of one format after each number of demonstrations, the first ones of the same."""
    task = ParityCoT(bits=bits, subset_size=subset_size, seed=replicate, **parameters)
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
        closed = {FORCED: forced, ANSWER: answer, THRESHOLD: task.threshold_accuracy()}
        labels = {"task": task.name, "format": name, "H": task.horizon, "V": task.vocab_size}
        records += [Record(CLOSED + metric, value, labels, method="closed form") for metric, value in closed.items()]
    return records


def samples_needed(
    *,
    name: str,
    parameters: dict[str, Any],
    bits: int,
    subset_size: int,
    target: float,
    most: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """How many demonstrations one format needs to reach the target, to a factor of about 2^(1/8).

    The answers of greedy decoding to all prompts are judged, after doublings and then by bisection of the last one (as
    if accuracy grew with every demonstration); ``inf`` where ``most`` are not enough.
    """
    task = ParityCoT(bits=bits, subset_size=subset_size, seed=replicate, **parameters)
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


# -- ParityMix ---------------------------------------------------------------------------------------------------------


def mix_accuracy(*, p: float, d: int, n: int, fresh: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """Sampled and greedy accuracy, and length, after demonstrations with a share p of chains."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng)
    records = judged(task, policy, fresh, {"task": task.name, "learner": "log-loss", "n": n, "p": p}, rng)
    if replicate == 0:
        closed = {SAMPLED: task.sampled_accuracy(), GREEDY: task.greedy_accuracy(), LENGTH: task.mean_length()}
        closed_labels: dict[str, Label] = {"task": task.name, "p": p}
        records += [
            Record(CLOSED + metric, value, closed_labels, method="closed form") for metric, value in closed.items()
        ]
    return records


def judged(
    task: ParityMix, policy: Policy, fresh: int, labels: dict[str, Label], rng: np.random.Generator
) -> list[Record]:
    """What a policy writes after fresh prompts."""
    prompts = task.sample_prompts(fresh, rng)
    greedy = GreedyPolicy(policy).sample(prompts, task.horizon, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    lengths = task.lengths(tokens)
    values = {
        GREEDY: task.success(prompts, greedy).mean(),
        SAMPLED: task.success(prompts, tokens).mean(),
        SHARE: (lengths == task.d).mean(),
        LENGTH: lengths.mean(),
    }
    return [Record(metric, float(value), labels) for metric, value in values.items()]


def filtered(task: ParityMix, policy: Policy, n: int, rng: np.random.Generator) -> Demonstrations:
    """The right ones of n sequences that the policy writes: the data of the next round."""
    prompts = task.sample_prompts(n, rng)
    tokens = policy.sample(prompts, task.horizon, rng)
    right = task.success(prompts, tokens) == 1.0
    return Demonstrations(prompts[right], tokens[right], vocab_size=task.vocab_size)


def filtered_rounds(
    *, p: float, d: int, n: int, rounds: int, fresh: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Sample, keep what is right, fit again; what the policy writes after each round."""
    task = ParityMix(d=d, p=p)
    policy = learned(task, collect(task, n, rng), rng)
    records, passed = [], math.inf
    for done in range(rounds + 1):
        if done:
            policy = learned(task, filtered(task, policy, n, rng), rng)
        labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "n": n, "p": p, "round": done}
        found = judged(task, policy, fresh, labels, rng)
        if any(record.metric == SHARE and record.value > GREEDY_THRESHOLD for record in found):
            passed = min(passed, done)
        records += found
        if replicate == 0:
            place: dict[str, Label] = {"task": task.name, "p": p, "round": done}
            records.append(Record(CLOSED + SHARE, filtered_share(p, done), place, method="closed form"))
    records.append(Record(PASSED, float(passed), {"task": task.name, "learner": "log-loss", "n": n, "p": p}))
    if replicate == 0:
        expected = float(rounds_to_pass(p))
        records.append(Record(CLOSED + PASSED, expected, {"task": task.name, "p": p}, method="closed form"))
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
    common = {"d": options.mix_bits, "n": options.mix_n, "fresh": options.fresh}
    for replicate in range(options.mix_seeds):
        for p in options.starts:
            cell = {"p": p, **common, "rounds": options.rounds, "replicate": replicate}
            yield Cell(ROUNDS, filtered_rounds, cell)
        for p in options.shares:
            yield Cell(MIX, mix_accuracy, {"p": p, **common, "replicate": replicate})


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


#: formats every step of which is linear
LINEAR = ("count", "andxor", "token")


def looks() -> dict[str, dict[str, Any]]:
    """Colour, marker and dashes by format."""
    from experiments.charts import COLOURS

    return {
        "count": {"color": COLOURS["blue"], "marker": "o", "linestyle": "-"},
        "andxor": {"color": COLOURS["green"], "marker": "s", "linestyle": "-"},
        "token": {"color": COLOURS["orange"], "marker": "D", "linestyle": "-"},
        "none": {"color": COLOURS["black"], "marker": "o", "linestyle": ":"},
        "prefix": {"color": COLOURS["vermilion"], "marker": "v", "linestyle": "--"},
        "xor_3": {"color": COLOURS["purple"], "marker": "^", "linestyle": "--"},
    }


def note(axes: Axes, at: tuple[float, float], words: str, colour: str, **changes: Any) -> None:
    """Words beside a point, in its colour."""
    style: dict[str, Any] = {"fontweight": "bold", "fontsize": 10, "va": "center", "color": colour, **changes}
    axes.annotate(words, at, **{"xytext": (9, 0), "textcoords": "offset points", **style})


def shape_of(summary: Summary, part: str, name: str) -> str:
    """``T=3, V=2`` of a format."""
    rows = summary.select(part=part, format=name)
    return f"T={rows[0]['H']}, V={rows[0]['V']}" if len(rows) else ""


def share_axis(axes: Axes) -> None:
    """From below a guess to just above certainty."""
    axes.set_ylim(0.43, 1.04)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def sample_figure(options: LengthOptions, summary: Summary) -> Figure:
    """Accuracy of the answer against the number of demonstrations, a line a format."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    title = "A chain helps if each of its steps is linear, not if it is long"
    figure, axes = new_figure(title, "demonstrations", "share of answers right (greedy)", size=(9.2, 4.8))
    sizes = sorted(options.n)
    log2_axis(axes, sizes)
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42)

    def of(name: str) -> Series:
        return summary.series("n", ANSWER, part=FORMATS, format=name)

    lines = [
        Line(of(name), name, f"{name}: {shape_of(summary, FORMATS, name)}", **looks()[name])
        for name in (*LINEAR, "none", "prefix", "xor_3")
    ]
    best = summary.select(CLOSED + THRESHOLD, part=FORMATS, format="none")
    if len(best):
        axes.axhline(best[0].mean, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
        words = "best threshold function of the bits"
        note(axes, (sizes[-1], best[0].mean), words, COLOURS["grey"], xytext=(9, 8), fontweight="normal")
    draw_lines(axes, lines, limits=share_axis)
    middle = sizes[len(sizes) // 2]
    plain: dict[str, Any] = {"xytext": (0, 0), "fontweight": "normal", "fontsize": 11}
    note(axes, (middle, 0.535), "a step is an exclusive or: a guess", COLOURS["grey"], **plain)
    note(axes, (2 * middle, 0.9), "every step is linear", COLOURS["grey"], **plain)
    return figure


def format_figure(summary: Summary) -> Figure:
    """Forced accuracy of a token beside the accuracy of the answer, at the largest number of demonstrations."""
    from experiments.charts import COLOURS, new_figure

    title = "After true prefixes a useless chain looks better than a guess"
    figure, axes = new_figure(title, "share right", "", size=(8.6, 4.2))
    names = [
        name for name in ("none", "xor_3", "prefix", "token", "count", "andxor") if shape_of(summary, FORMATS, name)
    ]
    n = max(summary.distinct("n", part=FORMATS), default=0)
    for place, name in enumerate(names):
        for metric, colour, marker, shift in (
            (FORCED, COLOURS["blue"], "s", 0.14),
            (ANSWER, COLOURS["vermilion"], "o", -0.14),
        ):
            for row in summary.select(metric, part=FORMATS, format=name, n=n):
                bar = [[row.mean - row.lower], [row.upper - row.mean]]
                axes.errorbar([row.mean], [place + shift], xerr=bar, color=colour, marker=marker, markersize=8)
            for row in summary.select(CLOSED + metric, part=FORMATS, format=name):
                axes.plot([row.mean] * 2, [place + shift - 0.13, place + shift + 0.13], color="black", linewidth=1.2)
    axes.set_yticks(range(len(names)), labels=[f"{name}  ({shape_of(summary, FORMATS, name)})" for name in names])
    axes.grid(False, axis="y")
    axes.set_xlim(0.45, 1.03)
    axes.set_ylim(-0.5, len(names) - 0.5)
    last = len(names) - 1
    note(axes, (0.985, last + 0.14), "a token, after the true ones", COLOURS["blue"], xytext=(-4, 1), ha="right")
    note(
        axes, (0.985, last - 0.14), "the answer, after its own chain", COLOURS["vermilion"], xytext=(-4, -1), ha="right"
    )
    return figure


def trade_figure(options: LengthOptions, summary: Summary) -> Figure:
    """Samples needed against the length of the chain."""
    from experiments.charts import COLOURS, new_figure

    title = "A shorter chain needs richer steps, and more samples"
    label = f"demonstrations for {options.target:.0%} right"
    figure, axes = new_figure(title, "T, tokens of the answer", label, size=(8.6, 4.8))
    axes.set_yscale("log", base=2)
    rows = [row for row in summary.select(NEEDED, part=TRADE) if np.isfinite(row.mean)]
    chain = sorted((row for row in rows if row["degree"] > 1), key=lambda row: row["H"])
    colour = COLOURS["purple"]
    axes.plot([row["H"] for row in chain], [row.mean for row in chain], color=colour, linestyle="--", linewidth=1.5)
    for row in rows:
        product = row["degree"] > 1
        look = {"color": colour, "marker": "^"} if product else looks()[row["format"]]
        bar = [[row.mean - row.lower], [row.upper - row.mean]]
        axes.errorbar([row["H"]], [row.mean], yerr=bar, capsize=3, markersize=8, **look)
        side: dict[str, Any] = {"xytext": (10, 5 if product else -3)}
        if row["format"] == "token":  # others are to its right
            side = {"xytext": (0, -40), "ha": "center"}
        note(axes, (row["H"], row.mean), trade_label(summary, row), look["color"], **side)
    longest = max((row["H"] for row in rows), default=1)
    axes.set_xlim(0.5, 1.5 * longest)
    axes.set_xticks(range(1, longest + 1))
    low, high = axes.get_ylim()
    ticks = [2**i for i in range(4, 14) if low <= 2**i <= high]
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_yticks([], minor=True)
    return figure


def trade_label(summary: Summary, row: SummaryRow) -> str:
    """What a step is, and how many weights the class has."""
    name = row["format"]
    weights = summary.value(FEATURES, part=TRADE, format=name)
    if row["degree"] > 1:
        said = "no chain" if name == "none" else f"xor of {row['degree']} a step"
        return f"{said}: products of {row['degree']}, {weights:.0f} weights"
    comma = "\n" if name == "token" else ", "
    return f"{name}: linear, V={row['V']}{comma}{weights:.0f} weights"


def mix_figure(summary: Summary) -> Figure:
    """Accuracy against the share of chains, and the share under filtered rounds."""
    from experiments.charts import COLOURS, new_panels

    title = "Keep the right answers, and they grow: chains take over above 1/3"
    labels = ["p, share of demonstrations with a chain", "rounds of sampling, filtering, fitting"]
    figure, (left, right) = new_panels(title, labels, "share of answers right", share=False, size=(11.4, 4.6))
    for metric, colour, marker, words, height in (
        (GREEDY, COLOURS["blue"], "s", "greedy", 0.93),
        (SAMPLED, COLOURS["orange"], "o", "sampled", 0.0),
    ):
        series = summary.series("p", metric, part=MIX)
        form = summary.series("p", CLOSED + metric, part=MIX)
        _points(left, series, colour, marker)
        if metric == GREEDY and len(form.x):
            cut = [form.x[0], GREEDY_THRESHOLD, GREEDY_THRESHOLD, form.x[-1]]
            left.plot(cut, [0.5, 0.5, 1.0, 1.0], color=colour, linewidth=1.4)
            note(left, (form.x[-1], height), words, colour, xytext=(0, 0), ha="right")
        elif len(form.x):
            left.plot(form.x, form.mean, color=colour, linewidth=1.4)
            note(left, (form.x[-1], float(form.mean[-1])), f"{words}: (1 + p)/2", colour, xytext=(0, -44), ha="right")
    left.axvline(GREEDY_THRESHOLD, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    note(left, (GREEDY_THRESHOLD, 0.44), "1/3", COLOURS["grey"], xytext=(5, 0))
    left.set_ylim(0.4, 1.05)

    right.set_ylabel("share of chains in samples")
    shades = (COLOURS["purple"], COLOURS["vermilion"], COLOURS["green"])
    starts = sorted(summary.distinct("p", part=ROUNDS))
    for p, colour in zip(starts, shades * len(starts)):
        form = summary.series("round", CLOSED + SHARE, part=ROUNDS, p=p)
        right.plot(form.x, form.mean, color=colour, linewidth=1.4, label=f"from p = {p:g}")
        _points(right, summary.series("round", SHARE, part=ROUNDS, p=p), colour, "o")
    right.legend(loc="upper left", reverse=True, labelcolor="linecolor", handlelength=1.2)
    right.axhline(GREEDY_THRESHOLD, color=COLOURS["grey"], linestyle=":", linewidth=1.2)
    words = "1/3: greedy decoding\nwrites the chain above"
    note(right, (1.0, GREEDY_THRESHOLD), words, COLOURS["grey"], xycoords=("axes fraction", "data"), **AT_RIGHT)
    right.set_ylim(-0.03, 1.03)
    return figure


AT_RIGHT: dict[str, Any] = {"xytext": (-2, -16), "ha": "right", "fontsize": 9}


def _points(axes: Axes, series: Series, colour: str, marker: str) -> None:
    """Means with their 95 % intervals."""
    if len(series.x):
        bars = np.abs(np.stack([series.mean - series.lower, series.upper - series.mean]))
        axes.errorbar(series.x, series.mean, bars, color=colour, marker=marker, linestyle="", capsize=2, markersize=6)


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


def shown(summary: Summary, metric: str, digits: int = 3, **labels: Any) -> str:
    """``mean [lower, upper]`` of the one row that matches, empty where its cell failed."""
    rows = summary.select(metric, **labels)
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper, digits) if len(rows) else ""


def format_table(summary: Summary) -> Table:
    """Every format at the largest number of demonstrations."""
    n = max(summary.distinct("n", part=FORMATS), default=0)
    lines = []
    for name in parity_formats():
        place: dict[str, Any] = {"part": FORMATS, "format": name}
        cells = [shown(summary, metric, n=n, **place) for metric in (FORCED, ANSWER, CHAIN, SAMPLED)]
        closed = [number(summary.value(CLOSED + metric, **place), 3) for metric in (FORCED, ANSWER)]
        if any(cells):
            lines.append([name, shape_of(summary, FORMATS, name), cells[0], closed[0], cells[1], closed[1], *cells[2:]])
    heads = ["format", "shape", "token, true prefix", "limit", "answer", "limit", "whole chain", "answer, sampled"]
    note = (
        f"Share right on fresh prompts, greedy but in the last column. {intervals_over(summary.select(part=FORMATS))}. "
        "Limits are closed forms for the population optimum."
    )
    return Table(f"Formats of the chain, {n} demonstrations", heads, lines, note)


def trade_table(options: LengthOptions, summary: Summary) -> Table:
    """Length, vocabulary, richness of a step, samples."""
    lines = []
    for name, parameters in trade_formats(options.trade_subset_size).items():
        rows = summary.select(NEEDED, part=TRADE, format=name)
        if len(rows):
            weights = number(summary.value(FEATURES, part=TRADE, format=name), 5)
            said = with_interval(rows[0].mean, rows[0].lower, rows[0].upper)
            lines.append([name, rows[0]["H"], rows[0]["V"], parameters.get("degree", 1), weights, said])
    heads = ["format", "T", "V", "degree", "weights", "demonstrations"]
    note = (
        f"Demonstrations until {options.target:.0%} of all prompts are answered right (greedy), n={options.trade_bits} "
        f"bits, k={options.trade_subset_size}; inf: not from {options.most}. {interval_words(options.seeds)}. "
        "Degree: signs multiplied in a feature."
    )
    return Table("Length against samples", heads, lines, note)


def mix_table(summary: Summary) -> Table:
    """Accuracies by the share of chains."""
    lines = []
    for p in sorted(summary.distinct("p", part=MIX)):
        line = [f"{p:g}"]
        for metric in (SAMPLED, GREEDY, LENGTH):
            line += [
                shown(summary, metric, part=MIX, p=p),
                number(summary.value(CLOSED + metric, part=MIX, p=p), 3),
            ]
        lines.append(line)
    heads = ["p", "sampled", "(1+p)/2", "greedy", "limit", "length", "1+p(d-1)"]
    note = "Share of answers right and tokens before the end, beside closed forms. "
    note += f"{intervals_over(summary.select(part=MIX))}."
    return Table("ParityMix: accuracy against the share of chains", heads, lines, note)


def round_table(summary: Summary) -> Table:
    """Share of chains by round."""
    rounds = sorted(summary.distinct("round", part=ROUNDS))
    lines = []
    for p in sorted(summary.distinct("p", part=ROUNDS)):
        place = {"part": ROUNDS, "p": p}
        passed = [shown(summary, PASSED, **place), number(summary.value(CLOSED + PASSED, **place), 3)]
        lines.append([f"p={p:g}, sampled", *(shown(summary, SHARE, 2, **place, round=r) for r in rounds), passed[0]])
        closed = (number(summary.value(CLOSED + SHARE, **place, round=r), 2) for r in rounds)
        lines.append([f"p={p:g}, closed form", *closed, passed[1]])
    heads = ["start", *(f"round {r}" for r in rounds), "above 1/3 after"]
    note = "A round samples, keeps the right answers and fits again. Closed form: the odds double."
    return Table("ParityMix: share of chains under filtered rounds", heads, lines, note)


def format_findings(options: LengthOptions, summary: Summary) -> list[str]:
    """Linear steps against the others."""
    n = max(options.n)

    def said(name: str) -> str:
        return f"{name} ({shape_of(summary, FORMATS, name)}) {answer(name)}"

    def answer(name: str) -> str:
        return shown(summary, ANSWER, part=FORMATS, format=name, n=n)

    guesses = [name for name in parity_formats() if name not in LINEAR]
    if not all(answer(name) for name in parity_formats()):
        return []
    forced = shown(summary, FORCED, part=FORMATS, format="prefix", n=n)
    limit = number(summary.value(CLOSED + FORCED, part=FORMATS, format="prefix"), 3)
    return [
        f"The parity of {options.subset_size} of {options.bits} bits from {n} demonstrations, share of answers right: "
        f"{'; '.join(map(said, LINEAR))}; {'; '.join(map(said, guesses))}. What matters is that each step is linear "
        "in what came before, not how many there are.",
        f"Teacher forcing flatters: after the true prefix prefix has {forced} of its tokens right (limit {limit}), its "
        f"own answer is right {answer('prefix')} of the time.",
    ]


def trade_findings(options: LengthOptions, summary: Summary) -> list[str]:
    """Samples for length."""
    words = []
    for name, parameters in reversed(trade_formats(options.trade_subset_size).items()):
        rows = summary.select(NEEDED, part=TRADE, format=name)
        if len(rows) and math.isfinite(rows[0].mean):
            step = f"products of {parameters['degree']}" if "degree" in parameters else "linear"
            needed = with_interval(rows[0].mean, rows[0].lower, rows[0].upper)
            words.append(f"{needed} for {name} (T={rows[0]['H']}, V={rows[0]['V']}, {step})")
    if not words:
        return []
    return [
        f"Length is traded for samples: {options.target:.0%} on the parity of {options.trade_subset_size} of "
        f"{options.trade_bits} bits takes {'; '.join(words)} demonstrations."
    ]


def mix_findings(summary: Summary) -> list[str]:
    """The threshold and the rounds."""
    shares = sorted(summary.distinct("p", part=MIX))
    found = []
    sides = [[p for p in shares if p < 1 / 3][-1:], [p for p in shares if p > 1 / 3][:1]]
    if all(sides):
        words = [
            f"p={p:g}: greedy {shown(summary, GREEDY, part=MIX, p=p)}, sampled "
            f"{shown(summary, SAMPLED, part=MIX, p=p)} ((1+p)/2 = {(1 + p) / 2:.3g})"
            for (p,) in sides
        ]
        found.append(f"ParityMix: greedy decoding switches to the chain at p = 1/3; {'; '.join(words)}.")
    words = [
        f"{shown(summary, PASSED, part=ROUNDS, p=p)} from p={p:g} "
        f"(closed form {summary.value(CLOSED + PASSED, part=ROUNDS, p=p):g})"
        for p in sorted(summary.distinct("p", part=ROUNDS))
    ]
    if words:
        found.append(
            "Each filtered round doubles the odds of a chain; rounds until more than 1/3 are chains: "
            f"{'; '.join(words)}."
        )
    return found


def analyse(options: LengthOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    n, k = options.bits, options.subset_size
    spread = interval_words(options.seeds)
    figures = [
        FigureSpec(
            "headline",
            "Which chains of thought make a parity learnable?",
            f"ParityCoT, n={n}, k={k}, log-loss in a class linear in the whole prefix; greedy answers. {spread}. T: "
            "tokens written, V: vocabulary. count: the number of ones in binary; token: that number as one token; "
            "andxor: and, then exclusive or, with each bit; prefix: running parities; xor_3: those after bits 3, 5, 7, "
            "... An exclusive or of fair bits is not a linear step, so the last two and none guess; the log-loss "
            "optimum does not even find the best threshold function.",
            lambda: sample_figure(options, summary),
        ),
        FigureSpec(
            "trade",
            "What does a short chain cost?",
            f"ParityCoT, n={options.trade_bits}, k={options.trade_subset_size}: demonstrations until "
            f"{options.target:.0%} of all prompts are answered right. {spread}. Dashed: xor_q in a class with products "
            "of q signs, down to no chain at all.",
            lambda: trade_figure(options, summary),
        ),
        FigureSpec(
            "formats",
            "Does teacher-forced accuracy show it?",
            f"ParityCoT, n={n}, k={k}, {max(options.n)} demonstrations. {spread}; black ticks: closed forms.",
            lambda: format_figure(summary),
        ),
        FigureSpec(
            "mix",
            "Why do rewarded answers grow?",
            f"ParityMix, d={options.mix_bits}, {options.mix_n} demonstrations or samples a round; lines: closed forms, "
            f"points: samples. {interval_words(options.mix_seeds)}. With fewer samples they "
            "lag behind: shares then differ between prompts, and 2 p/(1 + p) is concave.",
            lambda: mix_figure(summary),
        ),
    ]
    return Analysis(
        tables=[format_table(summary), trade_table(options, summary), mix_table(summary), round_table(summary)],
        figures=figures,
        findings=[*format_findings(options, summary), *trade_findings(options, summary), *mix_findings(summary)],
    )


STUDY = Study(
    name="length",
    question="Which chains of thought make a parity learnable by a linear predictor, and what does a short one cost?",
    options=LengthOptions,
    cells=cells,
    analyse=analyse,
    labels=("format", "V", "degree", "p", "round"),
)
