"""Transformers on a path to plan: under teacher forcing, with the targets reversed, and without a teacher.

What of it is misspecification, a class of pointers shows without a network: `experiments.studies.pointers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cells import Cell, Label, Record, cached_records
from experiments.charts import COLOURS, Figure, legend_below, new_panels, plot_series, say_data, shades, span
from experiments.measure import Watched, require_torch
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Series, Summary, SummaryRow, Table, derived, number
from ntp_envs.tasks import PathStar
from ntp_envs.tasks.path_star import CleverHansPolicy


@dataclass(frozen=True)
class PathStarOptions(Options):
    """Sizes of the sweep; the defaults are the full study, hours of training.

    The quick form has one training of each kind, on the smallest star, teacherless cut short.
    """

    degrees: tuple[int, ...] = option((2, 5), quick=(2,), least=2)
    """Arms d of the stars; the first makes the headline."""
    length: int = option(5, least=3)
    """Nodes L on an arm."""
    nodes: int = option(20, least=2)
    """Labels N to draw from; where a star has more nodes than that, as many as it has."""
    forcing_steps: int = option(1000, quick=300)
    """Updates with teacher forcing."""
    reversed_steps: int = option(1000, quick=150)
    """Updates with teacher forcing on reversed targets."""
    teacherless_steps: int = option(6000, quick=500)
    """Updates without a teacher."""
    second_steps: int = option(1000, quick=125)
    """Updates on the second token alone."""
    every: int = option(50, quick=25)
    """Updates between two evaluations, after each of which a run that was stopped goes on."""
    prompts: int = option(400, quick=600)
    """Prompts of an evaluation while training, the same ones each time."""
    batch_size: int = option(256)
    """New prompts an update."""
    learning_rate: float = option(1e-3, above=0.0)
    """Of AdamW, constant."""
    width: int = option(64)
    """Of the transformer."""
    layers: int = option(3)
    """Of the transformer."""
    heads: int = option(4)
    """Of the transformer's attention; divides ``width``."""
    device: str = "cpu"
    """Where transformers are trained, as torch names it; elsewhere the numbers differ in the last digits."""
    seeds: int = option(3, quick=1)
    """Trainings of each kind."""

    def check(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}.")


# -- cells: small transformers in every mode, and what copying reaches -------------------------------------------------

NETWORK, REFERENCE, HANS, CLOSED = "transformer", "reference", "Clever Hans", "closed form"
FORCING, REVERSED, TEACHERLESS, SECOND = "teacher forcing", "reversed", "teacherless", "second token only"
#: of the transformer: what it changes about the task, and about the training
MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    FORCING: ({}, {}),
    REVERSED: ({"reverse": True}, {}),
    TEACHERLESS: ({}, {"mode": "teacherless"}),
    SECOND: ({}, {"mode": "first_token_only", "positions": (1,)}),
}
FORCED, FREE, GREEDY, SAMPLED = "forced_accuracy", "greedy_accuracy", "greedy_exact", "sampled_exact"
EXPECTED, NATS = "sequence_probability", "mean_cross_entropy"
WHOLE = (GREEDY, SAMPLED, EXPECTED, NATS)


def star(degree: int, length: int, nodes: int, **changes: Any) -> PathStar:
    """The task, with enough labels for its nodes."""
    return PathStar(degree, length, max(nodes, 1 + degree * (length - 1)), **changes)


def copying(*, mode: str, degree: int, length: int, nodes: int, rng: np.random.Generator) -> list[Record]:
    """What copying the next node from the previous one reaches, exactly."""
    task = star(degree, length, nodes, **MODES[mode][0])
    hans, place = CleverHansPolicy(task), place_of(HANS, mode, task)
    found = [(FORCED, float(share), {**place, "h": h}) for h, share in enumerate(hans.forced_accuracy, 1)]
    found += [(metric, hans.exact_match, place) for metric in (GREEDY, SAMPLED)]
    return [Record(*each, method=CLOSED) for each in (*found, (NATS, hans.cross_entropy, place))]


def trained(
    *, mode: str, degree: int, length: int, nodes: int, steps: int, every: int, prompts: int, batch_size: int,
    learning_rate: float, network: dict[str, Any], device: str, replicate: int, rng: np.random.Generator, scratch: Path,
) -> list[Record]:  # fmt: skip
    """A small transformer on new prompts at every update, evaluated on the same prompts every few of them.

    The graph is read edge by edge, without positions. A stretch of training ends with a checkpoint and then an
    evaluation, and both are kept in ``scratch``: wherever it is stopped, the next call finds the checkpoint that the
    next evaluation is of, or is made from.
    """
    from agents.neural import NetworkClass, NeuralBC

    changes, options = MODES[mode]
    task = star(degree, length, nodes, **changes)
    watched = Watched(task, prompts, rng)
    policy_class = NetworkClass.for_task("transformer", task, prompt_group=3, prompt_positions=False, **network)
    place = place_of(NETWORK, mode, task)
    counted = (FORCED,) if mode == SECOND else (FORCED, FREE, *WHOLE)  # what is written alone makes no answer

    def evaluation_at(step: int) -> list[Record]:
        agent = NeuralBC(  # at a constant rate, so that a longer training begins with the same updates
            **options, steps=step, schedule="constant", batch_size=batch_size, learning_rate=learning_rate, task=task,
            device=device, checkpoint=scratch / "run", checkpoint_every=every,
        ).fit(watched.shapes, policy_class, rng=watched.rng())  # fmt: skip
        return watched.records(agent.policy_, step, place, counted)

    records = []
    for step in sorted({*range(every, steps, every), steps}):
        records += cached_records(scratch / f"evaluation-{step}.json", partial(evaluation_at, step))
    return records


def place_of(learner: str, mode: str, task: PathStar) -> dict[str, Label]:
    """The labels that all records share."""
    return {"task": task.name, "learner": learner, "mode": mode, "H": task.horizon, "degree": task.degree}


def references(degrees: Sequence[int], length: int, nodes: int) -> Iterator[Cell]:
    """The cells of copying."""
    for mode in (FORCING, REVERSED):
        for degree in sorted(degrees):
            yield Cell(REFERENCE, copying, {"mode": mode, "degree": degree, "length": length, "nodes": nodes})


def cells(options: PathStarOptions) -> Iterator[Cell]:
    """The slow cells first: the trainings, the longest before the others.

    Raises:
        ValueError: torch is missing; before anything is run.
    """
    require_torch(" What a class of pointers shows needs none: ntp-bench run pointers.")
    steps = {TEACHERLESS: options.teacherless_steps, FORCING: options.forcing_steps}
    steps |= {REVERSED: options.reversed_steps, SECOND: options.second_steps}
    training = options.given("length", "nodes", "every", "prompts", "batch_size", "learning_rate", "device")
    training["network"] = options.given("width", "layers", "heads")
    for degree in sorted(options.degrees, reverse=True):
        for mode in sorted(steps, key=lambda mode: -steps[mode]):
            for replicate in range(options.seeds):
                cell = {"mode": mode, "degree": degree, "steps": steps[mode], "replicate": replicate}
                yield Cell(NETWORK, trained, {**cell, **training}, scratch=True)
    yield from references(options.degrees, options.length, options.nodes)


# -- what the summary says of a training -------------------------------------------------------------------------------

#: share of whole answers from which on a task counts as solved, and of prompts from which on a node is learned
SOLVED = 0.9
#: three standard errors of 400 answers, in standard deviations of one
NEAR = 0.15


@dataclass(frozen=True)
class Training:
    """The trainings of one mode on stars of one degree and length."""

    summary: Summary
    mode: str
    degree: int
    length: int

    @property
    def place(self) -> dict[str, Any]:
        return {"part": NETWORK, "mode": self.mode, "degree": self.degree, "H": self.length}

    @property
    def steps(self) -> int:
        """The last step that was evaluated."""
        return int(self.node(2).x[-1])

    def token(self, node: int) -> int:
        """Where a node of the path is written, 1 the start and L the goal."""
        return self.length + 1 - node if self.mode == REVERSED else node

    def node(self, node: int, metric: str = FORCED) -> Series:
        """Accuracy on a node of the path, wherever it is written."""
        return self.summary.series("step", metric, **self.place, h=self.token(node))

    def whole(self) -> Series:
        """Share of whole answers, running free."""
        return self.summary.series("step", GREEDY, **self.place)

    def at_end(self, metric: str = GREEDY, node: int | None = None) -> SummaryRow:
        """The row of the last step, of whole answers or of a node after the true prefix."""
        of_node = {"metric": FORCED, "h": self.token(node)} if node is not None else {"metric": metric}
        return max(self.summary.select(**self.place, **of_node), key=lambda row: row["step"])

    def shown(self, metric: str = GREEDY, node: int | None = None) -> str:
        """The share in that row."""
        return self.at_end(metric, node).shown(2)

    def learned(self) -> dict[int, int | None]:
        """From which step on each node but the start is right in nine of ten prompts, the goal first."""
        return {node: first_above(self.node(node), SOLVED) for node in reversed(nodes_of(self.length))}


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


def agrees(row: SummaryRow, degree: int) -> bool:
    """Whether a share is about 1/d: within `NEAR` standard deviations of one answer, right or wrong."""
    chance = 1 / degree
    return abs(row.mean - chance) <= NEAR * math.sqrt(chance * (1 - chance))


def copies(training: Training) -> bool:
    """Whether the nodes after the second are learned given the true prefix, and whole answers are at 1/d."""
    later = [training.at_end(node=node).mean for node in nodes_of(training.length) if node > 2]
    return min(later) >= SOLVED and agrees(training.at_end(), training.degree)


def backwards(training: Training) -> bool:
    """Whether the nodes are learned from the goal to the start, as far as they are, and more than one is."""
    when = list(training.learned().values())
    known = [step for step in when if step is not None]
    return len(known) > 1 and when[: len(known)] == known == sorted(known)


# -- derived numbers and tables ----------------------------------------------------------------------------------------

LEARNED = "updates until nine in ten whole answers are right for good"


def derived_rows(o: PathStarOptions, s: Summary) -> Iterator[SummaryRow]:
    for degree in o.degrees:
        for mode, training in trainings(s, degree).items():
            step = first_above(training.whole(), SOLVED) if mode != SECOND else None
            if step is not None:
                yield derived(NETWORK, LEARNED, step, "greedy", mode=mode, degree=degree, H=training.length)


def tables(o: PathStarOptions, s: Summary) -> Iterator[Table]:
    """Every mode at its last update, and copying; a table for each number of arms."""
    nodes, length = nodes_of(o.length), o.length
    heads = ["mode", *(f"node {node}" for node in nodes), "exact, greedy", "exact, sampled", "nats a token"]
    note = (
        "Share right on fresh prompts, with 95 % intervals. Nodes of the path after the true prefix, 1 (the start, "
        "trivial) left out; reversed targets write them last to first. Exact: whole answers, running free."
    )
    for degree, found in ((degree, trainings(s, degree)) for degree in o.degrees):
        lines = []
        for mode, training in found.items():
            entries = [training.shown(node=2), *[""] * (length + 1)]
            if mode != SECOND:
                entries = [training.shown(node=node) for node in nodes]
                entries += [training.shown(GREEDY), training.shown(SAMPLED), number(training.at_end(NATS).mean, 3)]
            lines.append([f"{mode}, {training.steps} updates", *entries])
        place: dict[str, Any] = {"part": REFERENCE, "learner": HANS, "mode": FORCING, "degree": degree}
        by_node = [s.shown(FORCED, 4, **place, h=node) for node in nodes]
        lines.append(["copying, exactly", *by_node, *[s.shown(GREEDY, 4, **place)] * 2, s.shown(NATS, **place)])
        if found:
            yield Table(f"Transformers on d={degree}, L={length}, at the end", heads, lines, note)


# -- figures -----------------------------------------------------------------------------------------------------------

#: nodes of the path after the second, from near the start to the goal
BLUES = ("#A6CBE3", "#5AA3CF", "#2A7AB5", "#0B4F8A", "#062F54")
#: modes in the headline, in its order
SHOWN = (FORCING, REVERSED, TEACHERLESS)
WHOLE_ANSWER = "whole answer, running free"


def node_looks(length: int) -> dict[int, dict[str, Any]]:
    """Vermilion for the second node, which has to be planned; blue from there to the goal."""
    later = shades(range(3, length + 1), BLUES)
    looks: dict[int, dict[str, Any]] = {
        node: {"color": later.get(node), "linewidth": 2.0, "label": f"node {node}"} for node in nodes_of(length)
    }
    looks[length]["label"] += ", the goal"
    return {**looks, 2: {"color": COLOURS["vermilion"], "linewidth": 3.0, "label": "node 2, the choice of an arm"}}


def title_of(found: Mapping[str, Training]) -> str:
    """The answer of the headline, if the numbers give it."""
    if FORCING in found and copies(found[FORCING]):
        return "Teacher forcing learns every node but the one that takes a plan"
    return "What is learned when"


def headings(found: Mapping[str, Training]) -> dict[str, str]:
    """The answer of each panel, from its numbers."""
    out = {}
    for mode, training in ((mode, found[mode]) for mode in SHOWN if mode in found):
        if first_above(training.whole(), SOLVED) is not None:
            out[mode] = "solved"
        elif mode == FORCING and copies(training):
            out[mode] = f"stuck at 1/{training.degree}"
        else:
            out[mode] = f"{training.at_end().mean:.0%} of answers so far"
    if TEACHERLESS in found and backwards(found[TEACHERLESS]):
        out[TEACHERLESS] = "solved, last node first" if out[TEACHERLESS] == "solved" else "from the last node backwards"
    return out


def learning_figure(found: Mapping[str, Training], metric: str, title: str) -> Figure:
    """Accuracy by node of the path against updates, and whole answers; a panel for each mode."""
    said = headings(found)
    figure, panels = new_panels(title, ["updates"] * len(said), "share right on fresh prompts", size=(13.0, 4.9))
    rows = [row for mode in said for row in found[mode].summary.select(metric)]
    say_data(figure, rows, span("arms d", [found[mode].degree for mode in said]), "a transformer", what="trainings")
    for axes, mode in zip(panels, said, strict=True):
        training, steps, chance = found[mode], found[mode].steps, 1 / found[mode].degree
        axes.set_title(f"{mode.capitalize()}: {said[mode]}", fontsize=11)
        axes.axhline(chance, color=COLOURS["grey"], linestyle="--", linewidth=1.3, zorder=1)
        marker = "" if len(training.whole().x) > 1 else "o"
        for node, look in reversed(node_looks(training.length).items()):
            plot_series(axes, training.node(node, metric), mode, linestyle="-", marker=marker, **look)

        look = {"color": COLOURS["black"], "linewidth": 3.2, "linestyle": (0, (2.2, 1.1)), "zorder": 4}
        plot_series(axes, training.whole(), mode, marker=marker, **look, label=WHOLE_ANSWER)
        # words over the right end of the line at 1/d, clear of what wanders about it
        style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 10, "fontweight": "bold"}
        axes.set_xlim(0, steps * 1.02)
        axes.text(steps, chance + 0.085, f"1/d = {chance:g}", color=COLOURS["grey"], **style)
        if mode == FORCING and copies(training):
            if metric == FORCED:
                nodes = f"nodes 3 to {training.length}: copied" if training.length > 3 else "node 3: copied"
                axes.text(steps, 0.95, nodes, color=BLUES[2], **style)
            axes.text(steps, chance - 0.13, "node 2: a guess", color=COLOURS["vermilion"], **style)
    panels[0].set_ylim(-0.03, 1.06)
    legend_below(figure, sorted({label for axes in panels for label in axes.get_legend_handles_labels()[1]}))
    return figure


def figures(o: PathStarOptions, s: Summary) -> Iterator[FigureSpec]:
    """Two for each number of arms."""
    shown = {degree: found for degree in o.degrees if set(SHOWN) & set(found := trainings(s, degree))}
    for degree, found in shown.items():
        size, more = f"d={degree}, L={o.length}", "" if degree == next(iter(shown)) else f"-{degree}"
        yield FigureSpec(
            f"training{more}" if more else "headline",
            "What is learned when, and why does teacher forcing not learn to plan?",
            f"{size}: a transformer on new prompts at every update. Colours: the node is right after the true "
            "prefix; black: the whole answer, running free (greedy). Bands: 95 % intervals. Node 1, the start, is "
            "given; reversed targets begin with the goal.",
            partial(learning_figure, found, FORCED, title_of(found)),
        )
        yield FigureSpec(
            f"free{more}",
            "And when it writes on its own?",
            f"{size}: the same trainings, the node after the learner's own greedy tokens.",
            partial(learning_figure, found, FREE, "Running free, is a wrong arm at node 2 wrong to the end?"),
        )


# -- findings ----------------------------------------------------------------------------------------------------------


def findings_on(d: int, L: int, found: Mapping[str, Training]) -> Iterator[str]:
    """Teacher forcing against copying, the last token first, without a teacher, and the second token alone."""
    if training := found.get(FORCING):
        by_node = ", ".join(training.shown(node=node) for node in nodes_of(L))
        floor = training.summary.shown(NATS, part=REFERENCE, learner=HANS, mode=FORCING, degree=d)
        verdict = "as many as copying the previous node gives:"
        verdict = verdict if copies(training) else "copying the previous node would give"
        yield (
            f"Teacher forcing (d={d}, L={L}, {training.steps} updates): after the true prefix nodes 2 to {L} are right "
            f"in {by_node} of the prompts. Running free, {training.shown()} of whole answers are right; {verdict} 1/d "
            f"= {1 / d:.3g}. The loss is {number(training.at_end(NATS).mean, 3)} nats a token, the least that copying "
            f"reaches {floor}."
        )
    if training := found.get(REVERSED):
        step = first_above(training.whole(), SOLVED)
        when = f"nine in ten from update {step} on" if step is not None else f"not solved in {training.steps} updates"
        yield (
            f"Reversed targets (d={d}): {training.shown()} of whole answers are right after {training.steps} updates, "
            f"{when}. The same network, data and loss: only the order of writing has changed, in which each node is "
            "the one parent of the node before."
        )
    if training := found.get(TEACHERLESS):
        learned = training.learned()
        known = [f"{node} from update {step} on" for node, step in learned.items() if step is not None]
        open_ = ", ".join(f"{node} at {training.shown(node=node)}" for node, step in learned.items() if step is None)
        yield (
            f"Teacherless (d={d}, {training.steps} updates): nodes are right in nine of ten prompts: "
            f"{', '.join(known) or 'none'}{'; still open: ' if open_ else ''}{open_}. Whole answers {training.shown()}."
        )
    if training := found.get(SECOND):
        still = f", 1/d = {1 / d:.3g} still" if agrees(training.at_end(node=2), d) else f"; 1/d = {1 / d:.3g}"
        control = ""
        if REVERSED in found:
            reached = found[REVERSED].shown(node=2)
            control = f"; with reversed targets the network writes the same node right in {reached}"
        yield (
            f"Loss of supervision (d={d}): trained on the second token alone, where there is nothing to copy, it is "
            f"right in {training.shown(node=2)} of the prompts after {training.steps} updates{still}{control}. One "
            "token in the loss does not show the steps that lead to it."
        )


def findings(o: PathStarOptions, s: Summary) -> Iterator[str]:
    """Everything in words, and what these sizes cannot show."""
    for degree in o.degrees:
        yield from findings_on(degree, o.length, trainings(s, degree))
    found, said = trainings(s, o.degrees[0]), []
    if o.seeds == 1:
        said.append("one training of each kind, so intervals are over prompts and not over trainings")
    if len(o.degrees) == 1:
        said.append(f"transformers on d={o.degrees[0]} only")
    more = "The full study (without --quick) trains longer, with more seeds and arms" if said else ""
    if TEACHERLESS in found and found[TEACHERLESS].at_end().mean < SOLVED:
        said.append(f"whether a longer teacherless training gets to node 2: it stopped at {found[TEACHERLESS].steps}")
    if found and said:
        more = more or "--teacherless-steps makes it longer"
        yield f"Not shown at these sizes: {'; '.join(said)}. {more}; a run that is stopped goes on."


STUDY = Study(
    name="pathstar",
    question="Why does teacher forcing not learn to plan a path, and what do other targets change?",
    options=PathStarOptions,
    cells=cells,
    analyse=analysis(rows=derived_rows, tables=tables, figures=figures, findings=findings),
    labels=("mode", "degree", "step"),
)
