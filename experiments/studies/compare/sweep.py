"""One cell for each agent, task, horizon and seed: what is fitted, and what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from agents import Agent
from experiments.fits import costed_fit, measured_fit
from experiments.measure import named
from experiments.specs import build_agent, build_task
from experiments.studies.compare.options import CompareOptions
from experiments.study import Cell, Label, Record, keyed_rng
from ntp_envs import Demonstrations, Task, collect
from ntp_envs.errors import NotTractableError

__all__ = ["CONVERGED", "NOT_APPLICABLE", "QUERIES", "RUNS", "SEED", "STEPS", "cells", "run"]

RUNS = "runs"  # the part of the study that holds single runs
SEED = "seed"  # the label that tells data sets apart
NOT_APPLICABLE = "not applicable"
QUERIES, STEPS, CONVERGED = "expert queries", "environment steps", "converged"


def shared_rng(rng: np.random.Generator, key: str) -> np.random.Generator:
    """A generator that depends on the run's seed and on ``key``, not on the cell that ``rng`` was made for.

    Cells that use the same key draw the same data, in whatever process and order they run.
    """
    sequence: Any = rng.bit_generator.seed_seq  # its entropy is the seed of the run, its spawn key the cell
    return keyed_rng(sequence.entropy, key)


def built(task: str, horizon: int | None) -> Task:
    """The task; kept, because agents come one after another and it remembers its best in class."""
    made = build_task(task, horizon)
    try:
        return kept(made)
    except TypeError:  # one with parameters that cannot be hashed
        return made


@lru_cache(maxsize=4)
def kept(task: Task) -> Task:
    """The first of equal tasks: of the same parameters, and the same files."""
    return task


def run(
    *, agent: str, task: str, horizon: int | None, n: int, replicate: int, rng: np.random.Generator
) -> list[Record]:
    """One agent on one data set, which every other agent gets too."""
    place = built(task, horizon)
    key = f"compare {task} horizon={horizon} n={n} replicate={replicate}"
    learner = build_agent(agent, place)
    demonstrations = collect(
        place,
        n,
        shared_rng(rng, f"{key}: demonstrations"),  # the same data, with or without what the expert says of them
        expert_log_probs=learner.needs_expert_log_probs,
    )
    labels = {**named(task, agent, place.horizon, n), SEED: replicate}
    reason = why_not(learner, place, demonstrations)
    if reason is None:
        try:
            fit = costed_fit(learner, demonstrations, place.policy_class, int(rng.integers(1 << 63)), memory=False)
        except NotTractableError as error:
            reason = str(error)
        else:
            records = measured_fit(place, fit, labels, shared_rng(rng, f"{key}: distance"))
            return [*records, *_asked(fit.agent, demonstrations, labels)]
    return [Record(NOT_APPLICABLE, 1.0, labels, method=reason)]


def why_not(agent: Agent, task: Task, demonstrations: Demonstrations) -> str | None:
    """Why this agent is not for this task, or ``None``: another kind of policy class, or chunks longer than H."""
    if agent.supports and not isinstance(task.policy_class, agent.supports):
        takes = ", ".join(kind.__name__ for kind in agent.supports)
        return f"it takes only {takes}"
    try:
        unit = agent.unit(demonstrations)
    except ValueError as error:
        return str(error)
    if unit is not None and unit > task.horizon:
        return f"chunks of {unit} tokens are longer than the horizon {task.horizon}"
    return None


def _asked(agent: Agent, demonstrations: Demonstrations, labels: dict[str, Label]) -> list[Record]:
    """What the agent asked for: every demonstrated token is one answer of the expert, and it may have asked for more.

    ``details["expert_queries"]`` and ``details["environment_steps"]`` of its report are what an agent that interacts
    used beyond its demonstrations; the tokens the expert generated for these are not counted as steps.
    """
    details = agent.fit_report_.details
    queries = demonstrations.tokens.size + details.get("expert_queries", 0)
    return [
        Record(QUERIES, queries, labels),
        Record(STEPS, details.get("environment_steps", 0), labels),
        Record(CONVERGED, agent.fit_report_.converged, labels),
    ]


def cells(options: CompareOptions) -> Iterator[Cell]:
    """All runs: agents innermost, so that a process has the task at hand."""
    for task, horizon in options.places():
        for replicate in range(options.seeds):
            for agent in options.agents:
                place = {"task": task, "horizon": horizon, "n": options.n, "replicate": replicate}
                yield Cell(RUNS, run, {"agent": agent, **place})
