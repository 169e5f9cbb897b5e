"""The rho game over a one-parameter Bernoulli class, solved to a stated tolerance.

The data enter through the number of events k among the m tokens of each unit (a sequence, or a chunk), so n sequences
become at most H + 1 weighted points. With eta the log-odds of theta the game is
``min_eta g(eta), g(eta) = max_eta' sum w tanh(s (L(eta') - L(eta)))``, with L the log-likelihood of (k, m).

g is neither convex nor smooth, and the best replies to eta sit at distances of order 1/m from it, where no fixed grid
has points. So: a grid of eta, with lower bounds on g from every reply met so far (F is antisymmetric, so that
everything evaluated at one point bounds g at all others); always continue with the point of smallest bound, finding
its best reply on the grid, on offsets around itself at scale 1/m, and by zooming in on the highest peaks; once the
grid is decided, add points around the best one and around near winners, and repeat until g cannot vary by more than
the tolerance within the cell. A finer search for replies of its own certifies the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.rho_game import TAU_SCALE
from ntp_envs._numerics import log_bernoulli

__all__ = ["BernoulliSolution", "solve_bernoulli_game"]

FloatArray = NDArray[np.float64]

_GRID_STEP = 0.08  # log-odds
_LOG_ZERO = -1e9  # stands for log 0: below k log theta for any float theta, and its difference with itself is 0
_FLOOR = 1e-14  # values below this times the total weight count as zero: rounding
_REFINED = 17  # new points a cell
_REACH = 50.0  # log-odds; replies further away are left to the grid


@dataclass(frozen=True)
class BernoulliSolution:
    """A certified solution.

    Attributes:
        theta: the parameter.
        value: its worst case g, by the certifying search for replies.
        reply: a theta that attains it.
        reply_gap: by how much that exceeds what the solver's own search had found, at least 0.
        slack: how much smaller g may be elsewhere in the final cell (a Lipschitz bound).
        evaluations: how often g was evaluated.
        points: distinct (events, length) in the data.
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
) -> BernoulliSolution:
    """``argmin_theta max_theta' sum_i w_i tau(P_theta(i), P_theta'(i))`` over an interval of theta.

    Args:
        events: ``(n,)`` events k_i of each unit.
        lengths: ``(n,)`` tokens m_i of each unit; ``P_theta(i) = theta**k_i (1 - theta)**(m_i - k_i)``.
        weights: ``(n,)`` positive weights.
        theta_range: the ends of the class, within [0, 1].
        tau: ``"ratio"`` or ``"psi"``.
        tol: the search ends when the cell around the solution is so small that g varies in it by less than ``tol``
            times its value.

    >>> half = solve_bernoulli_game(np.array([0, 1]), np.array([1, 1]), np.array([0.7, 0.3]), (0.0, 1.0), "ratio")
    >>> round(half.theta, 6), half.value < 1e-15  # one token a unit: the maximum likelihood estimate
    (0.3, True)
    """
    game = _Game(events, lengths, weights, tau)
    search = _Search(game, theta_range)
    search.settle()
    for level in range(40):
        slack = search.slack()
        if slack <= 0.5 * tol * search.best_value() or search.best_value() <= _FLOOR * game.total:
            break
        search.refine(near_winners=level < 2)
        search.settle()
    theta = float(np.clip(_theta(search.best()), *theta_range))
    value, reply = game.best_reply(_log_odds(theta), search.global_replies(_GRID_STEP / 4), density=4, peaks=8, zooms=6)
    slack = search.slack()
    return BernoulliSolution(
        theta=theta,
        value=value,
        reply=float(np.clip(_theta(reply), *theta_range)),
        reply_gap=max(value - search.best_value(), 0.0),
        slack=min(slack, value),  # g >= 0 everywhere
        evaluations=search.evaluations,
        points=len(game.k),
    )


def _theta(eta: float) -> float:
    from scipy.special import expit

    return float(expit(eta))


def _log_odds(theta: float) -> float:
    low, high = log_bernoulli(theta)
    return high - low


class _Game:
    """Payoffs between log-odds; infinite ones are theta = 0 and 1."""

    def __init__(
        self, events: NDArray[np.integer], lengths: NDArray[np.integer], weights: FloatArray, tau: str
    ) -> None:
        points = []
        for length in np.unique(lengths):
            alike = lengths == length
            pooled = np.bincount(events[alike], weights=weights[alike])
            points += [(length, k, pooled[k]) for k in np.flatnonzero(pooled)]
        self.m, self.k, self.weights = np.array(points, dtype=np.float64).T
        self.scale, self.total = TAU_SCALE[tau], float(self.weights.sum())
        self.longest = float(self.m.max())

    def payoffs(self, eta: float, replies: FloatArray) -> FloatArray:
        """``(R,)`` F(eta, reply): what eta loses against each reply."""
        own, others = self._logs(np.array([eta])), self._logs(replies)
        gaps = np.outer(self.k, others[0] - own[0]) + np.outer(self.m - self.k, others[1] - own[1])
        gaps *= self.scale
        return self.weights @ np.tanh(gaps, out=gaps)

    @staticmethod
    def _logs(eta: FloatArray) -> tuple[FloatArray, FloatArray]:
        return (
            np.maximum(-np.logaddexp(0.0, -eta), _LOG_ZERO),
            np.maximum(-np.logaddexp(0.0, eta), _LOG_ZERO),
        )

    def best_reply(
        self, eta: float, replies: FloatArray, *, density: int = 1, peaks: int = 4, zooms: int = 4
    ) -> tuple[float, float]:
        """``(g(eta), reply)`` over [first, last] of the sorted ``replies`` and offsets from eta at scale 1/m.

        Each zoom divides the cells around the highest peaks by 8, so the error in g falls by 64.
        """
        ends = replies[0], replies[-1]
        if np.isfinite(eta):
            offsets = np.geomspace(0.01 / self.longest, _REACH, 48 * density)
            replies = np.concatenate([replies, eta + offsets, eta - offsets, [eta]])
            replies = np.unique(np.clip(replies, *ends))
        values = self.payoffs(eta, replies)
        order = np.flatnonzero(_local_maxima(np.round(values / (1e-12 * self.total))))
        order = order[np.argsort(-values[order])][:peaks]
        low, high = replies[np.maximum(order - 1, 0)], replies[np.minimum(order + 1, len(replies) - 1)]
        best, where = float(values[order[0]]), float(replies[order[0]])
        finite = np.isfinite(low) & np.isfinite(high)
        low, high = low[finite], high[finite]
        steps = np.linspace(0.0, 1.0, _REFINED)
        for _ in range(zooms if len(low) else 0):
            cells = low[:, None] + (high - low)[:, None] * steps  # (peaks, 17)
            inside = self.payoffs(eta, cells.ravel()).reshape(cells.shape)
            top = inside.argmax(axis=1)
            rows = np.arange(len(top))
            if inside.max() > best:
                best, where = float(inside.max()), float(cells.ravel()[inside.argmax()])
            low, high = cells[rows, np.maximum(top - 1, 0)], cells[rows, np.minimum(top + 1, _REFINED - 1)]
        return max(best, 0.0), where

    def lipschitz(self, low: float, high: float) -> float:
        """A bound on ``|dF(eta, reply) / d eta|`` for eta in [low, high]: tanh' <= 1, dL/d eta = k - m theta."""
        ends = np.array([_theta(low), _theta(high)])
        slopes = np.abs(self.k[:, None] - self.m[:, None] * ends).max(axis=1)
        return self.scale * float(self.weights @ slopes)


def _local_maxima(values: FloatArray) -> NDArray[np.bool_]:
    """Not below the next value and above the one before: a plateau, which would crowd out peaks, counts once."""
    left = np.concatenate([[-np.inf], values[:-1]])
    right = np.concatenate([values[1:], [-np.inf]])
    return (values > left) & (values >= right)


def _insert(sorted_points: FloatArray, more: FloatArray, least: float) -> FloatArray:
    """The points, and those of ``more`` that are more than ``least`` away from all of them, in order.

    Candidates that all but coincide would make a cell that ends beside its best point, with the minimum outside it.
    """
    padded = np.concatenate([[-np.inf], sorted_points, [np.inf]])
    right = np.searchsorted(padded, more)
    with np.errstate(invalid="ignore"):
        apart = (more - padded[right - 1] > least) & (padded[right] - more > least)  # False at infinite ends
    return np.sort(np.concatenate([sorted_points, more[apart]]))


class _Search:
    """Candidate log-odds in order, a lower bound on g at each, and where g itself has been evaluated."""

    def __init__(self, game: _Game, theta_range: tuple[float, float]) -> None:
        self.game = game
        self.ends = np.array([_log_odds(theta) for theta in theta_range])
        maximum_likelihood = np.clip(game.weights @ game.k / (game.weights @ game.m), *theta_range)
        self.centre = _log_odds(float(maximum_likelihood))
        self.low, self.high = self._finite_range()
        self.evaluations = 0
        self.replies: list[float] = []
        around = 2.0 ** np.arange(-2, 8) / game.longest
        near = self.centre + np.concatenate([-around, around]) if np.isfinite(self.centre) else np.empty(0)
        self.etas = self._within(np.array([*self.ends, self.centre]))
        for points in (self._within(near), self.global_replies(_GRID_STEP)):
            self.etas = _insert(self.etas, points, 0.01 / game.longest)
        self.scan = self.etas  # replies of every evaluation
        self.bounds = np.zeros(len(self.etas))  # g >= F(eta, eta) = 0
        self.exact = np.zeros(len(self.etas), dtype=bool)

    def _finite_range(self) -> tuple[float, float]:
        """Where the players need to look, apart from the ends of the class.

        Let S be the weight of units with an event. Below theta = S e^-20 / m, lowering theta further gains at most
        m theta <= S e^-20 on units without one, a relative 1e-8 of what those with one are worth. Likewise above.
        """
        game = self.game
        with_event = float(game.weights[game.k > 0].sum()) / game.total
        without_some = float(game.weights[game.k < game.m].sum()) / game.total
        low = max(np.log(max(with_event, 1e-290) / game.longest) - 20.0, self.ends[0])
        high = min(20.0 - np.log(max(without_some, 1e-290) / game.longest), 36.0, self.ends[1])  # 1 - theta > 0
        return (low, high) if low < high else (self.ends[0], self.ends[1])

    def _within(self, etas: FloatArray) -> FloatArray:
        return np.unique(np.clip(etas, *self.ends))

    def global_replies(self, step: float) -> FloatArray:
        """Evenly spaced over the finite range, and the ends of the class."""
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            return self._within(np.array([*self.ends, self.centre]))
        size = int(np.clip((self.high - self.low) / step, 16, 4096)) + 1
        return self._within(np.concatenate([np.linspace(self.low, self.high, size), self.ends]))

    def best(self) -> float:
        return float(self.etas[self._best_index()])

    def best_value(self) -> float:
        return float(self.bounds[self._best_index()])

    def _best_index(self) -> int:
        """Smallest g evaluated; of equal ones the nearest to the maximum likelihood estimate."""
        values = np.where(self.exact, self.bounds, np.inf)
        ties = np.flatnonzero(values <= values.min() + _FLOOR * self.game.total)
        with np.errstate(invalid="ignore"):
            away = np.abs(self.etas[ties] - self.centre)
        return int(ties[np.argmin(np.where(np.isnan(away), 0.0, away))])

    def settle(self) -> None:
        """Evaluate g, smallest bound first, until no bound is below the smallest g."""
        current = int(self.bounds.argmin() if self.exact.any() else np.searchsorted(self.etas, self.centre))
        while not self.exact[current]:
            eta = float(self.etas[current])
            value, reply = self.game.best_reply(eta, self.scan)
            self.evaluations += 1
            self.replies += [reply, eta]
            for met in (reply, eta):
                np.maximum(self.bounds, -self.game.payoffs(met, self.etas), out=self.bounds, where=~self.exact)
            self.bounds[current], self.exact[current] = value, True
            smallest = self.bounds.min()
            tied = self.bounds <= smallest
            current = int(np.flatnonzero(tied & self.exact)[0]) if (tied & self.exact).any() else int(tied.argmax())

    def _cell(self, index: int) -> tuple[float, float]:
        """The neighbours of a candidate, itself where it is the last."""
        return float(self.etas[max(index - 1, 0)]), float(self.etas[min(index + 1, len(self.etas) - 1)])

    def slack(self) -> float:
        """How much smaller g can be between the best candidate and its neighbours than at it."""
        best = self._best_index()
        low, high = self._cell(best)
        if not (np.isfinite(low) and np.isfinite(high)):
            return self.best_value()  # g >= 0
        return self.game.lipschitz(low, high) * max(high - float(self.etas[best]), float(self.etas[best]) - low)

    def refine(self, *, near_winners: bool) -> None:
        """New candidates in the best cell, and in those of other local minima at most 10 % worse."""
        chosen = [self._best_index()]
        if near_winners:
            minima = np.flatnonzero(_local_maxima(-self.bounds) & (self.bounds <= 1.1 * self.best_value()))
            chosen += [int(i) for i in minima[np.argsort(self.bounds[minima])][:4]]
        etas = self.etas
        for i in chosen:
            low, high = self._cell(i)
            low, high = max(low, min(self.low, self.etas[i])), min(high, max(self.high, self.etas[i]))
            if np.isfinite(low) and np.isfinite(high):
                etas = _insert(etas, np.linspace(low, high, _REFINED), (high - low) / (4 * _REFINED))
        fresh = np.setdiff1d(etas, self.etas)
        bounds = np.zeros(len(fresh))
        for reply in self.replies:
            np.maximum(bounds, -self.game.payoffs(reply, fresh), out=bounds)
        order = np.argsort(np.concatenate([self.etas, fresh]))
        self.etas = etas
        self.bounds = np.concatenate([self.bounds, bounds])[order]
        self.exact = np.concatenate([self.exact, np.zeros(len(fresh), dtype=bool)])[order]
