"""One column of written addition: a token for the carry makes each answer a linear one, and without it none is.

It is why the sum is the hard step of a multiplication that is learned: `experiments.studies.multiplication`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents import ConvergenceWarning, LogLossBC
from experiments.cells import Cell, Label, Record
from experiments.charts import COLOURS, Figure
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, intervals_over, pivot
from ntp_envs import ARLinearClass, Demonstrations, Policy, collect
from ntp_envs.arrays import first_best
from ntp_envs.features import WindowOneHot
from ntp_envs.tasks import ColumnAddition


@dataclass(frozen=True)
class CarryOptions(Options):
    addends: tuple[int, ...] = option((3, 4, 5, 6, 7), quick=(3, 5, 7), least=2)
    """Digits in a column of `ColumnAddition`. With two there are 200 columns, and all of them are in the data."""
    n: int = option(5000, least=2)
    """Columns to learn from."""
    fresh: int = option(5000, least=2)
    """Columns to be judged on."""
    radius: float = option(3000.0, above=0.0)
    """Bound on the norm of the weights."""
    seeds: int = option(10, quick=4)
    """Data sets of columns."""


# -- cells: the three answers of one data set --------------------------------------------------------------------------

CARRY, DIGIT, STEP = "carry right", "digit right after the true carry", "carry and digit right"
ALONE, ALONE_NATS = "digit right without a carry token", "nats of the digit without a carry token"
#: of a fit, in nats a token. Where in the gap a fit ends decides some fresh columns: at 1e-2 three in a hundred, here a
#: few in ten thousand
TOLERANCE = 1e-4


def columns(
    *, addends: int, radius: float, n: int, fresh: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """Log-loss on one column: its carry, the digit once the carry is written, and the digit alone.

    The class of `ColumnAddition` has weights of its own for each answer, so each is a fit by itself, here in a ball of
    its own.
    """
    task = ColumnAddition(addends)
    data, judged = (collect(task, size, rng) for size in (n, fresh))
    lines, tests = (np.concatenate([found.prompts, found.tokens], axis=1) for found in (data, judged))

    def law(seen: int, wanted: int) -> NDArray[np.float64]:
        """``(fresh, A)`` log-probabilities of token ``wanted`` of a line from the first ``seen`` ones."""
        data = Demonstrations(lines[:, :seen], lines[:, [wanted]], vocab_size=task.vocab_size)
        policy = certified(data, WindowOneHot(task.vocab_size, seen), radius, rng)
        return policy.next_log_probs(tests[:, :seen], tests[:, :0])

    carry, digit = addends + 1, addends + 2  # where the answers are
    laws = {CARRY: (law(carry, carry), carry), DIGIT: (law(digit, digit), digit), ALONE: (law(carry, digit), digit)}
    right = {name: first_best(table) == tests[:, wanted] for name, (table, wanted) in laws.items()}
    right[STEP] = right[CARRY] & right[DIGIT]  # as in free running: the digit is written after the right carry
    nats = -float(laws[ALONE][0][np.arange(fresh), tests[:, digit]].mean())
    labels: dict[str, Label] = {"task": task.name, "learner": "log-loss", "addends": addends, "n": n}
    return [*(Record(name, float(r.mean()), labels) for name, r in right.items()), Record(ALONE_NATS, nats, labels)]


def certified(data: Demonstrations, features: WindowOneHot, radius: float, rng: np.random.Generator) -> Policy:
    """Maximum likelihood in a ball.

    Raises:
        ValueError: it is not certified.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return LogLossBC(tol=TOLERANCE).fit(data, ARLinearClass(features, radius), rng=rng).policy_
        except ConvergenceWarning as error:
            raise ValueError(f"a fit to the columns is not certified: {error}") from error


def cells(o: CarryOptions) -> Iterator[Cell]:
    for addends in sorted(o.addends, reverse=True):
        for replicate in range(o.seeds):
            cell = {"addends": addends, "radius": o.radius, "n": o.n, "fresh": o.fresh, "replicate": replicate}
            yield Cell("columns", columns, cell)


# -- table, figure and finding -----------------------------------------------------------------------------------------


def tables(o: CarryOptions, s: Summary) -> Iterator[Table]:
    lines = [(str(addends), {"addends": addends}) for addends in sorted(s.distinct("addends"))]
    heads = {"carry": CARRY, "digit after it": DIGIT, "both": STEP, "digit alone": ALONE}
    heads["nats, digit alone"] = ALONE_NATS
    measures = [(head, {"metric": metric}) for head, metric in heads.items()]
    note = (
        f"Log-loss in the class of ColumnAddition, judged on fresh columns. {intervals_over(s)}, none where all "
        "data sets agree. Guessing a digit costs ln 10 = 2.303 nats."
    )
    yield pivot(s, "One column of written addition", CARRY, lines, measures, corner="digits", note=note)


def figure(s: Summary) -> Figure:
    """Accuracy on one column against the digits in it."""
    lines = {
        "the carry": (CARRY, {"color": COLOURS["blue"], "marker": "o", "linestyle": "-"}),
        "the digit after its carry": (DIGIT, {"color": COLOURS["green"], "marker": "s", "linestyle": "--"}),
        "the digit, no carry token": (ALONE, {"color": COLOURS["vermilion"], "marker": "^", "linestyle": ""}),
    }  # a line through the last would hide that of guessing
    curves = [Curve({}, name, metric, look=look) for name, (metric, look) in lines.items()]
    guess = Guide(level=0.1, note="guessing: 0.10")
    shape: dict[str, Any] = {"xscale": "linear", "yscale": "share"}
    panel = Panel("addends", "digits in the column", CARRY, curves, [guess], **shape)
    title, most = (
        "Is one column of a sum linear, with a token for the carry and without?",
        max(s.distinct("addends"), default=0),
    )
    with_, without = (s.value(metric, addends=most) for metric in (STEP, ALONE))
    if with_ == with_ and without == without:
        title = f"{most} digits in a column: {with_:.0%} right with a token for the carry, {without:.0%} without"
    return chart(s, title, "share right", panel)


def figures(o: CarryOptions, s: Summary) -> Iterator[FigureSpec]:
    yield FigureSpec(
        "headline",
        "Does a token for the carry help?",
        f"One column of written addition, {o.n} of them to learn from by log-loss, norm of the weights "
        f"at most {o.radius:g}; judged on fresh columns: mean over data sets with 95 % intervals. Dotted: "
        "guessing a digit.",
        lambda: figure(s),
    )


def findings(o: CarryOptions, s: Summary) -> Iterator[str]:
    words = []
    for addends in sorted(s.distinct("addends")):
        step, alone = (s.shown(metric, addends=addends) for metric in (STEP, ALONE))
        words.append(f"{addends} digits: {step} and {alone}")
    if words:
        yield (
            "One column of the sum, carry and digit right with a token for the carry, and the digit without one "
            f"(chance .10): {'; '.join(words)}."
        )


STUDY = Study(
    name="carry",
    question="Is one column of a written sum linear, with a token for the carry and without?",
    options=CarryOptions,
    cells=cells,
    analyse=analysis(
        tables=tables, figures=figures, findings=findings, setting=lambda o: f"norm of the weights at most {o.radius:g}"
    ),
    labels=("addends",),
    seeds_of="multiplication",
)
