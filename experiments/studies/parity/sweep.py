"""The cells of the study: what is fitted on what, and what is measured. Every function here is pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.learners import BEST, CHUNK_KR, CHUNKED, LEARNERS, build_learner, population_for
from experiments.measure import POPULATION, measured, named
from experiments.studies.parity.options import ParityOptions
from experiments.study import Cell, Record
from ntp_envs import Demonstrations, Task, collect, make_task

__all__ = ["BITS", "IN_CLASS", "LINEAR", "Fit", "cells", "fits_linear", "fits_parity"]

BITS = 4  # of NoisyParity; the answer is the parity of three of them, wrong with probability .1
PARITY, CONTAMINATED = "NoisyParity", "ARLinear contaminated"
LINEAR: dict[str, Any] = {
    "kind": "contamination",
    "width": 2,
    "radius": 16.0,
    "eps": 0.01,
    "misspecification": 1.0,
}
#: learners whose policy is a member of the class and which have no chunk length
IN_CLASS = tuple(LEARNERS)


@dataclass(frozen=True)
class Fit:
    """A learner with its chunk length and norm bound."""

    learner: str
    K: int | None = None
    B: float | None = None

    def labels(self, task: str, H: int, n: float) -> dict[str, str | int | float]:
        """Of its records."""
        found = named(task, self.learner, H, n, self.K)
        return found if self.B is None else {**found, "B": self.B}


def fits_parity(bounds: Sequence[float]) -> list[Fit]:
    """ChunkKR plays on whole episodes (K = 5), and on tokens; chunked rho on episodes."""
    episode = BITS + 1
    kernels = [Fit(CHUNK_KR, K, float(B)) for K in (episode, 1) for B in bounds]
    return [*(Fit(name) for name in IN_CLASS), Fit(CHUNKED, episode), *kernels, Fit(BEST)]


def fits_linear(bounds: Sequence[float], chunks: Sequence[int], H: int) -> list[Fit]:
    """ChunkKR on tokens at every norm bound, on longer chunks at the largest."""
    lengths = [K for K in chunks if H > K]
    tokens = [Fit(CHUNK_KR, 1, float(B)) for B in bounds]
    longer = [Fit(CHUNK_KR, K, float(max(bounds))) for K in lengths]
    return [*(Fit(name) for name in IN_CLASS), *(Fit(CHUNKED, K) for K in lengths), *tokens, *longer, Fit(BEST)]


def fitted(
    fit: Fit, task: Task, demonstrations: Demonstrations | None, bound: float | None, rng: np.random.Generator
) -> list[Record]:
    """Records of one fit, on the population where there are no demonstrations."""
    agent = build_learner(fit.learner, task, fit.K, bound)
    data = population_for(agent, task) if demonstrations is None else demonstrations
    policy = agent.fit(data, task.policy_class, rng=rng).policy_
    name = PARITY if task.name == PARITY else CONTAMINATED
    labels = fit.labels(name, task.horizon, POPULATION if demonstrations is None else len(demonstrations))
    return measured(task, policy, labels, rng)


def episode_bound(fit: Fit) -> float | None:
    """The norm bound that the program of a chunk gets on NoisyParity.

    The law of an episode is 2^-n times that of its answer (the bits are free), and so is its norm: B / 2^n on episodes
    means the bound B on the answer.
    """
    return fit.B if fit.K == 1 or fit.B is None else fit.B / 2**BITS


def parity(
    *, R: int, bounds: Sequence[float], n: int | None, replicate: int = 0, rng: np.random.Generator
) -> list[Record]:
    """All learners on NoisyParity with R episodes; ``n=None`` is the population."""
    task = make_task(PARITY, bits=BITS, subset=(0, 1, 2), noise=0.1, episodes=R)
    demonstrations = None if n is None else collect(task, n, rng)
    records = []
    for fit in fits_parity(bounds):
        if n is None and R > 2 and fit.learner.startswith("rho"):
            continue  # no tractable population for whole sequences
        records += fitted(fit, task, demonstrations, episode_bound(fit), rng)
    return records


def linear(
    *,
    horizons: Sequence[int],
    bounds: Sequence[float],
    chunks: Sequence[int],
    n: int | None,
    replicate: int = 0,
    rng: np.random.Generator,
) -> list[Record]:
    """All learners on the contaminated linear class, at every horizon; ``n=None`` is the population."""
    records = []
    for H in horizons:
        task = make_task("ARLinear", horizon=H, **LINEAR)
        demonstrations = None if n is None else collect(task, n, rng)
        for fit in fits_linear(bounds, chunks, H):
            records += fitted(fit, task, demonstrations, fit.B, rng)
    return records


def cells(options: ParityOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    bounds, chunks = list(options.bounds), list(options.chunks)
    for R in options.episodes:
        yield Cell("parity, population", parity, {"R": R, "bounds": bounds, "n": None})
        for replicate in range(options.seeds):
            cell = {"R": R, "bounds": bounds, "n": options.n, "replicate": replicate}
            yield Cell("parity, samples", parity, cell)
    common = {"bounds": bounds, "chunks": chunks}
    horizons = list(options.population_horizons)
    yield Cell("contaminated, population", linear, {**common, "horizons": horizons, "n": None})
    for replicate in range(options.seeds):
        cell = {**common, "horizons": list(options.horizons), "n": options.linear_n, "replicate": replicate}
        yield Cell("contaminated, samples", linear, cell)
