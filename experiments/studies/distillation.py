"""Students of growing size, taught by tokens, by laws, or on what they write themselves: whose own texts drift least?

The expert is an n-gram model of text and the students are shorter ones, for which every objective is solved exactly.
All are shown as many texts: of the expert, or, on policy, half of them and as many of their own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents import Agent, ConvergenceWarning, make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import (
    COLOURS,
    Figure,
    errorbars,
    log_range,
    new_figure,
    no_data,
    plain_log_axis,
    round_ticks,
    text,
)
from experiments.measure import distance_record, shown_lengths
from experiments.studies.lm import FORCED, RATE, forced_kl, nats
from experiments.study import Analysis, FigureSpec, Options, Study, option
from experiments.summary import Summary, Table, interval_words, number, pivot
from ntp_envs import NGramClass, Task, collect, distance
from ntp_envs.tasks import Text


@dataclass(frozen=True)
class DistillationOptions(Options):
    """The text, the students, and sizes; the defaults are the full study."""

    corpus: str = "default"
    """Text to work on: the path of a text file, "hf:OWNER/NAME" for a Hugging Face data set, or the help topics that
    come with Python."""
    expert_order: int = option(6)
    """Order of the n-gram model of the text that is the expert."""
    orders: tuple[int, ...] = option((2, 3, 4, 5), most="expert_order")
    """Orders of the students."""
    horizon: int = option(16, quick=8, least=2)
    """Tokens to write."""
    prompt_length: int = option(16, least=0)
    """Tokens of the text that they follow."""
    n: int = option(8000, quick=2000, least=8)
    """Texts that each student is taught with."""
    rounds: int = option(2)
    """Times that a student on policy writes texts of its own; the last of them count."""
    draws: int = option(10_000, quick=2000, least=4)
    """Sequences that a distance is measured with."""
    forced: int = option(500, quick=200, least=2)
    """Texts of the expert on which the teacher-forced divergence is computed."""
    seeds: int = option(5, quick=3)
    """Replicates."""


# -- cells: a student of one size, taught in every way ----------------------------------------------------------------

TOKENS, LAWS, FORWARD, REVERSE = "by tokens", "by laws", "on policy, forward KL", "on policy, reverse KL"
COLOUR = dict(zip((TOKENS, LAWS, FORWARD, REVERSE), (COLOURS[c] for c in ("vermilion", "orange", "blue", "green"))))
DISTANCE2 = "hellinger2"


def teacher(way: str, task: Task, n: int, rounds: int) -> Agent:
    """Who teaches in this way."""
    if way == TOKENS:
        return make_agent("NGramBC")
    if way == LAWS:
        return make_agent("OnPolicyDistillation", task=task, on_policy=0.0, rounds=1)
    divergence = "forward" if way == FORWARD else "reverse"
    rollouts = max(1, n // 2 // rounds)
    return make_agent("OnPolicyDistillation", task=task, divergence=divergence, rounds=rounds, rollouts=rollouts)


def taught(
    *,
    task: Mapping[str, Any],
    order: int,
    n: int,
    rounds: int,
    draws: int,
    forced: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """The students' distances at every length, and the divergence of their laws on texts of the expert."""
    made = Text(**task)
    demonstrations, held = collect(made, n, rng), collect(made, forced, rng)
    seed = int(rng.integers(2**31))
    records = []
    for way in COLOUR:
        shown = demonstrations if way in (TOKENS, LAWS) else demonstrations.subset(np.arange(n - n // 2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # so many rounds, settled or not
            agent = teacher(way, made, n, rounds).fit(shown, NGramClass(made.vocab_size, order), rng=rng)
        labels: dict[str, Label] = {"learner": way, "order": order, "n": n, "H": made.horizon}
        curve = distance(
            made.expert, agent.policy_, made, method="monte carlo (bridge)", n=draws, rng=np.random.default_rng(seed)
        )
        records += [distance_record(curve, labels, h) for h in shown_lengths(made.horizon)]
        ends = [float(nats(column[-1])) / made.horizon for column in (curve.values, curve.lower, curve.upper)]
        records.append(Record(RATE, ends[0], labels, ends[1], ends[2], records[-1].method))
        mask = np.ones(held.tokens.shape, dtype=bool)
        kl = forced_kl(made.expert, agent.policy_, held.prompts, held.tokens, mask)
        records.append(Record(FORCED, float(kl.mean()), labels, method=f"{forced} texts of the expert"))
    return records


def cells(o: DistillationOptions) -> Iterator[Cell]:
    task = {"corpus": o.corpus, "expert_order": o.expert_order}
    task |= {"horizon": o.horizon, "prompt_length": o.prompt_length}
    sizes = {"n": o.n, "rounds": o.rounds, "draws": o.draws, "forced": o.forced}
    for replicate in range(o.seeds):
        for order in sorted(o.orders, reverse=True):
            yield Cell("students", taught, {"task": task, "order": order, **sizes, "replicate": replicate})


# -- tables, figures and findings --------------------------------------------------------------------------------------


def tables(o: DistillationOptions, s: Summary) -> list[Table]:
    rows: list[tuple[str, dict[str, Any]]] = [
        (f"{order}-gram, {way}", {"order": order, "learner": way}) for order in sorted(o.orders) for way in COLOUR
    ]
    lengths = sorted({1, *(h for h in (4, 16) if h < o.horizon), o.horizon})
    columns: list[tuple[str, dict[str, Any]]] = [(f"D^2, h={h}", {"h": h}) for h in lengths]
    columns += [("nats a token", {"metric": RATE}), ("forced KL a token", {"metric": FORCED})]
    note = (
        "D^2: squared Hellinger distance (0 to 2) of the first h tokens; nats a token: -log(1 - D^2/2) of whole texts "
        f"over their length; forced KL: of the laws of the next token, on texts of the expert; {o.n} texts each. "
        f"{interval_words(o.seeds, 'replicates')}."
    )
    return [pivot(s, "Students by what they are taught with", DISTANCE2, rows, columns, corner="student", note=note)]


def compounding_figure(o: DistillationOptions, s: Summary) -> Figure:
    """Drift against the teacher-forced divergence: a line a way of teaching, a point a size."""
    figure, axes = new_figure(
        title(o, s), "teacher-forced KL, nats a token", "whole texts, nats a token", size=(9.0, 5.2)
    )
    for way, colour in COLOUR.items():
        forced, rate = (s.series("order", metric, learner=way) for metric in (FORCED, RATE))
        if len(forced.x) != len(rate.x) or not len(rate.x):
            continue
        axes.plot(forced.mean, rate.mean, "-", color=colour, label=way)
        errorbars(axes, forced.mean, rate, colour, marker="o")
        for order, x, y in zip(rate.x, forced.mean, rate.mean):
            axes.annotate(f"{order:g}", (x, y), **{**text(""), "color": colour}, xytext=(6, -8))
    if not axes.lines:
        no_data(axes)
        return figure
    plain_log_axis(axes)
    axes.set_xscale("log")
    low, high = log_range(axes, "x")
    round_ticks(axes, (low, high))
    axes.set_xlim(low / 1.1, high * 1.1)
    axes.legend(title="taught (numbers: order of the student)")
    return figure


def least(s: Summary, metric: str, order: int) -> str:
    """The way of teaching that this is least for; empty where one was not measured."""
    found = {way: s.value(metric, learner=way, order=order) for way in COLOUR}
    return "" if any(map(math.isnan, found.values())) else min(found, key=lambda way: found[way])


def at_equal(o: DistillationOptions, s: Summary) -> tuple[float, dict[str, float]] | None:
    """A teacher-forced divergence that all ways of teaching have, and the drift of each there, between two sizes."""
    curves = {way: [s.series("order", metric, learner=way).mean for metric in (FORCED, RATE)] for way in COLOUR}
    if any(len(forced) != len(o.orders) or len(rate) != len(o.orders) for forced, rate in curves.values()):
        return None
    ends = [(forced.min(), forced.max()) for forced, _ in curves.values()]
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    if not low <= high:
        return None
    x, order = math.sqrt(low * high), {way: forced.argsort() for way, (forced, _) in curves.items()}
    drift = {
        way: float(np.exp(np.interp(math.log(x), np.log(forced[order[way]]), np.log(rate[order[way]]))))
        for way, (forced, rate) in curves.items()
    }
    return x, drift


def title(o: DistillationOptions, s: Summary) -> str:
    if found := at_equal(o, s):
        return f"At equal teacher-forced KL, those taught {min(found[1], key=lambda way: found[1][way])} drift least"
    return "Whose own texts drift least, at an equal teacher-forced divergence?"


def figures(o: DistillationOptions, s: Summary) -> list[FigureSpec]:
    caption = (
        f"N-gram students of an order-{o.expert_order} expert, {o.n} texts each, of the expert or (on policy) half of "
        f"them their own. Across: KL of the laws of the next token on texts of the expert. Up: Bhattacharyya distance "
        f"of texts of {o.horizon} tokens over their length. {interval_words(o.seeds, 'replicates')}."
    )
    return [FigureSpec("headline", "Whose own texts drift least?", caption, lambda: compounding_figure(o, s))]


def findings(o: DistillationOptions, s: Summary) -> Iterator[str]:
    for order in sorted(o.orders):
        drift, forced = least(s, RATE, order), least(s, FORCED, order)
        if not drift or not forced:
            continue
        words = "; ".join(
            f"{way} {s.shown(DISTANCE2, learner=way, order=order, h=o.horizon)} and "
            f"{number(s.value(FORCED, learner=way, order=order), 3)}"
            for way in COLOUR
        )
        verdict = f"{drift}, which" if drift == forced else f"{drift}, while {forced}"
        yield (
            f"Order {order}, squared Hellinger distance of {o.horizon} tokens and forced KL a token: {words}. Least "
            f"drift: {verdict} has the least KL."
        )
    if found := at_equal(o, s):
        words = "; ".join(f"{way} {number(rate, 2)}" for way, rate in found[1].items())
        yield f"Nats of drift a token where forced KL is {number(found[0], 3)}, between two sizes of student: {words}."


def analyse(o: DistillationOptions, s: Summary) -> Analysis:
    return Analysis(tables=tables(o, s), figures=figures(o, s), findings=list(findings(o, s)))


STUDY = Study(
    name="distillation",
    question="Taught by tokens, by laws or on their own texts: which students' texts drift least from the expert's?",
    options=DistillationOptions,
    cells=cells,
    analyse=analyse,
    labels=("order",),
    reads=("corpus",),
)
