"""Tables, figures and findings from the summary of the study."""

from __future__ import annotations

import math

from experiments.statistics import interval_words
from experiments.studies.turing.drawings import control_figure, headline_figure, step_figure
from experiments.studies.turing.options import TuringOptions
from experiments.studies.turing.sweep import (
    BEAVER,
    CELLS,
    CHAIN,
    COUNT,
    DIRECT,
    EXACT,
    INCREMENT,
    LEARNERS,
    PARITY,
    RUNS,
    STEP,
    TRAINED,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, intervals_over
from experiments.tables import Table, with_interval

__all__ = ["analyse"]

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
