"""Do the robust variants of next-token prediction - smoothing, cross-validation - close the gap?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents import Agent, make_agent
from experiments.cells import Cell, Label, Record
from experiments.charts import FACTOR, Figure
from experiments.measure import CHUNK_KR, CHUNKED, SECONDS, build_learner, costed_fit, measured_fit, named, titled
from experiments.panels import Curve, Guide, Panel, chart, dots
from experiments.studies.amplification import SAMPLED
from experiments.studies.stability import TASKS as STABILITY_TASKS
from experiments.study import FigureSpec, Options, Study, analysis, option
from experiments.summary import Places, Summary, Table, interval_words, number, pivot
from ntp_envs import collect, make_task
from ntp_envs.arrays import TIE, first_best

#: name in the study: task and its parameters; the fraction of contaminated documents is in the name
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Contamination eps=.01": ("Contamination", SAMPLED),
    "ARLinear eps=.02": STABILITY_TASKS["ARLinear eps=.02"][:2],
    "NoisyParity": ("NoisyParity", {"episodes": 4}),
}
BY_LOG_LOSS, BY_RHO = "held-out log-loss", "held-out rho"
CRITERIA = {BY_LOG_LOSS: "log_loss", BY_RHO: "rho"}
LAM_BY = {by: f"smoothed, lam by {by}" for by in CRITERIA}
KERNEL_BY = {by: f"ChunkKR, K and B by {by}" for by in CRITERIA}
#: the learners of the comparison, in the order of the tables, and whose colour they have
FAMILIES: dict[str, str] = {
    "log-loss": "log-loss",
    **dict.fromkeys(("smoothed 1/(nH)", "smoothed 1/H", *LAM_BY.values()), "smoothed 1/H"),
    CHUNKED: CHUNKED,
    **dict.fromkeys((CHUNK_KR, *KERNEL_BY.values()), CHUNK_KR),
    "rho": "rho",
}
CHOSEN = {"lam": "lam chosen", "chunk": "K chosen", "norm_bound": "B chosen"}


@dataclass(frozen=True)
class RobustOptions(Options):
    horizon: int = option(64, least=8)
    """Horizon H on Contamination and ARLinear."""
    n: int = option(10_000, least=8)
    """Demonstrations on Contamination."""
    linear_n: int = option(2000, least=8)
    """Demonstrations on ARLinear."""
    parity_n: int = option(4000, least=8)
    """Demonstrations on NoisyParity, of four episodes."""
    seeds: int = option(20, quick=5)
    """Data sets on each task."""
    lams: tuple[float, ...] = option((0.0, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3), least=0.0, below=1.0)
    """Smoothing lambda: swept, and chosen from by cross-validation."""
    chunks: tuple[int, ...] = option((1, 2, 4, 5), quick=(1, 2, 5), most=8)
    """Chunk lengths K of ChunkKR that cross-validation chooses from; on NoisyParity longer ones take minutes."""
    norm_bounds: tuple[float, ...] = option((1.0, 4.0), least=0.5)
    """Norm bounds B that it chooses from."""
    chunk: int = option(5, least=2, most=8)
    """Chunk length of the learners that are given one."""
    folds: int = option(3, least=2)
    """Folds of the cross-validation."""


# -- cells: on one data set every learner, fixed or chosen by cross-validation ----------------------------------------


def learners(
    lams: Sequence[float], chunks: Sequence[int], bounds: Sequence[float], K: int, folds: int
) -> Iterator[tuple[str, Agent]]:
    """Name and agent of every learner of the comparison."""
    kernel = make_agent("agents.chunk_kr:ChunkKR")
    grids = {
        "smoothed, lam": (make_agent("SmoothedLogLossBC"), {"lam": list(lams)}),
        "ChunkKR, K and B": (kernel, {"chunk": list(chunks), "norm_bound": list(bounds)}),
    }
    for name in FAMILIES:
        what, by, criterion = name.partition(" by ")
        if by:
            agent, grid = grids[what]
            how = {"criterion": CRITERIA[criterion], "folds": folds}
            yield name, make_agent("CrossValidatedBC", agent=agent, grid=grid, **how)
        else:
            yield name, build_learner(name, None, K, max(bounds))  # type: ignore[arg-type]


def compared(
    *, task: str, H: int, n: int, lams: Sequence[float], chunks: Sequence[int], bounds: Sequence[float], K: int,
    folds: int, replicate: int, rng: np.random.Generator,
) -> list[Record]:  # fmt: skip
    """Every learner on one data set, and the sweep over lambda."""
    kind, parameters = TASKS[task]
    made = make_task(kind, **parameters) if kind == "NoisyParity" else make_task(kind, horizon=H, **parameters)
    demonstrations = collect(made, n, rng)
    seed = int(rng.integers(1 << 31))
    records = []
    for name, agent in learners(lams, chunks, bounds, K, folds):
        fit = costed_fit(agent, demonstrations, made.policy_class, seed, memory=False)
        labels: dict[str, Label] = named(task, name, made.horizon, n)
        records += measured_fit(made, fit, labels, rng)
        for parameter, value in getattr(agent, "best_params_", {}).items():
            records.append(Record(CHOSEN[parameter], float(value), labels))
    for lam in lams:
        smoothed = make_agent("SmoothedLogLossBC", lam=lam)
        fit = costed_fit(smoothed, demonstrations, made.policy_class, seed, memory=False)
        records += measured_fit(made, fit, {**named(task, "smoothed", made.horizon, n), "lam": lam}, rng)
    return records


def cells(options: RobustOptions) -> Iterator[Cell]:
    """One cell a task and data set."""
    sizes = dict(zip(TASKS, (options.n, options.linear_n, options.parity_n), strict=True))
    grid = {"lams": options.lams, "chunks": options.chunks, "bounds": options.norm_bounds}
    for replicate in range(options.seeds):
        for task, n in sizes.items():
            cell = {"task": task, "H": options.horizon, "n": n, **grid, "K": options.chunk, "folds": options.folds}
            yield Cell("learners", compared, {**cell, "replicate": replicate})


# -- tables, figures and findings -------------------------------------------------------------------------------------


def shown_name(learner: str, K: int) -> str:
    return titled(learner, K) if learner in (CHUNKED, CHUNK_KR) else learner


def tables(o: RobustOptions, s: Summary) -> list[Table]:
    compared: Places = []
    chosen: Places = []
    for task in TASKS:
        compared += [
            (task, {"metric": "C_apx", "task": task}),
            ("seconds", {"metric": SECONDS, "task": task, "timing": True, "bare": True, "digits": 2}),
        ]
    for metric in CHOSEN.values():
        chosen += [(f"{metric}, {task.split()[0]}", {"metric": metric, "task": task, "bare": True}) for task in TASKS]
    learners = [(shown_name(name, o.chunk), {"learner": name}) for name in FAMILIES]
    note = f"{interval_words(o.seeds)}; seconds of one processor."
    return [
        pivot(s, "C_apx of the robust variants", "C_apx", learners, compared, note=note),
        pivot(s, "What cross-validation chose (mean over data sets)", "", learners, chosen),
    ]


def comparison_figure(o: RobustOptions, s: Summary) -> Figure:
    families = ("smoothed 1/H", CHUNK_KR)
    halved = dict.fromkeys(families, 0)
    for task in TASKS:
        found = {name: s.value("C_apx", learner=name, task=task) for name in FAMILIES}
        for family in families:
            least = min(found[name] for name in FAMILIES if FAMILIES[name] == family)
            halved[family] += least <= found["log-loss"] / 2
    return dots(
        s,
        f"Half the factor of log-loss or less: smoothing on {halved[families[0]]}, ChunkKR on {halved[CHUNK_KR]} of "
        f"{len(TASKS)} tasks",
        "C_apx",
        {shown_name(name, o.chunk): ({"learner": name}, family) for name, family in FAMILIES.items()},
        {task: {"task": task} for task in TASKS},
    )


def smoothing_figure(o: RobustOptions, s: Summary) -> Figure:
    lines = []
    for task, dashes in zip(TASKS, ("-", "--", ":"), strict=True):
        look = {"linestyle": dashes, "marker": "o"}
        lines.append(Curve({"learner": "smoothed", "task": task}, task.split()[0], style="smoothed 1/H", look=look))
    guide = Guide(place=1 / o.horizon, note="1/H")
    panel = Panel("lam", "smoothing lambda", "C_apx", lines, [guide], "log", "log")
    return chart(s, "Is one lambda right everywhere, and is the best one enough?", FACTOR, panel)


def figures(o: RobustOptions, s: Summary) -> list[FigureSpec]:
    return [
        FigureSpec(
            "headline",
            "Do smoothing and cross-validation bridge the gap?",
            f"{interval_words(o.seeds)}; dashed: the best policy of the class. Smoothing stays in the class, and "
            "cannot do what the class cannot (NoisyParity). The ARLinear instance (width 2, radius 24) was picked "
            "among a few for its large factor: in single trials then, with width 1 a lambda of .05 reached 1.02, and "
            "with radius 4 and H=32 log-loss had 1.6 and ChunkKR was no better.",
            lambda: comparison_figure(o, s),
        ),
        FigureSpec(
            "smoothing",
            "Which lambda?",
            f"The factor of smoothed log-loss against its lambda, {interval_words(o.seeds)}; dotted upright: the usual "
            "1/H. In theory any lambda above 2 eps solves Contamination, and none changes anything on NoisyParity.",
            lambda: smoothing_figure(o, s),
        ),
    ]


def findings(o: RobustOptions, s: Summary) -> list[str]:
    """What each task gave, and whether smoothing closes the gap with the best lambda in hindsight."""
    said: list[str] = []
    closed: list[str] = []
    left: list[str] = []
    for task in TASKS:

        def of(learner: str, metric: str = "C_apx", digits: int = 3, task: str = task) -> str:
            return number(s.value(metric, learner=learner, task=task), digits)

        sweep = s.series("lam", "C_apx", learner="smoothed", task=task)
        if not len(sweep.x):
            continue
        best = int(first_best(-sweep.mean, slack=TIE * sweep.mean.max()))
        lam, K = CHOSEN["lam"], CHOSEN["chunk"]
        said += [
            f"{task}: log-loss {of('log-loss')}; smoothed with 1/(nH) {of('smoothed 1/(nH)')}, with 1/H "
            f"{of('smoothed 1/H')}, with the best lambda in hindsight ({sweep.x[best]:g}) "
            f"{number(float(sweep.mean[best]), 3)}; ChunkKR, K={o.chunk}, {of(CHUNK_KR)}; rho {of('rho')}.",
            f"{task}, cross-validated: by held-out log-loss lambda is {of(LAM_BY[BY_LOG_LOSS], lam, 2)} and C_apx "
            f"{of(LAM_BY[BY_LOG_LOSS])}, by held-out rho {of(LAM_BY[BY_RHO], lam, 2)} and {of(LAM_BY[BY_RHO])}; "
            f"ChunkKR by held-out log-loss has K={of(KERNEL_BY[BY_LOG_LOSS], K, 2)} and C_apx "
            f"{of(KERNEL_BY[BY_LOG_LOSS])}, by held-out rho K={of(KERNEL_BY[BY_RHO], K, 2)} and "
            f"{of(KERNEL_BY[BY_RHO])} (means over data sets).",
        ]
        least = float(sweep.mean.min())
        other = min(s.value("C_apx", learner=name, task=task) for name in (CHUNK_KR, "rho"))
        if other == other:
            (closed if least <= other else left).append(f"{task.split()[0]} ({least:.3g} against {other:.3g})")
    verdict = (
        "Does smoothing bridge the gap? With lambda chosen in hindsight it matches the better of ChunkKR and rho on "
        f"{', '.join(closed) or 'no task'}, and not on {', '.join(left) or 'any'}."
    )
    return [*said, verdict] if said else []


STUDY = Study(
    name="robust",
    question="Do smoothing and cross-validation bridge the gap between next-token log-loss and longer units?",
    options=RobustOptions,
    cells=cells,
    analyse=analysis(
        tables=tables, figures=figures, findings=findings, setting=lambda o: f"chunks of {o.chunk}; {o.folds} folds"
    ),
    labels=("lam",),
)
