"""A path to plan under teacher forcing, with the targets reversed, and without a teacher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents import make_agent
from experiments.cells import Cell, Label, Record, kept_or_made
from experiments.measure import POPULATION, check_distinct, evaluation_records, trains_networks, without_torch
from experiments.study import Analysis, FigureSpec, Study
from experiments.summary import Series, Summary, SummaryRow, Table, derived, number, with_interval
from ntp_envs import collect
from ntp_envs.checks import check_in, check_int, check_real
from ntp_envs.evaluation import evaluate
from ntp_envs.tasks import PathStar
from ntp_envs.tasks.path_star import CleverHansPolicy

# -- What can be changed about the study ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathStarOptions:
    """Sizes of the sweep; the defaults are the full study, hours of training."""

    neural: Literal["auto", "yes", "no"] = "auto"
    """Train transformers, which needs torch (the extra ``neural``); ``auto`` does where it is installed."""
    degrees: tuple[int, ...] = (2, 3, 5, 7)
    """Arms d of the stars of the pointer learner."""
    lengths: tuple[int, ...] = (4, 5, 7)
    """Nodes L on an arm there."""
    length: int = 5
    """The length, one of ``lengths``, that is shown and that the transformers are trained on."""
    nodes: int = 20
    """Labels N to draw from; where a star has more nodes than that, as many as it has."""
    n: int = 5000
    """Prompts on which a pointer learner is evaluated."""
    network_degrees: tuple[int, ...] = (2, 5)
    """Arms of the stars that the transformers are trained on; the first makes the headline."""
    forcing_steps: int = 1000
    """Updates with teacher forcing."""
    reversed_steps: int = 1000
    """Updates with teacher forcing on reversed targets."""
    teacherless_steps: int = 6000
    """Updates without a teacher."""
    second_steps: int = 1000
    """Updates on the second token alone."""
    every: int = 50
    """Updates between two evaluations, after each of which a run that was stopped goes on."""
    prompts: int = 400
    """Prompts of an evaluation while training, the same ones each time."""
    batch_size: int = 256
    """New prompts an update."""
    learning_rate: float = 1e-3
    """Of AdamW, constant."""
    width: int = 64
    """Of the transformer."""
    layers: int = 3
    """Of the transformer."""
    heads: int = 4
    """Of the transformer's attention; divides ``width``."""
    device: str = "cpu"
    """Where the transformers are trained, as torch names it; elsewhere the numbers differ in the last digits."""
    seeds: int = 3
    """Trainings of each kind."""

    def __post_init__(self) -> None:
        check_in("neural", self.neural, ("auto", "yes", "no"))
        check_distinct("degrees", self.degrees, minimum=2)
        check_distinct("network_degrees", self.network_degrees, minimum=2)
        check_distinct("lengths", self.lengths, minimum=3)
        if self.length not in self.lengths:
            raise ValueError(f"length={self.length} must be one of lengths={self.lengths}.")
        check_int("nodes", self.nodes, minimum=2)
        for name in ("forcing_steps", "reversed_steps", "teacherless_steps", "second_steps", "every"):
            check_int(name, getattr(self, name), minimum=1)
        for name in ("n", "prompts", "batch_size", "width", "layers", "heads", "seeds"):
            check_int(name, getattr(self, name), minimum=1)
        if check_real("learning_rate", self.learning_rate, minimum=0.0) == 0.0:
            raise ValueError("learning_rate=0 learns nothing; use a positive number.")
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}.")

    @classmethod
    def quick(cls) -> PathStarOptions:
        """About a minute on two cores: one training of each kind, on the smallest star, teacherless cut short."""
        return cls(
            lengths=(5,),
            n=3000,
            network_degrees=(2,),
            forcing_steps=300,
            reversed_steps=150,
            teacherless_steps=500,
            second_steps=125,
            every=25,
            prompts=600,
            seeds=1,
        )


# -- The cells of the study: pointer learners with every number of hops, and small transformers in every mode ---------


# parts, which are also the names of the learners
POINTER, NETWORK, REFERENCE = "pointer", "transformer", "reference"
HANS = "Clever Hans"
FORCING, REVERSED, TEACHERLESS, SECOND = "teacher forcing", "reversed", "teacherless", "second token only"
#: of the transformer: what it changes about the task, and about the training
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    FORCING: ({}, {}),
    REVERSED: ({"reverse": True}, {}),
    TEACHERLESS: ({}, {"mode": "teacherless"}),
    SECOND: ({}, {"mode": "first_token_only", "positions": (1,)}),
}
#: of the pointer learner: what it changes about the task, the policy class included
POINTER_MODES: dict[str, dict[str, Any]] = {
    FORCING: {},
    REVERSED: {"reverse": True},
    TEACHERLESS: {"teacherless": True},
}

# measures of an evaluation
FORCED, FREE, GREEDY, SAMPLED = "forced_accuracy", "greedy_accuracy", "greedy_exact", "sampled_exact"
EXPECTED, NATS = "sequence_probability", "mean_cross_entropy"
BY_NODE = (FORCED, FREE)
WHOLE = (GREEDY, SAMPLED, EXPECTED, NATS)
CLOSED = "closed form"


def star(degree: int, length: int, nodes: int, **changes: Any) -> PathStar:
    """The task, with enough labels for its nodes."""
    return PathStar(degree, length, max(nodes, 1 + degree * (length - 1)), **changes)


def hops_of(length: int) -> list[int]:
    """Numbers of hops that the pointer learner is given: none, one, and as many as there are."""
    return sorted({0, 1, length - 2})


def pointer(*, mode: str, degree: int, length: int, nodes: int, n: int, rng: np.random.Generator) -> list[Record]:
    """Log-loss on the population in the task's class, evaluated on fresh prompts, with the closed forms."""
    records = []
    for hops in hops_of(length):
        task = star(degree, length, nodes, hops=hops, **POINTER_MODES[mode])
        policy = make_agent("LogLossBC").fit(task.population(), task.policy_class, rng=rng).policy_
        place = place_of(POINTER, mode, task)
        labels: dict[str, Label] = {**place, "hops": hops, "n": POPULATION}
        evaluation = evaluate(policy, task, n=n, rng=rng, samples=0)
        records += [r for r in evaluation_records(evaluation, labels) if r.metric in WHOLE]
        never = mode == TEACHERLESS and length - 3 - hops >= 2  # greedy decoding writes the same label twice
        forms = {SAMPLED: task.class_exact_match, GREEDY: 0.0 if never else task.class_exact_match}
        place = {**place, "learner": CLOSED, "hops": hops}
        records += [Record(metric, value, place, method=CLOSED) for metric, value in forms.items()]
    return records


def copying(*, mode: str, degree: int, length: int, nodes: int, rng: np.random.Generator) -> list[Record]:
    """What copying the next node from the previous one reaches, exactly."""
    task = star(degree, length, nodes, **MODES[mode][0])
    hans, place = CleverHansPolicy(task), place_of(HANS, mode, task)
    records = [
        Record(FORCED, float(share), {**place, "h": h}, method=CLOSED)
        for h, share in enumerate(hans.forced_accuracy, 1)
    ]
    records += [Record(metric, hans.exact_match, place, method=CLOSED) for metric in (GREEDY, SAMPLED)]
    return [*records, Record(NATS, hans.cross_entropy, place, method=CLOSED)]


def trained(
    *,
    mode: str,
    degree: int,
    length: int,
    nodes: int,
    steps: int,
    every: int,
    prompts: int,
    batch_size: int,
    learning_rate: float,
    network: dict[str, Any],
    device: str,
    replicate: int,
    rng: np.random.Generator,
    scratch: Path,
) -> list[Record]:
    """A small transformer on new prompts at every update, evaluated on the same prompts every few of them.

    The graph is read edge by edge, without positions. A stretch of training ends with a checkpoint and then an
    evaluation, and both are kept in ``scratch``: wherever it is stopped, the next call finds the checkpoint that the
    next evaluation is of, or is made from.
    """
    from agents.neural import NetworkClass, NeuralBC

    changes, options = MODES[mode]
    task = star(degree, length, nodes, **changes)
    shown, training, drawn = (int(seed) for seed in rng.integers(2**63, size=3))
    fixed = collect(task, prompts, np.random.default_rng(shown))
    shapes = collect(task, 1, np.random.default_rng(shown))  # of the fresh data; nothing else is read of it
    spec = NetworkClass.for_task("transformer", task, prompt_group=3, prompt_positions=False, **network)
    place = place_of(NETWORK, mode, task)
    counted = (FORCED,) if mode == SECOND else (*BY_NODE, *WHOLE)  # what is written alone makes no answer

    def evaluated(step: int) -> list[Record]:
        agent = NeuralBC(
            **options,
            steps=step,
            schedule="constant",  # so that a longer training begins with the same updates
            batch_size=batch_size,
            learning_rate=learning_rate,
            task=task,
            device=device,
            checkpoint=scratch / "run",
            checkpoint_every=every,
        ).fit(shapes, spec, rng=np.random.default_rng(training))
        sampling = np.random.default_rng([drawn, step])
        evaluation = evaluate(agent.policy_, task, rng=sampling, demonstrations=fixed, samples=0)
        return [r for r in evaluation_records(evaluation, {**place, "step": step}) if r.metric in counted]

    records = []
    for step in sorted({*range(every, steps, every), steps}):
        records += kept_or_made(scratch / f"evaluation-{step}.json", partial(evaluated, step))
    return records


def place_of(learner: str, mode: str, task: PathStar) -> dict[str, Label]:
    """The labels that all records share."""
    return {"task": task.name, "learner": learner, "mode": mode, "H": task.horizon, "degree": task.degree}


def cells(options: PathStarOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, the longest before the others.

    Raises:
        ValueError: transformers are asked for and torch is missing; before anything is run.
    """
    shape = {"length": options.length, "nodes": options.nodes}
    steps = {
        TEACHERLESS: options.teacherless_steps,
        FORCING: options.forcing_steps,
        REVERSED: options.reversed_steps,
        SECOND: options.second_steps,
    }
    training = {name: getattr(options, name) for name in ("every", "prompts", "batch_size", "learning_rate", "device")}
    training["network"] = {name: getattr(options, name) for name in ("width", "layers", "heads")}
    if trains_networks(options.neural):
        for degree in sorted(options.network_degrees, reverse=True):
            for mode in sorted(steps, key=lambda mode: -steps[mode]):
                for replicate in range(options.seeds):
                    cell = {"mode": mode, "degree": degree, **shape, "steps": steps[mode], "replicate": replicate}
                    yield Cell(NETWORK, trained, {**cell, **training}, scratch=True)
    for mode in POINTER_MODES:
        for length in sorted(options.lengths, reverse=True):
            for degree in sorted(options.degrees, reverse=True):
                cell = {"mode": mode, "degree": degree, "length": length, "nodes": options.nodes, "n": options.n}
                yield Cell(POINTER, pointer, cell)
    for mode in (FORCING, REVERSED):
        for degree in sorted({*options.degrees, *options.network_degrees}):
            yield Cell(REFERENCE, copying, {"mode": mode, "degree": degree, **shape})


# -- What the summary says of a training, for the tables, the findings and the figures --------------------------------


#: share of whole answers from which on a task counts as solved, and of prompts from which on a node is learned
SOLVED = 0.9
#: three standard errors of 400 answers, in standard deviations of one
NEAR = 0.15

SOURCE = "Bachmann and Nagarajan 2024, arXiv:2403.06963"
#: (d, L): share of whole answers right of a GPT with teacher forcing: 12 layers, 384 wide, 200,000 graphs
PUBLISHED = {(2, 10): 0.494, (5, 5): 0.186, (7, 7): 0.126}


@dataclass(frozen=True)
class Training:
    """The trainings of one mode on stars of one degree.

    Attributes:
        summary: of the study.
        mode: of the training.
        degree: d.
        length: L.
    """

    summary: Summary
    mode: str
    degree: int
    length: int

    @property
    def place(self) -> dict[str, Any]:
        return {"part": NETWORK, "mode": self.mode, "degree": self.degree, "H": self.length}

    def node(self, node: int, metric: str = FORCED) -> Series:
        """Accuracy on a node of the path, 1 the start and L the goal, wherever it is written."""
        h = self.length + 1 - node if self.mode == REVERSED else node
        return self.summary.series("step", metric, **self.place, h=h)

    def whole(self, metric: str = GREEDY) -> Series:
        """A measure of whole answers."""
        return self.summary.series("step", metric, **self.place)

    @property
    def steps(self) -> int:
        """The last step that was evaluated."""
        return int(self.node(2).x[-1])

    def at_end(self, metric: str, **labels: Any) -> SummaryRow:
        """The row of the last step."""
        return max(self.summary.select(metric, **self.place, **labels), key=lambda row: row["step"])

    def node_at_end(self, node: int, metric: str = FORCED) -> SummaryRow:
        """The row of a node at the last step."""
        return self.at_end(metric, h=self.length + 1 - node if self.mode == REVERSED else node)


def first_above(series: Series, level: float) -> int | None:
    """The step from which on the mean stays at or above a level, if it does at the end."""
    below = np.flatnonzero(series.mean < level)
    start = below[-1] + 1 if len(below) else 0
    return int(series.x[start]) if start < len(series.x) else None


def trainings(summary: Summary, degree: int) -> dict[str, Training]:
    """The modes of which there are records, on stars of this degree."""
    rows = summary.select(FORCED, part=NETWORK, degree=degree)
    return {row["mode"]: Training(summary, row["mode"], degree, row["H"]) for row in rows}


def nodes_of(length: int) -> range:
    """The nodes of a path but the first, which is given."""
    return range(2, length + 1)


def shown(row: SummaryRow) -> str:
    """``mean [lower, upper]``."""
    return with_interval(row.mean, row.lower, row.upper, 2)


def agrees(row: SummaryRow, degree: int) -> bool:
    """Whether a share is about 1/d: within `NEAR` standard deviations of one answer, right or wrong."""
    chance = 1 / degree
    return abs(row.mean - chance) <= NEAR * math.sqrt(chance * (1 - chance))


def copies(training: Training) -> bool:
    """Whether the nodes after the second are learned given the true prefix, and whole answers are at 1/d."""
    later = [training.node_at_end(node).mean for node in nodes_of(training.length) if node > 2]
    return min(later) >= SOLVED and agrees(training.at_end(GREEDY), training.degree)


# -- What the summary says, in sentences ------------------------------------------------------------------------------


def listed(training: Training) -> str:
    """Accuracy by node at the end."""
    return ", ".join(shown(training.node_at_end(node)) for node in nodes_of(training.length))


def forcing_finding(training: Training) -> str:
    """Teacher forcing against copying."""
    d, exact, nats = training.degree, training.at_end(GREEDY), training.at_end(NATS)
    place: dict[str, Any] = {"part": REFERENCE, "learner": HANS, "mode": FORCING, "degree": d}
    floor = training.summary.value(NATS, **place)
    verdict = (
        "as many as copying the previous node gives:" if copies(training) else "copying the previous node would give"
    )
    return (
        f"Teacher forcing (d={d}, L={training.length}, {training.steps} updates): after the true prefix nodes 2 to "
        f"{training.length} are right in {listed(training)} of the prompts. Running free, {shown(exact)} of whole "
        f"answers are right; {verdict} 1/d = {1 / d:.3g}. The loss is {number(nats.mean, 3)} nats a token, the least "
        f"that copying reaches {number(floor, 3)}."
    )


def reversed_finding(training: Training) -> str:
    """The same answers, last token first."""
    step, exact = first_above(training.whole(), SOLVED), training.at_end(GREEDY)
    when = f"nine in ten from update {step} on" if step is not None else f"not solved in {training.steps} updates"
    return (
        f"Reversed targets (d={training.degree}): {shown(exact)} of whole answers are right after {training.steps} "
        f"updates, {when}. The same network, data and loss: only the order of writing has changed, in which each node "
        "is the one parent of the node before."
    )


def teacherless_finding(training: Training) -> str:
    """In which order the nodes are learned."""
    when = {node: first_above(training.node(node), SOLVED) for node in nodes_of(training.length)}
    known = [f"{node} from update {when[node]} on" for node in reversed(when) if when[node] is not None]
    open_ = [f"{node} at {shown(training.node_at_end(node))}" for node in reversed(when) if when[node] is None]
    said = f"Teacherless (d={training.degree}, {training.steps} updates): nodes are right in nine of ten prompts: "
    said += ", ".join(known) or "none"
    if open_:
        said += f"; still open: {', '.join(open_)}"
    return f"{said}. Whole answers {shown(training.at_end(GREEDY))}."


def second_finding(found: dict[str, Training]) -> str:
    """What is left when copying is taken away from the loss."""
    training = found[SECOND]
    d, row = training.degree, training.node_at_end(2)
    said = (
        f"Loss of supervision (d={d}): trained on the second token alone, where there is nothing to copy, it is right "
        f"in {shown(row)} of the prompts after {training.steps} updates"
    )
    said += f", 1/d = {1 / d:.3g} still" if agrees(row, d) else f"; 1/d = {1 / d:.3g}"
    if REVERSED in found:
        control = found[REVERSED].node_at_end(2)
        said += f"; with reversed targets the network writes the same node right in {shown(control)}"
    return f"{said}. One token in the loss does not show the steps that lead to it."


def pointer_findings(summary: Summary, length: int, rows: list[SummaryRow]) -> list[str]:
    """What the pointer learner isolates, and the closed form."""

    def of(mode: str, degree: int) -> str:
        got = summary.series("hops", EXPECTED, part=POINTER, learner=POINTER, mode=mode, degree=degree, H=length)
        return " | ".join(number(value, 3) for value in got.mean)

    degrees = sorted({row["degree"] for row in summary.select(EXPECTED, part=POINTER, H=length)})
    if not rows or not degrees:
        return []
    (row,) = rows
    hops = " | ".join(str(hop) for hop in hops_of(length))
    words = "; ".join(f"{mode} {of(mode, degrees[0])}" for mode in SHOWN)
    return [
        f"Misspecification by itself (log-linear pointers, d={degrees[0]}, L={length}, {hops} hops seen): whole "
        f"answers right {words}. The expected exact match of every fit is within {number(row.mean, 2)} of its closed "
        f"form ({row.method}). Without the hops a teacherless learner does worse than one that copies; with all "
        "of them each of the three is right."
    ]


def law_finding(summary: Summary, length: int, degrees: Iterable[int]) -> str:
    """1/d, ours and theirs."""
    pointers = summary.select(EXPECTED, part=POINTER, learner=POINTER, mode=FORCING, H=length, hops=0)
    words = ["pointers " + ", ".join(f"{row.mean:.3f} (d={row['degree']})" for row in reversed(pointers))]
    networks = [found[FORCING].at_end(GREEDY) for d in degrees if FORCING in (found := trainings(summary, d))]
    if networks:
        words.append("transformer " + ", ".join(f"{shown(row)} (d={row['degree']})" for row in networks))
    theirs = ", ".join(f"{value:.1%} on (d, L) = ({d}, {L})" for (d, L), value in PUBLISHED.items())
    return (
        f"Teacher forcing against 1/d: {'; '.join(words)}. Published, not ours: {theirs}, a GPT of 12 layers, 384 "
        f"wide, 200,000 graphs ({SOURCE})."
    )


def limit_findings(options: PathStarOptions, summary: Summary) -> list[str]:
    """What these sizes cannot show."""
    found = trainings(summary, options.network_degrees[0])
    if not found:
        return []
    said = []
    if options.seeds == 1:
        said.append("one training of each kind, so intervals are over prompts and not over trainings")
    if len(options.network_degrees) == 1:
        said.append(f"transformers on d={options.network_degrees[0]} only")
    if TEACHERLESS in found and found[TEACHERLESS].at_end(GREEDY).mean < SOLVED:
        said.append(f"whether a longer teacherless training gets to node 2: it stopped at {found[TEACHERLESS].steps}")
    if options.seeds == 1 or len(options.network_degrees) == 1:
        more = "The full study (without --quick) trains longer, with more seeds and arms"
    else:
        more = "--teacherless-steps makes it longer"
    return [f"Not shown at these sizes: {'; '.join(said)}. {more}; a run that is stopped goes on."] if said else []


def findings(options: PathStarOptions, summary: Summary, rows: list[SummaryRow]) -> list[str]:
    """Everything in words."""
    said = []
    if not trains_networks(options.neural):
        why = "left out with --neural no" if options.neural == "no" else f"left out: {without_torch()}"
        said.append(f"Part B, transformers over training, was {why}. What follows is part A, the pointer learners.")
    for degree in options.network_degrees:
        found = trainings(summary, degree)
        for mode, finding in (
            (FORCING, forcing_finding),
            (REVERSED, reversed_finding),
            (TEACHERLESS, teacherless_finding),
        ):
            if mode in found:
                said.append(finding(found[mode]))
        if SECOND in found:
            said.append(second_finding(found))
    said += pointer_findings(summary, options.length, rows)
    said.append(law_finding(summary, options.length, options.network_degrees))
    return said + limit_findings(options, summary)


# -- How the figures of the study are drawn ---------------------------------------------------------------------------


#: the modes of the headline, in its order
SHOWN = (FORCING, REVERSED, TEACHERLESS)
#: nodes of the path after the second, from near the start to the goal
BLUES = ("#A6CBE3", "#5AA3CF", "#2A7AB5", "#0B4F8A", "#062F54")


def colour_of(node: int, length: int) -> str:
    """Vermilion for the second node, which has to be planned; blue from there to the goal."""
    from experiments.charts import COLOURS

    if node == 2:
        return COLOURS["vermilion"]
    picks = np.linspace(0, len(BLUES) - 1, max(length - 2, 1)).round().astype(int)
    return BLUES[picks[node - 3]]


def name_of(node: int, length: int) -> str:
    """In the legend."""
    if node == 2:
        return "node 2, the choice of an arm"
    return f"node {node}, the goal" if node == length else f"node {node}"


def band(axes: Axes, series: Series, **look: Any) -> Any:
    """A line with its 95 % interval as a band."""
    from experiments.charts import say_band

    (line,) = axes.plot(series.x, series.mean, **look, marker="o" if len(series.x) == 1 else "")
    axes.fill_between(series.x, series.lower, series.upper, color=look["color"], alpha=0.15, linewidth=0)
    say_band(axes, "each point")
    return line


def learning_figure(summary: Summary, degree: int, metric: str, title: str, headings: dict[str, str]) -> Figure:
    """Accuracy by node of the path against updates, and whole answers; a panel for each mode."""
    from experiments.charts import COLOURS, new_panels

    found = trainings(summary, degree)
    modes = [mode for mode in SHOWN if mode in found]
    ylabel = "share right on fresh prompts"
    figure, panels = new_panels(title, ["updates"] * len(modes), ylabel, size=(13.0, 4.9))
    names: dict[str, Any] = {}
    for axes, mode in zip(panels, modes, strict=True):
        training = found[mode]
        axes.set_title(f"{mode.capitalize()}: {headings[mode]}", fontsize=11)
        axes.axhline(1 / degree, color=COLOURS["grey"], linestyle="--", linewidth=1.3, zorder=1)
        for node in range(training.length, 1, -1):
            look = {"color": colour_of(node, training.length), "linewidth": 3.0 if node == 2 else 2.0}
            names[name_of(node, training.length)] = band(axes, training.node(node, metric), **look)
        look = {"color": COLOURS["black"], "linewidth": 3.2, "linestyle": (0, (2.2, 1.1)), "zorder": 4}
        names["whole answer, running free"] = band(axes, training.whole(), **look)
        mark_chance(axes, training, copied=metric == FORCED)
    panels[0].set_ylim(-0.03, 1.06)
    order = sorted(names)
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=10)
    return figure


def mark_chance(axes: Axes, training: Training, *, copied: bool) -> None:
    """1/d over the right end of its line, clear of what wanders about it; and what is copied after true prefixes."""
    from experiments.charts import COLOURS

    chance = 1 / training.degree
    style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 10, "fontweight": "bold"}
    axes.set_xlim(0, training.steps * 1.02)
    axes.text(training.steps, chance + 0.085, f"1/d = {chance:g}", color=COLOURS["grey"], **style)
    if training.mode == FORCING and copies(training):
        if copied:
            nodes = f"nodes 3 to {training.length}: copied" if training.length > 3 else "node 3: copied"
            axes.text(training.steps, 0.95, nodes, color=BLUES[2], **style)
        axes.text(training.steps, chance - 0.13, "node 2: a guess", color=colour_of(2, training.length), **style)


def mode_looks() -> dict[str, tuple[str, str, float]]:
    """Colour, marker and place beside the others of each mode of the pointer learner."""
    from experiments.charts import COLOURS

    return {
        FORCING: (COLOURS["vermilion"], "o", -0.16),
        REVERSED: (COLOURS["green"], "s", 0.0),
        TEACHERLESS: (COLOURS["blue"], "D", 0.16),
    }


def pointer_figure(summary: Summary, length: int, degrees: tuple[int, ...]) -> Figure:
    """Exact match of the pointer learner against the hops that it sees, with the closed form; a panel for each d."""
    from experiments.charts import COLOURS, new_panels, plain_log_axis

    figure, panels = new_panels(
        "A learner that sees too few hops cannot plan, with a teacher or without; reversed, it need not",
        ["ancestors of the goal that it sees"] * len(degrees),
        "whole answers right, sampled",
        size=(11.0, 4.8),
    )
    names: dict[str, Any] = {}
    for axes, degree in zip(panels, degrees, strict=True):
        axes.set_title(f"d={degree} arms of L={length} nodes", fontsize=11)
        hops: list[int] = []
        for mode, (colour, marker, shift) in mode_looks().items():
            place: dict[str, Any] = {"part": POINTER, "mode": mode, "degree": degree, "H": length}
            form = summary.series("hops", SAMPLED, **place, learner=CLOSED)
            got = summary.series("hops", SAMPLED, **place, learner=POINTER)
            if not len(got.x):
                continue
            hops = [int(value) for value in got.x]
            at = np.arange(len(hops)) + shift
            names["closed form"] = axes.hlines(form.mean, at - 0.07, at + 0.07, color=COLOURS["black"], linewidth=2.2)
            seen = got.mean > 0
            bars = np.abs(np.stack([got.mean - got.lower, got.upper - got.mean]))[:, seen]
            look: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "linestyle": "",
                "markersize": 8,
                "elinewidth": 1.5,
            }
            names[mode] = axes.errorbar(at[seen], got.mean[seen], bars, **look, capsize=3)
            for x, y, value in zip(at, np.maximum(got.mean, form.mean), got.mean, strict=True):
                axes.annotate(
                    f"{value:.2g}", (x, y), xytext=(0, 11), textcoords="offset points", ha="center", fontsize=9
                )
        axes.set_xticks(range(len(hops)), labels=[f"{h} (all)" if h == length - 2 else str(h) for h in hops])
        axes.set_xlim(-0.5, len(hops) - 0.5)
        axes.grid(visible=False, axis="x")
    rows = summary.select(SAMPLED, part=POINTER, H=length)
    low = min((row.mean for row in rows if row["degree"] in degrees and row.mean > 0), default=0.5)
    panels[0].axhline(low, linewidth=0)  # the limits of the first panel are those of all
    plain_log_axis(panels[0])
    panels[0].set_ylim(low / 2.0, 2.0)
    order = [name for name in (*mode_looks(), "closed form") if name in names]
    figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=len(order), fontsize=10)
    return figure


def law_figure(summary: Summary, length: int) -> Figure:
    """Exact match under teacher forcing against the number of arms: ours and the published."""
    from experiments.charts import COLOURS, log2_axis, new_figure

    pointers = summary.select(EXPECTED, part=POINTER, mode=FORCING, H=length, hops=0)
    networks = [
        training.at_end(GREEDY)
        for degree in summary.distinct("degree", part=NETWORK)
        for mode, training in trainings(summary, degree).items()
        if mode == FORCING
    ]
    settled = all(agrees(row, row["degree"]) for row in [*pointers, *networks])
    figure, axes = new_figure(
        "Under teacher forcing one answer in d is right, whoever learns" if settled else "Is one answer in d right?",
        "arms d",
        "whole answers right",
        size=(8.2, 4.8),
    )
    shown = sorted({*(row["degree"] for row in [*pointers, *networks]), *(d for d, _ in PUBLISHED)})
    fine = np.geomspace(shown[0] / 1.1, shown[-1] * 1.1, 100)
    axes.plot(fine, 1 / fine, color=COLOURS["grey"], linestyle="--", linewidth=1.5, label="1/d: copying, and a guess")
    looks = (
        (pointers, f"log-linear pointers, L={length}, expected", COLOURS["orange"], "o", 1.0),
        (networks, f"transformer, L={length}, greedy", COLOURS["vermilion"], "s", 1.035),
    )
    for rows, label, colour, marker, shift in looks:
        if not rows:
            continue
        mean = np.array([row.mean for row in rows])
        bars = np.abs(np.array([[row.mean - row.lower, row.upper - row.mean] for row in rows])).T
        at = [row["degree"] * shift for row in rows]
        axes.errorbar(at, mean, bars, color=colour, marker=marker, linestyle="", capsize=3, markersize=8, label=label)
    axes.plot(
        [d for d, _ in PUBLISHED],
        list(PUBLISHED.values()),
        "*",
        color=COLOURS["black"],
        markerfacecolor="none",
        markersize=17,
        label="published, not ours: GPT, 12 layers, 384 wide",
    )
    for (d, L), value in PUBLISHED.items():
        words = f"({d}, {L}) {value:.1%}"
        axes.annotate(words, (d, value), xytext=(4, -20), textcoords="offset points", ha="right", fontsize=9)
    log2_axis(axes, shown)
    axes.set_xlim(shown[0] / 1.25, shown[-1] * 1.35)
    axes.set_ylim(0, 0.6)
    axes.legend(loc="upper right", fontsize=10)
    return figure


# -- Tables and figures from the summary of the study, and the findings with them -------------------------------------


LEARNED = "updates until nine in ten whole answers are right for good"
GAP = "largest gap of the fit to the closed form"
PUBLISHED_ROWS = "published"


def training_table(summary: Summary, degree: int) -> Table | None:
    """Every mode at its last update, and copying."""
    found = trainings(summary, degree)
    if not found:
        return None
    length = next(iter(found.values())).length
    lines = []
    for mode, training in found.items():
        nodes = [shown(training.node_at_end(node)) if mode != SECOND or node == 2 else "" for node in nodes_of(length)]
        whole = [shown(training.at_end(metric)) for metric in (GREEDY, SAMPLED)] if mode != SECOND else ["", ""]
        nats = number(training.at_end(NATS).mean, 3) if mode != SECOND else ""
        lines.append([f"{mode}, {training.steps} updates", *nodes, *whole, nats])
    place: dict[str, Any] = {"part": REFERENCE, "learner": HANS, "mode": FORCING, "degree": degree}
    exact = number(summary.value(GREEDY, **place))
    lines.append(
        [
            "copying, exactly",
            *(number(summary.value(FORCED, **place, h=node)) for node in nodes_of(length)),
            *(exact, exact, number(summary.value(NATS, **place), 3)),
        ]
    )
    heads = ["mode", *(f"node {node}" for node in nodes_of(length)), "exact, greedy", "exact, sampled", "nats a token"]
    note = (
        "Share right on fresh prompts, with 95 % intervals. Nodes of the path after the true prefix, 1 (the start, "
        "trivial) left out; reversed targets write them last to first. Exact: whole answers, running free."
    )
    return Table(f"Transformers on d={degree}, L={length}, at the end", heads, lines, note)


def pointer_table(summary: Summary, length: int) -> Table:
    """Exact match of the pointer learner by mode, d and hops."""
    rows = summary.select(SAMPLED, part=POINTER, learner=POINTER, H=length)
    hops = sorted({row["hops"] for row in rows})
    lines = []
    for mode in dict.fromkeys(row["mode"] for row in rows):
        for degree in sorted({row["degree"] for row in rows}):
            place: dict[str, Any] = {"part": POINTER, "mode": mode, "degree": degree, "H": length}
            for metric, word in ((SAMPLED, "sampled"), (GREEDY, "greedy")):
                cells = []
                for hop in hops:
                    got = summary.select(metric, **place, learner=POINTER, hops=hop)
                    form = summary.value(metric, **place, learner=CLOSED, hops=hop)
                    cells += [shown(got[0]) if len(got) else "", number(form)]
                lines.append([f"{mode}, d={degree}, {word}", *cells])
    heads = ["mode", *(head for hop in hops for head in ("1 hop" if hop == 1 else f"{hop} hops", "closed form"))]
    note = (
        "Whole answers right, running free, with 95 % Wilson intervals: log-loss on the population in the class of "
        "log-linear pointers, which sees so many ancestors of the goal; all of them in the last columns."
    )
    return Table(f"Pointer learners on stars of length {length}", heads, lines, note)


def gap_row(summary: Summary) -> list[SummaryRow]:
    """The largest distance of the expected exact match of a fit from its closed form, of all pointer learners."""
    gaps = []
    for row in summary.select(EXPECTED, part=POINTER):
        place = {name: row[name] for name in ("mode", "degree", "H", "hops")}
        gaps.append(abs(row.mean - summary.value(SAMPLED, part=POINTER, learner=CLOSED, **place)))
    return [derived(POINTER, GAP, round(max(gaps), 9), f"over {len(gaps)} learners")] if gaps else []


def solved_rows(summary: Summary, degrees: Iterable[int]) -> list[SummaryRow]:
    """From which update on whole answers are right, where they are."""
    rows = []
    for degree in degrees:
        for mode, training in trainings(summary, degree).items():
            step = first_above(training.whole(), SOLVED) if mode != SECOND else None
            if step is not None:
                rows.append(derived(NETWORK, LEARNED, step, "greedy", mode=mode, degree=degree, H=training.length))
    return rows


def published_rows() -> list[SummaryRow]:
    """The published marks, labelled as such."""
    labels = {"task": "PathStar", "learner": "GPT, 12 layers, 384 wide", "mode": FORCING}
    return [
        derived(PUBLISHED_ROWS, GREEDY, value, f"published, not ours: {SOURCE}", **labels, degree=d, H=L)
        for (d, L), value in PUBLISHED.items()
    ]


def headings(found: dict[str, Training]) -> dict[str, str]:
    """The answer of each panel, from its numbers."""
    out = {}
    for mode, training in ((mode, found[mode]) for mode in SHOWN if mode in found):
        if first_above(training.whole(), SOLVED) is not None:
            out[mode] = "solved"
        elif mode == FORCING and copies(training):
            out[mode] = f"stuck at 1/{training.degree}"
        else:
            out[mode] = f"{training.at_end(GREEDY).mean:.0%} of answers so far"
    if TEACHERLESS in found and backwards(found[TEACHERLESS]):
        out[TEACHERLESS] = "solved, last node first" if out[TEACHERLESS] == "solved" else "from the last node backwards"
    return out


def title_of(found: dict[str, Training]) -> str:
    """The answer of the headline, if the numbers give it."""
    if FORCING in found and copies(found[FORCING]):
        return "Teacher forcing learns every node but the one that takes a plan"
    return "What is learned when"


def backwards(training: Training) -> bool:
    """Whether the nodes are learned from the goal to the start, as far as they are, and more than one is."""
    when = [first_above(training.node(node), SOLVED) for node in reversed(nodes_of(training.length))]
    known = [step for step in when if step is not None]
    return len(known) > 1 and when[: len(known)] == known == sorted(known)


def figures(options: PathStarOptions, summary: Summary) -> list[FigureSpec]:
    """The headline is of the transformers where there are some, and of the pointer learners otherwise."""
    length, pair = (
        options.length,
        tuple(sorted({min(options.degrees), 5 if 5 in options.degrees else max(options.degrees)})),
    )
    pointers = FigureSpec(
        "pointers",
        "Which of it is misspecification?",
        "Log-loss on the population in a class of log-linear pointers, whole answers running free, with 95 % Wilson "
        "intervals; black: closed form. It sees so many ancestors of the goal; greedy decoding is in the table.",
        lambda: pointer_figure(summary, length, pair),
    )
    law = FigureSpec(
        "law",
        "Does it depend on the number of arms?",
        f"Whole answers right with 95 % intervals. Stars: published by {SOURCE}, on (d, L) as written; they are not "
        "ours, and of larger networks and longer training.",
        lambda: law_figure(summary, length),
    )
    made: list[FigureSpec] = []
    for degree in options.network_degrees:
        found = trainings(summary, degree)
        if not set(SHOWN) & set(found):
            continue
        size = f"d={degree}, L={length}"
        made += [
            FigureSpec(
                "headline" if not made else f"training-{degree}",
                "What is learned when, and why does teacher forcing not learn to plan?",
                f"{size}: a transformer on new prompts at every update. Colours: the node is right after the true "
                "prefix; black: the whole answer, running free (greedy). Bands: 95 % intervals. Node 1, the start, is "
                "given; reversed targets begin with the goal.",
                lambda degree=degree, found=found: learning_figure(  # type: ignore[misc]
                    summary,
                    degree,
                    FORCED,
                    title_of(found),
                    headings(found),
                ),
            ),
            FigureSpec(
                "free" if len(made) == 0 else f"free-{degree}",
                "And when it writes on its own?",
                f"{size}: the same trainings, the node after the learner's own greedy tokens.",
                lambda degree=degree, found=found: learning_figure(  # type: ignore[misc]
                    summary, degree, FREE, "Running free, a wrong arm at node 2 is wrong to the end", headings(found)
                ),
            ),
        ]
    if not made:
        pointers = dataclasses.replace(pointers, name="headline")
    return [*made, pointers, law]


def analyse(options: PathStarOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    gaps = gap_row(summary)
    rows = [*gaps, *solved_rows(summary, options.network_degrees), *published_rows()]
    trained = [training_table(summary, degree) for degree in options.network_degrees]
    tables = [table for table in trained if table is not None]
    tables += [
        pointer_table(summary, length) for length in (options.length, *sorted({*options.lengths} - {options.length}))
    ]
    return Analysis(
        rows=rows, tables=tables, figures=figures(options, summary), findings=findings(options, summary, gaps)
    )


STUDY = Study(
    name="pathstar",
    question="Why does teacher forcing not learn to plan a path, and what do other targets change?",
    options=PathStarOptions,
    cells=cells,
    analyse=analyse,
    labels=("mode", "degree", "hops", "step"),
)
