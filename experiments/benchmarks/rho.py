"""The rho game over M policies and n sequences, by best-first elimination, against numpy broadcasting.

Both get the same ``(n, M)`` float64 matrix of log-densities in memory; equal samples are rare in it, so that pooling
does not help.

* ``numpy broadcasting``: for each policy j the ``(n, M)`` matrix ``tanh((L - L[:, [j]]) / 2)`` (or ``/ 4``), its mean
  over samples, the maximum over replies; then the argmin. All M rows cost the same, so a random sample of them is timed
  and scaled by their number.

Two classes of Markov chains of order 3, demonstrated by a mixture of two chains, so that the class is misspecified:
``far apart`` are drawn independently, ``neighbours`` around the demonstrator's average, where the game is flat and more
rows must be evaluated. No row of the peer's sample may be below the value of the game, and for a smaller class both
must have the same argmin.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.rho_game import TAU_SCALE, solve_finite_game
from experiments.benchmarks import Clock, Row, timed
from ntp_envs import MarkovPolicy, MixturePolicy
from ntp_envs.automata import markov_contexts

ORDER = 3


def log_densities(n: int, policies: int, horizon: int, rng: np.random.Generator, *, near: bool) -> NDArray[np.float64]:
    """``(n, policies)`` log-densities of sequences from a mixture of two chains under random chains."""
    contexts = 3**ORDER  # prefixes shorter than the order included
    first, second = rng.beta(2, 2, size=(2, contexts))
    chains = [MarkovPolicy(np.column_stack([1 - ones, ones]), ORDER) for ones in (first, second)]
    prompts = np.empty((n, 0), dtype=np.int64)
    tokens = MixturePolicy(chains, [0.85, 0.15]).sample(prompts, horizon, rng)
    cells = 2 * markov_contexts(prompts, tokens, 2, ORDER)[:, :-1] + tokens  # (n, H)
    counts = np.stack([np.bincount(row, minlength=2 * contexts) for row in cells])  # (n, 2 contexts)
    if near:
        average = np.log(0.85 * first + 0.15 * second) - np.log1p(-0.85 * first - 0.15 * second)
        ones = 1 / (1 + np.exp(-average - 0.3 * rng.normal(size=(policies, contexts))))
    else:
        ones = rng.beta(2, 2, size=(policies, contexts))
    return counts @ np.log(np.stack([1 - ones, ones], axis=2).reshape(policies, -1)).T


def worst_case(matrix: NDArray[np.float64], j: int, tau: str) -> float:
    """The peer's row j."""
    return float(np.tanh((matrix - matrix[:, [j]]) * TAU_SCALE[tau]).mean(axis=0).max())


def same_choice(matrix: NDArray[np.float64], tau: str) -> bool:
    """Whether both have the same argmin."""
    peer = int(np.argmin([worst_case(matrix, j, tau) for j in range(matrix.shape[1])]))
    return solve_finite_game(matrix, np.full(len(matrix), 1 / len(matrix)), tau).index == peer


def rows(quick: bool) -> Iterator[Row]:
    """Both classes; ``quick`` has n = 500 and M = 50 instead of n = 10^4 and M = 1000."""
    n, policies = (500, 50) if quick else (10_000, 1000)
    rng = np.random.default_rng(0)
    for name, tau in (("far apart", "ratio"), ("neighbours", "psi")):
        matrix, weights = log_densities(n, policies, 64, rng, near=name == "neighbours"), np.full(n, 1 / n)
        sample = rng.choice(policies, size=min(40, policies), replace=False)

        def peer(clock: Clock) -> float:
            with clock(len(sample) / policies):  # noqa: B023
                return min(worst_case(matrix, int(j), tau) for j in sample)  # noqa: B023

        yield Row(
            f"rho game, policies {name}",
            f"n={n}, M={policies}",
            timed(lambda: solve_finite_game(matrix, weights, tau)),  # noqa: B023
            {"numpy broadcasting": peer},
            lambda game, least: least >= game.value - 1e-12 and same_choice(matrix[:, :100], tau),  # noqa: B023
            "1000x",
            lambda game: f"{game.rows_evaluated} rows evaluated",
        )
