"""Exact distances between two finite automata at every prefix length, by a forward recursion over pairs of states.

After a prefix only the pair (state of p, state of q) matters for what follows, so sums over all A^h prefixes are sums
over reachable pairs: O(H * pairs * A), any H. Squared Hellinger, KL and chi-squared are additive over the prefixes
that lead to a pair. Total variation and coverage are not, unless the log-ratio of a prefix is decided by its pair; the
recursion carries the range of log-ratios into each pair, and gives these two wherever that range certifies them
(always where the pair is a sufficient statistic, such as the number of flips in `Contamination`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._numerics import kl_terms
from ntp_envs.automata import AutomatonPolicy
from ntp_envs.distances._common import check_metrics, check_pair, prompt_masses
from ntp_envs.distances.coverage import DEFAULT_THRESHOLDS, check_thresholds
from ntp_envs.distances.result import METRICS, DistanceCurve
from ntp_envs.errors import NotTractableError
from ntp_envs.tasks.base import Task

__all__ = ["MAX_PAIRS", "automaton_distances"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: reachable pairs of states at one prefix length beyond which the recursion refuses (about 1 GB)
MAX_PAIRS = 2**21

#: largest error in total variation or coverage that the range of log-ratios may leave open
SLACK = 1e-13


def automaton_distances(
    p: AutomatonPolicy,
    q: AutomatonPolicy,
    task: Task,
    *,
    metrics: Iterable[str] = METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
) -> dict[str, DistanceCurve]:
    """Distances between the laws of two automata, prompts drawn from the task, at every prefix length.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2] and is never formed by a subtraction from 2: however
    small, it keeps the relative accuracy that the log-probabilities of the policies leave to their differences (their
    rounding, 2e-16 or more, over ``|log p - log q|``). KL is in nats, ``p`` first; ``inf`` where p gives mass to a
    prefix that q excludes. Chi-squared is ``sum (P - Q)^2 / Q``, ``inf`` likewise or where it exceeds the largest
    float.

    Args:
        p, q: automata over the task's vocabulary, for at least its horizon.
        task: gives the prompt law and the horizon H.
        metrics: which ones.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.

    Returns:
        A curve for each metric asked for, except that ``"tv"`` and ``"coverage"`` are left out where pairs of states
        do not decide them (errors of more than 1e-13 cannot be excluded): use enumeration or sampling there.

    Raises:
        NotTractableError: more than ``MAX_PAIRS`` reachable pairs, or a prompt law that cannot be listed.
        TypeError, ValueError: a policy that is not an automaton or does not fit the task; an unknown metric.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=256)
    >>> round(automaton_distances(task.expert, task.policy_class.policy(0.001), task)["hellinger2"].final, 6)
    0.197969
    """
    names = check_metrics(metrics)
    checked = check_pair(p, q, task)
    for name, policy in (("p", p), ("q", q)):
        if not isinstance(policy, AutomatonPolicy):
            raise TypeError(f"{name} must be an AutomatonPolicy, not {type(policy).__name__}; use enumeration.")
    p, q = checked  # type: ignore[assignment]
    levels, log_levels = check_thresholds(thresholds)
    columns: dict[str, list[float | FloatArray]] = {name: [] for name in names}
    for layer in _layers(p, q, task, names):
        for name in list(columns):
            value = layer.coverage(log_levels) if name == "coverage" else getattr(layer, name)()
            if value is None:
                del columns[name]
            else:
                columns[name].append(value)
    return {
        name: DistanceCurve.exact(
            name, np.array(values), "automaton", thresholds=levels if name == "coverage" else None
        )
        for name, values in columns.items()
    }


@dataclass
class _Layer:
    """Sums over the prefixes of one length that lead to each of n pairs; P and Q are the prefix's probabilities.

    With a = sqrt P and b = sqrt Q: ``gap`` = sum (a - b)^2, ``total`` = sum (a + b)^2, ``excess`` = sum (a^2 - b^2),
    ``mass`` = sum P, ``chi`` = sum (P - Q)^2 / Q. ``low`` and ``high`` bound log P - log Q. All ``(n,)``.
    """

    pairs: IntArray
    gap: FloatArray
    total: FloatArray
    excess: FloatArray
    mass: FloatArray
    chi: FloatArray | None  # None: not asked for
    low: FloatArray
    high: FloatArray
    kl_so_far: float | None  # None: not asked for

    def hellinger2(self) -> float:
        return min(float(self.gap.sum()), 2.0)

    def kl(self) -> float:
        return np.inf if self.kl_so_far is None or np.isposinf(self.high).any() else self.kl_so_far

    def chi2(self) -> float:
        with np.errstate(over="ignore"):
            value = 0.0 if self.chi is None else float(self.chi.sum())
        return value if np.isfinite(value) and not np.isposinf(self.high).any() else np.inf

    def tv(self) -> float | None:
        """Half the sum of |sum P - sum Q| over pairs, if no pair joins prefixes whose P - Q have opposite signs.

        Where they do, the error is at most the smaller of the two parts, and each is bounded by the log-ratios.
        """
        value = 0.5 * float(np.abs(self.excess).sum())
        mixed = (self.low < 0.0) & (self.high > 0.0)
        if mixed.any():
            q_mass = np.maximum(self.mass - self.excess, 0.0)[mixed]
            above = -self.mass[mixed] * np.expm1(-self.high[mixed])
            below = -q_mass * np.expm1(self.low[mixed])
            if float(np.minimum(above, below).sum()) > SLACK + 1e-10 * value:
                return None
        return min(value, 1.0)

    def coverage(self, log_levels: FloatArray) -> FloatArray | None:
        """P-mass of the pairs whose log-ratio reaches each level, if no pair has prefixes on both sides of one."""
        reached = self.low[:, None] >= log_levels  # (n, T)
        unsure = ~reached & (self.high[:, None] >= log_levels)
        if unsure.any() and (self.mass @ unsure).max() > SLACK:
            return None
        return np.minimum(self.mass @ reached, 1.0)


def _layers(p: AutomatonPolicy, q: AutomatonPolicy, task: Task, metrics: tuple[str, ...]) -> Iterator[_Layer]:
    prompts, masses = prompt_masses(task)
    codes = p.initial_states(prompts) * (q.n_states + 1) + q.initial_states(prompts)
    grouping = _Grouping(codes, _code_space(p, q))
    mass = grouping.sum(masses)
    zero = np.zeros_like(mass)
    layer = _Layer(
        grouping.codes,
        gap=zero,
        total=4.0 * mass,
        excess=zero,
        mass=mass,
        chi=zero if "chi2" in metrics else None,
        low=zero,
        high=zero,
        kl_so_far=0.0 if "kl" in metrics else None,
    )
    for step in range(task.horizon):
        layer, grouping = _advance(layer, grouping, p, q, step)
        yield layer


def _advance(
    layer: _Layer, previous: _Grouping, p: AutomatonPolicy, q: AutomatonPolicy, step: int
) -> tuple[_Layer, _Grouping]:
    of_p, of_q = np.divmod(layer.pairs, q.n_states + 1)
    log_p, to_p = _read(p, of_p, step)  # (n, A)
    log_q, to_q = _read(q, of_q, step)
    no_p, no_q = np.isneginf(log_p), np.isneginf(log_q)
    prob_p, prob_q = np.exp(log_p), np.exp(log_q)
    with np.errstate(invalid="ignore"):
        log_ratio = np.where(no_p, -np.inf, np.where(no_q, np.inf, log_p - log_q))
        low, high = layer.low[:, None] + log_ratio, layer.high[:, None] + log_ratio
    kl = layer.kl_so_far
    if kl is not None:  # the chain rule; a token that only q excludes shows in the log-ratios
        terms = kl_terms(log_p, log_q, prob_p, prob_q)
        kl += float(layer.mass @ np.where(np.isposinf(terms), 0.0, terms).sum(axis=1))

    # one step of the prefix multiplies a by m + d and b by m - d; new a -+ b mix the old a -+ b
    m, d = _half_sum_and_difference(np.maximum(log_p, log_q), log_ratio)
    mm, md, dd = m * m, m * d, d * d
    gap, total, excess = layer.gap[:, None], layer.total[:, None], layer.excess[:, None]
    cross = 2.0 * md * excess
    parts = [
        mm * gap + cross + dd * total,
        mm * total + cross + dd * gap,
        (mm + dd) * excess + md * (total + gap),
        layer.mass[:, None] * prob_p,
    ]
    if layer.chi is not None:
        parts.append(_chi2_step(layer.chi[:, None], excess, layer.mass[:, None], prob_p, prob_q, 4.0 * md))

    keep = ~(no_p & no_q)
    select = (lambda x: x.ravel()) if keep.all() else (lambda x: x[keep])
    codes = select(to_p * (q.n_states + 1) + to_q)
    grouping = previous if previous.fits(codes) else _Grouping(codes, _code_space(p, q))
    if len(grouping.codes) > MAX_PAIRS:
        raise NotTractableError(
            f"{len(grouping.codes)} pairs of states can be reached after {step + 1} tokens; the limit is {MAX_PAIRS}. "
            "Use method='monte carlo'."
        )
    gap, total, excess, mass, *chi = (grouping.sum(select(part)) for part in parts)
    layer = _Layer(
        grouping.codes,
        np.maximum(gap, 0.0),
        total,
        excess,
        mass,
        chi[0] if chi else None,
        grouping.extreme(np.minimum, select(low), np.inf),
        grouping.extreme(np.maximum, select(high), -np.inf),
        kl,
    )
    return layer, grouping


def _code_space(p: AutomatonPolicy, q: AutomatonPolicy) -> int:
    """One more state each, the last: where a prefix leads that the policy excludes. Nothing leads out of it."""
    return (p.n_states + 1) * (q.n_states + 1)


def _read(policy: AutomatonPolicy, states: IntArray, step: int) -> tuple[FloatArray, IntArray]:
    """``(n, A)`` log-probabilities of the next token and the states it leads to."""
    excluded = states == policy.n_states
    inside = np.where(excluded, 0, states)
    log_probs, moves = policy.emissions(step)[inside], policy.transitions(step)[inside]
    log_probs[excluded] = -np.inf
    return log_probs, np.where(np.isneginf(log_probs), policy.n_states, moves)


def _half_sum_and_difference(log_larger: FloatArray, log_ratio: FloatArray) -> tuple[FloatArray, FloatArray]:
    """``(sqrt p + sqrt q) / 2`` and ``(sqrt p - sqrt q) / 2``, the latter accurate when p and q nearly agree."""
    root = np.exp(0.5 * log_larger)
    shrink = 0.5 * root * np.expm1(-0.5 * np.abs(log_ratio))  # minus half the gap of the roots
    return root + shrink, -np.copysign(1.0, log_ratio) * shrink


def _chi2_step(
    chi: FloatArray, excess: FloatArray, mass: FloatArray, prob_p: FloatArray, prob_q: FloatArray, change: FloatArray
) -> FloatArray:
    """The next sum (P - Q)^2 / Q: with r = P / Q and s = p / q, r s - 1 = s (r - 1) + (s - 1); ``change`` = p - q."""
    possible = prob_q > 0
    q = np.where(possible, prob_q, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.where(possible, prob_p / q, 0.0)
        grown = np.where(ratio > 0, ratio * prob_p * chi, 0.0)  # not 0 * inf
        return grown + 2.0 * ratio * change * excess + change * change / q * np.maximum(mass - excess, 0.0)


class _Grouping:
    """Children of one layer gathered by the pair of states they lead to."""

    def __init__(self, children: IntArray, code_space: int) -> None:
        self._children = children
        if code_space <= 8 * len(children) + 4096:  # a table of all codes is cheaper than sorting
            seen = np.zeros(code_space, dtype=bool)
            seen[children] = True
            self.codes: IntArray = np.flatnonzero(seen)
            self._group = (np.cumsum(seen) - 1)[children]
        else:
            self.codes, self._group = np.unique(children, return_inverse=True)

    def fits(self, children: IntArray) -> bool:
        return len(children) == len(self._children) and np.array_equal(children, self._children)

    def sum(self, values: FloatArray) -> FloatArray:
        return np.bincount(self._group, weights=values, minlength=len(self.codes)).astype(np.float64, copy=False)

    def extreme(self, best: np.ufunc, values: FloatArray, start: float) -> FloatArray:
        out = np.full(len(self.codes), start)
        best.at(out, self._group, values)
        return out
