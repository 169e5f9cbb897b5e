"""Demonstrations by the hundred thousand, collected and fitted, against numpy with one array a position.

The peer draws which coin a sequence has, then its flips, position by position, and counts them: what one writes for
`Contamination` with two numbers and no suite. Both find the share of flips, within five standard errors. The memory is
the most that numpy and Python hold at once (`tracemalloc`, in a run of its own), of which the int64 tokens of the peer
are 8 bytes a token.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents import LogLossBC
from experiments.benchmarks import Row, timed
from ntp_envs import collect
from ntp_envs.tasks import Contamination


def rows(quick: bool) -> Iterator[Row]:
    """One size; ``quick`` has 1000 sequences instead of 200,000."""
    n, horizon = 1000 if quick else 200_000, 64
    task = Contamination(horizon=horizon, eps=0.02, p=0.1, q=0.6, theta_min=0.01)

    def ours() -> float:
        learner: Any = LogLossBC().fit(collect(task, n, np.random.default_rng(0)), task.policy_class).policy_
        return float(learner.theta)

    def theirs() -> float:
        rng = np.random.default_rng(1)
        rates = np.where(rng.random(n) < task.eps, task.q, task.p)
        last, tokens = rng.integers(2, size=n), np.empty((n, horizon), dtype=np.int64)
        flips = 0
        for h in range(horizon):
            flipped = rng.random(n) < rates
            tokens[:, h] = last = last ^ flipped
            flips += int(flipped.sum())
        return flips / tokens.size

    def memory(theta: float) -> str:
        tracemalloc.start()
        ours()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return f"{peak / (n * horizon):.1f} bytes a token"

    error = 5 * np.sqrt(2 * (task.p * (1 - task.p) / (n * horizon) + task.eps * (task.q - task.p) ** 2 / n))
    yield Row(
        "collecting and fitting coins",
        f"A=2, H={horizon}, n={n}",
        timed(ours),
        {"numpy loop": timed(theirs)},
        lambda found, expected: abs(found - expected) <= error,
        note=memory,
    )
