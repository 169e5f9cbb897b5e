"""ChunkKR: kernel relaxation of the rho-estimator on chunks of K binary tokens."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from agents.base import Agent, ConvergenceWarning, FitReport
from agents.chunk_kr.admm import FEASIBLE, Solution, solve_admm
from agents.chunk_kr.features import PrefixReader, binary_features
from agents.chunk_kr.gda import solve_gda
from agents.chunk_kr.gram import Embedding, cholesky_embedding, eigen_embedding
from agents.chunk_kr.norm_bound import choose_norm_bound, held_out_score, split
from agents.chunk_kr.points import ChunkPoints, chunk_groups, collect_points
from agents.chunk_kr.policy import ChunkLaw, chunk_policy
from agents.chunk_kr.projection import smallest_feasible_norm
from ntp_envs import BernoulliClass, Demonstrations, Policy, PolicyClass
from ntp_envs._validation import check_in, check_int, check_real
from ntp_envs.policy_classes import ARLinearClass

__all__ = ["ChunkKR"]

#: up to this many points the Gram matrix is diagonalised whole; above, pivoted Cholesky at this rank
FULL_POINTS = 4096
DEFAULT_RANK = 1024


class ChunkKR(Agent):
    """The rho-estimator on chunks of K tokens, over a kernel relaxation of an autoregressive linear class.

    Binary tokens. For a chunk after a prefix, f(prefix, string) ranges over the functions of norm at most B in the
    space of the kernel ``prod_t 1 / (1 - <v_t, v'_t> / 2)``, v_t = (2 a_t - 1) u(prefix, a_<t), whose values at every
    data prefix form a probability vector over the 2**K strings. It holds the K-fold products of sigmoid(<theta, v>)
    whose norm is at most B (for ``||theta|| < 2.2``: K-th powers of .53, .62, 1.18, 3.3 at .5, 1, 2, 2.2). Over this
    convex set the rho game is won by maximum likelihood, which is what is solved. Compute grows as 2**K, the
    approximation factor falls as H/K: Rohatgi, Block, Huang, Krishnamurthy and Foster, COLT 2025, arXiv 2502.12465;
    kernel, solver, certificate and extension are our reading of it.

    The learned policy draws chunk after chunk. At prefixes outside the data the function is clipped at 0 and
    normalised. Where K does not divide H the last chunk is shorter and has a program of its own, with the bound
    ``B ** (its length / K)``.

    Compute: N = (prefixes that differ in features) * 2**K points. Up to 4096 points the Gram matrix is diagonalised
    whole (O(N^3), seconds); above that, pivoted Cholesky of rank ``low_rank`` (O(N rank^2), about 2 GB and a few
    minutes at 50000 points), a restriction of the space whose size is reported as ``trace_error``. The practical limit
    is K = 12 with a single pooled prefix (a minute and 0.7 GB, nearly all of it the eigendecomposition), K = 7 with 24,
    K = 4 with 200. The products themselves are harmless: their logarithms lie in [K log(2/3), K log 2]. Low rank is a
    way round memory, not quality: the spectrum falls slowly, and a fit that leaves out a good part of the trace can be
    farther from the expert than log-loss (the study ``stability`` shows it). Trust it if ``trace_error`` is small.

    Args:
        chunk: K.
        norm_bound: B. By default the K-th power of one of .6, .75, 1, 1.5, 2, 4, 8 by the likelihood of held-out chunks
            (a quarter of the sequences, drawn by ``rng``; smoothed by one part in one more than the training chunks,
            weights left aside).
            Populations are scored on themselves, and the smallest bound that is as good as the next two is taken; with
            fewer than 8 sequences B = 1.
        solver: ``"admm"``, or ``"gda"``: projected gradient descent-ascent, as the algorithm is written down, which is
            unreliable and there for study.
        tol: on the gap, in nats a sequence. The law at the data prefixes is feasible to ``tol`` over the chunks of a
            sequence, and to 1e-5, an entry.
        max_iterations: of the solver, for each program; by default 5000 for ``"admm"`` and 200 for ``"gda"``.
        low_rank: rank of the coordinates; by default all up to 4096 points, and 1024 above.
        max_points: refuse more points than this.

    ``fit_report_.objective`` is the mean log-loss of a sequence cut into chunks (nats), and ``gap`` bounds both its
    excess over the optimum and ``max_f' F(f, f')`` of the rho game, summed over chunks. ``details``: ``norm_bound``,
    ``norm_bounds_tried``, and one entry in ``programs`` for each chunk length (`program_details`).

    Raises (from ``fit``):
        ValueError: a vocabulary other than two, features that are not finite or leave the unit ball, a chunk longer
            than H, a norm bound with an empty set (the smallest feasible one is named).
        NotTractableError: more than ``max_points`` points.
    Warns:
        ConvergenceWarning: the gap did not reach ``tol``, or the law at a data prefix differs from the function by more
            than 1e-5 (its rows are probability vectors all the same).

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> ChunkKR(2, norm_bound=1.0).fit(task.population(chunk=2), task.policy_class).policy_.horizon
    8
    """

    supports = (BernoulliClass, ARLinearClass)

    def __init__(
        self,
        chunk: int = 2,
        norm_bound: float | None = None,
        *,
        solver: str = "admm",
        tol: float = 1e-6,
        max_iterations: int | None = None,
        low_rank: int | None = None,
        max_points: int = 50_000,
    ) -> None:
        self.chunk = chunk
        self.norm_bound = norm_bound
        self.solver = solver
        self.tol = tol
        self.max_iterations = max_iterations
        self.low_rank = low_rank
        self.max_points = max_points

    def unit(self, demonstrations: Demonstrations) -> int | None:
        return self.chunk

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        begun = time.perf_counter()
        self._check_parameters(demonstrations)
        reader = PrefixReader(binary_features(policy_class))
        exact = demonstrations.exactness
        exchangeable = exact is not None and not exact.everything and isinstance(policy_class, BernoulliClass)
        programs = {
            length: _Program(self._collect(demonstrations, reader, positions, exchangeable), self._embed)
            for length, positions in chunk_groups(demonstrations, self.chunk).items()
        }
        bound, tried = self.norm_bound, None
        if bound is None:
            bound, tried = self._choose_bound(demonstrations, reader, programs, rng)
        chunks = sum(program.points.positions for program in programs.values())
        laws: dict[int, ChunkLaw] = {}
        details: list[dict[str, Any]] = []
        objective = gap = 0.0
        converged = True
        for length, program in programs.items():
            radius = float(bound) ** (length / self.chunk)
            before = time.perf_counter()
            solution = self._solve(program, radius, self.tol / chunks)
            seconds = time.perf_counter() - before
            laws[length] = ChunkLaw(
                length, reader, program.embedding.expansion(solution.c), program.points.rows, solution.law
            )
            objective -= program.points.positions * solution.certificate.log_likelihood
            gap += program.points.positions * solution.certificate.gap
            converged &= solution.infeasibility <= FEASIBLE
            details.append(program_details(program, solution, radius, seconds))
        converged &= gap <= self.tol
        iterations = sum(entry["iterations"] for entry in details)
        if not converged:
            worst = max(entry["infeasibility"] for entry in details)
            warnings.warn(
                f"ChunkKR(solver={self.solver!r}) stopped after {iterations} iterations with gap {gap:.3g} nats a "
                f"sequence (tol={self.tol:g}) and infeasibility {worst:.3g} (limit {FEASIBLE:g}); raise "
                f"max_iterations, lower norm_bound (now {bound:.4g})"
                + (f", or raise tol to {1.1 * gap:.1g}" if gap > self.tol and worst <= FEASIBLE else "")
                + ("." if self.solver == "admm" else ", or use solver='admm'."),
                ConvergenceWarning,
                stacklevel=3,
            )
        policy = chunk_policy(laws, self.chunk, demonstrations.horizon, demonstrations.prompt_length)
        report = FitReport(
            objective,
            gap,
            converged,
            iterations,
            {
                "objective": "mean log-loss of a sequence in chunks (nats)",
                "norm_bound": float(bound),
                "norm_bounds_tried": tried,
                "programs": details,
                "seconds": time.perf_counter() - begun,
            },
        )
        return policy, report

    def _check_parameters(self, demonstrations: Demonstrations) -> None:
        check_int("chunk", self.chunk, minimum=1, maximum=demonstrations.horizon)
        check_in("solver", self.solver, ("admm", "gda"))
        check_real("tol", self.tol, minimum=1e-14)
        check_int("max_points", self.max_points, minimum=2)
        if self.norm_bound is not None and check_real("norm_bound", self.norm_bound, minimum=0.0) == 0.0:
            raise ValueError("norm_bound=0 allows only the zero function; it must be positive.")
        for name in ("max_iterations", "low_rank"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=1)

    def _collect(
        self, demonstrations: Demonstrations, reader: PrefixReader, positions: list[slice], exchangeable: bool = False
    ) -> ChunkPoints:
        return collect_points(demonstrations, reader, positions, max_points=self.max_points, exchangeable=exchangeable)

    def _embed(self, points: ChunkPoints) -> Embedding:
        if self.low_rank is None and points.n_points <= FULL_POINTS:
            return eigen_embedding(points)
        return cholesky_embedding(points, min(self.low_rank or DEFAULT_RANK, points.n_points + 1))

    def _solve(self, program: _Program, radius: float, tol: float, start: Solution | None = None) -> Solution:
        uniform = 1.0 / program.embedding.size
        if radius < uniform:  # the uniform law has norm at most that
            smallest = smallest_feasible_norm(program.embedding.phi, program.embedding.size)
            if radius < smallest * (1.0 + 1e-9):
                raise ValueError(
                    f"norm_bound={radius:g} is too small: no function of that norm is a probability vector at every "
                    f"data prefix. The smallest feasible bound found is {smallest:.6g}; {uniform:g} always is."
                )
        if self.solver == "gda":
            return solve_gda(
                program.embedding, program.points.weights, radius, tol=tol, max_iterations=self.max_iterations or 200
            )
        return solve_admm(
            program.embedding,
            program.points.weights,
            radius,
            tol=tol,
            max_iterations=self.max_iterations or 5000,
            start=start,
        )

    def _choose_bound(
        self,
        demonstrations: Demonstrations,
        reader: PrefixReader,
        programs: dict[int, _Program],
        rng: np.random.Generator,
    ) -> tuple[float, list[tuple[float, float]] | None]:
        """By the chunks of full length only; see the class."""
        whole = programs[self.chunk]
        training, smoothing = whole, 0.0
        fresh: ChunkPoints | None = None
        if demonstrations.exactness is None:
            parts = split(demonstrations, rng)
            if parts is None:
                return 1.0, None
            positions = chunk_groups(demonstrations, self.chunk)[self.chunk]
            training = _Program(self._collect(parts[0], reader, positions), self._embed)
            fresh = self._collect(parts[1], reader, positions)
            smoothing = 1.0 / (len(parts[0]) * len(positions) + 1)
        start: Solution | None = None

        def score(bound: float) -> float:
            nonlocal start
            start = solve_admm(
                training.embedding,
                training.points.weights,
                bound,
                tol=1e-5,
                max_iterations=400,
                start=start,
            )
            if fresh is None:
                return start.certificate.log_likelihood
            law = ChunkLaw(self.chunk, reader, training.embedding.expansion(start.c), training.points.rows, start.law)
            return held_out_score(law.renamed(fresh.tree), fresh.weights, smoothing)

        return choose_norm_bound(score, self.chunk)


class _Program:
    """The points of one chunk length, and their coordinates."""

    def __init__(self, points: ChunkPoints, embed: Any) -> None:
        self.points = points
        before = time.perf_counter()
        self.embedding: Embedding = embed(points)
        self.seconds = time.perf_counter() - before


def program_details(program: _Program, solution: Solution, radius: float, seconds: float) -> dict[str, Any]:
    """What is reported of one program.

    ``length``, ``positions`` (chunks a sequence), ``prefixes`` and ``raw_prefixes`` (after and before pooling),
    ``points``, ``rank``, ``method``, ``trace_error``, ``condition``, ``kernel_log_range``, ``norm_bound``, ``norm``,
    ``iterations``, ``gap`` and ``log_likelihood`` (a chunk), ``infeasibility``, ``residuals``, ``seconds_gram``,
    ``seconds_solver``, ``projection_share`` (of the solver's time) and ``memory_bytes`` (estimated peak).
    """
    points, embedding = program.points, program.embedding
    full = points.n_points**2 if embedding.method == "eigen" else points.n_points * embedding.rank
    return {
        "length": points.length,
        "positions": points.positions,
        "prefixes": points.n_prefixes,
        "raw_prefixes": points.raw,
        "points": points.n_points,
        "rank": embedding.rank,
        "method": embedding.method,
        "trace_error": embedding.trace_error,
        "condition": embedding.condition,
        "kernel_log_range": (embedding.kernel.low, embedding.kernel.high),
        "norm_bound": radius,
        "norm": float(np.linalg.norm(solution.c)),
        "iterations": solution.iterations,
        "log_likelihood": solution.certificate.log_likelihood,
        "gap": solution.certificate.gap,
        "infeasibility": solution.infeasibility,
        "residuals": solution.residuals,
        "seconds_gram": program.seconds,
        "seconds_solver": seconds,
        "projection_share": solution.projection_seconds / max(seconds, 1e-9),
        "memory_bytes": 8
        * (
            (5 if embedding.method == "eigen" else 3) * full + points.n_points * points.tree[0].shape[2] * points.length
        ),
    }
