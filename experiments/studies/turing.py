"""What a chain of thought buys a linear next-token model: Turing machines and parity, with it and without.

A learner with the chain sees short runs of a machine and is asked for long ones; a learner without it sees the answers
of the very length it is asked for. Beside them: how many configurations teach one step of a machine, and parity of k
hidden bits with and without their count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import Agent, LogLossBC, PerceptronBC
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure
from experiments.measure import named, quiet_fit
from experiments.panels import Curve, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, interval_words, intervals_over, pivot
from ntp_envs import Demonstrations, GreedyPolicy, Policy, Task, make_task
from ntp_envs.arrays import first_best
from ntp_envs.tasks import TuringMachine

RUNS, STEP, COUNT = "runs", "one step", "count parity"
CHAINS = CHAIN, DIRECT = "chain", "no chain"
EXACT = "exact match, free-running"
CELLS = "accuracy of fresh cells"
PARITY, BEAVER, INCREMENT, COUNTING = "parity machine", "busy beaver", "increment machine", "ParityCoT"
STORY = (BEAVER, PARITY, INCREMENT)  # the order of the tables; the cells have that of MACHINES
MACHINES = {PARITY: "parity", BEAVER: "busy_beaver_4", INCREMENT: "increment"}
#: what the length of a run is counted in
UNITS = {BEAVER: "steps", PARITY: "bits", COUNTING: "k", INCREMENT: "bits"}
#: steps or bits of the demonstrations with the chain
TRAINED = {PARITY: 4, BEAVER: 2, INCREMENT: 4}
STEP_WIDTH = 12
RADIUS = 200.0
LEARNERS = ("perceptron", "log-loss")


@dataclass(frozen=True)
class TuringOptions(Options):
    n: int = option(300)
    """Demonstrations of short runs that the learners with the chain get."""
    n_direct: int = option(1000, quick=300)
    """Demonstrations that the learners without the chain get, of the very length they are tested at."""
    steps: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), quick=(1, 2, 4, 8, 16))
    """Run lengths on the busy beaver; with the chain, all demonstrations have 2 steps."""
    width: int = option(16, quick=12, least=4)
    """Cells of the busy beaver's tape."""
    bits: tuple[int, ...] = option((4, 8, 16, 32, 64), quick=(4, 8, 16, 32))
    """Word lengths of the parity and the increment machine; with the chain, all demonstrations have 4 bits."""
    direct_bits: int = option(16)
    """The longest words without the chain: the whole prompt is in the features, so that longer ones take memory."""
    prompt_bits: int = option(20)
    """Length of the prompt of `ParityCoT`."""
    subset_sizes: tuple[int, ...] = option((1, 2, 4, 8, 16), most="prompt_bits")
    """Hidden bits that its parity is over."""
    sizes: tuple[int, ...] = option((10, 20, 50, 100, 200, 500), quick=(10, 20, 50, 100, 200))
    """Random configurations from which one step is learned."""
    test: int = option(200, quick=100)
    """Runs that a policy is tested on at each length."""
    seeds: int = option(10, quick=3)
    """Replicates: data sets and test sets."""


# -- cells: tasks and data, fits, and how much of an answer is right ---------------------------------------------------


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


def answered(task: Any, prompts: NDArray[np.int64]) -> Demonstrations:
    """These prompts of a task with one right answer, and the answers."""
    return Demonstrations(prompts, task.targets(prompts), vocab_size=task.vocab_size)


def hard_runs(task: TuringMachine, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of runs that take all their steps; of words, which always do, as they come."""
    kept: list[NDArray[np.int64]] = []
    while sum(map(len, kept)) < n:
        prompts = task.sample_prompts(4 * n, rng)
        kept.append(prompts[running(task, prompts)] if task.kind_of_input == "random" else prompts)
    return answered(task, np.concatenate(kept)[:n])


def drawn(task: Task, n: int, rng: np.random.Generator) -> Demonstrations:
    """Demonstrations of a task with one right answer."""
    return answered(task, task.sample_prompts(n, rng))


def fit(learner: str, demonstrations: Demonstrations, task: Task, rng: np.random.Generator) -> Any:
    """The policy learned, by maximum likelihood to 1e-4 nats a token, or by the perceptron.

    That the perceptron does not separate the answers without a chain is what is measured.
    """
    tol = 1e-4 * demonstrations.horizon
    agent: Agent = LogLossBC(tol=tol) if learner == "log-loss" else PerceptronBC(max_epochs=20)
    return quiet_fit(agent, demonstrations, task.policy_class, rng)


def exact_match(policy: Policy, truth: Demonstrations, rng: np.random.Generator) -> float:
    """Share of prompts whose whole answer greedy decoding writes as the expert does."""
    written = GreedyPolicy(policy).sample(truth.prompts, truth.horizon, rng)
    return float((written == truth.tokens).all(axis=1).mean())


def record(task: str, learner: str, chain: str, length: int, n: int, horizon: int, value: float, test: int) -> Record:
    """One measured exact match."""
    labels = {**named(task, learner, horizon, n), "chain": chain, "length": length}
    return Record(EXACT, value, labels, method=f"greedy decoding of {test} prompts")


def chained(
    *, machine: str, learner: str, n: int, lengths: Sequence[int], width: int, test: int, replicate: int,
    rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
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
    *, machine: str, learner: str, n: int, length: int, width: int, test: int, replicate: int, rng: np.random.Generator
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
        records.append(record(COUNTING, learner, chain, k, n, task.horizon, value, test))
    return records


def one_step(
    *, machine: str, learner: str, sizes: Sequence[int], test: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The share of cells of fresh random configurations whose next content is predicted, given true ones."""
    shape: dict[str, Any] = {"width": STEP_WIDTH, "steps": 1, "inputs": "random", "radius": RADIUS}
    task = make_task("TuringMachine", machine=MACHINES[machine], **shape)
    fresh = drawn(task, test, rng)
    records = []
    for n in sizes:
        policy = fit(learner, drawn(task, n, rng), task, rng)
        right = first_best(policy.forced_log_probs(fresh.prompts, fresh.tokens)) == fresh.tokens
        labels: dict[str, Label] = {"task": machine, "learner": learner, "n": n}
        records.append(Record(CELLS, float(right[:, :-1].mean()), labels, method=f"{test} prompts"))
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


# -- tables ------------------------------------------------------------------------------------------------------------


def tables(o: TuringOptions, summary: Summary) -> Iterator[Table]:
    """Exact match of every learner, with and without the chain, by length; accuracy of fresh cells."""
    lines = [(f"{name}, {chain}", {"learner": name, "chain": chain}) for chain in CHAINS for name in LEARNERS]
    for task in UNITS:
        found = summary.select(EXACT, part=COUNT if task == COUNTING else RUNS, task=task)
        lengths = [(f"{UNITS[task]}={length}", {"length": length}) for length in sorted(found.distinct("length"))]
        note = f"Share of prompts whose whole answer greedy decoding writes. {intervals_over(found)}."
        yield pivot(found, f"Exact match, {task}", EXACT, lines, lengths, note=note)
    found = summary.select(CELLS, part=STEP)
    lines = [(f"{task}, {name}", {"task": task, "learner": name}) for task in STORY for name in LEARNERS]
    sizes = [(f"n={n}", {"n": n}) for n in sorted(found.distinct("n"))]
    note = f"Given true configurations; ``|`` is not counted. {intervals_over(found)}."
    title, corner = "Fresh cells right after n random configurations", "machine, learner"
    yield pivot(found, title, CELLS, lines, sizes, digits=4, corner=corner, note=note)


# -- figures: colour is the chain, marker and dashes the learner -------------------------------------------------------


CHAIN_COLOURS = {CHAIN: COLOURS["blue"], DIRECT: COLOURS["vermilion"]}
LOOKS: dict[str, dict[str, Any]] = {
    "perceptron": {"marker": "o", "linestyle": "-"},
    "log-loss": {"marker": "s", "linestyle": "--"},
}


def runs_panel(part: str, task: str, xlabel: str, title: str) -> Panel:
    """Exact match against length, with and without the chain."""
    curves = [
        Curve({"part": part, "task": task, "learner": learner, "chain": chain}, look={**look, "color": colour})
        for chain, colour in CHAIN_COLOURS.items()
        for learner, look in LOOKS.items()
    ]
    return Panel("length", xlabel, EXACT, curves, yscale="share", ylim=(-0.03, 1.08), title=title)


def runs_figure(summary: Summary, title: str, size: tuple[float, float], rows: int, *panels: Panel) -> Figure:
    """The panels, the lengths in the chain's data shaded, and which line is which below them."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = chart(summary, title, "answers entirely right", *panels, size=size)
    for axes, panel in zip(figure.axes, panels, strict=True):
        if panel.curves[0].where["part"] == RUNS:
            axes.axvspan(1e-3, TRAINED[panel.curves[0].where["task"]], color=COLOURS["blue"], alpha=0.07, linewidth=0)
    handles = [
        Line2D([], [], color=CHAIN_COLOURS[CHAIN], linewidth=4, label="with the chain of thought"),
        Line2D([], [], color=CHAIN_COLOURS[DIRECT], linewidth=4, label="answer at once"),
        Patch(facecolor=COLOURS["blue"], alpha=0.12, label="lengths in the chain's data"),
        *(Line2D([], [], color=COLOURS["grey"], label=learner, **look) for learner, look in LOOKS.items()),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // rows), fontsize=9.5)
    return figure


def at_longest(summary: Summary, part: str, task: str, chain: str) -> tuple[int, dict[str, float]]:
    """The longest runs there are, and the exact match of each learner on them; 0 and none where cells failed."""
    found = summary.select(EXACT, part=part, task=task, chain=chain)
    top = max(found.distinct("length"), default=0)
    return top, {learner: found.value(EXACT, learner=learner, length=top) for learner in LEARNERS} if top else {}


def headline_figure(summary: Summary, options: TuringOptions) -> Figure:
    """The busy beaver, the parity machine and counting, side by side."""
    places = ((RUNS, BEAVER), (RUNS, PARITY), (COUNT, COUNTING))
    longest = [[at_longest(summary, *place, chain)[1] for place in places] for chain in CHAINS]
    written, at_once = ([share for found in shares for share in found.values()] for shares in longest)
    title = "Does a linear model compute if it may write the steps down?"
    if written and at_once and np.isfinite([*written, *at_once]).all():
        title = (
            f"The longest runs of a linear model: {min(written):.0%} right or more if it may write the steps down, "
            f"at most {max(at_once):.0%} at once"
        )
    panels = (
        runs_panel(RUNS, BEAVER, "steps of the machine", "busy beaver with 4 states, random tapes"),
        runs_panel(RUNS, PARITY, "bits of the word", "Turing machine for parity"),
        runs_panel(COUNT, COUNTING, "k", f"parity of k among {options.prompt_bits} bits, by counting them"),
    )
    return runs_figure(summary, title, (13.0, 4.6), 1, *panels)


def step_figure(summary: Summary) -> Figure:
    """Fresh cells against the number of configurations learned from, a panel for each learner."""
    looks = {BEAVER: (COLOURS["green"], "o"), PARITY: (COLOURS["purple"], "D"), INCREMENT: (COLOURS["orange"], "s")}
    panels = []
    for learner in LEARNERS:
        last, curves = learner == LEARNERS[-1], []  # the last panel has the names of the lines
        for machine, (colour, marker) in looks.items():
            where = {"part": STEP, "task": machine, "learner": learner}
            look = {"color": colour, "marker": marker, "linestyle": "-"}
            curves.append(Curve(where, machine if last else "", look=look))
        shape: dict[str, Any] = {"xscale": "log", "yscale": "linear", "ylim": (None, 1.003)}
        panels.append(Panel("n", "configurations learned from", CELLS, curves, title=learner, **shape))
    title = "How many configurations teach a linear model one step of a machine?"
    return chart(summary, title, "cells of fresh configurations right", *panels, size=(11.6, 4.6))


def figures(options: TuringOptions, summary: Summary) -> list[FigureSpec]:
    spread = f"{interval_words(options.seeds)}."
    adds = runs_panel(RUNS, INCREMENT, "bits of the number", "Does a Turing machine that adds one need its steps?")
    return [
        FigureSpec(
            "headline",
            "Can a linear model compute?",
            "Share of prompts whose whole answer (with the chain: every token of it) is right under greedy "
            f"decoding. The two machines: with the chain, learned from {options.n} runs of the shaded lengths "
            "only; the same weights then serve longer runs and wider tapes. At once: learned from "
            f"{options.n_direct} runs of each length (words up to {options.direct_bits} bits), by a linear class "
            "that sees all of the prompt. Runs of the busy beaver are those that have not halted before. Counting: "
            f"both from {options.n_direct} demonstrations of each k. {spread}",
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
            "Adding one: which bits flip is decided by a conjunction of bits, a linear function, so that the "
            f"answer at once is within reach of the class, as the run of the machine is. {spread}",
            lambda: runs_figure(summary, adds.title, (8.6, 4.6), 2, replace(adds, title="")),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def run_finding(options: TuringOptions, summary: Summary, task: str) -> Iterator[str]:
    """With the chain at its longest, and without it at the same length or the longest there is."""
    top, written = at_longest(summary, RUNS, task, CHAIN)
    longest, at_once = at_longest(summary, RUNS, task, DIRECT)
    if written and at_once:
        unit = UNITS[task]
        words = [f"{name} {written[name]:.3f} (at once, {longest} {unit}: {at_once[name]:.3f})" for name in LEARNERS]
        yield (
            f"The {task}: with the chain, exact match over whole runs at {top} {unit} from {options.n} demonstrations "
            f"of {TRAINED[task]} {unit}, {top / TRAINED[task]:g} times shorter: {'; '.join(words)}. The answer at once "
            f"was learned from {options.n_direct} demonstrations of the very length it is tested at, and its linear "
            "class sees the whole prompt and the answer so far."
        )


def findings(options: TuringOptions, summary: Summary) -> Iterator[str]:
    """The machines, parity of the most bits, adding one, and the fresh cells by number of configurations."""
    yield from run_finding(options, summary, BEAVER)
    yield from run_finding(options, summary, PARITY)
    (top, written), (_, at_once) = (at_longest(summary, COUNT, COUNTING, chain) for chain in CHAINS)
    share = "{} {:.3f} with the count in binary before it, {:.3f} at once"
    if words := [share.format(name, written[name], at_once[name]) for name in written]:
        said = f"Parity of k={top} of {options.prompt_bits} bits from {options.n_direct} demonstrations"
        yield f"{said}: {'; '.join(words)}."
    for adding in run_finding(options, summary, INCREMENT):
        yield adding
        yield (
            "Adding one is the control: the place where the carry ends is a conjunction of bits, which is linear, so "
            "the answer needs no chain. What a chain buys depends on the function, not on the machine that computes it."
        )
    sizes = sorted(summary.distinct("n", part=STEP))
    for learner in LEARNERS:
        words = []
        for machine in STORY:
            values = [summary.value(CELLS, part=STEP, task=machine, learner=learner, n=n) for n in sizes]
            if values and all(map(math.isfinite, values)):
                words.append(f"{machine} {' / '.join(f'{value:.4f}' for value in values)}")
        if words:
            counts = " / ".join(f"{n:g}" for n in sizes)
            yield (
                f"One step learned by {learner} from {counts} random configurations, share of fresh cells right: "
                f"{'; '.join(words)}."
            )


STUDY = Study(
    name="turing",
    question="Can linear next-token models learn to compute, how far beyond their data, and what without the chain?",
    options=TuringOptions,
    cells=cells,
    analyse=analysis(
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"learned from {o.n} runs with the chain, {o.n_direct} of each length at once",
    ),
    labels=("chain", "length"),
)
