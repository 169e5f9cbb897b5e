"""The rho game: the units of data that it is played on, and its solution over finitely many policies or one parameter.

A unit is a chunk given its prefix, of weight w_i; p_j(i) is its probability under policy j. Policy j loses to policy k
by ``F(j, k) = sum_i w_i tau(p_j(i), p_k(i))``, and the rho-estimator is ``argmin_j max_k F(j, k)``, with tau one of

* ``"ratio"``: ``(p' - p) / (p' + p) = tanh((log p' - log p) / 2)``;
* ``"psi"``: ``(sqrt p' - sqrt p) / (sqrt p' + sqrt p) = tanh((log p' - log p) / 4)``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntp_envs import Demonstrations
from ntp_envs.arrays import ROUNDING, FloatArray, IntArray, first_best, log_bernoulli


@dataclass(frozen=True, eq=False)
class Unit:
    """One chunk position, with the distinct (prefix, chunk) pairs that the demonstrations show there.

    Attributes:
        positions: the tokens of the chunk.
        rows: ``(u,)`` a demonstration for each distinct pair.
        weights: ``(u,)`` their total weights, all positive.
    """

    positions: slice
    rows: NDArray[np.int64]
    weights: NDArray[np.float64]


def distinct_units(demonstrations: Demonstrations, chunk: int) -> Iterator[Unit]:
    """The chunks of ``chunk`` tokens in order; the last is shorter where ``chunk`` does not divide H.

    Equal (prompt, prefix, chunk) are pooled; the weights at each position sum to one.
    """
    weights = demonstrations.normalised_weights()
    used = np.flatnonzero(weights > 0)
    weights, tokens = weights[used], demonstrations.tokens[used]
    _, group = np.unique(demonstrations.prompts[used], axis=0, return_inverse=True)
    for positions in demonstrations.chunks(chunk):
        pairs = np.column_stack([group.ravel(), tokens[:, positions]])
        _, first, group = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        yield Unit(positions, used[first], np.bincount(group.ravel(), weights=weights).astype(np.float64))


# -- finitely many policies: exactly, by best-first elimination --------------------------------------------------------
#
# F is antisymmetric, so one evaluated row j bounds the worst case of every other row: ``max_k F(j', k) >= F(j', j) =
# -F(j, j')``. Starting from (about) the maximum likelihood row and always continuing with the row of smallest bound,
# a few rows of M decide the game. Large games do this in float32, with a proved bound on the rounding; whatever that
# bound leaves undecided is computed again in float64.

#: tau = tanh(TAU_SCALE * log-ratio)
TAU_SCALE = {"ratio": 0.5, "psi": 0.25}

_FLOAT32_FROM = 200_000  # entries; smaller games are played in float64 throughout
_BLOCK_ENTRIES = 1 << 15  # of the matrix, worked on at a time: fits a core's cache
_MOST_BLOCK_ROWS = 64
_PROBES = 8
_ZERO_DENSITY = -1e30  # stands for log 0: below every log-density, and its difference with itself is 0
_PART_ROWS = 400  # of the data, to guess good rows from
_PART_MARGIN = 0.02  # of the total weight: policies this close to the best on the part are promising
_ROWS_AT_A_TIME = 2
_CENTRE_ABOVE = 150.0  # nats a data point
_WORTH_COPYING = 0.8  # equal rows or columns are merged where at most this share of them remains


@dataclass(frozen=True)
class GameSolution:
    """The winner of a finite rho game.

    Attributes:
        index: the policy with the smallest worst case; the smallest such index if there are ties (within
            1e-12 of the total weight).
        value: its worst case ``max_k F(index, k)``, at least 0, with ``F(j, k) = sum_i w_i tau(p_j(i), p_k(i))``.
        reply: a policy that attains it.
        rows_evaluated: rows of the M x M matrix of F that were needed.
        points: data points the game was played on, equal ones merged.
        policies: policies it was played over, equal ones merged.
    """

    index: int
    value: float
    reply: int
    rows_evaluated: int
    points: int
    policies: int


def rho_tau(log_p: FloatArray, log_other: FloatArray, tau: str) -> FloatArray:
    """tau(p, p'), elementwise and broadcasting, from log-densities: positive where p' is the larger.

    Conventions at zero densities (``-inf``): tau(0, 0) = 0, tau(0, p') = 1, tau(p, 0) = -1.

    >>> rho_tau(np.array([-np.inf, -np.inf, 0.0]), np.array([-np.inf, 0.0, 0.0]), "ratio").tolist()
    [0.0, 1.0, 0.0]
    """
    with np.errstate(invalid="ignore"):
        gap = np.subtract(log_other, log_p)
    gap = np.where(np.isnan(gap), 0.0, gap)
    return np.tanh(TAU_SCALE[tau] * gap)


def group_rows(matrix: NDArray[np.generic]) -> tuple[IntArray, IntArray]:
    """Groups of equal rows of an ``(n, m)`` matrix: ``(first (g,), group (n,))``.

    Rows are keyed by a hash of a few columns and compared in full with the first row of their key. Rows of one group
    are equal; equal rows may (rarely, where different rows share a key) stay in groups of their own.
    """
    n, m = matrix.shape
    half = _PROBES // 2
    near = matrix if m <= _PROBES else np.column_stack([matrix[:, :half], matrix[:, m // 2 : m // 2 + half]])
    probe = np.ascontiguousarray(near, dtype=np.float64).view(np.uint64)
    multipliers = np.random.default_rng(0).integers(1, 1 << 63, size=probe.shape[1], dtype=np.uint64) | np.uint64(1)
    hashed = probe ^ (probe >> np.uint64(31))
    key = (hashed * multipliers).sum(axis=1)  # modulo 2**64
    ordered = np.sort(key)
    if (ordered[1:] != ordered[:-1]).all():
        return np.arange(n), np.arange(n)
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    leader = first[group]
    alone = leader == np.arange(n)
    followers = np.flatnonzero(~alone)
    step = max(1, _BLOCK_ENTRIES // m)
    for start in range(0, len(followers), step):
        rows = followers[start : start + step]
        different = (matrix[rows] != matrix[leader[rows]]).any(axis=1)
        leader[rows[different]] = rows[different]
    first, group = np.unique(leader, return_inverse=True)
    return first, group


def solve_finite_game(log_densities: FloatArray, weights: FloatArray, tau: str) -> GameSolution:
    """``argmin_j max_k sum_i w_i tau(p_j(i), p_k(i))``, exactly.

    Args:
        log_densities: ``(n, M)`` log-density of every policy at every data point, in nats; ``-inf`` allowed.
        weights: ``(n,)`` non-negative, not all zero.
        tau: ``"ratio"`` or ``"psi"``.

    Time: for large games, one float32 tanh an entry and evaluated row. Memory: that of the matrix; as much again if
    points or policies are merged.

    >>> log_densities = np.log([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]])
    >>> solve_finite_game(log_densities, np.array([0.5, 0.5]), "ratio").index
    1
    """
    used = weights > 0
    if not used.any():
        raise ValueError("all weights are zero; at least one must be positive.")
    if not used.all():
        log_densities, weights = log_densities[used], weights[used]
    first, group = group_rows(log_densities)
    if len(first) <= _WORTH_COPYING * len(log_densities):
        log_densities, weights = log_densities[first], np.bincount(group, weights=weights).astype(np.float64)
    columns = _distinct_columns(log_densities)
    if len(columns) <= _WORTH_COPYING * log_densities.shape[1]:
        log_densities = log_densities[:, columns]
    else:
        columns = np.arange(log_densities.shape[1])
    solution = _Elimination(np.ascontiguousarray(log_densities, dtype=np.float64), weights, tau).solve()
    return replace(solution, index=int(columns[solution.index]), reply=int(columns[solution.reply]))


def _distinct_columns(matrix: FloatArray) -> IntArray:
    """The first of each group of equal columns, in order (so that ties stay with the smallest index)."""
    probe_rows = np.unique(np.linspace(0, len(matrix) - 1, 64).astype(np.int64))
    first, group = group_rows(np.ascontiguousarray(matrix[probe_rows].T))
    if len(first) == matrix.shape[1] or len(probe_rows) == len(matrix):
        return first
    leader = first[group]
    followers = np.flatnonzero(leader != np.arange(matrix.shape[1]))
    for j in followers:  # equal where probed: compare in full
        if (matrix[:, j] != matrix[:, leader[j]]).any():
            leader[j] = j
    return np.unique(leader)


class _Elimination:
    """Best-first elimination on data points that all have positive weight.

    The matrix is read in cache-sized blocks, and each pass over it evaluates a few rows at a time.

    Rounding. Log-densities (centred per data point by those of a likely policy, where they are large) are scaled and
    rounded to x in the working precision (unit roundoff u), so that F(j, k) = sum w tanh(x_k - x_j). Where
    |x_k - x_j| <= 10 the argument is off by at most ``u (2 |x_j| + 20)``; elsewhere tanh is flat (its slope is below
    1e-8), so that this bound holds there too. tanh itself, w and their product are off by at most 12 u. Blocks have at
    most 64 rows, are summed in the working precision (off by at most 64 u times their weight) and added up in float64.
    """

    def __init__(
        self, log_densities: FloatArray, weights: FloatArray, tau: str, *, dtype: type[np.floating] | None = None
    ) -> None:
        self.log_densities, self.weights, self.tau = log_densities, weights, tau
        n, m = log_densities.shape
        large = n * m >= _FLOAT32_FROM
        self.dtype = np.dtype((np.float32 if large else np.float64) if dtype is None else dtype)
        self.unit = 2.0**-24 if self.dtype == np.float32 else 2.0**-53
        self.tie = ROUNDING * float(weights.sum())
        self.step = min(_MOST_BLOCK_ROWS, max(1, _BLOCK_ENTRIES // m))
        self.working_weights = weights.astype(self.dtype)
        self.centres: FloatArray | None = None

    def solve(self) -> GameSolution:
        rows, _, count = self.eliminate(self._promising())
        index, value, reply = self._decide(rows)
        return GameSolution(index, value, reply, count, *self.log_densities.shape)

    def eliminate(self, first: IntArray) -> tuple[dict[int, tuple[FloatArray, float]], FloatArray, int]:
        """Evaluate rows, these first, until the others are known to be worse than the best.

        Returns:
            The rows that may still win, as payoffs with a bound on their error; ``(M,)`` lower bounds on the worst case
            of every policy; and how many rows were evaluated.
        """
        m = self.log_densities.shape[1]
        bounds = np.zeros(m)  # every worst case is at least F(j, j) = 0
        visited = np.zeros(m, dtype=bool)
        rows: dict[int, tuple[FloatArray, float]] = {}
        best, current = np.inf, first  # the value of the game, ties included, is at most best
        self._centre(int(first[0]))
        while len(current):
            visited[current] = True
            errors = [self._error(int(j)) for j in current]
            for j, row, error in zip(current, self._rows(current), errors, strict=True):
                best = min(best, max(float(row.max()), 0.0) + error + self.tie)
                np.maximum(bounds, -row - error, out=bounds)
                bounds[j] = max(bounds[j], float(row.max()) - error)
                rows[int(j)] = row, error
            rows = {j: kept for j, kept in rows.items() if kept[0].max() - kept[1] <= best}
            left = np.flatnonzero(~visited & (bounds <= best))
            current = left[np.argsort(bounds[left], kind="stable")[:_ROWS_AT_A_TIME]]
        return rows, bounds, int(visited.sum())

    def _promising(self) -> IntArray:
        """Rows to begin with: the first ones of the game on a part of the data, or about the maximum likelihood row."""
        every = -(-len(self.log_densities) // _PART_ROWS)
        part = self.log_densities[::every]
        weights = self.weights[::every]
        highest = part.max(axis=1, keepdims=True)
        clipped = np.maximum(part, np.where(np.isneginf(highest), 0.0, highest) - 50.0)
        likely = np.array([int((weights @ clipped).argmax())])
        if every == 1:
            return likely
        _, bounds, _ = _Elimination(part, weights, self.tau, dtype=np.float32).eliminate(likely)
        close = np.flatnonzero(bounds <= bounds.min() + _PART_MARGIN * weights.sum())
        return close[np.argsort(bounds[close], kind="stable")[:_ROWS_AT_A_TIME]]

    def _centre(self, j: int) -> None:
        """Centre on the log-densities of policy j, where that is not ``-inf`` (then: of the likeliest; 0)."""
        self.centres = np.ascontiguousarray(self.log_densities[:, j])
        possible = ~np.isneginf(self.centres)
        if self.weights[possible] @ np.abs(self.centres[possible]) <= _CENTRE_ABOVE * self.weights.sum():
            self.centres = None
            return
        undefined = np.flatnonzero(np.isneginf(self.centres))
        highest = self.log_densities[undefined].max(axis=1)
        self.centres[undefined] = np.where(np.isneginf(highest), 0.0, highest)

    def _rows(self, policies: IntArray) -> FloatArray:
        """``(len(policies), M)`` payoffs F(j, .) up to `_error`, in one pass over the log-densities."""
        n, m = self.log_densities.shape
        total = np.zeros((len(policies), m))
        x_buffer, gap_buffer = (np.empty((self.step, m), dtype=self.dtype) for _ in range(2))
        scale = self.dtype.type(TAU_SCALE[self.tau])
        for start in range(0, n, self.step):
            block = slice(start, min(start + self.step, n))
            x, gaps = x_buffer[: block.stop - start], gap_buffer[: block.stop - start]
            if self.centres is None:
                np.multiply(self.log_densities[block], scale, out=x, casting="same_kind")
            else:
                np.subtract(self.log_densities[block], self.centres[block, None], out=x, casting="same_kind")
                np.multiply(x, scale, out=x)
            if np.isneginf(x.min()):
                np.maximum(x, self.dtype.type(_ZERO_DENSITY), out=x)
            for row, j in zip(total, policies, strict=True):
                np.subtract(x, x[:, j, None], out=gaps)
                np.tanh(gaps, out=gaps)
                row += self.working_weights[block] @ gaps
        return total

    def _error(self, j: int) -> float:
        own = self.log_densities[:, j] if self.centres is None else self.log_densities[:, j] - self.centres
        own = TAU_SCALE[self.tau] * np.abs(own)
        own[np.isinf(own)] = 0.0  # exact: two such differ by 0, one of them saturates tanh
        additions = (len(own) / self.step + 1) * np.finfo(np.float64).eps
        return float(self.weights @ (self.unit * (2.0 * own + 20.0 + 12.0 + _MOST_BLOCK_ROWS) + additions))

    def _decide(self, rows: dict[int, tuple[FloatArray, float]]) -> tuple[int, float, int]:
        """The survivors once more, in float64 and in a fixed order of summation."""
        results = []
        for j in sorted(rows):
            payoffs, error = rows[j]
            replies = np.flatnonzero(payoffs >= payoffs.max() - 2 * error)
            exact = self._exact(j, replies)
            best = int(first_best(exact, slack=self.tie))
            results.append((max(float(exact[best]), 0.0), j, int(replies[best])))
        smallest = min(value for value, _, _ in results)
        value, index, reply = next(r for r in results if r[0] <= smallest + self.tie)
        return index, value, reply

    def _exact(self, j: int, replies: IntArray) -> FloatArray:
        own = np.ascontiguousarray(self.log_densities[:, j])
        out = np.empty(len(replies))
        for position, k in enumerate(replies):
            out[position] = (self.weights * rho_tau(own, self.log_densities[:, k], self.tau)).sum()
        return out


# -- The rho game over a class with one parameter, solved to a stated tolerance with proved bounds --------------------
#
# The class: next-token laws ``pi_eta(a | c) ~ exp(eta x[c, a])`` with a number x for every token in every context, and
# eta in an interval. A Bernoulli class is one context, ``x = (0, 1)`` and eta the log-odds, infinite ones included; an
# autoregressive linear class of dimension 1 has x its features. The data enter through the counts of (context, token)
# in each unit (a sequence, or a chunk), so n sequences of a Bernoulli class become at most H + 1 weighted points. The
# game is ``min_eta g(eta), g(eta) = max_eta' F(eta, eta')``, ``F(eta, eta') = sum w tanh(s (L(eta') - L(eta)))``, with
# L the log-likelihood of the counts.
#
# g is neither convex nor smooth, the best replies to eta sit at distances of order 1/m from it (m tokens a unit), and
# towards the ends of the class F is flat. So both players search by branch and bound, and one bound serves both:
# `_Game.bounds` bounds F(eta, .) from above on cells of eta, infinite ones included: each L is concave, so its range on
# a cell is bounded, and so is the range of its slope. Over all cells of replies that is an upper bound on g(eta); and
# as F is antisymmetric, ``g >= F(., reply) = -F(reply, .)`` gives lower bounds on g in all cells of eta. The gap that
# is reported is the difference of the two, over the whole class, up to rounding (1e-13 of the total weight).


_LOG_ZERO = -1e9  # stands for log 0: below k log theta for any float theta, and its difference with itself is 0
_FLOOR = 2e-14  # values below this times the total weight count as zero: rounding
_LEVELS = 100  # of halving: the last cells are as small as rounding
_MOST_CELLS = 4096  # open at a time in a search for a reply
_ROUNDS = 10_000  # of the search for theta
_BATCH = 4  # cells of eta halved at a time
_LATEST = 8  # replies tried on every new cell, beside those that were best around it
_BLOCK = 1 << 17  # numbers worked on at a time


@dataclass(frozen=True)
class OneParameterSolution:
    """A certified solution.

    Attributes:
        theta: the parameter: the probability in a Bernoulli class, else eta.
        value: its worst case g, as far as the search for replies attained it.
        reply: a theta that attains it.
        reply_gap: how much better a reply may at most be than that (proved).
        slack: how much smaller than ``value`` g may at most be anywhere in the class (proved).
        evaluations: how often g was evaluated.
        points: distinct counts in the data, negligible ones left out.
    """

    theta: float
    value: float
    reply: float
    reply_gap: float
    slack: float
    evaluations: int
    points: int

    @property
    def gap(self) -> float:
        return self.reply_gap + self.slack


def solve_bernoulli_game(
    events: NDArray[np.integer],
    lengths: NDArray[np.integer],
    weights: FloatArray,
    theta_range: tuple[float, float],
    tau: str,
    *,
    tol: float = 1e-6,
) -> OneParameterSolution:
    """``argmin_theta max_theta' sum_i w_i tau(P_theta(i), P_theta'(i))`` over an interval of theta.

    Args:
        events: ``(n,)`` events k_i of each unit.
        lengths: ``(n,)`` tokens m_i of each unit; ``P_theta(i) = theta**k_i (1 - theta)**(m_i - k_i)``.
        weights: ``(n,)`` positive weights.
        theta_range: the ends of the class, within [0, 1].
        tau: ``"ratio"`` or ``"psi"``.
        tol: the search ends when the gap is at most ``tol`` times the value, or as small as rounding.

    >>> half = solve_bernoulli_game(np.array([0, 1]), np.array([1, 1]), np.array([0.7, 0.3]), (0.0, 1.0), "ratio")
    >>> round(half.theta, 6), half.value < 1e-15  # one token a unit: the maximum likelihood estimate
    (0.3, True)
    """
    from scipy.special import expit

    def theta(eta: float) -> float:
        return float(np.clip(expit(eta), *theta_range))

    codes, group = np.unique((1 + int(lengths.max())) * lengths.astype(np.int64) + events, return_inverse=True)
    m, k = np.divmod(codes, 1 + int(lengths.max()))
    pooled = np.bincount(group, weights=weights).astype(np.float64)
    mean = float(pooled @ k / (pooled @ m)) if m.any() else 0.5  # texts that had ended before they began
    found = solve_one_parameter_game(
        np.array([[0.0, 1.0]]),
        np.column_stack([m - k, k]),
        pooled,
        (_log_odds(theta_range[0]), _log_odds(theta_range[1])),
        tau,
        start=_log_odds(float(np.clip(mean, *theta_range))),
        tol=tol,
        nearest=lambda eta: _log_odds(theta(eta)),
    )
    return replace(found, theta=theta(found.theta), reply=theta(found.reply))


def solve_one_parameter_game(
    features: FloatArray,
    counts: Any,
    weights: FloatArray,
    ends: tuple[float, float],
    tau: str,
    *,
    start: float,
    tol: float = 1e-6,
    nearest: Callable[[float], float] = float,
    time_limit: float = math.inf,
) -> OneParameterSolution:
    """The same over an interval of eta, for the class above.

    Args:
        features: ``(C, A)`` numbers x, finite, in every row from the smallest to the largest.
        counts: ``(U, C A)`` counts of (context, token) in each unit, dense or sparse.
        weights: ``(U,)`` positive weights.
        ends: of the interval; they may be infinite in a Bernoulli class.
        tau: ``"ratio"`` or ``"psi"``.
        start: an eta that is likely to be good.
        tol: the search ends when the gap is at most ``tol`` times the value, or as small as rounding.
        nearest: the next eta that stands for a member of the class.
        time_limit: processor seconds; past it the best so far is returned, with its gap. Looked at between values of g.
    """
    search = _Search(_Game(features, counts, weights, tau, ends), tol, nearest, time.thread_time() + time_limit)
    search.evaluate(start)
    search.run()
    value, upper, eta, reply = search.best
    return OneParameterSolution(
        theta=eta,
        value=value,
        reply=reply,
        reply_gap=upper - value,
        slack=max(value - search.least, 0.0),
        evaluations=len(search.seen),
        points=len(search.game.weights),
    )


def _log_odds(theta: float) -> float:
    low, high = log_bernoulli(theta)
    return high - low


def _cells(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The low and the high ends of the cells between sorted points; a single point is a cell."""
    return (edges[:-1], edges[1:]) if len(edges) > 1 else (edges, edges)


def _halves(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The cells in two each; infinite ones are cut ever further out."""
    with np.errstate(invalid="ignore"):
        middle = 0.5 * (low + high)  # nan where the cell is the whole line
    if not np.isfinite(middle).all():
        middle = np.where(np.isneginf(low), np.minimum(2.0 * high, high - 4.0), middle)
        middle = np.where(np.isposinf(high), np.maximum(2.0 * low, low + 4.0), middle)
        middle = np.where(np.isinf(low) & np.isinf(high), 0.0, middle)
    return np.concatenate([low, middle]), np.concatenate([middle, high])


def _meeting(left: FloatArray, up: FloatArray, right: FloatArray, down: FloatArray, width: FloatArray) -> FloatArray:
    """Where lines from both ends of a cell meet, with slopes ``up > 0 > down``; ``inf`` if it is infinite."""
    height = left + up * np.minimum(np.maximum((right - left - down * width) / (up - down), 0.0), width)
    return np.where(np.isfinite(width), height, np.inf)


def _sum_of_logs(counts: Any) -> FloatArray:
    """``(U,)`` sums of N log N."""
    from scipy.special import xlogy

    counts = counts.copy()
    counts.data = xlogy(counts.data, counts.data)
    return np.asarray(counts.sum(axis=1))


class _Laws(NamedTuple):
    """M parameters, and their laws in the contexts."""

    eta: FloatArray  # (M,)
    relative: FloatArray  # (M, C, A): features less that of the likeliest token
    law: FloatArray  # (M, C, A): log-probabilities
    of_units: FloatArray  # (M, U): s L


class _Game:
    """Payoffs between parameters, and bounds on them."""

    def __init__(
        self, features: FloatArray, counts: Any, weights: FloatArray, tau: str, ends: tuple[float, float]
    ) -> None:
        from scipy.sparse import csr_array

        order = np.argsort(weights, kind="stable")
        order = order[np.cumsum(weights[order]) > 1e-17 * weights.sum()]  # the rest is negligible
        self.weights, self.counts = weights[order], counts[order].T.astype(np.float64)
        counts = csr_array(self.counts.T)
        entries = np.arange(features.size)
        visits = counts @ csr_array((np.ones(len(entries)), (entries, entries // features.shape[1])))  # (U, C)
        self.scale, self.floor = TAU_SCALE[tau], _FLOOR * float(self.weights.sum())
        self.highest = self.scale * (_sum_of_logs(counts) - _sum_of_logs(visits))  # L, contexts with laws of their own
        self.tokens = max(float(visits.sum(axis=1).max()), 1.0)
        self.features, self.ends = features, ends
        self.relative = np.stack([features - features[:, :1], features - features[:, -1:]])
        self.others = np.ones((2, 1, features.shape[1]))
        self.others[0, 0, 0] = self.others[1, 0, -1] = 0.0
        self.unit = 1.0 / (float(np.ptp(features, axis=1).max()) or 1.0)  # of eta

    def laws(self, eta: FloatArray) -> _Laws:
        """Of M parameters, of a small relative error."""
        last = (eta >= 0).astype(np.intp)  # whether the last token is the likeliest, or the first
        relative = self.relative[last]
        with np.errstate(invalid="ignore"):
            logits = np.where(relative == 0, 0.0, eta[:, None, None] * relative)
        law = logits - np.log1p((np.exp(logits) * self.others[last]).sum(axis=2, keepdims=True))
        law = np.where(law == -np.inf, _LOG_ZERO, law)
        return _Laws(eta, relative, law, self._total(law))

    def _total(self, by_entry: FloatArray) -> FloatArray:
        """``(M, U)`` sums over the tokens of each unit, times s, from ``(M, C, A)``."""
        return self.scale * np.asarray(by_entry.reshape(-1, self.features.size) @ self.counts)

    def log_ratios(self, own: _Laws, others: _Laws) -> FloatArray:
        """``(R, C, U)`` s (L(other) - L(own)), accurate too where the two are close."""
        ratios = others.of_units - own.of_units[:, None]
        steps = others.eta - own.eta[:, None]
        r, c = np.nonzero(np.abs(steps) < self.unit)
        logits = steps[r, c][:, None, None] * own.relative[r]
        change = np.log1p((np.exp(own.law)[r] * np.expm1(logits)).sum(axis=2, keepdims=True))
        ratios[r, c] = self._total(logits - change)
        return ratios

    def slopes(self, at: _Laws) -> FloatArray:
        """``(M, U)`` derivatives of s L."""
        return self._total(at.relative - (np.exp(at.law) * at.relative).sum(axis=2, keepdims=True))

    def bounds(self, own: _Laws, low: FloatArray, high: FloatArray) -> FloatArray:
        """``(3, R, C)`` F(own, low), F(own, high), and upper bounds on F(own, .) in the cells [low, high] between.

        A bound is the smaller of two. One takes each tanh at its largest. The other stays below the lines from both
        ends whose slopes are the extremes that F can have in the cell.
        """
        block = max(_BLOCK // (len(own.eta) * max(self.counts.shape)), 1)
        with np.errstate(invalid="ignore", divide="ignore"):  # ends may be infinite
            parts = [self._bounds(own, low[i : i + block], high[i : i + block]) for i in range(0, len(low), block)]
        return np.concatenate(parts, axis=2)

    def _bounds(self, own: _Laws, low: FloatArray, high: FloatArray) -> FloatArray:
        edges, at = np.unique(np.concatenate([low, high]), return_inverse=True)
        laws, at_low, at_high = self.laws(edges), at[: len(low)], at[len(low) :]
        ratios, slopes = self.log_ratios(own, laws), self.slopes(laws)
        values = np.tanh(ratios)
        left, right = values[:, at_low], values[:, at_high]
        rise, fall = slopes[at_low], slopes[at_high]  # (C, U), of concave functions: the extremes in the cell
        width = high - low
        least, most = np.minimum(left, right), np.maximum(left, right)
        cell, unit = np.nonzero((rise > 0) & (fall < 0))  # where L has its peak inside: below its tangents at both ends
        if len(cell):
            ends = ratios[:, at_low[cell], unit], ratios[:, at_high[cell], unit]
            peak = _meeting(ends[0], rise[cell, unit], ends[1], fall[cell, unit], width[cell])
            highest = self.highest - own.of_units
            most[:, cell, unit] = np.maximum(most[:, cell, unit], np.tanh(np.minimum(peak, highest[:, unit])))
        largest = most @ self.weights
        # d tanh = (1 - tanh^2) d(s L)
        crosses = (least <= 0) & (most >= 0)
        least, most = least**2, most**2
        steepest = 1.0 - np.where(crosses, 0.0, np.minimum(least, most))
        flattest = 1.0 - np.maximum(least, most)
        up = (np.where(rise > 0, steepest, flattest) * rise) @ self.weights
        down = (np.where(fall < 0, steepest, flattest) * fall) @ self.weights
        left, right = left @ self.weights, right @ self.weights
        lines = np.where(up <= 0, left, np.where(down >= 0, right, _meeting(left, up, right, down, width)))
        return np.stack([left, right, np.maximum(np.minimum(largest, lines), np.maximum(left, right))])

    def grid(self, centre: float) -> FloatArray:
        """Edges of cells to start from: even ones, and finer ones around a point at the scale of the data."""
        near = self.unit * np.geomspace(0.1 / self.tokens, 30.0, 16)
        around = centre + np.concatenate([-near, near, [0.0]]) if np.isfinite(centre) else np.empty(0)
        edges = np.concatenate([self.unit * np.arange(-40.0, 41.0), around, self.ends])
        return np.unique(np.clip(edges, self.ends[0], self.ends[1]))

    def best_reply(self, own: float, tol: float, enough: float = np.inf) -> tuple[float, float, float]:
        """A value of F(own, .), an upper bound on all its values, and the reply with that value.

        The two differ by at most ``tol``, relative, or rounding; not so if the value is above ``enough``.
        """
        low, high = _cells(self.grid(own))
        best, reply, upper, laws = 0.0, own, 0.0, self.laws(np.array([own]))  # F(own, own) = 0
        for _ in range(_LEVELS):
            left, right, bound = self.bounds(laws, low, high)[:, 0]
            for values, where in ((left, low), (right, high)):
                if values.max() > best:
                    best, reply = float(values.max()), float(where[values.argmax()])
            open_ = bound > best + max(tol * best, self.floor)
            upper = max(upper, float(bound[~open_].max(initial=0.0)))
            remaining = float(bound[open_].max(initial=0.0))
            if not open_.any() or best > enough or open_.sum() > _MOST_CELLS:
                break
            low, high = _halves(low[open_], high[open_])
        return best, max(best, upper, remaining), reply


class _Search:
    """Cells of eta in which g may still be smaller than the best value found."""

    def __init__(self, game: _Game, tol: float, nearest: Callable[[float], float], deadline: float) -> None:
        self.game, self.tol, self.nearest, self.deadline = game, tol, nearest, deadline
        self.best = (np.inf, np.inf, np.nan, np.nan)  # value, its upper bound, eta, reply
        self.replies: list[float] = []
        self.seen: set[float] = set()
        self.least = np.inf  # a lower bound on g in all cells done with

    def evaluate(self, eta: float) -> None:
        """g at the member that is nearest, as far as it is needed; the replies join those known."""
        eta = self.nearest(eta)
        if eta not in self.seen:
            self.seen.add(eta)
            value, upper, reply = self.game.best_reply(eta, 0.25 * self.tol, 1.05 * self.best[0])
            if value < self.best[0] - self.game.floor:
                self.best = (value, upper, eta, reply)
            self.replies += [reply] if reply == eta else [reply, eta]

    def lower(self, low: FloatArray, high: FloatArray, replies: IntArray) -> tuple[FloatArray, IntArray]:
        """``(3, C)`` lower bounds on g at both ends of cells and in all of each, and the replies that give them."""
        found = -self.game.bounds(self.game.laws(np.array(self.replies)[replies]), low, high)  # (3, R, C)
        by = found.argmax(axis=1)
        return np.maximum(np.take_along_axis(found, by[:, None], axis=1)[:, 0], 0.0), replies[by]  # g >= 0

    def run(self) -> None:
        low, high = _cells(self.game.grid(self.best[2]))
        found, by = self.lower(low, high, np.arange(len(self.replies)))
        for _ in range(_ROUNDS):
            enough = self.best[0] * (1 - 0.5 * self.tol) - self.game.floor
            done = found[2] >= enough
            self.least = min(self.least, float(found[2][done].min(initial=np.inf)))
            low, high, found, by = low[~done], high[~done], found[:, ~done], by[:, ~done]
            if not len(low):
                return
            if time.thread_time() >= self.deadline:
                break
            order = np.argsort(found[2], kind="stable")
            first, rest = order[:_BATCH], order[_BATCH:]
            known = len(self.replies)
            useful = np.union1d(by[:, first], np.arange(max(known - _LATEST, 0), known))
            cut = _halves(low[first], high[first])
            inside, by_inside = self.lower(*cut, useful)
            inside[2] = np.maximum(inside[2], np.tile(found[2, first], 2))
            low, high = (np.concatenate([new, old[rest]]) for new, old in zip(cut, (low, high)))
            found, by = np.hstack([inside, found[:, rest]]), np.hstack([by_inside, by[:, rest]])
            ends, at = np.concatenate([low, high]), np.concatenate([found[0], found[1]])
            if at.min() < enough:
                self.evaluate(float(ends[at <= at.min() + self.game.floor].min()))  # ties: the smallest
            if len(self.replies) > known:
                fresh, by_fresh = self.lower(low, high, np.arange(known, len(self.replies)))
                better = fresh > found
                found, by = np.where(better, fresh, found), np.where(better, by_fresh, by)
        self.least = min(self.least, float(found[2].min()))  # out of rounds, or of time
