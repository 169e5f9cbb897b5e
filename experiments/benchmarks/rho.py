"""The rho game over M policies and n sequences, by best-first elimination, against numpy broadcasting.

Run ``python -m experiments.benchmarks.rho``; it prints seconds of ours, of the peer, and their ratio in the same run.
Both get the same ``(n, M)`` float64 matrix of log-densities in memory; equal samples are rare in it, so that pooling
does not help. Use one BLAS thread (``OMP_NUM_THREADS=1``) for figures that can be compared; neither side uses more.

* ``numpy broadcasting``: for each policy j the ``(n, M)`` matrix ``tanh((L - L[:, [j]]) / 2)`` (or ``/ 4``), its mean
  over samples, the maximum over replies; then the argmin. All M rows cost the same, so a random sample of them is timed
  and scaled by their number, unless ``--full`` is given.

Two classes of Markov chains of order 3, demonstrated by a mixture of two chains, so that the class is misspecified:
``far apart`` are drawn independently, ``neighbours`` around the demonstrator's average, where the game is flat and more
rows must be evaluated. Before times are taken the two methods must agree on the argmin for a smaller class.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.rho_game import TAU_SCALE, solve_finite_game
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


def run(quick: bool = False, *, full: bool = False, seed: int = 0) -> list[dict[str, Any]]:
    """Measure, and return rows with keys work, ours_s, peer, peer_s, ratio, rows_evaluated.

    Args:
        quick: n = 2000 and M = 200 instead of n = 10^4 and M = 1000.
        full: time the peer on every row instead of a sample.
        seed: of the data.

    Raises:
        RuntimeError: the two methods disagree.
    """
    n, policies = (2000, 200) if quick else (10_000, 1000)
    rng = np.random.default_rng(seed)
    rows = []
    for name, near in (("far apart", False), ("neighbours", True)):
        matrix = log_densities(n, policies, 64, rng, near=near)
        weights = np.full(n, 1 / n)
        for tau in TAU_SCALE:
            _check_agreement(matrix[:, : min(100, policies)], tau)
            times = []
            for _ in range(7):
                start = time.perf_counter()
                game = solve_finite_game(matrix, weights, tau)
                times.append(time.perf_counter() - start)
            timed = np.arange(policies) if full else rng.choice(policies, size=40, replace=False)
            start = time.perf_counter()
            values = [worst_case(matrix, int(j), tau) for j in timed]
            peer = (time.perf_counter() - start) * policies / len(timed)
            if min(values) < game.value - 1e-12:
                raise RuntimeError(f"row {timed[int(np.argmin(values))]} of the peer beats the winner of the game.")
            rows.append(
                {
                    "work": f"rho game, tau={tau}, n={n}, M={policies}, {name}",
                    "ours_s": float(np.median(times)),
                    "peer": "numpy broadcasting"
                    + ("" if full else f" ({len(timed)} rows timed, scaled to {policies})"),
                    "peer_s": peer,
                    "ratio": peer / float(np.median(times)),
                    "rows_evaluated": game.rows_evaluated,
                }
            )
    return rows


def _check_agreement(matrix: NDArray[np.float64], tau: str) -> None:
    peer = int(np.argmin([worst_case(matrix, j, tau) for j in range(matrix.shape[1])]))
    ours = solve_finite_game(matrix, np.full(len(matrix), 1 / len(matrix)), tau).index
    if ours != peer:
        raise RuntimeError(f"argmin {ours} of the elimination is not the peer's {peer} (tau={tau}).")


def main() -> None:
    parser = argparse.ArgumentParser(description="rho game: best-first elimination against numpy broadcasting")
    parser.add_argument("--quick", action="store_true", help="a small instance, seconds")
    parser.add_argument("--full", action="store_true", help="time the peer on every row: minutes")
    options = parser.parse_args()
    for row in run(options.quick, full=options.full):
        print(
            f"{row['work']}: ours {row['ours_s'] * 1e3:.1f} ms ({row['rows_evaluated']} rows), "
            f"{row['peer']} {row['peer_s']:.1f} s, ratio {row['ratio']:.0f}"
        )


if __name__ == "__main__":
    main()
