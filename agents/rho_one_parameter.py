"""The rho game over a class with one parameter, solved to a stated tolerance with proved bounds.

The class: next-token laws ``pi_eta(a | c) ~ exp(eta x[c, a])`` with a number x for every token in every context, and
eta in an interval. A Bernoulli class is one context, ``x = (0, 1)`` and eta the log-odds, infinite ones included; an
autoregressive linear class of dimension 1 has x its features. The data enter through the counts of (context, token)
in each unit (a sequence, or a chunk), so n sequences of a Bernoulli class become at most H + 1 weighted points. The
game is ``min_eta g(eta), g(eta) = max_eta' F(eta, eta')``, ``F(eta, eta') = sum w tanh(s (L(eta') - L(eta)))``, with L
the log-likelihood of the counts.

g is neither convex nor smooth, the best replies to eta sit at distances of order 1/m from it (m tokens a unit), and
towards the ends of the class F is flat. So both players search by branch and bound, and one bound serves both:
`_Game.bounds` bounds F(eta, .) from above on cells of eta, infinite ones included: each L is concave, so its range on a
cell is bounded, and so is the range of its slope. Over all cells of replies that is an upper bound on g(eta); and as F
is antisymmetric, ``g >= F(., reply) = -F(reply, .)`` gives lower bounds on g in all cells of eta. The gap that is
reported is the difference of the two, over the whole class, up to rounding (1e-13 of the total weight).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

from agents.rho_game import TAU_SCALE
from ntp_envs._numerics import log_bernoulli

__all__ = ["OneParameterSolution", "solve_bernoulli_game", "solve_one_parameter_game"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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

    def theta(eta: float) -> float:
        return float(np.clip(expit(eta), *theta_range))

    codes, group = np.unique((1 + int(lengths.max())) * lengths.astype(np.int64) + events, return_inverse=True)
    m, k = np.divmod(codes, 1 + int(lengths.max()))
    pooled = np.bincount(group, weights=weights).astype(np.float64)
    found = solve_one_parameter_game(
        np.array([[0.0, 1.0]]),
        np.column_stack([m - k, k]),
        pooled,
        (_log_odds(theta_range[0]), _log_odds(theta_range[1])),
        tau,
        start=_log_odds(float(np.clip(pooled @ k / (pooled @ m), *theta_range))),
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
        time_limit: seconds; past it the best so far is returned, with its gap. Looked at between evaluations of g.
    """
    search = _Search(_Game(features, counts, weights, tau, ends), tol, nearest, time.monotonic() + time_limit)
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
    middle = np.where(np.isneginf(low), np.minimum(2.0 * high, high - 4.0), middle)
    middle = np.where(np.isposinf(high), np.maximum(2.0 * low, low + 4.0), middle)
    middle = np.where(np.isinf(low) & np.isinf(high), 0.0, middle)
    return np.concatenate([low, middle]), np.concatenate([middle, high])


def _meeting(left: FloatArray, up: FloatArray, right: FloatArray, down: FloatArray, width: FloatArray) -> FloatArray:
    """Where lines from both ends of a cell meet, with slopes ``up > 0 > down``; ``inf`` if it is infinite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        height = left + up * np.clip((right - left - down * width) / (up - down), 0.0, width)
    return np.where(np.isfinite(width), height, np.inf)


def _sum_of_logs(counts: Any) -> FloatArray:
    """``(U,)`` sums of N log N."""
    counts = counts.copy()
    counts.data = xlogy(counts.data, counts.data)
    return np.asarray(counts.sum(axis=1))


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
        self.tokens = float(visits.sum(axis=1).max())
        self.features, self.ends = features, ends
        self.unit = 1.0 / (float(np.ptp(features, axis=1).max()) or 1.0)  # of eta

    def _relative(self, eta: FloatArray) -> tuple[FloatArray, FloatArray]:
        """``(M, C, A)`` features less that of the likeliest token, and log-probabilities, of a small relative error."""
        likeliest = np.where(eta >= 0, self.features.shape[1] - 1, 0)  # (M,)
        relative = self.features - self.features[:, likeliest].T[:, :, None]
        with np.errstate(invalid="ignore"):
            logits = np.where(relative == 0, 0.0, eta[:, None, None] * relative)
        others = np.arange(self.features.shape[1]) != likeliest[:, None, None]
        law = logits - np.log1p(np.where(others, np.exp(logits), 0.0).sum(axis=2, keepdims=True))
        return relative, np.where(np.isneginf(law), _LOG_ZERO, law)

    def _total(self, by_entry: FloatArray) -> FloatArray:
        """``(M, U)`` sums over the tokens of each unit, times s, from ``(M, C, A)``."""
        return self.scale * np.asarray(by_entry.reshape(-1, self.features.size) @ self.counts)

    def log_ratios(self, own: FloatArray, others: FloatArray) -> FloatArray:
        """``(R, C, U)`` s (L(other) - L(own)), accurate too where the two are close."""
        relative, law = self._relative(own)
        ratios = self._total(self._relative(others)[1]) - self._total(law)[:, None]
        with np.errstate(invalid="ignore"):
            steps = others - own[:, None]
        r, c = np.nonzero(np.abs(steps) < self.unit)
        logits = steps[r, c][:, None, None] * relative[r]
        change = np.log1p((np.exp(law)[r] * np.expm1(logits)).sum(axis=2, keepdims=True))
        ratios[r, c] = self._total(logits - change)
        return ratios

    def slopes(self, eta: FloatArray) -> FloatArray:
        """``(M, U)`` derivatives of s L."""
        relative, law = self._relative(eta)
        return self._total(relative - (np.exp(law) * relative).sum(axis=2, keepdims=True))

    def bounds(self, own: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        """``(3, R, C)`` F(own, low), F(own, high), and upper bounds on F(own, .) in the cells [low, high] between.

        A bound is the smaller of two. One takes each tanh at its largest. The other stays below the lines from both
        ends whose slopes are the extremes that F can have in the cell.
        """
        block = max(_BLOCK // (len(own) * max(self.counts.shape)), 1)
        parts = [self._bounds(own, low[i : i + block], high[i : i + block]) for i in range(0, len(low), block)]
        return np.concatenate(parts, axis=2)

    def _bounds(self, own: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        edges, at = np.unique(np.concatenate([low, high]), return_inverse=True)
        ratios, slopes = self.log_ratios(own, edges), self.slopes(edges)
        left, right = np.split(np.tanh(ratios)[:, at], 2, axis=1)
        rise, fall = np.split(slopes[at], 2)  # (C, U), of concave functions: the extremes in the cell
        with np.errstate(invalid="ignore"):
            width = high - low
        least, most = np.minimum(left, right), np.maximum(left, right)
        cell, unit = np.nonzero((rise > 0) & (fall < 0))  # where L has its peak inside: below its tangents at both ends
        if len(cell):
            from_left, from_right = np.split(ratios[:, at], 2, axis=1)
            peak = _meeting(
                from_left[:, cell, unit], rise[cell, unit], from_right[:, cell, unit], fall[cell, unit], width[cell]
            )
            highest = self.highest - self._total(self._relative(own)[1])
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
            if time.monotonic() >= self.deadline:
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
