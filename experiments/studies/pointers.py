"""What of a path that is not learned is misspecification: log-linear pointers that see so many ancestors of the goal.

They are fitted to the population in every mode of `experiments.studies.pathstar`, without a network. Their exact match
has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents import make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure, errorbars, legend_below, new_panels, plain_log_axis, say, say_data
from experiments.measure import POPULATION, evaluation_records
from experiments.panels import Curve, Panel, chart
from experiments.studies.pathstar import (
    CLOSED,
    EXPECTED,
    FORCING,
    GREEDY,
    HANS,
    REFERENCE,
    REVERSED,
    SAMPLED,
    SOLVED,
    TEACHERLESS,
    WHOLE,
    agrees,
    place_of,
    references,
    star,
)
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import NOT_MEASURED, Places, Series, Summary, SummaryRow, Table, derived, number, pivot
from ntp_envs.evaluation import evaluate
from ntp_envs.intervals import SHARE_INTERVAL


@dataclass(frozen=True)
class PointerOptions(Options):
    degrees: tuple[int, ...] = option((2, 3, 5, 7), least=2)
    """Arms d of the stars."""
    lengths: tuple[int, ...] = option((4, 5, 7), quick=(5,), least=3)
    """Nodes L on an arm."""
    length: int = option(5, one_of="lengths")
    """The length, one of ``lengths``, that is shown."""
    nodes: int = option(20, least=2)
    """Labels N to draw from; where a star has more nodes than that, as many as it has."""
    n: int = option(5000, quick=3000)
    """Prompts of an evaluation."""


# -- cells: a learner with every number of hops, in one mode and on one star -------------------------------------------

POINTER = "pointer"
#: what they change about the task, the policy class included
MODES: dict[str, dict[str, Any]] = {FORCING: {}, REVERSED: {"reverse": True}, TEACHERLESS: {"teacherless": True}}


def hops_of(length: int) -> list[int]:
    """Numbers of hops that the learner is given: none, one, and as many as there are."""
    return sorted({0, 1, length - 2})


def pointer(*, mode: str, degree: int, length: int, nodes: int, n: int, rng: np.random.Generator) -> list[Record]:
    """Log-loss on the population in the task's class, evaluated on fresh prompts, with the closed forms."""
    records = []
    for hops in hops_of(length):
        task = star(degree, length, nodes, hops=hops, **MODES[mode])
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


def cells(o: PointerOptions) -> Iterator[Cell]:
    """The long paths first."""
    for mode in MODES:
        for length in sorted(o.lengths, reverse=True):
            for degree in sorted(o.degrees, reverse=True):
                cell = {"mode": mode, "degree": degree, "length": length, "nodes": o.nodes, "n": o.n}
                yield Cell(POINTER, pointer, cell)
    yield from references(o.degrees, o.length, o.nodes)


# -- derived numbers and tables ----------------------------------------------------------------------------------------

GAP = "largest gap of the fit to the closed form"
SOURCE = "Bachmann and Nagarajan 2024, arXiv:2403.06963"
#: (d, L): share of whole answers right of a GPT with teacher forcing: 12 layers, 384 wide, 200,000 graphs
PUBLISHED = {(2, 10): 0.494, (5, 5): 0.186, (7, 7): 0.126}
PUBLISHED_ROWS = "published"


def derived_rows(o: PointerOptions, s: Summary) -> Iterator[SummaryRow]:
    """How far the expected exact match of fits is from the closed form, and the published marks."""
    gaps = []
    for row in s.select(EXPECTED, part=POINTER):
        place = {name: row[name] for name in ("mode", "degree", "H", "hops")}
        gaps.append(abs(row.mean - s.value(SAMPLED, part=POINTER, learner=CLOSED, **place)))
    if gaps:
        yield derived(POINTER, GAP, round(max(gaps), 9), f"over {len(gaps)} learners")
    labels = {"task": "PathStar", "learner": "GPT, 12 layers, 384 wide", "mode": FORCING}
    for (d, L), value in PUBLISHED.items():
        how = f"published, not ours: {SOURCE}"
        yield derived(PUBLISHED_ROWS, GREEDY, value, how, **labels, degree=d, H=L)


def tables(o: PointerOptions, s: Summary) -> Iterator[Table]:
    """Exact match by mode, d and hops, for each length."""
    note = (
        f"Whole answers right, running free, with 95 % {SHARE_INTERVAL} intervals: log-loss on the population in the "
        "class of log-linear pointers, which sees so many ancestors of the goal; all of them in the last columns."
    )
    for length in dict.fromkeys([o.length, *sorted(o.lengths)]):
        rows: Places = [
            (f"{mode}, d={d}, {word}", {"part": POINTER, "mode": mode, "degree": d, "H": length, "metric": metric})
            for mode in MODES
            for d in sorted(o.degrees)
            for metric, word in ((SAMPLED, "sampled"), (GREEDY, "greedy"))
        ]
        columns: Places = []
        for hops in hops_of(length):
            columns.append(("1 hop" if hops == 1 else f"{hops} hops", {"learner": POINTER, "hops": hops}))
            columns.append((CLOSED, {"learner": CLOSED, "hops": hops, "digits": 4}))
        title = f"Pointer learners on stars of length {length}"
        yield pivot(s, title, SAMPLED, rows, columns, digits=2, corner="mode", note=note)


# -- figures -----------------------------------------------------------------------------------------------------------

#: colour, marker and place beside the others
LOOKS: dict[str, tuple[str, str, float]] = {
    FORCING: (COLOURS["vermilion"], "o", -0.16),
    REVERSED: (COLOURS["green"], "s", 0.0),
    TEACHERLESS: (COLOURS["blue"], "D", 0.16),
}
BARS: dict[str, Any] = {"markersize": 8, "elinewidth": 1.5, "capsize": 3}


def hops_figure(s: Summary, length: int, degrees: list[int]) -> Figure:
    """Exact match against the hops that it sees, with the closed form; a panel for each d."""
    found = s.select(EXPECTED, part=POINTER, learner=POINTER, H=length)
    able = [row["mode"] == REVERSED or row["hops"] == length - 2 for row in found]
    title = "How many hops does a learner have to see to plan a path?"
    if found and able == [row.mean >= SOLVED for row in found]:
        title = "A learner that sees too few hops cannot plan, with a teacher or without; reversed, it need not"
    labels = ["ancestors of the goal that it sees"] * len(degrees)
    figure, panels = new_panels(title, labels, "whole answers right, sampled", size=(11.0, 4.8))
    hops = hops_of(length)
    say_data(figure, s.select(SAMPLED, part=POINTER, H=length, learner=POINTER))
    say(figure, "bars: 95 % intervals")
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
    """Exact match under teacher forcing against the number of arms: of learners that see no hop, copying, and a GPT."""
    place: dict[str, Any] = {"part": POINTER, "learner": POINTER, "mode": FORCING, "H": length, "hops": 0}
    ours = s.select(EXPECTED, **place)
    settled = bool(ours) and all(agrees(row, row["degree"]) for row in ours)
    title = "Under teacher forcing one answer in d is right" if settled else "Is one answer in d right?"
    copied = {"color": COLOURS["grey"], "marker": "", "linestyle": "--"}
    pointed = {"color": COLOURS["vermilion"], "marker": "o", "linestyle": ""}
    star = {"color": COLOURS["black"], "marker": "*", "markersize": 12, "linestyle": ""}
    curves = [
        Curve({"part": REFERENCE, "learner": HANS, "mode": FORCING}, "copying, and a guess", SAMPLED, look=copied),
        Curve(place, f"pointers, L={length}", look=pointed),
        Curve({"part": PUBLISHED_ROWS}, "published: GPT", GREEDY, look=star),
    ]
    panel = Panel("degree", "arms d", EXPECTED, curves, yscale="zero")
    return chart(s, title, "whole answers right", panel)


def figures(o: PointerOptions, s: Summary) -> list[FigureSpec]:
    pair = sorted({min(o.degrees), 5 if 5 in o.degrees else max(o.degrees)})
    return [
        FigureSpec(
            "headline",
            "Which of it is misspecification?",
            "Log-loss on the population in a class of log-linear pointers, whole answers running free, with 95 % "
            f"{SHARE_INTERVAL} intervals; black: closed form. It sees so many ancestors of the goal; greedy decoding "
            "is in the table.",
            lambda: hops_figure(s, o.length, pair),
        ),
        FigureSpec(
            "law",
            "Does it depend on the number of arms?",
            "Expected share of whole answers right, of pointers that see no ancestor of the goal, and of copying the "
            f"next node from the one before, which has to guess the second of d. Stars: published by {SOURCE}, on "
            f"(d, L) = {', '.join(map(str, PUBLISHED))}; they are not ours.",
            lambda: law_figure(s, o.length),
        ),
    ]


# -- findings ----------------------------------------------------------------------------------------------------------


def hops_findings(o: PointerOptions, s: Summary) -> Iterator[str]:
    """What the hops change, and the closed form."""
    place: dict[str, Any] = {"part": POINTER, "learner": POINTER, "H": o.length}
    degrees = [row["degree"] for row in s.select(EXPECTED, **place)]
    if not degrees:
        return
    (gap,), d = s.select(GAP), min(degrees)
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


def findings(o: PointerOptions, s: Summary) -> Iterator[str]:
    yield from hops_findings(o, s)
    found = s.select(EXPECTED, part=POINTER, learner=POINTER, mode=FORCING, H=o.length, hops=0)
    ours = ", ".join(f"{row.mean:.3f} (d={row['degree']})" for row in reversed(found))
    theirs = ", ".join(f"{value:.1%} on (d, L) = ({d}, {L})" for (d, L), value in PUBLISHED.items())
    yield (
        f"Teacher forcing against 1/d: pointers {ours or NOT_MEASURED}. Published, not ours: {theirs}, a GPT of 12 "
        f"layers, 384 wide, 200,000 graphs ({SOURCE})."
    )


STUDY = Study(
    name="pointers",
    question="What of planning a path is misspecification: how many steps must a learner see?",
    options=PointerOptions,
    cells=cells,
    analyse=analysis(
        rows=derived_rows,
        tables=tables,
        figures=figures,
        findings=findings,
        setting=lambda o: f"graphs of {o.nodes} nodes",
    ),
    labels=("mode", "degree", "hops"),
    seeds_of="pathstar",
)
