"""The rho game over a one-parameter Bernoulli class, solved to a stated tolerance with proved bounds.

The data enter through the number of events k among the m tokens of each unit (a sequence, or a chunk), so n sequences
become at most H + 1 weighted points. With eta the log-odds of theta the game is
``min_eta g(eta), g(eta) = max_eta' F(eta, eta')``, ``F(eta, eta') = sum w tanh(s (L(eta') - L(eta)))``, with L
the log-likelihood of (k, m).

g is neither convex nor smooth, the best replies to eta sit at distances of order 1/m from it, and towards theta' = 0
and 1 F is flat. So both players search by branch and bound, and one bound serves both: `_Game.bounds` bounds F(eta, .)
from above on cells of log-odds, infinite ones included: each L is concave, so its range on a cell is known, and so is
the range of its slope. Over all cells of replies that is an upper bound on g(eta); and as F is antisymmetric,
``g >= F(., reply) = -F(reply, .)`` gives lower bounds on g in all cells of eta. The gap that is reported is the
difference of the two, over the whole class, up to rounding (1e-13 of the total weight).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from agents.rho_game import TAU_SCALE
from ntp_envs._numerics import log_bernoulli

__all__ = ["BernoulliSolution", "solve_bernoulli_game"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_LOG_ZERO = -1e9  # stands for log 0: below k log theta for any float theta, and its difference with itself is 0
_FLOOR = 2e-14  # values below this times the total weight count as zero: rounding
_GRID_STEP = 1.0  # log-odds
_LEVELS = 100  # of halving: the last cells are as small as rounding
_MOST_CELLS = 4096  # open at a time in a search for a reply
_ROUNDS = 10_000  # of the search for theta
_BATCH = 4  # cells of eta halved at a time
_LATEST = 8  # replies tried on every new cell, beside those that were best around it
_BLOCK = 1 << 17  # numbers worked on at a time


@dataclass(frozen=True)
class BernoulliSolution:
    """A certified solution.

    Attributes:
        theta: the parameter.
        value: its worst case g, as far as the search for replies attained it.
        reply: a theta that attains it.
        reply_gap: how much better a reply may at most be than that (proved).
        slack: how much smaller than ``value`` g may at most be anywhere in the class (proved).
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
        tol: the search ends when the gap is at most ``tol`` times the value, or as small as rounding.

    >>> half = solve_bernoulli_game(np.array([0, 1]), np.array([1, 1]), np.array([0.7, 0.3]), (0.0, 1.0), "ratio")
    >>> round(half.theta, 6), half.value < 1e-15  # one token a unit: the maximum likelihood estimate
    (0.3, True)
    """
    game = _Game(events, lengths, weights, tau, theta_range)
    mean = float(np.clip(game.weights @ game.k / (game.weights @ game.m), *theta_range))
    search = _Search(game, tol)
    search.evaluate(_log_odds(mean))
    search.run()
    value, upper, eta, reply = search.best
    return BernoulliSolution(
        theta=game.theta(eta),
        value=value,
        reply=game.theta(reply),
        reply_gap=upper - value,
        slack=max(value - search.least, 0.0),
        evaluations=len(search.seen),
        points=len(game.k),
    )


def _log_odds(theta: float) -> float:
    low, high = log_bernoulli(theta)
    return high - low


def _log_theta(eta: FloatArray) -> FloatArray:
    return np.maximum(-np.logaddexp(0.0, -eta), _LOG_ZERO)


def _cells(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The low and the high ends of the cells between sorted points; a single point is a cell."""
    return (edges[:-1], edges[1:]) if len(edges) > 1 else (edges, edges)


def _halves(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The cells in two each; infinite ones are cut ever further out."""
    with np.errstate(invalid="ignore"):
        middle = 0.5 * (low + high)  # nan where the cell is the whole line
    middle = np.where(np.isneginf(low), np.minimum(2.0 * high, high - 4.0), middle)
    middle = np.where(np.isposinf(high), np.maximum(2.0 * low, low + 4.0), middle)
    middle = np.where(np.isinf(low) & np.isinf(high), 0.0, middle)
    return np.concatenate([low, middle]), np.concatenate([middle, high])


class _Game:
    """Payoffs between log-odds, and bounds on them; infinite ones are theta = 0 and 1."""

    def __init__(
        self,
        events: NDArray[np.integer],
        lengths: NDArray[np.integer],
        weights: FloatArray,
        tau: str,
        theta_range: tuple[float, float],
    ) -> None:
        points = []
        for length in np.unique(lengths):
            alike = lengths == length
            pooled = np.bincount(events[alike], weights=weights[alike])
            points += [(length, k, pooled[k]) for k in np.flatnonzero(pooled)]
        points.sort(key=lambda point: point[2])
        negligible = np.cumsum([weight for _, _, weight in points]) <= 1e-17 * weights.sum()
        self.m, self.k, self.weights = np.array(points, dtype=np.float64)[~negligible].T
        self.peaks = logit(self.k / self.m)  # where L is largest
        self.scale, self.floor = TAU_SCALE[tau], _FLOOR * float(self.weights.sum())
        self.theta_range = theta_range
        self.ends = [_log_odds(theta) for theta in theta_range]

    def theta(self, eta: float) -> float:
        return float(np.clip(expit(eta), *self.theta_range))

    def _gaps(self, own: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What an event, and what none, is worth more under ``others``: accurate too where the two are close."""
        with np.errstate(invalid="ignore"):
            step = others - own
        near = np.abs(step) < 1.0
        step = np.where(near, step, 0.0)
        event = np.where(near, -np.log1p(expit(-own) * np.expm1(-step)), _log_theta(others) - _log_theta(own))
        none = np.where(near, -np.log1p(expit(own) * np.expm1(step)), _log_theta(-others) - _log_theta(-own))
        return self.scale * event, self.scale * none

    def bounds(self, own: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """``(3, R, C)`` F(own, low), F(own, high), and upper bounds on F(own, .) in the cells [low, high] between.

        A bound is the smaller of two. One takes each tanh at its largest. The other stays below the lines from both
        ends whose slopes are the extremes that F can have in the cell.
        """
        own = own[:, None]
        event, none = self._gaps(own, self.peaks)
        at_peak = np.tanh(event * self.k + none * (self.m - self.k))[:, None]  # (R, 1, points)
        block = max(_BLOCK // at_peak.size, 1)
        parts = [self._bounds(own, at_peak, low[i : i + block], high[i : i + block]) for i in range(0, len(low), block)]
        return np.concatenate(parts, axis=2)

    def _bounds(self, own: FloatArray, at_peak: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        ends = [self._gaps(own, eta) for eta in (low, high)]
        left, right = (np.tanh(e[..., None] * self.k + n[..., None] * (self.m - self.k)) for e, n in ends)
        inside = (low[:, None] < self.peaks) & (self.peaks < high[:, None])
        least, most = np.minimum(left, right), np.where(inside, at_peak, np.maximum(left, right))
        largest = most @ self.weights
        # d tanh = 1 - tanh^2, dL / d eta = k - m theta
        crosses = (least <= 0) & (most >= 0)
        least, most = least**2, most**2
        steepest = 1.0 - np.where(crosses, 0.0, np.minimum(least, most))
        flattest = 1.0 - np.maximum(least, most)
        down, up = (np.outer(expit(-eta), self.k) - np.outer(expit(eta), self.m - self.k) for eta in (high, low))
        up = self.scale * (np.where(up > 0, steepest, flattest) * up @ self.weights)
        down = self.scale * (np.where(down < 0, steepest, flattest) * down @ self.weights)
        left, right = left @ self.weights, right @ self.weights
        with np.errstate(invalid="ignore", divide="ignore"):
            width = high - low
            crossing = np.clip((right - left - down * width) / (up - down), 0.0, width)
            lines = np.where(up <= 0, left, np.where(down >= 0, right, left + up * crossing))
        lines = np.where(np.isfinite(width), lines, np.inf)
        return np.stack([left, right, np.maximum(np.minimum(largest, lines), np.maximum(left, right))])

    def grid(self, centre: float) -> FloatArray:
        """Edges of cells to start from: even ones, and finer ones around a point at the scale of the data."""
        near = np.geomspace(0.1 / self.m.max(), 30.0, 16)
        around = centre + np.concatenate([-near, near, [0.0]]) if np.isfinite(centre) else np.empty(0)
        edges = np.concatenate([np.arange(-40.0, 41.0, _GRID_STEP), around, self.ends])
        return np.unique(np.clip(edges, self.ends[0], self.ends[1]))

    def best_reply(self, own: float, tol: float, enough: float = np.inf) -> tuple[float, float, float]:
        """A value of F(own, .), an upper bound on all its values, and the reply with that value.

        The two differ by at most ``tol``, relative, or rounding; not so if the value is above ``enough``.
        """
        low, high = _cells(self.grid(own))
        best, reply, upper = 0.0, own, 0.0  # F(own, own) = 0
        for _ in range(_LEVELS):
            left, right, bound = self.bounds(np.array([own]), low, high)[:, 0]
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

    def __init__(self, game: _Game, tol: float) -> None:
        self.game, self.tol = game, tol
        self.best = (np.inf, np.inf, np.nan, np.nan)  # value, its upper bound, eta, reply
        self.replies: list[float] = []
        self.seen: set[float] = set()
        self.least = np.inf  # a lower bound on g in all cells done with

    def evaluate(self, eta: float) -> None:
        """g at the float theta that is nearest, as far as it is needed; the replies join those known."""
        eta = _log_odds(self.game.theta(eta))
        if eta not in self.seen:
            self.seen.add(eta)
            value, upper, reply = self.game.best_reply(eta, 0.25 * self.tol, 1.05 * self.best[0])
            if value < self.best[0] - self.game.floor:
                self.best = (value, upper, eta, reply)
            self.replies += [reply] if reply == eta else [reply, eta]

    def lower(self, low: FloatArray, high: FloatArray, replies: IntArray) -> tuple[FloatArray, IntArray]:
        """``(3, C)`` lower bounds on g at both ends of cells and in all of each, and the replies that give them."""
        found = -self.game.bounds(np.array(self.replies)[replies], low, high)  # (3, R, C)
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
        self.least = min(self.least, float(found[2].min()))  # out of rounds
