"""The learners of the studies under the names they have in tables and figures."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents import Agent, make_agent
from ntp_envs import Demonstrations, Policy, RestartedPolicy, Task

__all__ = [
    "BEST",
    "CHUNKED",
    "CHUNK_KR",
    "IMPROPER",
    "LAYERWISE",
    "LEARNERS",
    "build_learner",
    "fit_population",
    "powers_of_two",
]

#: name in the study: agent and its hyper-parameters
LEARNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "log-loss": ("LogLossBC", {}),
    "smoothed 1/(nH)": ("SmoothedLogLossBC", {"lam": "1/(nH)"}),
    "smoothed 1/H": ("SmoothedLogLossBC", {"lam": "1/H"}),
    "rho": ("RhoEstimatorBC", {"tau": "ratio"}),
    "rho psi": ("RhoEstimatorBC", {"tau": "psi"}),
}
#: learners of product classes, layer by layer; ties go to the first option, or to one at random
LAYERWISE: dict[str, tuple[str, dict[str, Any]]] = {
    "layerwise": ("LayerwiseBC", {}),
    "layerwise, random ties": ("LayerwiseBC", {"tie_break": "random"}),
}
CHUNKED = "chunked rho"
CHUNK_KR = "ChunkKR"
IMPROPER = "improper chunks"
BEST = "best in class"


def build_learner(learner: str, task: Task, chunk: int | None = None, norm_bound: float | None = None) -> Agent:
    """The agent of this name; another name is looked up as `agents.make_agent` does.

    Args:
        learner: a name of this module, or of an agent.
        task: for ``BEST``.
        chunk: K, for ``CHUNKED`` and ``CHUNK_KR``.
        norm_bound: B, for ``CHUNK_KR``.
    """
    if learner == CHUNKED:
        return make_agent("ChunkedRhoBC", chunk=chunk)
    if learner == CHUNK_KR:
        return make_agent("agents.chunk_kr:ChunkKR", chunk=chunk, norm_bound=norm_bound)
    if learner == BEST:
        return make_agent("BestInClass", task=task)
    name, parameters = {**LEARNERS, **LAYERWISE}.get(learner, (learner, {}))
    return make_agent(name, **parameters)


def population_for(agent: Agent, task: Task) -> Demonstrations:
    """A population that is exact for this agent."""
    population = task.population()
    unit = agent.unit(population)
    exact = population.exactness
    if not unit or exact is None or exact.covers(unit, task.policy_class):
        return population
    return task.population(chunk=unit)


def fit_population(
    learner: str, task: Task, rng: np.random.Generator, chunk: int | None = None, norm_bound: float | None = None
) -> Policy:
    """What the learner chooses with infinitely many demonstrations.

    ``IMPROPER`` is not an agent: it is the limit of learners that get every chunk of K tokens right given what
    precedes it, with no shared parameter, so that their chunks are independent (`RestartedPolicy`).
    """
    if learner == IMPROPER:
        assert chunk is not None
        return RestartedPolicy(task.expert, chunk)  # type: ignore[arg-type]
    agent = build_learner(learner, task, chunk, norm_bound)
    return agent.fit(population_for(agent, task), task.policy_class, rng=rng).policy_


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to ``largest``."""
    return [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
