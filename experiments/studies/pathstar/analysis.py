"""Tables and figures from the summary of the study, and the findings with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from experiments.studies.pathstar.curves import (
    PUBLISHED,
    SOLVED,
    SOURCE,
    Training,
    copies,
    first_above,
    nodes_of,
    shown,
    trainings,
)
from experiments.studies.pathstar.drawings import SHOWN, law_figure, learning_figure, pointer_figure
from experiments.studies.pathstar.findings import findings
from experiments.studies.pathstar.options import PathStarOptions
from experiments.studies.pathstar.sweep import (
    CLOSED,
    EXPECTED,
    FORCED,
    FORCING,
    FREE,
    GREEDY,
    HANS,
    NATS,
    NETWORK,
    POINTER,
    REFERENCE,
    SAMPLED,
    SECOND,
    TEACHERLESS,
)
from experiments.study import Analysis, FigureSpec
from experiments.summary import Summary, SummaryRow, derived
from experiments.tables import Table, number

__all__ = ["GAP", "LEARNED", "PUBLISHED_ROWS", "analyse"]

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
