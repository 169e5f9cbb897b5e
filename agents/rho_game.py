"""The rho game over finitely many policies, solved exactly by best-first elimination.

The game: each of M policies has a log-density at each of n data points with weights w. Policy j loses to policy k by
``F(j, k) = sum_i w_i tau(p_j(i), p_k(i))`` and the rho-estimator is ``argmin_j max_k F(j, k)``, with tau one of

* ``"ratio"``: ``(p' - p) / (p' + p) = tanh((log p' - log p) / 2)``;
* ``"psi"``: ``(sqrt p' - sqrt p) / (sqrt p' + sqrt p) = tanh((log p' - log p) / 4)``.

F is antisymmetric, so one evaluated row j bounds the worst case of every other row: ``max_k F(j', k) >= F(j', j) =
-F(j, j')``. Starting from (about) the maximum likelihood row and always continuing with the row of smallest bound,
a few rows of M decide the game. Large games do this in float32, with a proved bound on the rounding; whatever that
bound leaves undecided is computed again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ntp_envs._numerics import ROUNDING, first_best

__all__ = ["TAU_SCALE", "GameSolution", "group_rows", "rho_tau", "solve_finite_game"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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
        value: its worst case ``max_k F(index, k)``, at least 0.
        reply: a policy that attains it.
        rows_evaluated: rows of the M x M payoff matrix that were needed.
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
