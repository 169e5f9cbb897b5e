"""What the cells of the studies measure, and on what data."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from experiments.study import Record
from ntp_envs import Demonstrations, Policy, Task, distance
from ntp_envs._numerics import ROUNDING
from ntp_envs.distances.approximation import WELL_SPECIFIED
from ntp_envs.errors import NotTractableError

__all__ = ["POPULATION", "SLOPE_IN_H", "SLOPE_IN_K", "draw", "measured", "named", "passing"]

POPULATION = math.inf  # the label n of a population fit
SLOPE_IN_H, SLOPE_IN_K = "slope of log C_apx in log H", "slope of log C_apx in log K"


def measured(
    task: Task, policy: Policy, labels: dict[str, str | int | float], rng: np.random.Generator
) -> list[Record]:
    """Squared Hellinger distance at the full length, and over the best in class where that is a factor.

    There is no C_apx where the class contains the expert, or where the best in class is not known.
    """
    curve = distance(task.expert, policy, task, metric="hellinger2", rng=rng)
    method = curve.method if curve.is_exact else f"{curve.method}, n={curve.n}"
    lower, upper = float(curve.lower[-1]), float(curve.upper[-1])
    records = [Record("hellinger2", curve.final, labels, lower, upper, method)]
    try:
        best = task.best_in_class().hellinger2
    except NotTractableError:
        return records
    if best > WELL_SPECIFIED:
        records.append(Record("C_apx", curve.final / best, labels, lower / best, upper / best, method))
    return records


def named(task: str, learner: str, horizon: int, n: float, chunk: int | None = None) -> dict[str, str | int | float]:
    """Labels of a record."""
    labels: dict[str, str | int | float] = {"task": task, "learner": learner, "H": horizon, "n": n}
    return labels if chunk is None else {**labels, "K": chunk}


def draw(task: Task, n: int, rng: np.random.Generator) -> Demonstrations:
    """``n`` demonstrations of the expert, equal ones pooled into one of that weight.

    Where the population lists the complete law the counts are drawn at once (multinomial), which has the law of
    `ntp_envs.collect` and costs the same for any n.
    """
    population = task.population()
    assert population.exactness is not None
    if not population.exactness.everything:
        raise ValueError(f"the population of {task.name} is not the complete law at these parameters; use collect.")
    counts = rng.multinomial(n, population.normalised_weights())
    seen = np.flatnonzero(counts)
    return Demonstrations(
        population.prompts[seen],
        population.tokens[seen],
        vocab_size=population.vocab_size,
        weights=counts[seen].astype(np.float64),
        source={"task": task.name, "parameters": task.parameters(), "by": "expert", "n": n},
    )


def passing(curve: NDArray[np.float64], level: float = 1.0) -> float:
    """Where a ``(H,)`` curve over h = 1, ..., H first reaches the level; ``inf`` where it stays below.

    Straight lines between the points, from 0 at h = 0.

    >>> passing(np.array([0.5, 0.75, 1.25])), passing(np.array([2.0, 2.0])), passing(np.array([0.1, 0.2]))
    (2.5, 0.5, inf)
    """
    above = np.flatnonzero(curve >= level - ROUNDING)
    if not len(above):
        return math.inf
    h = int(above[0])
    before = float(curve[h - 1]) if h else 0.0
    return h + (level - before) / (float(curve[h]) - before)
