"""What a chain of thought buys a linear next-token model: Turing machines and parity, with it and without."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from agents import Agent, ConvergenceWarning, LogLossBC, PerceptronBC
from experiments.cells import Cell, Label, Record
from experiments.measure import check_distinct
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Summary, Table, interval_words, intervals_over, with_interval
from ntp_envs import Demonstrations, GreedyPolicy, Policy, Task, make_task
from ntp_envs.arrays import first_best
from ntp_envs.checks import check_int
from ntp_envs.tasks import TuringMachine

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TuringOptions:
    """Sizes of the sweep; the defaults are the full study."""

    n: int = 300
    """Demonstrations of short runs that the learners with the chain get."""
    n_direct: int = 1000
    """Demonstrations that the learners without the chain get, of the very length they are tested at."""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Run lengths on the busy beaver; with the chain, all demonstrations have 2 steps."""
    width: int = 16
    """Cells of the busy beaver's tape."""
    bits: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Word lengths of the parity and the increment machine; with the chain, all demonstrations have 4 bits."""
    direct_bits: int = 16
    """The longest words without the chain: the whole prompt is in the features, so that longer ones take memory."""
    prompt_bits: int = 20
    """Length of the prompt of `ParityCoT`."""
    subset_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Hidden bits that its parity is over."""
    sizes: tuple[int, ...] = (10, 20, 50, 100, 200, 500)
    """Random configurations from which one step is learned."""
    test: int = 200
    """Runs that a policy is tested on at each length."""
    seeds: int = 10
    """Replicates: data sets and test sets."""

    def __post_init__(self) -> None:
        for name in ("n", "n_direct", "test", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        check_int("width", self.width, minimum=4)
        check_int("direct_bits", self.direct_bits, minimum=1)
        check_int("prompt_bits", self.prompt_bits, minimum=1)
        for name in ("steps", "bits", "sizes"):
            check_distinct(name, getattr(self, name))
        check_distinct("subset_sizes", self.subset_sizes, maximum=self.prompt_bits)

    @classmethod
    def quick(cls) -> TuringOptions:
        """About a minute on two cores."""
        return cls(
            n_direct=300,
            steps=(1, 2, 4, 8, 16),
            width=12,
            bits=(4, 8, 16, 32),
            sizes=(10, 20, 50, 100, 200),
            test=100,
            seeds=3,
        )


# -- The cells of the study: fits on short runs and their long ones, fits without the chain, one step, and parity -----


RUNS, STEP, COUNT = "runs", "one step", "count parity"
CHAIN, DIRECT = "chain", "no chain"
EXACT = "exact match, free-running"
CELLS = "accuracy of fresh cells"
PARITY, BEAVER, INCREMENT = "parity machine", "busy beaver", "increment machine"
MACHINES = {PARITY: "parity", BEAVER: "busy_beaver_4", INCREMENT: "increment"}
#: steps or bits of the demonstrations with the chain
TRAINED = {PARITY: 4, BEAVER: 2, INCREMENT: 4}
STEP_WIDTH = 12
RADIUS = 200.0

LEARNERS = ("perceptron", "log-loss")


def learner_of(name: str, horizon: int) -> Agent:
    """A learner of the study; maximum likelihood to 1e-4 nats a token."""
    return LogLossBC(tol=1e-4 * horizon) if name == "log-loss" else PerceptronBC(max_epochs=20)


def machine_task(machine: str, length: int, width: int, *, chain: bool = True) -> TuringMachine:
    """Runs of ``length`` steps of the busy beaver on random tapes, or on words of ``length`` bits of the others."""
    if machine == BEAVER:
        shape: dict[str, Any] = {"width": width, "steps": length, "inputs": "random"}
    else:
        steps = length + 1 if machine == PARITY else 2 * length + 2
        shape = {"width": length + 2, "steps": steps}
    return make_task("TuringMachine", machine=MACHINES[machine], cot=chain, radius=RADIUS, **shape)  # type: ignore[return-value]


def running(task: TuringMachine, prompts: NDArray[np.integer]) -> NDArray[np.bool_]:
    """``(B,)`` whether the machine still moves at its last step, with the head on the tape."""
    _, head, state = task.table.run(*task.configurations(prompts), task.steps_taken)
    return np.asarray((head[:, -1] >= 0) & (state[:, -2] < task.table.n_working))


def hard_runs(task: TuringMachine, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of runs that take all their steps; of words, which always do, as they come."""
    kept: list[NDArray[np.int64]] = []
    while sum(map(len, kept)) < n:
        prompts = task.sample_prompts(4 * n, rng)
        kept.append(prompts[running(task, prompts)] if task.kind_of_input == "random" else prompts)
    prompts = np.concatenate(kept)[:n]
    return Demonstrations(prompts, task.targets(prompts), vocab_size=task.vocab_size)


def drawn(task: Any, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of a task with one right answer."""
    prompts = task.sample_prompts(n, rng)
    return Demonstrations(prompts, task.targets(prompts), vocab_size=task.vocab_size)


def fit(learner: str, demonstrations: Demonstrations, task: Task, rng: np.random.Generator) -> Any:
    """The policy learned. That the perceptron does not separate the answers without a chain is what is measured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        agent = learner_of(learner, demonstrations.horizon)
        return agent.fit(demonstrations, task.policy_class, rng=rng).policy_


def exact_match(policy: Policy, truth: Demonstrations, rng: np.random.Generator) -> float:
    """Share of prompts whose whole answer greedy decoding writes as the expert does."""
    written = GreedyPolicy(policy).sample(truth.prompts, truth.horizon, rng)
    return float((written == truth.tokens).all(axis=1).mean())


def record(task: str, learner: str, chain: str, length: int, n: int, horizon: int, value: float, test: int) -> Record:
    """One measured exact match."""
    labels: dict[str, Label] = {
        "task": task,
        "learner": learner,
        "chain": chain,
        "length": length,
        "n": n,
        "H": horizon,
    }
    return Record(EXACT, value, labels, method=f"greedy decoding of {test} prompts")


def chained(
    *,
    machine: str,
    learner: str,
    n: int,
    lengths: Sequence[int],
    width: int,
    test: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """One fit to short runs, decoded on runs of every length; the same theta serves every width of the tape."""
    short = machine_task(machine, TRAINED[machine], width)
    theta = fit(learner, drawn(short, n, rng), short, rng).theta
    records = []
    for length in lengths:
        long = machine_task(machine, length, width)
        value = exact_match(long.policy_class.policy(theta), hard_runs(long, test, rng), rng)
        records.append(record(machine, learner, CHAIN, length, n, long.horizon, value, test))
    return records


def direct(
    *,
    machine: str,
    learner: str,
    n: int,
    length: int,
    width: int,
    test: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """A fit to the last configurations of runs of one length, tested on others of that length."""
    task = machine_task(machine, length, width, chain=False)
    policy = fit(learner, hard_runs(task, n, rng), task, rng)
    value = exact_match(policy, hard_runs(task, test, rng), rng)
    return [record(machine, learner, DIRECT, length, n, task.horizon, value, test)]


def counted(
    *, learner: str, k: int, bits: int, n: int, test: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Parity of k bits after their count in binary, and at once, from as many demonstrations."""
    records = []
    for chain, cot in ((CHAIN, "count"), (DIRECT, "none")):
        task = make_task("ParityCoT", bits=bits, subset_size=k, cot=cot, radius=RADIUS, seed=replicate)
        policy = fit(learner, drawn(task, n, rng), task, rng)
        value = exact_match(policy, drawn(task, test, rng), rng)
        records.append(record("ParityCoT", learner, chain, k, n, task.horizon, value, test))
    return records


def one_step(
    *, machine: str, learner: str, sizes: Sequence[int], test: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The share of cells of fresh random configurations whose next content is predicted, given true ones."""
    task = make_task(
        "TuringMachine", machine=MACHINES[machine], width=STEP_WIDTH, steps=1, inputs="random", radius=RADIUS
    )
    fresh = drawn(task, test, rng)
    records = []
    for n in sizes:
        policy = fit(learner, drawn(task, n, rng), task, rng)
        best = first_best(policy.forced_log_probs(fresh.prompts, fresh.tokens))
        labels: dict[str, Label] = {"task": machine, "learner": learner, "n": n}
        records.append(Record(CELLS, float((best == fresh.tokens)[:, :-1].mean()), labels, method=f"{test} prompts"))
    return records


def cells(options: TuringOptions) -> Iterator[Cell]:
    """Replicate by replicate, the slow ones first."""
    for replicate in range(options.seeds):
        for learner in LEARNERS:
            common = {"learner": learner, "test": options.test, "replicate": replicate}
            for machine in MACHINES:
                tape = {**common, "machine": machine, "width": options.width}
                lengths = options.steps if machine == BEAVER else options.bits
                for length in lengths:
                    if machine == BEAVER or length <= options.direct_bits:
                        yield Cell(RUNS, direct, {**tape, "n": options.n_direct, "length": length})
                yield Cell(RUNS, chained, {**tape, "n": options.n, "lengths": list(lengths)})
                yield Cell(STEP, one_step, {**common, "machine": machine, "sizes": list(options.sizes)})
            for k in options.subset_sizes:
                yield Cell(COUNT, counted, {**common, "k": k, "bits": options.prompt_bits, "n": options.n_direct})


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


MARKERS: dict[str, tuple[Any, Any]] = {"perceptron": ("o", "-"), "log-loss": ("s", "--")}


def colour(chain: str) -> str:
    from experiments.charts import COLOURS

    return COLOURS["blue"] if chain == CHAIN else COLOURS["vermilion"]


def draw_runs(axes: Axes, summary: Summary, part: str, task: str) -> list[Any]:
    """Exact match against length, with and without the chain, and the end of the training lengths as a line."""
    from experiments.charts import COLOURS, log2_axis, plot_series

    lengths = sorted({row["length"] for row in summary.select(EXACT, part=part, task=task)})
    for chain in (CHAIN, DIRECT):
        for learner in LEARNERS:
            marker, dashes = MARKERS[learner]
            series = summary.series("length", EXACT, part=part, task=task, learner=learner, chain=chain)
            plot_series(axes, series, learner, color=colour(chain), marker=marker, linestyle=dashes)
    if lengths:
        log2_axis(axes, lengths)
        axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)
    if part == RUNS:
        axes.axvspan(1e-3, TRAINED[task], color=COLOURS["blue"], alpha=0.07, linewidth=0)
    axes.set_ylim(-0.03, 1.08)
    return lengths


def legend(figure: Figure, rows: int = 1) -> None:
    """Which line is which, below the panels: colour is the chain, marker and dashes the learner."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    from experiments.charts import COLOURS

    handles: list[Any] = [
        Line2D([], [], color=colour(CHAIN), linewidth=4, label="with the chain of thought"),
        Line2D([], [], color=colour(DIRECT), linewidth=4, label="answer at once"),
        Patch(facecolor=COLOURS["blue"], alpha=0.12, label="lengths in the chain's data"),
        *(
            Line2D([], [], color=COLOURS["grey"], marker=marker, linestyle=dashes, label=learner)
            for learner, (marker, dashes) in MARKERS.items()
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows), fontsize=9.5)


def headline_figure(summary: Summary, options: TuringOptions) -> Figure:
    """The busy beaver, the parity machine and counting, side by side."""
    from experiments.charts import new_panels

    panels: Sequence[tuple[str, str, str, str]] = (
        (RUNS, BEAVER, "busy beaver with 4 states, random tapes", "steps of the machine"),
        (RUNS, PARITY, "Turing machine for parity", "bits of the word"),
        (COUNT, "ParityCoT", f"parity of k among {options.prompt_bits} bits, by counting them", "k"),
    )
    figure, drawn = new_panels(
        "A linear model computes if it may write the steps down",
        [xlabel for *_, xlabel in panels],
        "answers entirely right",
        size=(13.0, 4.6),
    )
    for axes, (part, task, title, _) in zip(drawn, panels, strict=True):
        axes.set_title(title, fontsize=11)
        draw_runs(axes, summary, part, task)
    legend(figure)
    return figure


def control_figure(summary: Summary) -> Figure:
    """The increment machine."""
    from experiments.charts import new_panels

    figure, (axes,) = new_panels(
        "Not every computation needs its steps", ["bits of the number"], "answers entirely right", size=(8.6, 4.6)
    )
    axes.set_title("Turing machine that adds one", fontsize=11)
    draw_runs(axes, summary, RUNS, INCREMENT)
    legend(figure, rows=2)
    return figure


def step_figure(summary: Summary) -> Figure:
    """Fresh cells against the number of configurations learned from, a panel for each learner."""
    from experiments.charts import COLOURS, end_labels, new_panels, plot_series

    figure, panels = new_panels(
        "How many configurations teach a linear model one step of a machine?",
        ["configurations learned from"] * len(LEARNERS),
        "cells of fresh configurations right",
        size=(11.6, 4.6),
    )
    looks = {BEAVER: (COLOURS["green"], "o"), PARITY: (COLOURS["purple"], "D"), INCREMENT: (COLOURS["orange"], "s")}
    for axes, learner in zip(panels, LEARNERS, strict=True):
        axes.set_title(learner, fontsize=11)
        sizes = sorted({row["n"] for row in summary.select(CELLS, part=STEP)})
        axes.set_xscale("log")
        axes.set_xticks(sizes, labels=[f"{size:g}" for size in sizes])
        axes.set_xticks([], minor=True)
        if sizes:
            axes.set_xlim(sizes[0] / 1.15, sizes[-1] * (1.15 if axes is not panels[-1] else 3.2))
        lines = []
        for machine, (shade, marker) in looks.items():
            series = summary.series("n", CELLS, part=STEP, task=machine, learner=learner)
            plot_series(axes, series, learner, color=shade, marker=marker, linestyle="-")
            if len(series.x) and axes is panels[-1]:
                lines.append((float(series.x[-1]), float(series.mean[-1]), machine, shade))
    panels[0].set_ylim(None, 1.003)
    end_labels(panels[-1], lines)
    return figure


# -- Tables, figures and findings from the summary of the study -------------------------------------------------------


UNITS = {BEAVER: "steps", PARITY: "bits", INCREMENT: "bits", "ParityCoT": "k"}


def shown(summary: Summary, metric: str, digits: int = 3, **labels: object) -> str:
    """The one number with these labels, with its interval; empty where there is none."""
    rows = summary.select(metric, **labels)  # type: ignore[arg-type]
    return with_interval(rows[0].mean, rows[0].lower, rows[0].upper, digits) if len(rows) else ""


def runs_table(summary: Summary, part: str, task: str) -> Table:
    """Exact match of every learner, with and without the chain, by length."""
    lengths = sorted({row["length"] for row in summary.select(EXACT, part=part, task=task)})
    lines = []
    for chain in (CHAIN, DIRECT):
        for learner in LEARNERS:
            cells = [
                shown(summary, EXACT, part=part, task=task, learner=learner, chain=chain, length=L) for L in lengths
            ]
            lines.append([f"{learner}, {chain}", *cells])
    note = "Share of prompts whose whole answer greedy decoding writes. "
    note += f"{intervals_over(summary.select(EXACT, part=part, task=task))}."
    return Table(f"Exact match, {task}", ["learner", *(f"{UNITS[task]}={L}" for L in lengths)], lines, note)


def step_table(summary: Summary) -> Table:
    """Accuracy of fresh cells."""
    sizes = sorted({row["n"] for row in summary.select(CELLS, part=STEP)})
    lines = [
        [
            f"{machine}, {learner}",
            *(shown(summary, CELLS, 4, part=STEP, task=machine, learner=learner, n=n) for n in sizes),
        ]
        for machine in (BEAVER, PARITY, INCREMENT)
        for learner in LEARNERS
    ]
    note = f"Given true configurations; ``|`` is not counted. {intervals_over(summary.select(CELLS, part=STEP))}."
    return Table(
        "Fresh cells right after n random configurations", ["machine, learner", *(f"n={n}" for n in sizes)], lines, note
    )


def at(summary: Summary, part: str, task: str, learner: str, chain: str, length: float) -> float:
    """An exact match."""
    return summary.value(EXACT, part=part, task=task, learner=learner, chain=chain, length=length)


def run_finding(options: TuringOptions, summary: Summary, task: str) -> list[str]:
    """With the chain at its longest, and without it at the same length or the longest there is."""
    lengths = {
        chain: sorted({row["length"] for row in summary.select(EXACT, part=RUNS, task=task, chain=chain)})
        for chain in (CHAIN, DIRECT)
    }
    if not all(lengths.values()):
        return []  # a cell failed
    top, longest = (lengths[chain][-1] for chain in (CHAIN, DIRECT))
    unit = UNITS[task]
    words = [
        f"{learner} {at(summary, RUNS, task, learner, CHAIN, top):.3f} (at once, {longest} {unit}: "
        f"{at(summary, RUNS, task, learner, DIRECT, longest):.3f})"
        for learner in LEARNERS
    ]
    return [
        f"The {task}: with the chain, exact match over whole runs at {top} {unit} from {options.n} demonstrations of "
        f"{TRAINED[task]} {unit}, {top / TRAINED[task]:g} times shorter: {'; '.join(words)}. The answer at once was "
        f"learned from {options.n_direct} demonstrations of the very length it is tested at, and its linear class sees "
        "the whole prompt and the answer so far."
    ]


def step_finding(summary: Summary) -> list[str]:
    """The fresh cells by number of configurations, for the perceptron, with the first measurements to compare."""
    sizes = sorted({row["n"] for row in summary.select(CELLS, part=STEP)})
    said = []
    for learner in LEARNERS:
        words = []
        for machine in (BEAVER, PARITY, INCREMENT):
            values = [summary.value(CELLS, part=STEP, task=machine, learner=learner, n=n) for n in sizes]
            if all(math.isfinite(value) for value in values):
                words.append(f"{machine} {' / '.join(f'{value:.4f}' for value in values)}")
        if words:
            said.append(
                f"One step learned by {learner} from {' / '.join(f'{n:g}' for n in sizes)} random configurations, "
                f"share of fresh cells right: {'; '.join(words)}."
            )
    return said


def analyse(options: TuringOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    top = max(options.subset_sizes)
    counting = [
        f"{learner} {at(summary, COUNT, 'ParityCoT', learner, CHAIN, top):.3f} with the count in binary before it, "
        f"{at(summary, COUNT, 'ParityCoT', learner, DIRECT, top):.3f} at once"
        for learner in LEARNERS
    ]
    longest = f"Parity of k={top} of {options.prompt_bits} bits from {options.n_direct} demonstrations"
    findings = [
        *run_finding(options, summary, BEAVER),
        *run_finding(options, summary, PARITY),
        f"{longest}: {'; '.join(counting)}.",
        *run_finding(options, summary, INCREMENT),
        "Adding one is the control: the place where the carry ends is a conjunction of bits, which is linear, so the "
        "answer needs no chain. What a chain buys depends on the function, not on the machine that computes it.",
        *step_finding(summary),
    ]
    spread = f"{interval_words(options.seeds)}."
    figures = [
        FigureSpec(
            "headline",
            "Can a linear model compute?",
            "Share of prompts whose whole answer (with the chain: every token of it) is right under greedy decoding. "
            f"The two machines: with the chain, learned from {options.n} runs of the shaded lengths only; the same "
            f"weights then serve longer runs and wider tapes. At once: learned from {options.n_direct} runs of each "
            f"length (words up to {options.direct_bits} bits), by a linear class that sees all of the prompt. Runs of "
            "the busy beaver are those that have not "
            f"halted before. Counting: both from {options.n_direct} demonstrations of each k. {spread}",
            lambda: headline_figure(summary, options),
        ),
        FigureSpec(
            "one-step",
            "How many examples does one step of a machine take?",
            f"Random configurations on 12 cells, all states; share of the cells of fresh ones predicted. {spread}",
            lambda: step_figure(summary),
        ),
        FigureSpec(
            "control",
            "Does every computation need its steps?",
            "Adding one: which bits flip is decided by a conjunction of bits, a linear function, so that the answer at "
            f"once is (nearly) as good as the run of the machine. {spread}",
            lambda: control_figure(summary),
        ),
    ]
    tables = [
        runs_table(summary, RUNS, BEAVER),
        runs_table(summary, RUNS, PARITY),
        runs_table(summary, COUNT, "ParityCoT"),
        runs_table(summary, RUNS, INCREMENT),
        step_table(summary),
    ]
    return Analysis(tables=tables, figures=figures, findings=findings)


STUDY = Study(
    name="turing",
    question="Can linear next-token models learn to compute, how far beyond their data, and what without the chain?",
    options=TuringOptions,
    cells=cells,
    analyse=analyse,
    labels=("chain", "length"),
)
