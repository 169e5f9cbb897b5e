"""From moments of functions of the log-ratio to curves with intervals, for both sampled estimators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntp_envs.distances.intervals import (
    average_interval,
    each_of,
    normal_interval,
    one_sided_hellinger2_interval,
    score_interval,
    unseen_probability,
)
from ntp_envs.distances.result import DistanceCurve

__all__ = ["Level", "Moments", "bridge_curves", "one_sided_curve"]

FloatArray = NDArray[np.float64]

#: error of a running log-ratio, so that two equal laws are not found to differ by a rounding error
ROUNDING = 1e-14


@dataclass
class Moments:
    """Mean and squared standard error of the mean of one function, ``(H,)`` or ``(H, T)``."""

    mean: FloatArray
    variance: FloatArray
    n: int

    @property
    def std_error(self) -> FloatArray:
        return np.sqrt(self.variance)


@dataclass(frozen=True)
class Level:
    """The level of the intervals as it was asked for."""

    confidence: float
    simultaneous: bool

    def __post_init__(self) -> None:
        self.of_each(1)  # checks both

    def of_each(self, count: int) -> float:
        """The level of each of so many intervals."""
        return each_of(self.confidence, count, simultaneous=self.simultaneous)

    def curve(
        self,
        name: str,
        method: str,
        value: FloatArray,
        ends: tuple[FloatArray, FloatArray],
        std_error: FloatArray,
        n: int,
        *,
        fewest: int,
        thresholds: FloatArray | None = None,
    ) -> DistanceCurve:
        """The result from n draws, ``fewest`` of which come from the law that fewest come from."""
        return DistanceCurve(
            name,
            value,
            *ends,
            method,
            n,
            std_error,
            thresholds,
            confidence=float(self.confidence),
            simultaneous=bool(self.simultaneous),
            unseen=float(unseen_probability(fewest, confidence=self.of_each(value.size))),
        )


def bridge_curves(
    names: Iterable[str],
    from_p: dict[str, Moments],
    from_q: dict[str, Moments],
    levels: FloatArray,
    level: Level,
    n: int,
) -> dict[str, DistanceCurve]:
    return {
        name: _coverage_curve(from_p[name], levels, "monte carlo (bridge)", level, n)
        if name == "coverage"
        else _bridge_curve(name, from_p[name], from_q[name], level)
        for name in names
    }


def _bridge_curve(name: str, from_p: Moments, from_q: Moments, level: Level) -> DistanceCurve:
    value = 0.5 * (from_p.mean + from_q.mean)
    std_error = np.where(np.isposinf(value), 0.0, 0.5 * np.sqrt(from_p.variance + from_q.variance))
    bound = {"hellinger2": 2.0, "tv": 1.0, "kl": np.inf}[name]
    rounding = ROUNDING**2 if name == "hellinger2" else ROUNDING  # it is quadratic in the log-ratio
    ends = average_interval(
        (from_p.mean, from_q.mean),
        (from_p.std_error, from_q.std_error),
        (from_p.n, from_q.n),
        bound=bound,
        confidence=level.of_each(value.size),
    )
    ends = _widen(ends, rounding, bound)
    n, fewest = from_p.n + from_q.n, min(from_p.n, from_q.n)
    return level.curve(name, "monte carlo (bridge)", value, ends, std_error, n, fewest=fewest)


def _widen(ends: tuple[FloatArray, FloatArray], rounding: float, bound: float) -> tuple[FloatArray, FloatArray]:
    """The interval with room for rounding errors on both sides, within [0, bound]."""
    lower, upper = ends
    return np.clip(lower - rounding, 0.0, bound), np.clip(upper + rounding, 0.0, bound)


def _coverage_curve(moments: Moments, levels: FloatArray, method: str, level: Level, n: int) -> DistanceCurve:
    share = moments.mean
    ends = score_interval(share, moments.std_error, moments.n, confidence=level.of_each(share.size))
    return level.curve("coverage", method, share, ends, moments.std_error, n, fewest=moments.n, thresholds=levels)


def one_sided_curve(name: str, moments: Moments, levels: FloatArray, level: Level) -> DistanceCurve:
    method, n, mean, std_error = "monte carlo (one-sided)", moments.n, moments.mean, moments.std_error
    if name == "coverage":
        return _coverage_curve(moments, levels, method, level, n)
    bound, confidence = {"hellinger2": 2.0, "tv": 1.0, "kl": np.inf}[name], level.of_each(mean.size)
    if name == "hellinger2":
        ends = one_sided_hellinger2_interval(mean, n, confidence=confidence)
    elif name == "tv":
        ends = score_interval(mean, std_error, n, confidence=confidence)
    else:
        ends = _one_sided_kl_interval(mean, std_error, n, confidence)
    value = np.clip(mean, 0.0, bound)
    return level.curve(name, method, value, _widen(ends, ROUNDING, bound), std_error, n, fewest=n)


def _one_sided_kl_interval(
    mean: FloatArray, std_error: FloatArray, n: int, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """A normal interval, whose upper end is that of a score interval where this is farther (what makes KL large is
    rare), and what n draws that are all alike leave open.

    An event E of P-probability d may be undrawn. What was drawn has Q-probability at least ``(1 - d) e^(-mean)``, so
    Q(E) is at most ``d + mean`` and KL at least ``mean - d (mean + log(1 + mean / d))``. From above there is no bound.
    """
    unseen = unseen_probability(n, confidence=confidence)
    lower, upper = normal_interval(mean, std_error, confidence=confidence)
    _, skewed = score_interval(np.maximum(mean, 0.0), std_error, n, bound=np.inf, confidence=confidence)
    with np.errstate(invalid="ignore"):
        known = np.maximum(mean, 0.0)
        low = mean - unseen * (known + np.log1p(known / unseen))
    low = np.where(np.isposinf(mean), np.inf, low)
    return np.minimum(lower, low), np.maximum(upper, skewed)
