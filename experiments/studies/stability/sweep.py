"""The cells of the study: fits of ChunkKR at growing chunk lengths, and at growing ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agents import make_agent
from experiments.fits import costed_fit, measured_fit
from experiments.learners import CHUNK_KR, build_learner
from experiments.measure import named
from experiments.studies.amplification.sweep import SAMPLED
from experiments.studies.stability.options import StabilityOptions
from experiments.study import Cell, Record
from ntp_envs import NotTractableError, Task, collect, make_task

__all__ = ["EXCESS", "GROWTH", "LOW_RANK", "REFUSED", "SHARE", "TASKS", "cells"]

GROWTH, LOW_RANK = "chunk length", "low rank"
#: name in the study: task, its parameters, and the norm bound B of ChunkKR
#: (ARLinear: an instance picked for its large factor; with radius 4 log-loss has about 1.6 and longer chunks only lose)
TASKS: dict[str, tuple[str, dict[str, Any], float]] = {
    "Contamination eps=.01": ("Contamination", SAMPLED, 1.0),
    "ARLinear eps=.02": (
        "ARLinear",
        {"kind": "contamination", "misspecification": 1.0, "radius": 24.0, "eps": 0.02, "width": 2},
        4.0,
    ),
}
#: a gap below this is rounding error
SMALLEST_GAP = 1e-12
#: memory is traced, by a second fit, up to this many strings; the estimate of the fit is reported for all
TRACED = 2**10
REFUSED, EXCESS, SHARE = "refused", "log-loss above that of the full rank", "projection share of the solver's time"


def task_of(name: str, horizon: int) -> tuple[Task, float]:
    """The task and the norm bound."""
    kind, parameters, bound = TASKS[name]
    return make_task(kind, horizon=horizon, **parameters), bound


def growth(*, task: str, H: int, K: int, n: int, rng: np.random.Generator) -> list[Record]:
    """One fit, with everything that tells how well it was conditioned; or that it was refused."""
    made, bound = task_of(task, H)
    labels = named(task, CHUNK_KR, H, n, K)
    demonstrations = collect(made, n, np.random.default_rng(n))  # the same ones for every K
    agent = build_learner(CHUNK_KR, made, K, bound)
    seed = int(rng.integers(1 << 31))
    try:
        fit = costed_fit(agent, demonstrations, made.policy_class, seed, memory=2**K <= TRACED)
    except NotTractableError:
        return [Record(REFUSED, 1.0, labels)]
    report = agent.fit_report_
    program = max(report.details["programs"], key=lambda entry: entry["length"])
    low, high = program["kernel_log_range"]
    facts = {
        "smallest log kernel product": low,
        "largest log kernel product": high,
        "condition number": program["condition"],
        "points": program["points"],
        "rank kept": program["rank"],
        "trace left out": round(program["trace_error"], 12),
        "iterations": program["iterations"],
        "gap": max(report.gap, SMALLEST_GAP),
        "infeasibility": max(entry["infeasibility"] for entry in report.details["programs"]),
        "converged": float(fit.converged),
        "estimated megabytes": program["memory_bytes"] / 1e6,
    }
    records = [Record(metric, float(value), labels) for metric, value in facts.items()]
    records.append(Record(SHARE, program["projection_share"], labels, machine=True))
    return [*records, *measured_fit(made, fit, labels, rng)]


def low_rank(*, task: str, H: int, K: int, n: int, shares: Sequence[float], rng: np.random.Generator) -> list[Record]:
    """ChunkKR with fewer coordinates than points, and log-loss, on one data set."""
    made, bound = task_of(task, H)
    demonstrations = collect(made, n, np.random.default_rng(n))
    place = named(task, CHUNK_KR, H, n, K)
    seed = int(rng.integers(1 << 31))
    full = build_learner(CHUNK_KR, made, K, bound)
    costed_fit(full, demonstrations, made.policy_class, seed, memory=False)
    points = max(entry["points"] for entry in full.fit_report_.details["programs"])
    plain = costed_fit(build_learner("log-loss", made), demonstrations, made.policy_class, seed, memory=False)
    records = measured_fit(made, plain, named(task, "log-loss", H, n, 1), rng)
    for share in shares:
        agent = make_agent("agents.chunk_kr:ChunkKR", chunk=K, norm_bound=bound, low_rank=round(share * points) + 1)
        fit = costed_fit(agent, demonstrations, made.policy_class, seed, memory=False)
        labels = {**place, "rank": share}
        program = max(agent.fit_report_.details["programs"], key=lambda entry: entry["length"])
        excess = agent.fit_report_.objective - full.fit_report_.objective
        records.append(Record("trace left out", round(program["trace_error"], 12), labels))
        records.append(Record(EXCESS, max(round(excess, 6), 0.0), labels))  # both are certified to 1e-6 nats
        records += measured_fit(made, fit, labels, rng)
    return records


def cells(options: StabilityOptions) -> Iterator[Cell]:
    """All cells, part by part."""
    sizes = dict(zip(TASKS, ((options.n, options.chunks), (options.linear_n, options.linear_chunks)), strict=True))
    for task, (n, chunks) in sizes.items():
        for K in chunks:
            yield Cell(GROWTH, growth, {"task": task, "H": options.horizon, "K": K, "n": n})
    lengths = (options.rank_chunk, options.rank_chunk - 2)
    for (task, (n, _)), K in zip(sizes.items(), lengths, strict=True):
        cell = {"task": task, "H": options.horizon, "K": K, "n": n, "shares": options.rank_shares}
        yield Cell(LOW_RANK, low_rank, cell)
