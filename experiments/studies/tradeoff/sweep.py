"""The cells of the study: every learner on the same data set, with its factor and its cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.fits import costed_fit, measured_fit
from experiments.learners import CHUNK_KR, CHUNKED, IMPROPER, build_learner, fit_population
from experiments.measure import POPULATION, measured, named
from experiments.studies.amplification.sweep import SAMPLED
from experiments.studies.tradeoff.options import TradeoffOptions
from experiments.study import Cell, Record
from ntp_envs import Demonstrations, Task, collect, make_task

__all__ = ["CONTAMINATION", "EXCESS_SLOPE_IN_K", "LIMIT", "PARITY", "cells"]

CONTAMINATION, LIMIT, PARITY = "contamination", "contamination, limit", "parity"
EXCESS_SLOPE_IN_K = "slope of log (C_apx - 1) in log K"


def fitted(
    task: Task,
    demonstrations: Demonstrations,
    learner: str,
    K: int,
    place: dict[str, str | int | float],
    rng: np.random.Generator,
    *,
    B: float | None,
    memory: bool,
) -> list[Record]:
    """The factor and the cost of one learner on these demonstrations."""
    seed = int(rng.integers(1 << 31))
    agent = build_learner(learner, task, K, B)
    fit = costed_fit(agent, demonstrations, task.policy_class, seed, memory=memory)
    return measured_fit(task, fit, {**place, "learner": learner, "K": K}, rng)


def contamination(
    *,
    H: int,
    n: int,
    kernel: Sequence[int],
    rho: Sequence[int],
    whole: bool,
    B: float,
    replicate: int,
    rng: np.random.Generator,
) -> list[Record]:
    """ChunkKR, the chunked rho-estimator and (if ``whole``) log-loss and the rho-estimator on one data set.

    Memory is traced on the first data set only: it hardly depends on the data.
    """
    task = make_task("Contamination", horizon=H, **SAMPLED)
    demonstrations = collect(task, n, rng)
    place = named("Contamination eps=.01", "", H, n)
    learners = [*((CHUNK_KR, K) for K in kernel), *((CHUNKED, K) for K in rho)]
    learners += [("log-loss", 1), ("rho", H)] if whole else []
    records = []
    for learner, K in learners:
        bound = B if learner == CHUNK_KR else None
        records += fitted(task, demonstrations, learner, K, place, rng, B=bound, memory=replicate == 0)
    return records


def limit(*, H: int, K: int, rng: np.random.Generator) -> list[Record]:
    """The expert's own chunks, drawn independently: what ChunkKR approaches with infinitely many demonstrations."""
    task = make_task("Contamination", horizon=H, **SAMPLED)
    policy = fit_population(IMPROPER, task, rng, K)
    return measured(task, policy, named("Contamination eps=.01", IMPROPER, H, POPULATION, K), rng)


def parity(
    *, episodes: int, n: int, K: int | None, bounds: Sequence[float], replicate: int, rng: np.random.Generator
) -> list[Record]:
    """ChunkKR at one chunk length and every norm bound, or log-loss (``K=None``), on one data set."""
    task = make_task("NoisyParity", episodes=episodes)
    demonstrations = collect(task, n, rng)
    place = named(task.name, "", task.horizon, n)
    if K is None:
        return fitted(task, demonstrations, "log-loss", 1, place, rng, B=None, memory=replicate == 0)
    return [
        record
        for B in bounds
        for record in fitted(task, demonstrations, CHUNK_KR, K, {**place, "B": B}, rng, B=B, memory=replicate == 0)
    ]


def cells(options: TradeoffOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    common = {"H": options.horizon, "n": options.n, "B": options.norm_bound}
    for replicate in range(options.seeds):
        chunks = {"kernel": options.chunks, "rho": options.rho_chunks, "whole": True}
        yield Cell(CONTAMINATION, contamination, {**common, **chunks, "replicate": replicate})
    for replicate in range(options.long_seeds):
        for K in options.long_chunks:
            chunks = {"kernel": (K,), "rho": (), "whole": False}
            yield Cell(CONTAMINATION, contamination, {**common, **chunks, "replicate": replicate})
    for K in sorted({*options.chunks, *options.long_chunks, *options.rho_chunks} - {options.horizon}):
        yield Cell(LIMIT, limit, {"H": options.horizon, "K": K})
    for replicate in range(options.seeds):
        for length in (None, *options.parity_chunks):
            bounds = options.bounds if (length or 1) <= 8 else (options.norm_bound,)
            cell = {"episodes": options.episodes, "n": options.parity_n, "K": length, "bounds": bounds}
            yield Cell(PARITY, parity, {**cell, "replicate": replicate})
