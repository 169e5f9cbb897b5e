"""What asking the expert saves: the cost of a slip on a Tightrope that can be climbed back on.

The class has two members, equally far from the expert on its own documents: one never climbs back, one does at once.
Cloning cannot tell them apart, DAgger sees the difference after its first slip; both costs have a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import COLOURS, Figure
from experiments.measure import named
from experiments.panels import Curve, Panel, chart
from experiments.studies.rl import DAGGER, LOOKS, QUERIES, Asking, fitted, queries
from experiments.study import FigureSpec, Study, analysis, option
from experiments.summary import Summary, SummaryRow, Table, derived, number, pivot, slope_rows
from ntp_envs import make_task


@dataclass(frozen=True)
class TightropeOptions(Asking):
    horizons: tuple[int, ...] = option((16, 32, 64, 128, 256), least=2)
    """Horizons H."""
    eps: float = option(1e-3, above=0.0, below=0.5)
    """Slip probability."""
    n: int = option(2000)
    """Demonstrations."""

    seeds: int = option(5, quick=2)
    """Replicates."""


# -- cells: every learner at one horizon -------------------------------------------------------------------------------

COSTS, COST = "cost", "expected cost"
#: where the cost of each learner should lie, and the method of the task that gives it
CLOSED_FORMS = {"closed form, never back": "bc_cost", "closed form, back at once": "dagger_cost"}
NEVER_BACK, BACK = CLOSED_FORMS
#: the closed form that each learner should be on
FORMS = {"log-loss": NEVER_BACK, "rho": NEVER_BACK, DAGGER: BACK}


def costs(
    *, H: int, eps: float, n: int, rounds: int, rollouts: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """The exact expected cost of each learner on Tightrope where one can climb back, with its closed forms."""
    made = make_task("Tightrope", horizon=H, eps=eps, recoverable=True)
    records = []
    for learner, fit in fitted(made, n, rounds, rollouts, rng):
        labels = named("Tightrope", learner, H, n)
        cost = made.expected_cost(fit.agent.policy_)  # type: ignore[attr-defined]
        records += [Record(COST, cost, labels, method="automaton"), Record(QUERIES, queries(fit.agent), labels)]
    if replicate == 0:
        for name, method in CLOSED_FORMS.items():
            labels = {"task": "Tightrope", "learner": name, "H": H}
            records.append(Record(COST, getattr(made, method)(), labels, method="closed form"))
    return records


def cells(o: TightropeOptions) -> Iterator[Cell]:
    asked = {"rounds": o.rounds, "rollouts": o.rollouts}
    for replicate in range(o.seeds):
        for H in o.horizons:
            yield Cell(COSTS, costs, {"H": H, "eps": o.eps, "n": o.n, **asked, "replicate": replicate})


# -- derived numbers, table, figure and finding ------------------------------------------------------------------------

SLOPE = "slope of log cost in log H"
GAP = "largest relative gap to the closed form"


def cost_rows(o: TightropeOptions, s: Summary) -> Iterator[SummaryRow]:
    """The slope of each learner's cost, and how far the worst of its means is from its closed form."""
    for learner, form in FORMS.items():
        found, wanted = (s.series("H", COST, learner=name) for name in (learner, form))
        if not len(found.x) or list(found.x) != list(wanted.x):
            continue  # a cell failed
        gap = float(abs(found.mean / wanted.mean - 1).max())
        yield derived(COSTS, GAP, gap, "over the horizons", task="Tightrope", learner=learner)
        yield from slope_rows(s.select(COST, learner=learner), "H", SLOPE)


def tables(o: TightropeOptions, s: Summary) -> Iterator[Table]:
    yield pivot(
        s,
        "Cost on Tightrope, recoverable",
        COST,
        [(name, {"learner": name}) for name in (*FORMS, *CLOSED_FORMS)],
        [(f"H={H}", {"H": H, "bare": True}) for H in s.distinct("H")],
        digits=5,
        note="Steps off the rope, exact for the policy learned (forward recursion); means over replicates.",
    )


def cost_figure(s: Summary) -> Figure:
    """Expected cost against H, with the closed forms as lines under the points of the learners."""
    cloning, asking = (s.value(SLOPE, learner=learner) for learner in ("log-loss", DAGGER))
    title = "What does asking the expert save?"
    if cloning == cloning and asking == asking:
        title = f"The cost of a slip grows as $H^{{{cloning:.3g}}}$ for cloning, as $H^{{{asking:.3g}}}$ for DAgger"
    line, points = {"color": COLOURS["grey"], "marker": "", "linestyle": "-"}, {"linestyle": ""}
    look: dict[str, tuple[str, dict[str, Any]]] = {
        BACK: (r"about $\varepsilon H$", line),
        NEVER_BACK: (r"$\sum_h 1 - (1 - \varepsilon)^h$", line),
        "log-loss": ("log-loss and rho", {**points, "markersize": 11}),
        "rho": ("", {**points, "markersize": 5}),
        DAGGER: (DAGGER, {**points, "markersize": 8, "color": LOOKS[DAGGER]["color"], "marker": "^"}),
    }
    curves = [Curve({"learner": name}, label, look=changes) for name, (label, changes) in look.items()]
    panel = Panel("H", "horizon H", COST, curves, yscale="log")
    return chart(s, title, "expected steps off the rope", panel)


def figures(o: TightropeOptions, s: Summary) -> Iterator[FigureSpec]:
    yield FigureSpec(
        "headline",
        "What does asking the expert save?",
        "Exact expected cost of the learned policies on the Tightrope that can be climbed back on; lines: closed "
        "forms.",
        lambda: cost_figure(s),
    )


def cost_findings(o: TightropeOptions, s: Summary) -> Iterator[str]:
    """The cost at the largest horizon, the slopes and the gaps."""
    gaps = {row["learner"]: row.mean for row in s.select(GAP)}
    if not gaps:
        return
    top = max(s.distinct("H"))
    words = []
    for learner, gap in gaps.items():
        cost, wanted = (s.value(COST, learner=name, H=top) for name in (learner, FORMS[learner]))
        words.append(
            f"{learner} {number(cost, 5)} (closed form {number(wanted, 5)}; slope in H "
            f"{number(s.value(SLOPE, learner=learner), 3)}; largest gap {gap:.2g})"
        )
    worst = max(gaps.values())
    kept = "all within 5 % of the closed forms"
    if worst > 0.05:
        kept = f"not within 5 % of the closed forms ({worst:.0%})"
    asked = s.value(QUERIES, learner=DAGGER, H=top)
    yield (
        f"Tightrope where one can climb back, expected cost at H={top}: {'; '.join(words)}: {kept}. DAgger asked "
        f"the expert {asked:,.0f} times there. The class has two members, equally far from the expert; cloning "
        "cannot tell them apart and takes the first, DAgger sees the difference after its first slip."
    )


STUDY = Study(
    name="tightrope",
    question="What does asking the expert save where one can climb back: how does the cost of a slip grow?",
    options=TightropeOptions,
    cells=cells,
    analyse=analysis(
        rows=cost_rows,
        tables=tables,
        figures=figures,
        findings=cost_findings,
        setting=lambda o: f"eps = {o.eps:g}, recoverable",
    ),
    seeds_of="rl",
)
