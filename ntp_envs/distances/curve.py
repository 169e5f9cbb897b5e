"""A curve of distances and how it was obtained, coverage, and the checks that every way to compute one shares."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs.arrays import FloatArray, IntArray, kl_terms
from ntp_envs.checked import check_policy
from ntp_envs.checks import as_array, check_in
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

# -- The result of a distance computation: one value a prefix length, and how it was obtained -------------------------


METRICS = ("hellinger2", "tv", "kl", "chi2", "coverage")


@dataclass(frozen=True, eq=False)
class DistanceCurve:
    """A distance between two rollout laws at every prefix length h = 1..H.

    Attributes:
        metric: ``"hellinger2"`` (squared Hellinger, ``sum (sqrt P - sqrt Q)^2`` in [0, 2]), ``"tv"`` (in [0, 1]),
            ``"kl"`` (nats, first argument first), ``"chi2"``, or ``"coverage"`` (``P(P / Q >= N)``). The two-sample
            tests add ``"ngram_tv"`` and ``"mmd2"``.
        values: ``(H,)`` values; entry h - 1 is at prefix length h. Coverage at several thresholds: ``(H, T)``.
        lower, upper: ends of the interval, same shape; equal to ``values`` where exact. By default they hold at each h
            (and N) by itself, not at all h together: see ``simultaneous``, and `band`.
        method: ``"automaton"``, ``"enumeration"``, ``"monte carlo (bridge)"``, ``"monte carlo (one-sided)"`` or
            ``"samples only (...)"``.
        n: sequences drawn, 0 where exact.
        std_error: standard errors, same shape; zero where exact.
        thresholds: ``(T,)`` the N of a coverage profile, else ``None``.
        confidence: level of the intervals.
        simultaneous: whether all intervals of the curve hold together at this level (Bonferroni), not each by itself.
        unseen: an event of one of the laws may have this probability and still not be among the draws, at the level of
            one interval (about 3.84 over the draws from that law, at 95 %); 0 where exact.
    """

    metric: str
    values: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    method: str
    n: int
    std_error: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None = None
    confidence: float = CONFIDENCE
    simultaneous: bool = False
    unseen: float = 0.0

    @classmethod
    def exact(
        cls,
        metric: str,
        values: NDArray[np.float64],
        method: str,
        *,
        thresholds: NDArray[np.float64] | None = None,
    ) -> DistanceCurve:
        """A curve without sampling error."""
        return cls(metric, values, values, values, method, 0, np.zeros_like(values), thresholds)

    @property
    def is_exact(self) -> bool:
        return self.n == 0

    @property
    def horizon(self) -> int:
        return len(self.values)

    @property
    def final(self) -> float:
        """The value at the full length H (of the first threshold, for coverage)."""
        return float(np.ravel(self.values[-1])[0])

    @property
    def band(self) -> str:
        """What the band from ``lower`` to ``upper`` is, for a label: ``"95 % at each h"``; empty where exact."""
        if self.is_exact:
            return ""
        level = f"{100.0 * self.confidence:.12g} %"
        if not self.simultaneous:
            return f"{level} at each h"
        return f"{level} for all {np.isfinite(self.values).sum()} values together (Bonferroni)"

    @property
    def caveat(self) -> str:
        """What the intervals cannot show, in a sentence; empty where there is no such thing."""
        if self.is_exact or self.metric != "kl":
            return ""
        return (
            f"Events of probability below {self.unseen:.2g} under one law may not have been drawn; what they add to KL "
            "has no bound, and is not in its interval."
        )

    def __repr__(self) -> str:
        sampled = "exact" if self.is_exact else f"n={self.n}"
        return f"DistanceCurve({self.metric}, H={self.horizon}, final={self.final:.6g}, {self.method}, {sampled})"


# -- The coverage profile ``Cov_N = P(P / Q >= N)``: how much of P the other law gives less than 1/N of its due -------
#
# Source: Chen et al., arXiv 2510.15020. The two bounds below are our reading of it; each is one line of algebra, given
# in its docstring.


DEFAULT_THRESHOLDS: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

#: a ratio this close (relatively) to a threshold counts as having reached it, so that ties do not hang on rounding
TIE = 1e-9


def check_thresholds(thresholds: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """``(T,)`` thresholds and the ``(T,)`` log-ratios from which a prefix counts (``log N - 1e-9``).

    Raises:
        ValueError: none given, or one that is not finite and positive.
    """
    array = np.atleast_1d(as_array("thresholds", thresholds, np.float64))
    if array.ndim != 1 or not array.size:
        raise ValueError(f"thresholds has shape {array.shape}; a non-empty list of numbers is needed.")
    if not (np.isfinite(array) & (array > 0)).all():
        raise ValueError(f"thresholds={array.tolist()} must be finite and positive, such as (2, 4, 8).")
    return array, np.log(array) - TIE


def _log_ratio_counted(threshold: float) -> float:
    """The log-ratio from which a prefix counts at this threshold, as in `check_thresholds`, to relative accuracy."""
    number = float(threshold)
    if not (math.isfinite(number) and number > 1.0):
        raise ValueError(f"threshold={threshold} must be a finite number above 1; no bound holds below it.")
    return math.log1p(number - 1.0) - TIE


def coverage_bound_kl(kl: ArrayLike, threshold: float) -> FloatArray:
    """``KL / (log N - 1 + 1/N)``, an upper bound on ``Cov_N``; same shape as ``kl``, at most 1.

    KL is the sum of ``P (log r - 1 + 1/r)`` with r = P / Q; no term is negative, and the bracket grows for r >= 1.

    Args:
        kl: KL(P, Q) in nats, any shape.
        threshold: N > 1.

    Raises:
        ValueError: N not above 1.

    >>> float(coverage_bound_kl(0.1, 16.0).round(4))
    0.0545
    """
    x = np.array([_log_ratio_counted(threshold)])
    if x <= 0.0:  # N within 1e-9 of 1: ratios of 1 count
        return np.ones_like(as_array("kl", kl, np.float64))
    (bracket,) = kl_terms(np.zeros(1), -x, np.ones(1), np.exp(-x))
    return np.minimum(as_array("kl", kl, np.float64) / bracket, 1.0)


def coverage_bound_hellinger2(hellinger2: ArrayLike, threshold: float) -> FloatArray:
    """``D_H^2 / (1 - 1 / sqrt N)^2``, an upper bound on ``Cov_N``; same shape as ``hellinger2``, at most 1.

    D_H^2 is the sum of ``P (1 - r^(-1/2))^2`` with r = P / Q, and the square grows for r >= 1.

    Args:
        hellinger2: squared Hellinger distance ``sum (sqrt P - sqrt Q)^2`` in [0, 2], any shape.
        threshold: N > 1.

    Raises:
        ValueError: N not above 1.

    >>> float(coverage_bound_hellinger2(0.1, 16.0).round(4))
    0.1778
    """
    x = _log_ratio_counted(threshold)
    if x <= 0.0:  # N within 1e-9 of 1: ratios of 1 count
        return np.ones_like(as_array("hellinger2", hellinger2, np.float64))
    return np.minimum(as_array("hellinger2", hellinger2, np.float64) / math.expm1(-0.5 * x) ** 2, 1.0)


# -- What the exact and the sampled distances share: checks at the boundary, and KL terms that keep their accuracy ----


def check_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """Known metrics without repetition, in the order given.

    Raises:
        ValueError: an unknown name (the nearest is suggested), or none at all.
    """
    names = (metrics,) if isinstance(metrics, str) else tuple(dict.fromkeys(metrics))
    if not names:
        raise ValueError(f"metrics is empty; choose from {', '.join(METRICS)}.")
    return tuple(check_in("metric", name, METRICS) for name in names)


def check_pair(p: Policy, q: Policy, task: Task) -> tuple[Policy, Policy]:
    """Both policies against the task, as they are to be read (`check_policy`)."""
    return check_policy("p", p, task), check_policy("q", q, task)


def prompt_masses(task: Task) -> tuple[IntArray, FloatArray]:
    """The prompts of positive probability ``(M, P)`` and their masses ``(M,)``; may raise ``NotTractableError``."""
    prompts, masses = task.prompt_law()
    possible = masses > 0
    return np.asarray(prompts, dtype=np.int64)[possible], np.asarray(masses, dtype=np.float64)[possible]
