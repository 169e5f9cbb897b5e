"""The cells of the study: on one data set every learner, fixed or chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agents import Agent, make_agent
from experiments.fits import costed_fit, measured_fit
from experiments.learners import CHUNK_KR, CHUNKED, build_learner
from experiments.measure import named
from experiments.studies.amplification.sweep import SAMPLED
from experiments.studies.robust.options import RobustOptions
from experiments.studies.stability.sweep import TASKS as STABILITY_TASKS
from experiments.study import Cell, Label, Record
from ntp_envs import collect, make_task

__all__ = ["BY_LOG_LOSS", "BY_RHO", "CHOSEN", "COMPARED", "FAMILIES", "TASKS", "cells"]

COMPARED = "learners"
#: name in the study: task and its parameters; the fraction of contaminated documents is in the name
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Contamination eps=.01": ("Contamination", SAMPLED),
    "ARLinear eps=.02": STABILITY_TASKS["ARLinear eps=.02"][:2],
    "NoisyParity": ("NoisyParity", {"episodes": 4}),
}
BY_LOG_LOSS, BY_RHO = "held-out log-loss", "held-out rho"
CRITERIA = {BY_LOG_LOSS: "log_loss", BY_RHO: "rho"}
#: the learners of the comparison, in the order of the tables, and how the figures group them
FAMILIES: dict[str, str] = {
    "log-loss": "log-loss",
    "smoothed 1/(nH)": "smoothed 1/H",
    "smoothed 1/H": "smoothed 1/H",
    f"smoothed, lam by {BY_LOG_LOSS}": "smoothed 1/H",
    f"smoothed, lam by {BY_RHO}": "smoothed 1/H",
    CHUNKED: CHUNKED,
    CHUNK_KR: CHUNK_KR,
    f"ChunkKR, K and B by {BY_LOG_LOSS}": CHUNK_KR,
    f"ChunkKR, K and B by {BY_RHO}": CHUNK_KR,
    "rho": "rho",
}
CHOSEN = {"lam": "lam chosen", "chunk": "K chosen", "norm_bound": "B chosen"}


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
            yield (
                name,
                make_agent("CrossValidatedBC", agent=agent, grid=grid, criterion=CRITERIA[criterion], folds=folds),
            )
        else:
            yield name, build_learner(name, None, K, max(bounds))  # type: ignore[arg-type]


def compared(
    *,
    task: str,
    H: int,
    n: int,
    lams: Sequence[float],
    chunks: Sequence[int],
    bounds: Sequence[float],
    K: int,
    folds: int,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
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
            yield Cell(COMPARED, compared, {**cell, "replicate": replicate})
