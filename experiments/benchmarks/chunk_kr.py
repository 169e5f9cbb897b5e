"""ChunkKR's inner problem against cvxpy with SCS, and how ChunkKR scales with prefixes and chunk length.

Run ``python -m experiments.benchmarks.chunk_kr``; it prints seconds of ours, of the peer, and their ratio in the same
run. Data are chunks of 4 tokens after 200 distinct contexts (16 strings each: 3200 points), 5 chunks a context, from a
member of the class; the features are the last 11 tokens, one-hot, and a constant.

* The problem, for both: maximise ``sum w log(phi c)`` over ``||c|| <= B`` with every row of ``phi c`` a probability
  vector, given ``phi``. Ours is timed from phi to the certified solution.
* The peer is cvxpy's SCS on the same arrays; only SCS's own setup and solve times count, not cvxpy's compilation. Its
  accuracy is raised by tens until our certificate, with the peer's own multipliers and its law (clipped and
  normalised), proves the same gap, and the law is as near to ``phi c``; the first run that gets there counts, or the
  last one within the time allowed, marked "gap not reached".
* Scaling: seconds of a whole fit (points, Gram matrix, solver) against the number of prefixes at K = 4, and against K
  at 24 prefixes; the exponents are fitted to the larger sizes: seconds ~ n^e and seconds ~ 2^(e K).

Use one BLAS thread (``OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1``) for figures that can be compared.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents import ChunkKR
from agents.chunk_kr.program import certify
from agents.chunk_kr.solvers import FEASIBLE, solve_admm
from agents.chunk_kr.space import Embedding, PrefixReader, chunk_groups, collect_points, eigen_embedding
from ntp_envs import Demonstrations
from ntp_envs.arrays import FloatArray
from ntp_envs.features import WindowOneHot
from ntp_envs.policy_classes import ARLinearClass

GAP = 1e-6  # nats a chunk
WIDTH = 11


def data(prefixes: int, chunk: int, *, seed: int = 0) -> tuple[Demonstrations, ARLinearClass]:
    """One chunk after each of ``5 * prefixes`` prompts, of which ``prefixes`` are distinct."""
    rng = np.random.default_rng(seed)
    policy_class = ARLinearClass(WindowOneHot(2, WIDTH), 4.0)
    theta = rng.normal(size=policy_class.features.dimension)
    codes = rng.choice(2**WIDTH, size=prefixes, replace=False)
    prompts = np.repeat((codes[:, None] >> np.arange(WIDTH)) & 1, 5, axis=0)
    tokens = policy_class.policy(theta * (3.0 / np.linalg.norm(theta))).sample(prompts, chunk, rng)
    return Demonstrations(prompts, tokens, vocab_size=2), policy_class


def peer_seconds(
    embedding: Embedding, weights: FloatArray, radius: float, *, limit: float
) -> tuple[float, float, float]:
    """Seconds of SCS (setup and solve), the gap its answer is proved to have, and its distance from the class."""
    try:
        import cvxpy as cp
    except ImportError as error:
        raise ImportError("this benchmark compares with cvxpy's SCS: pip install cvxpy") from error

    phi, size = embedding.phi, embedding.size
    seen = np.flatnonzero(weights.ravel() > 0)
    c, f = cp.Variable(phi.shape[1]), cp.Variable(len(phi))
    link: Any = f == phi @ c
    rows = cp.reshape(f, (len(weights), size), order="C")
    constraints = [link, f >= 0, cp.sum(rows, axis=1) == 1, cp.norm(c) <= radius]
    problem = cp.Problem(cp.Maximize(weights.ravel()[seen] @ cp.log(f[seen])), constraints)
    seconds, gap, infeasibility, spent = math.nan, math.inf, math.inf, 0.0
    for accuracy in (1e-5, 1e-6, 1e-7, 1e-8):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            problem.solve(
                solver=cp.SCS, eps_abs=accuracy, eps_rel=accuracy, max_iters=100_000, time_limit_secs=limit - spent
            )
        if c.value is None or f.value is None:
            break
        stats: Any = problem.solver_stats
        seconds = float(stats.setup_time + stats.solve_time)
        spent += seconds
        inside = c.value * min(1.0, radius / np.linalg.norm(c.value))
        law = np.maximum(f.value.reshape(weights.shape), 1e-300)
        law /= law.sum(axis=1, keepdims=True)
        gap = infeasibility = math.inf
        for sign in (1.0, -1.0):  # whichever way the solver signs its multipliers
            dual = sign * link.dual_value.reshape(weights.shape)
            gap = min(gap, certify(weights, law, phi, inside, radius, dual).gap)
        infeasibility = float(np.abs(law.ravel() - phi @ inside).max())
        if (gap <= GAP and infeasibility <= FEASIBLE) or spent >= limit:
            break
    return seconds, gap, infeasibility


def inner_problem(prefixes: int, radius: float, *, seed: int, limit: float) -> dict[str, Any]:
    """One row: the inner problem at this size."""
    demos, policy_class = data(prefixes, 4, seed=seed)
    reader = PrefixReader(policy_class.features)
    points = collect_points(demos, reader, chunk_groups(demos, 4)[4], max_points=10**6)
    embedding = eigen_embedding(points)
    ours = math.inf
    for _ in range(2):
        start = time.perf_counter()
        solution = solve_admm(embedding, points.weights, radius, tol=GAP, max_iterations=5000)
        ours = min(ours, time.perf_counter() - start)
    peer_s, gap, infeasibility = peer_seconds(embedding, points.weights, radius, limit=limit)
    reached = gap <= GAP and infeasibility <= FEASIBLE
    return {
        "work": f"n={points.n_prefixes} prefixes, 16 strings, rank {embedding.rank}, B={radius:g}",
        "ours_s": ours,
        "peer": "cvxpy SCS" + ("" if reached else " (gap not reached)"),
        "peer_s": peer_s,
        "ratio": peer_s / ours,
        "gap": solution.certificate.gap,
        "infeasibility": solution.infeasibility,
        "peer_gap": gap,
        "peer_infeasibility": infeasibility,
        "projection_share": solution.projection_seconds / ours,
    }


def fit_seconds(prefixes: int, chunk: int, *, seed: int) -> float:
    """Seconds of a whole fit; the smaller of two."""
    demos, policy_class = data(prefixes, chunk, seed=seed)
    seconds = math.inf
    for _ in range(2):
        start = time.perf_counter()
        ChunkKR(chunk, norm_bound=1.0).fit(demos, policy_class)
        seconds = min(seconds, time.perf_counter() - start)
    return seconds


def scaling(name: str, sizes: list[int], seconds: list[float], logarithms: list[float]) -> dict[str, Any]:
    """One row: seconds at the largest size, and the exponent over the larger half of the sizes."""
    half = len(sizes) // 2
    exponent = float(np.polyfit(logarithms[half:], np.log(seconds[half:]), 1)[0])
    seen = ", ".join(f"{size}: {second:.2g} s" for size, second in zip(sizes, seconds))
    return {
        "work": f"whole fit, {name} ({seen}); exponent {exponent:.2f}",
        "ours_s": seconds[-1],
        "peer": "none",
        "peer_s": math.nan,
        "ratio": math.nan,
        "exponent": exponent,
    }


def measure(quick: bool = False, *, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of `run`, each as soon as it is measured."""
    for radius in (0.5, 2.0):
        yield inner_problem(30 if quick else 200, radius, seed=seed, limit=20.0 if quick else 200.0)
    sizes = [10, 20, 40] if quick else [25, 50, 100, 200]
    seconds = [fit_seconds(n, 4, seed=seed) for n in sizes]
    yield scaling("prefixes at K=4", sizes, seconds, [math.log(n) for n in sizes])
    chunks = [1, 2, 3, 4] if quick else [1, 2, 3, 4, 5, 6, 7]
    seconds = [fit_seconds(24, chunk, seed=seed) for chunk in chunks]
    yield scaling("K at 24 prefixes, in powers of 2^K", chunks, seconds, [k * math.log(2) for k in chunks])


def run(quick: bool = False, *, seed: int = 0) -> list[dict[str, Any]]:
    """Measure, and return rows with keys work, ours_s, peer, peer_s, ratio and, where they apply, gaps and exponent.

    Args:
        quick: 30 prefixes instead of 200, and smaller sizes for the exponents.
        seed: of the data.
    """
    return list(measure(quick, seed=seed))


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="30 prefixes instead of 200")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for row in measure(options.quick, seed=options.seed):
        line = f"{row['work']}: ours {row['ours_s']:.4g} s"
        if "gap" in row:
            line += (
                f" (gap {row['gap']:.1e}, {row['projection_share']:.0%} in projections), {row['peer']} "
                f"{row['peer_s']:.4g} s (gap {row['peer_gap']:.1e}), ratio {row['ratio']:.3g}"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
