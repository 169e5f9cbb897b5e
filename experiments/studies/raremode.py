"""RareMode: from a closed-form horizon on log-loss takes the worse of two policies, and rho does not.

The better one is wrong in a rare mode of documents only, but at every token there, which log-loss adds up; the worse
one writes that mode half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from experiments.cells import Cell, Record
from experiments.charts import FACTOR, Figure
from experiments.measure import POPULATION, fit_population, measured, named
from experiments.panels import Curve, Guide, Panel, chart
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Summary, Table, number
from ntp_envs import make_task
from ntp_envs.tasks import RareMode


@dataclass(frozen=True)
class RareModeOptions(Options):
    horizons: tuple[int, ...] = option(
        (8, 12, 16, 20, 24, 27, 28, 29, 30, 34, 40, 48, 56, 62, 63, 64, 65, 66, 67, 72, 80, 96)
    )
    """Horizons H at which the choice is looked at, with a rare mode of one probability."""
    growth_horizons: tuple[int, ...] = option((16, 32, 64, 128, 256))
    """Horizons H with a rare mode of probability 1/H."""


# -- cells: both learners at one horizon, with infinitely many demonstrations ------------------------------------------

SWITCH, GROWTH = "rare mode, switch", "rare mode, growth"
LEARNERS = ("log-loss", "rho")
EPS = 0.01
#: density ratios W, by name
RATIOS = {"e": math.e, "10": 10.0}


def rare_mode(*, H: int, ratio: str, eps: float | None, rng: np.random.Generator) -> list[Record]:
    """Log-loss and rho on the two policies of RareMode; ``eps=None`` is 1/H."""
    task = make_task("RareMode", horizon=H, eps=1 / H if eps is None else eps, density_ratio=RATIOS[ratio])
    name = f"RareMode eps={'1/H' if eps is None else eps:} W={ratio}"
    records = []
    for learner in LEARNERS:
        records += measured(task, fit_population(learner, task, rng), named(name, learner, H, POPULATION), rng)
    return records


def cells(o: RareModeOptions) -> Iterator[Cell]:
    for ratio in RATIOS:
        for H in o.horizons:
            yield Cell(SWITCH, rare_mode, {"H": H, "ratio": ratio, "eps": EPS})
    for H in o.growth_horizons:
        yield Cell(GROWTH, rare_mode, {"H": H, "ratio": "10", "eps": None})


# -- table, figures and finding ----------------------------------------------------------------------------------------


def switch_horizon(ratio: str) -> float:
    """The horizon from which on log-loss prefers the worse policy, in closed form."""
    return RareMode(eps=EPS, density_ratio=RATIOS[ratio]).switch_horizon()


def tables(o: RareModeOptions, s: Summary) -> list[Table]:
    """The first horizon at which log-loss leaves the better policy, next to the closed form."""
    lines = []
    for ratio in RATIOS:
        task = f"RareMode eps={EPS} W={ratio}"
        series = s.series("H", "C_apx", part=SWITCH, learner="log-loss", task=task)
        above = np.flatnonzero(series.mean > 1 + 1e-9)
        first, jump = (f"{series.x[above[0]]:g}", float(series.mean[above[0]])) if len(above) else ("none", math.nan)
        lines.append([f"W={ratio}", first, number(switch_horizon(ratio), 5), number(jump, 6)])
    heads = ["density ratio", "first H above the switch", "switch in closed form", "C_apx there"]
    return [Table(f"RareMode, eps={EPS}: where log-loss takes the worse policy", heads, lines)]


def switch_figure(o: RareModeOptions, s: Summary) -> Figure:
    """A step where log-loss changes its choice; rho does not."""
    part, task, curves, guides = SWITCH, f"RareMode eps={EPS} W=", [], []
    for ratio, dashes in (("e", "--"), ("10", "-")):
        look = {"linestyle": dashes, "drawstyle": "steps-post", "marker": ""}
        curves.append(Curve({"part": part, "learner": "log-loss", "task": task + ratio}, look=look))
        switch = switch_horizon(ratio)
        note = f"log-loss, W={ratio}:\nswitches at H={switch:.1f}"
        guides.append(Guide(points=[(switch, 11.0)], note=note, style="log-loss"))
    curves.append(Curve({"part": part, "learner": "rho", "task": task + "10"}, "rho", look={"marker": ""}))
    ticks = [H for H in o.horizons if H % 20 == 0 or H in (min(o.horizons), max(o.horizons))]
    panel = Panel("H", "horizon H", "C_apx", curves, guides, "linear", "zero", ticks)
    return chart(s, "How much does one more token cost?", FACTOR, panel)


def growth_figure(o: RareModeOptions, s: Summary) -> Figure:
    """C_apx against H, both logarithmic."""
    ends = min(o.growth_horizons), max(o.growth_horizons)
    curves = [Curve({"part": GROWTH, "learner": name}, name) for name in LEARNERS]
    first, last = (s.value("C_apx", part=GROWTH, learner="log-loss", H=H) for H in ends)
    title = f"Log-loss: C_apx {first:.3g} at H={ends[0]}, {last:.3g} at H={ends[1]}"
    panel = Panel("H", "horizon H (rare mode of probability 1/H, W=10)", "C_apx", curves)
    return chart(s, title, FACTOR, panel)


def findings(o: RareModeOptions, s: Summary) -> Iterator[str]:
    """Where the choice changes, and what it costs."""
    for line in tables(o, s)[0].rows:
        ratio, first, closed, jump = map(str, line)
        if first != "none":
            yield f"RareMode, eps={EPS}, {ratio}: C_apx of log-loss is {jump} from H={first} on (closed form {closed})."


def figures(o: RareModeOptions, s: Summary) -> list[FigureSpec]:
    switches = " and ".join(f"H={switch_horizon(ratio):.1f} (W={ratio})" for ratio in RATIOS)
    return [
        FigureSpec(
            "headline",
            "When does log-loss take the worse policy?",
            f"With eps={EPS}, in closed form, log-loss changes to the worse of two policies at {switches}.",
            lambda: switch_figure(o, s),
        ),
        FigureSpec(
            "growth",
            "Does a bounded density ratio help?",
            "A rare mode of probability 1/H and density ratio 10; in theory the factor of log-loss doubles with H.",
            lambda: growth_figure(o, s),
        ),
    ]


STUDY = Study(
    name="raremode",
    question="From which horizon on does log-loss take the worse of two policies, and what does that cost?",
    options=RareModeOptions,
    cells=cells,
    analyse=analysis(tables=tables, figures=figures, findings=findings),
    seeds_of="amplification",
)
