"""ChunkKR's inner problem against cvxpy with SCS and with Clarabel.

Data are chunks of 4 tokens after 200 distinct contexts (16 strings each: 3200 points), 5 chunks a context, from a
member of the class; the features are the last 11 tokens, one-hot, and a constant.

* The problem, for both: maximise ``sum w log(phi c)`` over ``||c|| <= B`` with every row of ``phi c`` a probability
  vector, given ``phi``. Ours is timed from phi to the certified solution.
* A peer is a solver of cvxpy on the same arrays; cvxpy's compilation does not count. Its accuracy is raised by tens
  until our certificate, with the peer's own multipliers and its law (clipped and normalised), proves the same gap, and
  the law is as near to ``phi c``; runs of the first accuracy that gets there count, or of the last one within the time
  allowed (a minute of the clock), marked "gap not reached".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from agents.chunk_kr.program import certify
from agents.chunk_kr.solvers import FEASIBLE, Solution, solve_admm
from agents.chunk_kr.space import Embedding, PrefixReader, chunk_groups, collect_points, eigen_embedding
from experiments.benchmarks import Clock, Row, Side, optional, timed
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


class Peer:
    """The same program for cvxpy, and the first of its solver's accuracies at which the answer is as good as ours."""

    def __init__(self, solver: str, embedding: Embedding, weights: FloatArray, radius: float, limit: float) -> None:
        import cvxpy as cp

        self.phi, self.weights, self.radius = embedding.phi, weights, radius
        seen = np.flatnonzero(weights.ravel() > 0)
        self.c, self.f = cp.Variable(self.phi.shape[1]), cp.Variable(len(self.phi))
        self.link: Any = self.f == self.phi @ self.c
        table = cp.reshape(self.f, (len(weights), embedding.size), order="C")
        constraints = [self.link, self.f >= 0, cp.sum(table, axis=1) == 1, cp.norm(self.c) <= radius]
        self.problem = cp.Problem(cp.Maximize(weights.ravel()[seen] @ cp.log(self.f[seen])), constraints)
        self.data, self.chain, self.inverse = self.problem.get_problem_data(solver, solver_opts={})
        self.options: dict[str, Any] = {}
        self.reached, spent = False, Clock()
        for accuracy in (1e-5, 1e-6, 1e-7, 1e-8):
            if solver == "SCS":
                accuracies = {"eps_abs": accuracy, "eps_rel": accuracy}
                self.options = {**accuracies, "max_iters": 100_000, "time_limit_secs": limit}
            else:
                accuracies = {f"tol_{name}": accuracy for name in ("gap_abs", "gap_rel", "feas")}
                self.options = {**accuracies, "time_limit": limit}
            self.reached = self.solve(spent)
            if self.reached or spent.seconds >= limit:
                break

    def __call__(self, clock: Clock) -> bool:
        """Whether the answer is as good, or never was."""
        return self.solve(clock) or not self.reached

    def solve(self, clock: Clock) -> bool:
        """Whether the answer is as good; only the solver counts, not cvxpy's compilation."""
        import cvxpy as cp

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with clock():
                found = self.chain.solve_via_data(self.problem, self.data, solver_opts=self.options)
            try:
                self.problem.unpack_results(found, self.chain, self.inverse)
            except cp.SolverError:  # nothing was found in time
                return False
        return self.certified()

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


def rows(quick: bool) -> Iterator[Row]:
    """In a small ball and in a large one; ``quick`` has 5 prefixes, not 200, and 5 seconds for a peer, not 60."""
    demos, policy_class = data(5 if quick else 200, 4)
    points = collect_points(demos, PrefixReader(policy_class.features), chunk_groups(demos, 4)[4], max_points=10**6)
    embedding = eigen_embedding(points)
    for radius in (0.5, 2.0):

        def ours() -> Solution:
            return solve_admm(embedding, points.weights, radius, tol=GAP, max_iterations=5000)  # noqa: B023

        def peer(solver: str) -> Side:
            return Peer(solver, embedding, points.weights, radius, 5.0 if quick else 60.0)  # noqa: B023

        solvers: dict[str, Side | ImportError] = {
            name: optional(partial(peer, name.split()[1].upper())) for name in ("cvxpy SCS", "cvxpy Clarabel")
        }
        short = [name for name, side in solvers.items() if isinstance(side, Peer) and not side.reached]
        yield Row(
            f"ChunkKR's program, B={radius:g}",
            f"{points.n_prefixes} prefixes, 16 strings, rank {embedding.rank}",
            timed(ours),
            solvers,
            lambda solution, found: found and solution.certificate.gap <= GAP,
            "20x",
            lambda solution: ", ".join(f"{name}: gap not reached" for name in short),  # noqa: B023
        )
