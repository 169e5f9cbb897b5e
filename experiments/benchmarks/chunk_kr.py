"""ChunkKR's inner problem against cvxpy with SCS, and how ChunkKR scales with prefixes and chunk length.

Data are chunks of 4 tokens after 200 distinct contexts (16 strings each: 3200 points), 5 chunks a context, from a
member of the class; the features are the last 11 tokens, one-hot, and a constant.

* The problem, for both: maximise ``sum w log(phi c)`` over ``||c|| <= B`` with every row of ``phi c`` a probability
  vector, given ``phi``. Ours is timed from phi to the certified solution.
* The peer is cvxpy's SCS on the same arrays; only SCS's own setup and solve times count, not cvxpy's compilation. Its
  accuracy is raised by tens until our certificate, with the peer's own multipliers and its law (clipped and
  normalised), proves the same gap, and the law is as near to ``phi c``; runs of the first accuracy that gets there
  count, or of the last one within the time allowed, marked "gap not reached".
* Scaling: seconds of a whole fit (points, Gram matrix, solver) against the number of prefixes at K = 4, and against K
  at 24 prefixes; the exponents are fitted to the larger sizes: seconds ~ n^e and seconds ~ 2^(e K).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from agents import ChunkKR
from agents.chunk_kr.program import certify
from agents.chunk_kr.solvers import FEASIBLE, solve_admm
from agents.chunk_kr.space import Embedding, PrefixReader, chunk_groups, collect_points, eigen_embedding
from experiments.benchmarks import Clock, Row, compare, main
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


class SCS:
    """The same program for cvxpy, at a given accuracy."""

    def __init__(self, embedding: Embedding, weights: FloatArray, radius: float, limit: float) -> None:
        try:
            import cvxpy as cp
        except ImportError as error:
            raise ImportError("this benchmark compares with cvxpy's SCS: pip install cvxpy") from error

        self.phi, self.weights, self.radius, self.limit = embedding.phi, weights, radius, limit
        seen = np.flatnonzero(weights.ravel() > 0)
        self.c, self.f = cp.Variable(self.phi.shape[1]), cp.Variable(len(self.phi))
        self.link: Any = self.f == self.phi @ self.c
        rows = cp.reshape(self.f, (len(weights), embedding.size), order="C")
        constraints = [self.link, self.f >= 0, cp.sum(rows, axis=1) == 1, cp.norm(self.c) <= radius]
        self.problem = cp.Problem(cp.Maximize(weights.ravel()[seen] @ cp.log(self.f[seen])), constraints)

    def solve(self, accuracy: float) -> tuple[float, bool]:
        """Seconds of setup and solve, and whether the answer is as good as ours."""
        settings = {"eps_abs": accuracy, "eps_rel": accuracy, "max_iters": 100_000, "time_limit_secs": self.limit}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.problem.solve(solver="SCS", warm_start=False, **settings)
        stats: Any = self.problem.solver_stats
        return float(stats.setup_time + stats.solve_time), self.certified()

    def certified(self) -> bool:
        """Whether our certificate proves the gap, and the law is as near to the class."""
        if self.c.value is None or self.f.value is None:
            return False
        inside = self.c.value * min(1.0, self.radius / np.linalg.norm(self.c.value))
        law = np.maximum(self.f.value.reshape(self.weights.shape), 1e-300)
        law /= law.sum(axis=1, keepdims=True)
        duals = (sign * self.link.dual_value.reshape(self.weights.shape) for sign in (1.0, -1.0))
        gap = min(certify(self.weights, law, self.phi, inside, self.radius, dual).gap for dual in duals)
        return gap <= GAP and float(np.abs(law.ravel() - self.phi @ inside).max()) <= FEASIBLE


def inner_problem(prefixes: int, radius: float, *, limit: float) -> list[Row]:
    """The inner problem at this size; the peer has ``limit`` seconds."""
    demos, policy_class = data(prefixes, 4)
    reader = PrefixReader(policy_class.features)
    points = collect_points(demos, reader, chunk_groups(demos, 4)[4], max_points=10**6)
    embedding = eigen_embedding(points)
    peer, spent = SCS(embedding, points.weights, radius, limit), 0.0
    for accuracy in (1e-5, 1e-6, 1e-7, 1e-8):
        seconds, reached = peer.solve(accuracy)
        spent += seconds
        if reached or spent >= limit:
            break

    def ours(clock: Clock) -> Any:
        with clock():
            return solve_admm(embedding, points.weights, radius, tol=GAP, max_iterations=5000)

    def theirs(clock: Clock) -> bool:
        clock.seconds, found = peer.solve(accuracy)
        return found

    return compare(
        f"n={points.n_prefixes} prefixes, 16 strings, rank {embedding.rank}, B={radius:g}",
        ours,
        {"cvxpy SCS" + ("" if reached else " (gap not reached)"): theirs},
        agree=lambda solution, found: solution.certificate.gap <= GAP and found == reached,
        repeats=2,
        note=lambda solution: f"gap {solution.certificate.gap:.1e}",
    )


def fit_seconds(prefixes: int, chunk: int) -> list[float]:
    """Seconds of a whole fit, twice."""
    demos, policy_class = data(prefixes, chunk)
    clocks = [Clock(), Clock()]
    for clock in clocks:
        with clock():
            ChunkKR(chunk, norm_bound=1.0).fit(demos, policy_class)
    return [clock.seconds for clock in clocks]


def scaling(name: str, sizes: Sequence[int], seconds: Sequence[list[float]], logarithms: Sequence[float]) -> Row:
    """Seconds at the largest size, and the exponent over the larger half of the sizes."""
    half, least = len(sizes) // 2, [min(both) for both in seconds]
    exponent = float(np.polyfit(logarithms[half:], np.log(least[half:]), 1)[0])
    seen = ", ".join(f"{size}: {second:.2g} s" for size, second in zip(sizes, least, strict=True))
    return Row(f"whole fit, {name}", seconds[-1], note=f"exponent {exponent:.2f} ({seen})")


def measure(quick: bool) -> Iterator[Row]:
    """The inner problem and the exponents; ``quick`` has 30 prefixes instead of 200, and smaller sizes."""
    for radius in (0.5, 2.0):
        yield from inner_problem(30 if quick else 200, radius, limit=20.0 if quick else 200.0)
    sizes = [10, 20, 40] if quick else [25, 50, 100, 200]
    seconds = [fit_seconds(n, 4) for n in sizes]
    yield scaling("prefixes at K=4", sizes, seconds, [math.log(n) for n in sizes])
    chunks = [1, 2, 3, 4] if quick else [1, 2, 3, 4, 5, 6, 7]
    seconds = [fit_seconds(24, chunk) for chunk in chunks]
    yield scaling("K at 24 prefixes, in powers of 2^K", chunks, seconds, [k * math.log(2) for k in chunks])


if __name__ == "__main__":
    main("chunk_kr")
