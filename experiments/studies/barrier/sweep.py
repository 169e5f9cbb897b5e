"""The cells of the study: what is fitted on what, and what is measured. Every function here is pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agents import Agent
from experiments.learners import CHUNKED, LAYERWISE, build_learner, fit_population
from experiments.measure import POPULATION, draw, measured, named
from experiments.studies.barrier.options import BarrierOptions
from experiments.study import Cell, Record
from ntp_envs.policy_classes import ErrorSetPolicy
from ntp_envs.tasks import ConsistencyGame, HalvingGame, RareMode

__all__ = ["BOUND", "NEXT_TOKEN", "RARE_HORIZONS", "SETS", "TIES", "cells", "switch_horizon"]

#: every next-token learner there is for a product class
NEXT_TOKEN = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", *LAYERWISE)
SHARED = ("log-loss", "smoothed 1/(nH)", "smoothed 1/H", "rho")  # in RareMode, which has no layers to choose in
GAME, HALVING, RARE_MODE = "ConsistencyGame", "HalvingGame", "RareMode"
RARE_HORIZONS = (8, 16, 20, 24, 28, 29, 30, 31, 32, 36, 40, 48, 56, 64)
RARE_LARGEST_N = 10_000  # there the switch is already as sharp as in the population
SETS, BOUND = "error sets used", "least expected number of sets, layer by layer"
TIES = "share of layers decided by a tie"

Learner = tuple[str, int | None]


def game(H: int, eta: float) -> ConsistencyGame:
    """The multi-scale game, with error sets as heavy as they can be, so that samples show as much as they can."""
    return ConsistencyGame(horizon=H, eta=eta, eps=0.5 / H)


def learners_at(H: int, chunks: Sequence[int]) -> list[Learner]:
    """``(learner, K)`` of the multi-scale game."""
    return [*((name, None) for name in NEXT_TOKEN), *((CHUNKED, K) for K in chunks if H >= K), ("rho", None)]


def multi_scale_population(
    *, horizons: Sequence[int], eta: float, learner: str, K: int | None = None, rng: np.random.Generator
) -> list[Record]:
    """One learner with infinitely many demonstrations, at every horizon, and the closed form of its factor."""
    records = []
    for H in horizons:
        if (K or 1) > H:
            continue
        task = game(H, eta)
        labels = named(GAME, learner, H, POPULATION, K)
        records += measured(task, fit_population(learner, task, rng, K), labels, rng)
        unit = H if learner == "rho" else K or 1
        records.append(Record("C_apx in closed form", task.chunk_factor(unit), labels, method="theory"))
    return records


def multi_scale_samples(
    *, horizons: Sequence[int], eta: float, n: int, chunks: Sequence[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """All learners on the same data set, one for every horizon."""
    records = []
    for H in horizons:
        task = game(H, eta)
        demonstrations = draw(task, n, rng)
        for learner, K in learners_at(H, chunks):
            agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
            labels = named(GAME, learner, H, n, K)
            records += measured(task, agent.policy_, labels, rng)
            if learner == "log-loss":
                records.append(Record(TIES, agent.fit_report_.details["ties"] / H, labels))
    return records


def halving(*, H: int, n: int | None, replicate: int, chunks: Sequence[int], rng: np.random.Generator) -> list[Record]:
    """One draw of the halving game: how many error sets each learner uses. ``n=None`` is the population."""
    seed = int(rng.integers(1 << 31))
    task = HalvingGame(horizon=H, eps=0.5**H, seed=seed)
    demonstrations = task.population() if n is None else draw(task, n, rng)
    records = []
    for learner, K in learners_at(H, chunks if n is None else ()):
        if learner == "rho" and n is not None:
            continue
        agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
        labels = named(HALVING, learner, H, POPULATION if n is None else n, K)
        records.append(Record(SETS, sets_used(agent), labels, method="counted"))
    if n is None:
        labels = named(HALVING, "layer by layer", H, POPULATION)
        records.append(Record(BOUND, task.expected_sets_lower_bound(), labels, method="theory"))
    return records


def sets_used(agent: Agent) -> float:
    """The number of distinct contexts on which the learned policy errs at some layer."""
    policy = agent.policy_
    assert isinstance(policy, ErrorSetPolicy)
    return float(len(np.unique(policy.error_contexts)))


def rare_task(H: int) -> RareMode:
    """RareMode as it is used here."""
    return RareMode(horizon=H, eps=0.01, density_ratio=10.0)


def switch_horizon() -> float:
    """Where log-loss changes to the worse policy of RareMode, in closed form."""
    return rare_task(RARE_HORIZONS[0]).switch_horizon()


def rare_mode(*, horizons: Sequence[int], n: int | None, replicate: int = 0, rng: np.random.Generator) -> list[Record]:
    """Learners that share parameters between layers, on the two policies of RareMode. ``n=None`` is the population.

    One draw of the number of rare documents serves all horizons.
    """
    seed, records = int(rng.integers(1 << 31)), []
    for H in horizons:
        task = rare_task(H)
        demonstrations = task.population() if n is None else draw(task, n, np.random.default_rng(seed))
        for learner in SHARED:
            agent = build_learner(learner, task).fit(demonstrations, task.policy_class, rng=rng)
            labels = named(RARE_MODE, learner, H, POPULATION if n is None else n)
            records += measured(task, agent.policy_, labels, rng)
    return records


def cells(options: BarrierOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    horizons, eta, chunks = list(options.horizons), options.eta, list(options.chunks)
    for learner, K in learners_at(max(horizons), options.chunks):
        cell = {"horizons": horizons, "eta": eta, "learner": learner}
        yield Cell("multi-scale, population", multi_scale_population, cell if K is None else {**cell, "K": K})
    for n in options.n:
        for replicate in range(options.seeds):
            cell = {"horizons": horizons, "eta": eta, "n": n, "chunks": chunks}
            yield Cell("multi-scale, samples", multi_scale_samples, {**cell, "replicate": replicate})
    for H in options.halving_horizons:
        for sampled in (None, options.halving_n):
            for replicate in range(options.halving_seeds):
                cell = {"H": H, "n": sampled, "replicate": replicate, "chunks": [K for K in chunks if K < H]}
                yield Cell("halving", halving, cell)
    horizons = list(RARE_HORIZONS)
    yield Cell("rare mode", rare_mode, {"horizons": horizons, "n": None})
    for n in (n for n in options.n if n <= RARE_LARGEST_N):
        for replicate in range(options.rare_seeds):
            yield Cell("rare mode", rare_mode, {"horizons": horizons, "n": n, "replicate": replicate})
