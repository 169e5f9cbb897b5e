"""ChunkKR: the choice of its norm bound, the policies it returns, and the learner."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.base import COUNT, Agent, Checks, ConvergenceWarning, FitReport
from agents.chunk_kr.program import smallest_feasible_norm
from agents.chunk_kr.solvers import FEASIBLE, Solution, solve_admm, solve_gda
from agents.chunk_kr.space import (
    ChunkPoints,
    Embedding,
    Expansion,
    PrefixReader,
    Tree,
    WalshExpansion,
    binary_features,
    canonical_order,
    cholesky_embedding,
    chunk_groups,
    collect_points,
    eigen_embedding,
    tree_keys,
    walsh_embedding,
)
from agents.selection import holdout_split
from ntp_envs import AutomatonPolicy, BernoulliClass, Demonstrations, Policy, PolicyClass
from ntp_envs.arrays import FloatArray, IntArray, all_sequences
from ntp_envs.checks import check_in, check_int, check_positive, check_real, optional
from ntp_envs.policies import Cursor, SequentialPolicy, check_prompts
from ntp_envs.policy_classes import ARLinearClass
from ntp_envs.saved import Savable

#: norm bounds tried are the K-th powers of these, K the chunk length (the norm of a product is the product of norms)
GRID = (0.6, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
HELD_OUT = 0.25
#: improvements of the score below this, in nats a chunk, are not worth a larger ball
WORTH = 1e-6


def split(demonstrations: Demonstrations, rng: np.random.Generator) -> tuple[Demonstrations, Demonstrations] | None:
    """A random quarter of the sequences held out; ``None`` where there are fewer than 8 of positive weight."""
    if np.count_nonzero(demonstrations.normalised_weights()) < 8:
        return None
    return holdout_split(demonstrations, HELD_OUT, rng)


def held_out_score(law: FloatArray, weights: FloatArray, smoothing: float) -> float:
    """Mean log-probability of held-out chunks, after mixing the law with ``smoothing`` times the uniform one.

    Without smoothing one unseen string of probability 0 would decide alone.

    Args:
        law: ``(n, S)`` probabilities.
        weights: ``(n, S)`` held-out frequencies.
        smoothing: in [0, 1).
    """
    mixed = (1.0 - smoothing) * law + smoothing / law.shape[1]
    seen = weights > 0
    with np.errstate(divide="ignore"):
        return float((weights[seen] * np.log(mixed[seen])).sum())


def choose_norm_bound(score: Callable[[float], float], chunk: int) -> tuple[float, list[tuple[float, float]]]:
    """The bound of highest score on `GRID` (the smallest, where scores tie to 1e-6 nats), and all scores seen.

    The grid is climbed from below and left after two values in a row that are no better than the best.

    Args:
        score: held-out score at a bound.
        chunk: K.
    """
    tried: list[tuple[float, float]] = []
    best, top, stale = GRID[0] ** chunk, -np.inf, 0
    for base in GRID:
        value = score(base**chunk)
        tried.append((base**chunk, value))
        if value > top + WORTH:
            best, top, stale = base**chunk, value, 0
        else:
            stale += 1
            if stale == 2:
                break
    return best, tried


# -- The policies that ChunkKR returns: independent chunks, each from the law of its prefix ---------------------------


#: the automaton form is used up to this many states, and this many prompts
MAX_STATES = 2**16
MAX_PROMPTS = 2**12
#: kernel evaluations spent on the automaton form at most
MAX_EVALUATIONS = 2**28


@dataclass(eq=False)
class ChunkLaw(Savable):
    """The law of the next K tokens after any prefix.

    At a data prefix it is the fitted row. Elsewhere the function is evaluated at every string, clipped at 0 and
    divided by its sum (our reading of the extension); uniform if nothing is left.

    Attributes:
        length: K.
        reader: of the class's features.
        expansion: the fitted function.
        rows: numbers of the pooled data prefixes, by their features.
        law: ``(n, 2**K)`` fitted probabilities.
    """

    length: int
    reader: PrefixReader
    expansion: Expansion | WalshExpansion
    rows: dict[bytes, int] = field(repr=False)
    law: FloatArray = field(repr=False)

    def saved_state(self) -> dict[str, Any]:
        keys = np.frombuffer(b"".join(self.rows), dtype=np.uint8).reshape(len(self.rows), -1)
        return {**vars(self), "rows": (keys, np.array(list(self.rows.values())))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        keys = state["rows"]
        if isinstance(keys, tuple):
            keys = dict(zip((row.tobytes() for row in keys[0]), keys[1].tolist()))
        vars(self).update(state, rows=keys)

    def __call__(self, prompts: NDArray[np.integer], tokens: NDArray[np.integer]) -> FloatArray:
        """``(B, 2**K)`` probabilities of every string after ``(B, P)`` prompts and ``(B, t)`` tokens."""
        contexts, inverse = self.reader.distinct(prompts, tokens)
        return self.at(contexts)[inverse]

    def at(self, contexts: tuple[IntArray, ...]) -> FloatArray:
        """``(B, 2**K)`` probabilities after the contexts of a `PrefixReader`."""
        tree, order = canonical_order(self.reader.tree(contexts, self.length))
        out = np.empty((len(tree[0]), 2**self.length))
        np.put_along_axis(out, order, self.renamed(tree), axis=1)
        return out

    def renamed(self, tree: Tree) -> FloatArray:
        """``(B, 2**K)`` probabilities in the order of `canonical_order`, at trees in that order."""
        numbers = np.array([self.rows.get(key, -1) for key in tree_keys(tree)])
        renamed = self.law[np.maximum(numbers, 0)]
        unseen = np.flatnonzero(numbers < 0)
        if len(unseen):
            values = np.maximum(self.expansion([level[unseen] for level in tree]), 0.0)
            total = values.sum(axis=1, keepdims=True)
            renamed[unseen] = np.where(total > 0, values / np.where(total > 0, total, 1.0), 1.0 / values.shape[1])
        return renamed


class ChunkKRPolicy(SequentialPolicy):
    """Chunks of K tokens drawn one after the other, each from a `ChunkLaw`; the last is shorter where K does not
    divide H.

    Args:
        laws: `ChunkLaw` by chunk length.
        chunk: K.
        horizon: H; positions of the chunks are counted from its beginning.
        prompt_length: P.
    """

    def __init__(self, laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int) -> None:
        super().__init__(2, horizon=horizon, prompt_length=prompt_length)
        self.laws, self.chunk = laws, chunk

    def chunk_length(self, step: int) -> int:
        """Length of the chunk that holds token number ``step`` (0-based)."""
        start = step - step % self.chunk
        assert self.horizon is not None
        return min(self.chunk, self.horizon - start)

    def cursor(self, prompts: NDArray[np.integer]) -> Cursor:
        whole: IntArray = check_prompts(self, prompts).astype(np.int64)
        return _ChunkCursor(self, whole, np.empty((len(prompts), 0), dtype=np.int64), None)


class _ChunkCursor(Cursor):
    """Keeps the masses of the strings still possible in the current chunk, ``(B, 2**left)``, up to a factor."""

    def __init__(self, policy: ChunkKRPolicy, prompts: IntArray, tokens: IntArray, masses: FloatArray | None) -> None:
        self.policy, self.prompts, self.tokens, self.step = policy, prompts, tokens, tokens.shape[1]
        if masses is None:
            policy._check_length(self.step + 1)
            masses = policy.laws[policy.chunk_length(self.step)](prompts, tokens)
        self.masses = masses

    def log_probs(self) -> FloatArray:
        return _conditional(self.masses)

    def branch(self, rows: IntArray, tokens: IntArray) -> Cursor:
        grown = np.column_stack([self.tokens[rows], tokens])
        halves = self.masses.reshape(len(self.masses), 2, -1)
        left = None if halves.shape[2] == 1 else halves[rows, tokens]
        return _ChunkCursor(self.policy, self.prompts[rows], grown, left)


def _conditional(masses: FloatArray) -> FloatArray:
    """``(..., 2)`` log-probabilities of the next token from string masses ``(..., S)``; uniform if all are 0."""
    halves = masses.reshape(*masses.shape[:-1], 2, -1).sum(axis=-1)
    total = halves.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.log(np.where(total > 0, halves / np.where(total > 0, total, 1.0), 0.5))


class ChunkKRAutomaton(ChunkKRPolicy, AutomatonPolicy):
    """A `ChunkKRPolicy` over features with finite memory: exact distances at any H.

    A state is the features' state at the beginning of the chunk and the tokens since. Args as for `ChunkKRPolicy`,
    and ``starts``: the ``(m,)`` states of the features that a chunk can begin in.
    """

    def __init__(
        self, laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int, starts: IntArray
    ) -> None:
        super().__init__(laws, chunk, horizon, prompt_length)
        self._starts = starts
        self._width = 2 ** (chunk - 1)
        self.n_states = len(starts) * self._width
        self._emissions: dict[tuple[int, int], FloatArray] = {}
        for length, law in laws.items():
            masses = law.at((starts,))  # (m, 2**length)
            for place in range(length):
                table = np.full((len(starts), self._width, 2), np.log(0.5))
                table[:, : 2**place] = _conditional(masses.reshape(len(starts), 2**place, -1))
                self._emissions[length, place] = table.reshape(-1, 2)

    def initial_states(self, prompts: NDArray[np.integer]) -> IntArray:
        states = self._features.initial_states(np.asarray(prompts))
        return np.searchsorted(self._starts, states) * self._width

    @property
    def _features(self):  # type: ignore[no-untyped-def]
        states = self.laws[min(self.laws)].reader.states
        assert states is not None
        return states

    def emissions(self, step: int) -> FloatArray:
        return self._emissions[self.chunk_length(step), step % self.chunk]

    def transitions(self, step: int) -> IntArray:
        place, moves = step % self.chunk, np.zeros((len(self._starts), self._width, 2), dtype=np.int64)
        if place < self.chunk_length(step) - 1:
            grown = 2 * np.arange(2**place)[:, None] + np.arange(2)
            moves[:, : 2**place] = grown + (np.arange(len(self._starts)) * self._width)[:, None, None]
        elif place == self.chunk - 1:
            after = np.searchsorted(self._starts, _after(self._features.transitions, self._starts, self.chunk))
            moves[:] = after.reshape(moves.shape) * self._width
        return moves.reshape(-1, 2)

    cursor = AutomatonPolicy.cursor


def _after(transitions: IntArray, starts: IntArray, length: int) -> IntArray:
    """``(m, 2**length)`` states of the features after every string."""
    state = starts[:, None]
    for _ in range(length):
        state = transitions[state].reshape(len(starts), -1)
    return state


def chunk_policy(laws: dict[int, ChunkLaw], chunk: int, horizon: int, prompt_length: int) -> ChunkKRPolicy:
    """The automaton form where the features have finite memory and few states, else the general one."""
    law = laws[max(laws)]
    states = law.reader.states
    if states is None or 2**prompt_length > MAX_PROMPTS:
        return ChunkKRPolicy(laws, chunk, horizon, prompt_length)
    reached = np.unique(states.initial_states(all_sequences(2, prompt_length)))
    fresh = reached
    for _ in range(horizon // chunk):
        fresh = np.setdiff1d(_after(states.transitions, fresh, chunk), reached)
        reached = np.union1d(reached, fresh)
        cost = len(reached) * 2**chunk * law.expansion.cost
        if len(reached) * 2 ** (chunk - 1) > MAX_STATES or cost > MAX_EVALUATIONS:
            return ChunkKRPolicy(laws, chunk, horizon, prompt_length)
        if not len(fresh):
            break
    return ChunkKRAutomaton(laws, chunk, horizon, prompt_length, reached)


# -- ChunkKR: kernel relaxation of the rho-estimator on chunks of K binary tokens -------------------------------------


#: up to this many points the Gram matrix is diagonalised whole, though the kernel be stationary
SMALL_POINTS = 128
#: up to this many, where it is not; above, pivoted Cholesky at this rank
FULL_POINTS = 4096
DEFAULT_RANK = 1024


@dataclass(eq=False, repr=False)
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

    Compute: N = (prefixes that differ in features) * 2**K points. Over windows, offsets, positions, prompts, episodes
    and flips, and products of these, the kernel of two points depends on their prefixes and on where their strings
    differ (over the signs of all places, ``PrefixSigns``, if all chunks begin at one). Walsh transforms over strings
    then leave one eigenproblem of the prefixes for each of 2**K indices: a few seconds and .2 GB at K = 16 with one
    pooled prefix, at K = 10 with 24, and at K = 6 with 200. Elsewhere, up to 4096 points, the Gram matrix is
    diagonalised whole (O(N^3), a minute); above that, pivoted Cholesky of rank ``low_rank`` (O(N rank^2), about 2 GB
    and a few minutes at 50000 points), a restriction of the space whose size is reported as ``trace_error``. The
    practical limit is then K = 12 with one pooled prefix, 7 with 24, 4 with 200. The products themselves are harmless:
    their logarithms lie in [K log(2/3), K log 2]. Low rank is a way round memory, not quality: the spectrum falls
    slowly, and a fit that leaves out a good part of the trace can be farther from the expert than log-loss (the study
    ``stability`` shows it). Trust it if ``trace_error`` is small.

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
        low_rank: rank of the coordinates; by default all up to 4096 points and where Walsh transforms give them, and
            1024 elsewhere.
        max_points: refuse more points than this; by default 50,000, and 65,536 where Walsh transforms apply.

    ``fit_report_.objective`` is the mean log-loss of a sequence cut into chunks (nats), and ``gap`` bounds both its
    excess over the optimum and ``max_f' F(f, f')`` of the rho game, summed over chunks. ``details``: ``norm_bound``,
    ``norm_bounds_tried``, and one entry in ``programs`` for each chunk length (`program_details`).

    Raises:
        ValueError: on `fit`: features that are not finite or leave the unit ball, a chunk longer than H, a norm bound
            with an empty set (the smallest feasible one is named).
        NotTractableError: a vocabulary other than two, more than ``max_points`` points.

    Warns:
        ConvergenceWarning: the gap did not reach ``tol``, or the law at a data prefix differs from the function by more
            than 1e-5 (its rows are probability vectors all the same).

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> ChunkKR(2, norm_bound=1.0).fit(task.population(chunk=2), task.policy_class).policy_.horizon
    8
    """

    supports = (BernoulliClass, ARLinearClass)
    allowed: ClassVar[Checks] = {
        "chunk": COUNT,
        "norm_bound": optional(check_positive),
        "solver": partial(check_in, options=("admm", "gda")),
        "tol": partial(check_real, minimum=1e-14),
        **dict.fromkeys(("max_iterations", "low_rank"), optional(COUNT)),
        "max_points": optional(partial(check_int, minimum=2)),
    }

    chunk: int = 2
    norm_bound: float | None = None
    _: KW_ONLY
    solver: str = "admm"
    tol: float = 1e-6
    max_iterations: int | None = None
    low_rank: int | None = None
    max_points: int | None = None

    def chunk_length(self, demonstrations: Demonstrations) -> int | None:
        return self.chunk

    def _fit(
        self, demonstrations: Demonstrations, policy_class: PolicyClass, rng: np.random.Generator
    ) -> tuple[Policy, FitReport]:
        begun = time.perf_counter()
        check_int("chunk", self.chunk, minimum=1, maximum=demonstrations.horizon)
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

    def _collect(
        self, demonstrations: Demonstrations, reader: PrefixReader, positions: list[slice], exchangeable: bool = False
    ) -> ChunkPoints:
        return collect_points(demonstrations, reader, positions, max_points=self.max_points, exchangeable=exchangeable)

    def _embed(self, points: ChunkPoints) -> Embedding:
        if self.low_rank is None:
            if points.n_points > SMALL_POINTS and points.stationary:
                return walsh_embedding(points)
            if points.n_points <= FULL_POINTS:
                return eigen_embedding(points)
        return cholesky_embedding(points, min(self.low_rank or DEFAULT_RANK, points.n_points + 1))

    def _solve(self, program: _Program, radius: float, tol: float, start: Solution | None = None) -> Solution:
        uniform = 1.0 / program.embedding.size
        if radius < uniform:  # the uniform law has norm at most that
            smallest = smallest_feasible_norm(program.embedding.matrix(), program.embedding.size)
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
    # floats held at once for every point: of the Gram matrix or coordinates, and vectors of the solver
    d = points.tree[0].shape[2]
    held = {
        "eigen": 5 * points.n_points + d * points.length,
        "walsh": 5 * points.n_prefixes + 50 + 4 * d,
        "cholesky": 3 * embedding.rank + d * points.length,
    }
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
        "memory_bytes": 8 * points.n_points * held[embedding.method],
    }
