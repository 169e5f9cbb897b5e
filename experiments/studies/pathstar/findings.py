"""What the summary says, in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experiments.networks import trains_networks, without_torch
from experiments.studies.pathstar.curves import (
    PUBLISHED,
    SOLVED,
    SOURCE,
    Training,
    agrees,
    copies,
    first_above,
    nodes_of,
    shown,
    trainings,
)
from experiments.studies.pathstar.drawings import SHOWN
from experiments.studies.pathstar.options import PathStarOptions
from experiments.studies.pathstar.sweep import (
    EXPECTED,
    FORCING,
    GREEDY,
    HANS,
    NATS,
    POINTER,
    REFERENCE,
    REVERSED,
    SECOND,
    TEACHERLESS,
    hops_of,
)
from experiments.summary import Summary, SummaryRow
from experiments.tables import number

__all__ = ["findings"]


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
