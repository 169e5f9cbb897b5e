"""A path to plan under teacher forcing, with the targets reversed, and without a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agents import make_agent
from experiments.cells import Cell, Label, Record, cached_records
from experiments.charts import (
    COLOURS,
    Axes,
    Figure,
    errorbars,
    legend_below,
    log2_axis,
    new_figure,
    new_panels,
    plain_log_axis,
    plot_series,
    shades,
)
from experiments.measure import POPULATION, Watched, evaluation_records, networks_left_out, trains_networks
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import NOT_MEASURED, Series, Summary, SummaryRow, Table, derived, number, pivot
from ntp_envs.evaluation import evaluate
from ntp_envs.intervals import SHARE_INTERVAL
from ntp_envs.tasks import PathStar
from ntp_envs.tasks.path_star import CleverHansPolicy


@dataclass(frozen=True)
class PathStarOptions(Options):
    """Sizes of the sweep; the defaults are the full study, hours of training.

    The quick form has one training of each kind, on the smallest star, teacherless cut short.
    """

    neural: Literal["auto", "yes", "no"] = option("auto", choices=("auto", "yes", "no"))
    """Train transformers, which needs torch (the extra ``neural``); ``auto`` does where it is installed."""
    degrees: tuple[int, ...] = option((2, 3, 5, 7), least=2)
    """Arms d of the stars of the pointer learner."""
    lengths: tuple[int, ...] = option((4, 5, 7), quick=(5,), least=3)
    """Nodes L on an arm there."""
    length: int = option(5, one_of="lengths")
    """The length, one of ``lengths``, that is shown and that the transformers are trained on."""
    nodes: int = option(20, least=2)
    """Labels N to draw from; where a star has more nodes than that, as many as it has."""
    n: int = option(5000, quick=3000)
    """Prompts on which a pointer learner is evaluated."""
    network_degrees: tuple[int, ...] = option((2, 5), quick=(2,), least=2)
    """Arms of the stars that the transformers are trained on; the first makes the headline."""
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
    """Where the transformers are trained, as torch names it; elsewhere the numbers differ in the last digits."""
    seeds: int = option(3, quick=1)
    """Trainings of each kind."""

    def check(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} must divide width={self.width}.")


# -- cells: pointer learners with every number of hops, and small transformers in every mode ---------------------------

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
    watched = Watched(task, prompts, rng)
    policy_class = NetworkClass.for_task("transformer", task, prompt_group=3, prompt_positions=False, **network)
    place = place_of(NETWORK, mode, task)
    counted = (FORCED,) if mode == SECOND else (*BY_NODE, *WHOLE)  # what is written alone makes no answer

    def evaluation_at(step: int) -> list[Record]:
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
        ).fit(watched.shapes, policy_class, rng=watched.rng())
        return watched.records(agent.policy_, step, place, counted)

    records = []
    for step in sorted({*range(every, steps, every), steps}):
        records += cached_records(scratch / f"evaluation-{step}.json", partial(evaluation_at, step))
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

    def at_end(self, metric: str = GREEDY, **labels: Any) -> SummaryRow:
        """The row of the last step."""
        return max(self.summary.select(metric, **self.place, **labels), key=lambda row: row["step"])

    def node_at_end(self, node: int) -> SummaryRow:
        """The row of a node at the last step."""
        return self.at_end(FORCED, h=self.token(node))

    def shown(self, metric: str = GREEDY, node: int | None = None) -> str:
        """A share at the last step, of a node or of whole answers."""
        return (self.at_end(metric) if node is None else self.node_at_end(node)).shown(2)

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
    later = [training.node_at_end(node).mean for node in nodes_of(training.length) if node > 2]
    return min(later) >= SOLVED and agrees(training.at_end(), training.degree)


def backwards(training: Training) -> bool:
    """Whether the nodes are learned from the goal to the start, as far as they are, and more than one is."""
    when = list(training.learned().values())
    known = [step for step in when if step is not None]
    return len(known) > 1 and when[: len(known)] == known == sorted(known)


# -- derived numbers and tables ----------------------------------------------------------------------------------------

LEARNED = "updates until nine in ten whole answers are right for good"
GAP = "largest gap of the fit to the closed form"
SOURCE = "Bachmann and Nagarajan 2024, arXiv:2403.06963"
#: (d, L): share of whole answers right of a GPT with teacher forcing: 12 layers, 384 wide, 200,000 graphs
PUBLISHED = {(2, 10): 0.494, (5, 5): 0.186, (7, 7): 0.126}
PUBLISHED_ROWS = "published"


def derived_rows(o: PathStarOptions, s: Summary) -> Iterator[SummaryRow]:
    """How far fits are from their closed forms, when whole answers are right, and the published marks."""
    gaps = []
    for row in s.select(EXPECTED, part=POINTER):
        place = {name: row[name] for name in ("mode", "degree", "H", "hops")}
        gaps.append(abs(row.mean - s.value(SAMPLED, part=POINTER, learner=CLOSED, **place)))
    if gaps:
        yield derived(POINTER, GAP, round(max(gaps), 9), f"over {len(gaps)} learners")
    for degree in o.network_degrees:
        for mode, training in trainings(s, degree).items():
            step = first_above(training.whole(), SOLVED) if mode != SECOND else None
            if step is not None:
                yield derived(NETWORK, LEARNED, step, "greedy", mode=mode, degree=degree, H=training.length)
    labels = {"task": "PathStar", "learner": "GPT, 12 layers, 384 wide", "mode": FORCING}
    for (d, L), value in PUBLISHED.items():
        how = f"published, not ours: {SOURCE}"
        yield derived(PUBLISHED_ROWS, GREEDY, value, how, **labels, degree=d, H=L)


def training_table(s: Summary, degree: int, found: Mapping[str, Training]) -> Table:
    """Every mode at its last update, and copying."""
    length = next(iter(found.values())).length
    lines = []
    for mode, training in found.items():
        if mode == SECOND:
            entries = [training.shown(node=2), *[""] * (length + 1)]
        else:
            entries = [training.shown(node=node) for node in nodes_of(length)]
            entries += [training.shown(GREEDY), training.shown(SAMPLED), number(training.at_end(NATS).mean, 3)]
        lines.append([f"{mode}, {training.steps} updates", *entries])
    place: dict[str, Any] = {"part": REFERENCE, "learner": HANS, "mode": FORCING, "degree": degree}
    by_node = [s.shown(FORCED, 4, **place, h=node) for node in nodes_of(length)]
    lines.append(["copying, exactly", *by_node, *[s.shown(GREEDY, 4, **place)] * 2, s.shown(NATS, **place)])
    heads = ["mode", *(f"node {node}" for node in nodes_of(length)), "exact, greedy", "exact, sampled", "nats a token"]
    note = (
        "Share right on fresh prompts, with 95 % intervals. Nodes of the path after the true prefix, 1 (the start, "
        "trivial) left out; reversed targets write them last to first. Exact: whole answers, running free."
    )
    return Table(f"Transformers on d={degree}, L={length}, at the end", heads, lines, note)


def pointer_table(o: PathStarOptions, s: Summary, length: int) -> Table:
    """Exact match of the pointer learner by mode, d and hops."""
    rows: list[tuple[str, dict[str, Any]]] = [
        (f"{mode}, d={d}, {word}", {"part": POINTER, "mode": mode, "degree": d, "H": length, "metric": metric})
        for mode in POINTER_MODES
        for d in sorted(o.degrees)
        for metric, word in ((SAMPLED, "sampled"), (GREEDY, "greedy"))
    ]
    columns: list[tuple[str, dict[str, Any]]] = []
    for hops in hops_of(length):
        columns.append(("1 hop" if hops == 1 else f"{hops} hops", {"learner": POINTER, "hops": hops}))
        columns.append((CLOSED, {"learner": CLOSED, "hops": hops, "digits": 4}))
    note = (
        f"Whole answers right, running free, with 95 % {SHARE_INTERVAL} intervals: log-loss on the population in the "
        "class of log-linear pointers, which sees so many ancestors of the goal; all of them in the last columns."
    )
    title = f"Pointer learners on stars of length {length}"
    return pivot(s, title, SAMPLED, rows, columns, digits=2, corner="mode", note=note)


# -- figures -----------------------------------------------------------------------------------------------------------

#: nodes of the path after the second, from near the start to the goal
BLUES = ("#A6CBE3", "#5AA3CF", "#2A7AB5", "#0B4F8A", "#062F54")
#: of the modes in the headline, in its order: colour, marker and place beside the others
LOOKS: dict[str, tuple[str, str, float]] = {
    FORCING: (COLOURS["vermilion"], "o", -0.16),
    REVERSED: (COLOURS["green"], "s", 0.0),
    TEACHERLESS: (COLOURS["blue"], "D", 0.16),
}
BARS: dict[str, Any] = {"markersize": 8, "elinewidth": 1.5, "capsize": 3}
WHOLE_ANSWER = "whole answer, running free"


def node_looks(length: int) -> dict[int, dict[str, Any]]:
    """Vermilion for the second node, which has to be planned; blue from there to the goal."""
    later = shades(range(3, length + 1), BLUES)
    looks: dict[int, dict[str, Any]] = {}
    for node in nodes_of(length):
        label = f"node {node}, the goal" if node == length else f"node {node}"
        looks[node] = {"color": later.get(node), "linewidth": 2.0, "label": label}
    return {**looks, 2: {"color": COLOURS["vermilion"], "linewidth": 3.0, "label": "node 2, the choice of an arm"}}


def title_of(found: Mapping[str, Training]) -> str:
    """The answer of the headline, if the numbers give it."""
    if FORCING in found and copies(found[FORCING]):
        return "Teacher forcing learns every node but the one that takes a plan"
    return "What is learned when"


def headings(found: Mapping[str, Training]) -> dict[str, str]:
    """The answer of each panel, from its numbers."""
    out = {}
    for mode, training in ((mode, found[mode]) for mode in LOOKS if mode in found):
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
    names = []
    for axes, mode in zip(panels, said, strict=True):
        training = found[mode]
        axes.set_title(f"{mode.capitalize()}: {said[mode]}", fontsize=11)
        axes.axhline(1 / training.degree, color=COLOURS["grey"], linestyle="--", linewidth=1.3, zorder=1)
        marker = "" if len(training.whole().x) > 1 else "o"
        for node, look in reversed(node_looks(training.length).items()):
            plot_series(axes, training.node(node, metric), mode, linestyle="-", marker=marker, **look)
            names.append(look["label"])
        look = {"color": COLOURS["black"], "linewidth": 3.2, "linestyle": (0, (2.2, 1.1)), "zorder": 4}
        plot_series(axes, training.whole(), mode, marker=marker, **look, label=WHOLE_ANSWER)
        mark_chance(axes, training, copied=metric == FORCED)
    panels[0].set_ylim(-0.03, 1.06)
    legend_below(figure, sorted({*names, WHOLE_ANSWER}))
    return figure


def mark_chance(axes: Axes, training: Training, *, copied: bool) -> None:
    """1/d over the right end of its line, clear of what wanders about it; and what is copied after true prefixes."""
    chance = 1 / training.degree
    style: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 10, "fontweight": "bold"}
    axes.set_xlim(0, training.steps * 1.02)
    axes.text(training.steps, chance + 0.085, f"1/d = {chance:g}", color=COLOURS["grey"], **style)
    if training.mode == FORCING and copies(training):
        if copied:
            nodes = f"nodes 3 to {training.length}: copied" if training.length > 3 else "node 3: copied"
            axes.text(training.steps, 0.95, nodes, color=BLUES[2], **style)
        axes.text(training.steps, chance - 0.13, "node 2: a guess", color=COLOURS["vermilion"], **style)


def pointer_title(s: Summary, length: int) -> str:
    """The answer, where the pointer learners give it: all hops make each mode right, and only reversed needs none."""
    rows = s.select(EXPECTED, part=POINTER, learner=POINTER, H=length)
    able = [row["mode"] == REVERSED or row["hops"] == length - 2 for row in rows]
    if rows and able == [row.mean >= SOLVED for row in rows]:
        return "A learner that sees too few hops cannot plan, with a teacher or without; reversed, it need not"
    return "How many hops does a learner have to see to plan a path?"


def pointer_figure(s: Summary, length: int, degrees: list[int]) -> Figure:
    """Exact match of the pointer learner against the hops that it sees, with the closed form; a panel for each d."""
    labels = ["ancestors of the goal that it sees"] * len(degrees)
    title = pointer_title(s, length)
    figure, panels = new_panels(title, labels, "whole answers right, sampled", size=(11.0, 4.8))
    hops = hops_of(length)
    rows = [row for d in degrees for row in s.select(SAMPLED, part=POINTER, H=length, degree=d)]
    low = min((row.mean for row in rows if row.mean > 0), default=0.5)
    for axes, degree in zip(panels, degrees, strict=True):
        axes.set_title(f"d={degree} arms of L={length} nodes", fontsize=11)
        for mode, (colour, marker, shift) in LOOKS.items():
            place: dict[str, Any] = {"part": POINTER, "mode": mode, "degree": degree, "H": length}
            form, got = (s.series("hops", SAMPLED, **place, learner=learner) for learner in (CLOSED, POINTER))
            if not len(got.x):
                continue
            at = np.arange(len(got.x)) + shift
            axes.hlines(form.mean, at - 0.07, at + 0.07, color=COLOURS["black"], linewidth=2.2, label=CLOSED)
            seen = got.mean > 0
            errorbars(
                axes, at[seen], Series(*(column[seen] for column in got)), colour, **BARS, marker=marker, label=mode
            )
            for x, y, value in zip(at, np.fmax(got.upper, form.mean), got.mean, strict=True):
                words: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 9}
                axes.annotate(f"{value:.2g}", (x, y), xytext=(0, 11), **words)
        axes.set_xticks(range(len(hops)), labels=[f"{h} (all)" if h == length - 2 else str(h) for h in hops])
        axes.set_xlim(-0.5, len(hops) - 0.5)
        axes.grid(visible=False, axis="x")
    panels[0].axhline(low, linewidth=0)  # the limits of the first panel are those of all
    plain_log_axis(panels[0])
    panels[0].set_ylim(low / 2.0, 2.0)
    legend_below(figure, [*LOOKS, CLOSED])
    return figure


def law_figure(s: Summary, length: int) -> Figure:
    """Exact match under teacher forcing against the number of arms: ours and the published."""
    pointers = list(s.select(EXPECTED, part=POINTER, mode=FORCING, H=length, hops=0))
    found = [trainings(s, degree) for degree in s.distinct("degree", part=NETWORK)]
    networks = [modes[FORCING].at_end() for modes in found if FORCING in modes]
    measured = [*pointers, *networks]
    settled = bool(measured) and all(agrees(row, row["degree"]) for row in measured)
    title = "Under teacher forcing one answer in d is right, whoever learns" if settled else "Is one answer in d right?"
    figure, axes = new_figure(title, "arms d", "whole answers right", size=(8.2, 4.8))
    arms = sorted({*(row["degree"] for row in measured), *(d for d, _ in PUBLISHED)})
    fine = np.geomspace(arms[0] / 1.1, arms[-1] * 1.1, 100)
    axes.plot(fine, 1 / fine, color=COLOURS["grey"], linestyle="--", linewidth=1.5, label="1/d: copying, and a guess")
    ours = (
        (pointers, f"log-linear pointers, L={length}, expected", "orange", "o", 1.0),
        (networks, f"transformer, L={length}, greedy", "vermilion", "s", 1.035),
    )
    for rows, label, colour, marker, shift in ours:
        if rows:
            at = [row["degree"] * shift for row in rows]
            errorbars(axes, at, rows, COLOURS[colour], **BARS, marker=marker, label=label)
    mark: dict[str, Any] = {"color": COLOURS["black"], "markerfacecolor": "none", "markersize": 17}
    theirs = "published, not ours: GPT, 12 layers, 384 wide"
    axes.plot([d for d, _ in PUBLISHED], list(PUBLISHED.values()), "*", **mark, label=theirs)
    for (d, L), value in PUBLISHED.items():
        words = f"({d}, {L}) {value:.1%}"
        axes.annotate(words, (d, value), xytext=(4, -20), textcoords="offset points", ha="right", fontsize=9)
    log2_axis(axes, arms)
    axes.set_xlim(arms[0] / 1.25, arms[-1] * 1.35)
    axes.set_ylim(0, 0.6)
    axes.legend(loc="upper right", fontsize=10)
    return figure


def figures(o: PathStarOptions, s: Summary) -> list[FigureSpec]:
    """The headline is of the transformers where there are some, and of the pointer learners otherwise."""
    made: list[FigureSpec] = []
    for degree in o.network_degrees:
        found = trainings(s, degree)
        if not set(LOOKS) & set(found):
            continue
        size, more = f"d={degree}, L={o.length}", f"-{degree}" if made else ""
        made.append(
            FigureSpec(
                f"training{more}" if made else "headline",
                "What is learned when, and why does teacher forcing not learn to plan?",
                f"{size}: a transformer on new prompts at every update. Colours: the node is right after the true "
                "prefix; black: the whole answer, running free (greedy). Bands: 95 % intervals. Node 1, the start, is "
                "given; reversed targets begin with the goal.",
                partial(learning_figure, found, FORCED, title_of(found)),
            )
        )
        made.append(
            FigureSpec(
                f"free{more}",
                "And when it writes on its own?",
                f"{size}: the same trainings, the node after the learner's own greedy tokens.",
                partial(learning_figure, found, FREE, "Running free, is a wrong arm at node 2 wrong to the end?"),
            )
        )
    pair = sorted({min(o.degrees), 5 if 5 in o.degrees else max(o.degrees)})
    pointers = FigureSpec(
        "pointers" if made else "headline",
        "Which of it is misspecification?",
        "Log-loss on the population in a class of log-linear pointers, whole answers running free, with 95 % "
        f"{SHARE_INTERVAL} intervals; black: closed form. It sees so many ancestors of the goal; greedy decoding is in "
        "the table.",
        lambda: pointer_figure(s, o.length, pair),
    )
    law = FigureSpec(
        "law",
        "Does it depend on the number of arms?",
        f"Whole answers right with 95 % intervals. Stars: published by {SOURCE}, on (d, L) as written; they are not "
        "ours, and of larger networks and longer training.",
        lambda: law_figure(s, o.length),
    )
    return [*made, pointers, law]


# -- findings ----------------------------------------------------------------------------------------------------------


def forcing_finding(found: Mapping[str, Training]) -> str:
    """Teacher forcing against copying."""
    training = found[FORCING]
    d, L = training.degree, training.length
    by_node = ", ".join(training.shown(node=node) for node in nodes_of(L))
    floor = training.summary.shown(NATS, part=REFERENCE, learner=HANS, mode=FORCING, degree=d)
    verdict = "as many as copying the previous node gives:"
    if not copies(training):
        verdict = "copying the previous node would give"
    return (
        f"Teacher forcing (d={d}, L={L}, {training.steps} updates): after the true prefix nodes 2 to {L} are right in "
        f"{by_node} of the prompts. Running free, {training.shown()} of whole answers are right; {verdict} 1/d = "
        f"{1 / d:.3g}. The loss is {number(training.at_end(NATS).mean, 3)} nats a token, the least that copying "
        f"reaches {floor}."
    )


def reversed_finding(found: Mapping[str, Training]) -> str:
    """The same answers, last token first."""
    training = found[REVERSED]
    step = first_above(training.whole(), SOLVED)
    when = f"nine in ten from update {step} on" if step is not None else f"not solved in {training.steps} updates"
    return (
        f"Reversed targets (d={training.degree}): {training.shown()} of whole answers are right after "
        f"{training.steps} updates, {when}. The same network, data and loss: only the order of writing has changed, in "
        "which each node is the one parent of the node before."
    )


def teacherless_finding(found: Mapping[str, Training]) -> str:
    """In which order the nodes are learned."""
    training = found[TEACHERLESS]
    when = training.learned()
    known = [f"{node} from update {step} on" for node, step in when.items() if step is not None]
    open_ = ", ".join(f"{node} at {training.shown(node=node)}" for node, step in when.items() if step is None)
    return (
        f"Teacherless (d={training.degree}, {training.steps} updates): nodes are right in nine of ten prompts: "
        f"{', '.join(known) or 'none'}{'; still open: ' if open_ else ''}{open_}. "
        f"Whole answers {training.shown()}."
    )


def second_finding(found: Mapping[str, Training]) -> str:
    """What is left when copying is taken away from the loss."""
    training = found[SECOND]
    d = training.degree
    still = f", 1/d = {1 / d:.3g} still" if agrees(training.node_at_end(2), d) else f"; 1/d = {1 / d:.3g}"
    control = ""
    if REVERSED in found:
        reached = found[REVERSED].shown(node=2)
        control = f"; with reversed targets the network writes the same node right in {reached}"
    return (
        f"Loss of supervision (d={d}): trained on the second token alone, where there is nothing to copy, it is right "
        f"in {training.shown(node=2)} of the prompts after {training.steps} updates{still}{control}. One token in the "
        "loss does not show the steps that lead to it."
    )


def pointer_findings(o: PathStarOptions, s: Summary, gap: SummaryRow) -> Iterator[str]:
    """What the pointer learner isolates, and the closed form."""
    place: dict[str, Any] = {"part": POINTER, "learner": POINTER, "H": o.length}
    degrees = [row["degree"] for row in s.select(EXPECTED, **place)]
    if not degrees:
        return
    d = min(degrees)
    hops = " | ".join(str(hop) for hop in hops_of(o.length))
    shares = {mode: s.series("hops", EXPECTED, **place, mode=mode, degree=d).mean for mode in LOOKS}
    words = [f"{mode} {' | '.join(number(x, 3) for x in found) or NOT_MEASURED}" for mode, found in shares.items()]
    said = ""
    if all(len(found) for found in shares.values()):
        worse = "worse" if shares[TEACHERLESS][0] < shares[FORCING][0] else "no worse"
        wrong = [mode for mode, found in shares.items() if found[-1] < SOLVED]
        ends = f"{', '.join(wrong)} still not right" if wrong else "each of them right"
        said = f" With the fewest hops a teacherless learner does {worse} than one that copies; with the most, {ends}."
    yield (
        f"Misspecification by itself (log-linear pointers, d={d}, L={o.length}, {hops} hops seen): whole answers right "
        f"{'; '.join(words)}. The expected exact match of every fit is within {number(gap.mean, 2)} of its closed form "
        f"({gap.method}).{said}"
    )


def law_finding(o: PathStarOptions, s: Summary) -> str:
    """1/d, ours and theirs."""
    pointers = s.select(EXPECTED, part=POINTER, learner=POINTER, mode=FORCING, H=o.length, hops=0)
    ours = ", ".join(f"{row.mean:.3f} (d={row['degree']})" for row in reversed(pointers))
    words = [f"pointers {ours or NOT_MEASURED}"]
    found = {degree: trainings(s, degree) for degree in o.network_degrees}
    networks = [f"{modes[FORCING].shown()} (d={d})" for d, modes in found.items() if FORCING in modes]
    if networks:
        words.append(f"transformer {', '.join(networks)}")
    theirs = ", ".join(f"{value:.1%} on (d, L) = ({d}, {L})" for (d, L), value in PUBLISHED.items())
    return (
        f"Teacher forcing against 1/d: {'; '.join(words)}. Published, not ours: {theirs}, a GPT of 12 layers, 384 "
        f"wide, 200,000 graphs ({SOURCE})."
    )


def limit_findings(o: PathStarOptions, s: Summary) -> Iterator[str]:
    """What these sizes cannot show."""
    found = trainings(s, o.network_degrees[0])
    said = []
    if o.seeds == 1:
        said.append("one training of each kind, so intervals are over prompts and not over trainings")
    if len(o.network_degrees) == 1:
        said.append(f"transformers on d={o.network_degrees[0]} only")
    more = "The full study (without --quick) trains longer, with more seeds and arms" if said else ""
    if TEACHERLESS in found and found[TEACHERLESS].at_end().mean < SOLVED:
        said.append(f"whether a longer teacherless training gets to node 2: it stopped at {found[TEACHERLESS].steps}")
    if found and said:
        more = more or "--teacherless-steps makes it longer"
        yield f"Not shown at these sizes: {'; '.join(said)}. {more}; a run that is stopped goes on."


FINDINGS = {
    FORCING: forcing_finding,
    REVERSED: reversed_finding,
    TEACHERLESS: teacherless_finding,
    SECOND: second_finding,
}


def findings(o: PathStarOptions, s: Summary, rows: list[SummaryRow]) -> Iterator[str]:
    """Everything in words."""
    if why := networks_left_out(o.neural):
        yield f"Part B, transformers over training, was {why}. What follows is part A, the pointer learners."
    for degree in o.network_degrees:
        found = trainings(s, degree)
        yield from (finding(found) for mode, finding in FINDINGS.items() if mode in found)
    for row in rows:
        if row.metric == GAP:
            yield from pointer_findings(o, s, row)
    if len(s):
        yield law_finding(o, s)
    yield from limit_findings(o, s)


def analyse(options: PathStarOptions, summary: Summary) -> Analysis:
    """Everything that is made of the summary."""
    rows = list(derived_rows(options, summary))
    found = {degree: trainings(summary, degree) for degree in options.network_degrees}
    tables = [training_table(summary, degree, modes) for degree, modes in found.items() if modes]
    lengths = dict.fromkeys([options.length, *sorted(options.lengths)])
    tables += [pointer_table(options, summary, length) for length in lengths]
    said = list(findings(options, summary, rows))
    return Analysis(rows=rows, tables=tables, figures=figures(options, summary), findings=said)


STUDY = Study(
    name="pathstar",
    question="Why does teacher forcing not learn to plan a path, and what do other targets change?",
    options=PathStarOptions,
    cells=cells,
    analyse=analyse,
    labels=("mode", "degree", "hops", "step"),
)
