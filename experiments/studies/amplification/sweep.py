"""The cells of the study: what is fitted on what, and what is measured. Every function here is pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.learners import (
    BEST,
    CHUNKED,
    IMPROPER,
    LEARNERS,
    build_learner,
    fit_population,
    powers_of_two,
)
from experiments.measure import POPULATION, measured, named
from experiments.studies.amplification.options import AmplificationOptions
from experiments.study import Cell, Record
from ntp_envs import BernoulliPolicy, collect, distance, make_task
from ntp_envs.tasks import ConsistencyGame

__all__ = ["CONTROL_THETA", "RARE_HORIZONS", "RARE_RATIOS", "cells"]

SAMPLED = {"eps": 1e-2, "p": 1e-4, "q": 1 - 1e-4, "theta_min": 1e-4}  # Contamination in the parts with samples
CONTROL_THETA = 0.3
RARE_RATIOS = {"e": math.e, "10": 10.0}
RARE_HORIZONS = (8, 12, 16, 20, 24, 27, 28, 29, 30, 34, 40, 48, 56, 62, 63, 64, 65, 66, 67, 72, 80, 96)


def population(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on Contamination with infinitely many demonstrations."""
    task = make_task("Contamination", horizon=H)
    policy = fit_population(learner, task, rng, K)
    return measured(task, policy, named("Contamination A", learner, H, POPULATION, K), rng)


def samples(
    *, H: int, n: int, learners: Sequence[str], chunks: Sequence[int], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """All learners on one data set of Contamination."""
    task = make_task("Contamination", horizon=H, **SAMPLED)
    demonstrations = collect(task, n, rng)
    records = []
    for learner, K in [*((name, None) for name in learners), *((CHUNKED, chunk) for chunk in chunks)]:
        agent = build_learner(learner, task, K).fit(demonstrations, task.policy_class, rng=rng)
        records += measured(task, agent.policy_, named("Contamination eps=.01", learner, H, n, K), rng)
    return records


def rare_mode(*, H: int, ratio: str, eps: float | None, rng: np.random.Generator) -> list[Record]:
    """Log-loss and rho on the two policies of RareMode; ``eps=None`` is 1/H."""
    task = make_task("RareMode", horizon=H, eps=1 / H if eps is None else eps, density_ratio=RARE_RATIOS[ratio])
    name = f"RareMode eps={'1/H' if eps is None else eps:} W={ratio}"
    return [
        record
        for learner in ("log-loss", "rho")
        for record in measured(task, fit_population(learner, task, rng), named(name, learner, H, POPULATION), rng)
    ]


def consistency(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """One learner on ConsistencyGame, and the closed form for its chunk length."""
    task = make_task("ConsistencyGame", horizon=H, eta=0.1)
    assert isinstance(task, ConsistencyGame)
    labels = named("ConsistencyGame eta=.1", learner, H, POPULATION, 1 if K is None else K)
    exact = Record("C_apx in closed form", task.chunk_factor(1 if K is None else K), labels, method="theory")
    return [*measured(task, fit_population(learner, task, rng, K), labels, rng), exact]


def prefix(*, H: int, learner: str, K: int | None = None, rng: np.random.Generator) -> list[Record]:
    """The distance at prefix lengths spaced evenly on a logarithmic scale."""
    task = make_task("Contamination", horizon=H)
    curve = distance(task.expert, fit_population(learner, task, rng, K), task, metric="hellinger2")
    labels = named("Contamination A", learner, H, POPULATION, K)
    lengths = np.unique(np.geomspace(1, H, 33).round().astype(int))
    return [
        Record("hellinger2", float(curve.values[h - 1]), {**labels, "h": int(h)}, method=curve.method) for h in lengths
    ]


def control(*, H: int, n: int, replicate: int, rng: np.random.Generator) -> list[Record]:
    """Well specified: the expert is a member of the class, so the approximation factor is not defined."""
    task = make_task("Contamination", horizon=H, theta_min=0.01)
    expert = BernoulliPolicy(CONTROL_THETA, on="flips")
    demonstrations = collect(task, n, rng, policy=expert)
    records = []
    for learner in ("log-loss", "rho"):
        policy = build_learner(learner, task).fit(demonstrations, task.policy_class, rng=rng).policy_
        curve = distance(expert, policy, task, metric="hellinger2")
        labels = named(f"flips, theta={CONTROL_THETA}", learner, H, n)
        records.append(Record("hellinger2", curve.final, labels, method=curve.method))
    return records


def cells(options: AmplificationOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    ours = [*LEARNERS, *options.add]
    for H in options.horizons:
        for learner in (*ours, BEST):
            yield Cell("horizon, population", population, {"H": H, "learner": learner})
        for K in options.chunks:
            if K <= H:
                yield Cell("horizon, population", population, {"H": H, "learner": CHUNKED, "K": K})
            if K < H:  # at K = H the improper limit is the expert itself
                yield Cell("horizon, population", population, {"H": H, "learner": IMPROPER, "K": K})
    for K in powers_of_two(options.chunk_horizon):
        for learner in (CHUNKED, IMPROPER) if options.chunk_horizon > K else (CHUNKED,):
            cell = {"H": options.chunk_horizon, "learner": learner, "K": K}
            yield Cell("chunk, population", population, cell)
    for ratio in RARE_RATIOS:
        for H in RARE_HORIZONS:
            yield Cell("rare mode, switch", rare_mode, {"H": H, "ratio": ratio, "eps": 0.01})
    for H in (16, 32, 64, 128, 256):
        yield Cell("rare mode, growth", rare_mode, {"H": H, "ratio": "10", "eps": None})
    for learner in ("log-loss", "layerwise"):
        yield Cell("consistency", consistency, {"H": 256, "learner": learner})
    for K in powers_of_two(256):
        yield Cell("consistency", consistency, {"H": 256, "learner": CHUNKED, "K": K})
    for learner, chunk in (("log-loss", None), ("rho", None), (BEST, None), (CHUNKED, 4), (CHUNKED, 16), (CHUNKED, 64)):
        if chunk is None or chunk < options.chunk_horizon:
            yield Cell("prefix", prefix, {"H": options.chunk_horizon, "learner": learner, "K": chunk})
    for H in options.control_horizons:
        for n in options.control_n:
            if n == _middle(options.control_n) or _middle(options.control_horizons) == H:
                for replicate in range(options.control_seeds):
                    yield Cell("control", control, {"H": H, "n": n, "replicate": replicate})
    for replicate in range(options.seeds):
        for H in options.horizons:
            cell = {"H": H, "n": options.n, "learners": ours, "chunks": [K for K in options.chunks if K <= H]}
            yield Cell("horizon, samples", samples, {**cell, "replicate": replicate})
        cell = {"H": options.sampled_chunk_horizon, "n": options.n, "learners": ["log-loss", "rho"]}
        cell["chunks"] = powers_of_two(options.sampled_chunk_horizon)
        yield Cell("chunk, samples", samples, {**cell, "replicate": replicate})


def _middle(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]
