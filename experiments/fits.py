"""Fits with what they cost: processor seconds and megabytes, as records that depend on the machine."""

from __future__ import annotations

import time
import tracemalloc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from agents import Agent, ConvergenceWarning
from experiments.measure import measured
from experiments.study import Label, Record
from ntp_envs import Demonstrations, PolicyClass, Task

__all__ = ["MEGABYTES", "NOTHING", "SECONDS", "Fit", "costed_fit", "measured_fit"]

SECONDS, MEGABYTES = "processor seconds of a fit", "peak megabytes of a fit"
#: a distance below this is recorded as 0: fits are certified to about 1e-6 nats, and what is left is rounding error
NOTHING = 1e-9


@dataclass(frozen=True)
class Fit:
    """A fitted agent and what it took.

    Attributes:
        agent: fitted.
        converged: it reached its tolerance; its warning, if not, is kept here and not shown.
        seconds: of processor time, of all threads: other work on the machine does not count.
        megabytes: peak of the memory allocated during the fit, ``nan`` where not measured.
    """

    agent: Agent
    converged: bool
    seconds: float
    megabytes: float = field(default=float("nan"))

    def records(self, labels: Mapping[str, Label]) -> list[Record]:
        """The costs, marked as depending on the machine."""
        found = [Record(SECONDS, self.seconds, labels, machine=True)]
        if self.megabytes == self.megabytes:
            found.append(Record(MEGABYTES, self.megabytes, labels, machine=True))
        return found


def costed_fit(
    agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, seed: int, *, memory: bool
) -> Fit:
    """Fit, and say what it cost.

    Args:
        agent: to fit.
        demonstrations: to learn from.
        policy_class: to choose from.
        seed: of the fit, so that what it draws does not depend on what was fitted before.
        memory: fit once more with all allocations traced, which is slow; the seconds are those of the first fit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = time.process_time()
        agent.fit(demonstrations, policy_class, rng=np.random.default_rng(seed))
        seconds = time.process_time() - before
        megabytes = _peak(agent.clone(), demonstrations, policy_class, seed) if memory else float("nan")
    return Fit(agent, agent.fit_report_.converged, seconds, megabytes)


def _peak(agent: Agent, demonstrations: Demonstrations, policy_class: PolicyClass, seed: int) -> float:
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        agent.fit(demonstrations, policy_class, rng=np.random.default_rng(seed))
        return (tracemalloc.get_traced_memory()[1] - before) / 1e6
    finally:
        if not running:
            tracemalloc.stop()


def measured_fit(task: Task, fit: Fit, labels: dict[str, Label], rng: np.random.Generator) -> list[Record]:
    """How far the fitted policy is from the expert (`experiments.measure.measured`), and the cost of the fit."""
    found = measured(task, fit.agent.policy_, labels, rng)
    if found[0].value < NOTHING:
        found = [replace(record, value=0.0, lower=0.0, upper=0.0) for record in found]
    return [*found, *fit.records(labels)]
