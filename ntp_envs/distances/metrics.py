"""What is measured: metrics as functions of the log-ratio, and the coverage profile with its two bounds.

With ``l = log P - log Q`` of a prefix and the mixture ``M = (P + Q) / 2``, a metric is the mean of one function b of l:

    D(P, Q) = sum of M b(l) = (E_P b(l) + E_Q b(l)) / 2.

M gives mass to all that either law can produce, so nothing need be absolutely continuous: b is asked at ``l = -inf``
(only Q can produce the prefix) and at ``l = inf`` (only P can), and its values there are what such prefixes count for.
b is 0 at l = 0 and grows away from it on both sides; it may be infinite at an end, and then so is the distance where
such a prefix has mass. These are the f-divergences ``sum of Q f(P / Q)``, f convex with f(1) = f'(1) = 0 (add a
multiple of r - 1 to get there): ``b(l) = 2 f(r) / (1 + r)`` with r = e^l, ``b(-inf) = 2 f(0)`` and
``b(inf) = 2 lim f(r) / r``.

From draws of P alone the same distance is the mean of ``f(r) / r + f(0) (1 - 1 / r)``, which is derived from b.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import FloatArray, kl_terms
from ntp_envs.checks import NotTractableError, as_array, check_callable, check_in, check_real
from ntp_envs.intervals import (
    normal_interval,
    one_sided_hellinger2_interval,
    score_interval,
    unseen_probability,
)

RatioFunction = Callable[[FloatArray], FloatArray]
#: ``(mean, std_error, n, confidence) -> (lower, upper)``
IntervalFunction = Callable[[FloatArray, FloatArray, int, float], tuple[FloatArray, FloatArray]]

#: error of a running log-ratio, so that two equal laws are not found to differ by a rounding error
ROUNDING = 1e-14
#: draws from P have a smaller log-ratio with probability below e^-30
LEAST_RATIO = -30.0
#: log-ratios at which a function is looked at before it is used
PROBES = np.array([-np.inf, -700.0, -30.0, -3.0, -0.3, 0.0, 0.3, 3.0, 30.0, 700.0, np.inf])


@dataclass(frozen=True, eq=False)
class Metric:
    """A metric under its name. `register_metric` makes one.

    Attributes:
        name: what `distance` takes and a `DistanceCurve` says.
        of_ratio: b of ``D = (E_P b(l) + E_Q b(l)) / 2``, from log-ratios l = log P - log Q to values of that shape.
        one_sided: the function whose mean under P is the distance; derived from b if ``None``.
        one_sided_interval: of that mean; good for any function that is bounded below, or nearly, if ``None``.
        rounding: what errors in the log-ratio of 1e-14 may add to it.
    """

    name: str
    of_ratio: RatioFunction
    one_sided: RatioFunction | None = None
    one_sided_interval: IntervalFunction | None = None
    rounding: float = ROUNDING

    def __repr__(self) -> str:
        return f"Metric({self.name!r})"

    @cached_property
    def ends(self) -> tuple[float, float]:
        """b where only Q, and where only P, can produce a prefix."""
        low, high = self.of_ratio(np.array([-np.inf, np.inf]))
        return float(low), float(high)

    @property
    def most(self) -> float:
        """The distance of two laws that share no sequence: the largest there is."""
        return 0.5 * sum(self.ends)

    @cached_property
    def symmetric(self) -> bool:
        """Whether the laws may change places."""
        return self is not COVERAGE and bool(np.allclose(self.of_ratio(PROBES), self.of_ratio(-PROBES), rtol=1e-9))

    @cached_property
    def is_sampled(self) -> bool:
        """Whether a mean of draws has an interval: b grows at most as a power of the log-ratio, unlike chi-squared."""
        return self is COVERAGE or bool((self.of_ratio(np.array([-700.0, 700.0])) < 700.0**4).all())

    def under_p(self, ratio: FloatArray) -> FloatArray:
        """The function whose mean under P is the distance."""
        if self.one_sided is not None:
            return self.one_sided(ratio)
        ratio = np.maximum(ratio, LEAST_RATIO)
        half = 0.5 * self.of_ratio(ratio) * (1.0 + np.exp(-ratio))  # f(r) / r
        return half - 0.5 * self.ends[0] * np.expm1(-ratio)

    def interval_under_p(
        self, mean: FloatArray, std_error: FloatArray, n: int, confidence: float
    ) -> tuple[FloatArray, FloatArray]:
        """Of that mean, from n draws.

        If nothing else is known: the wider of a normal and a score interval (what makes a distance large is rare), with
        room for an event of P-probability d that no draw has shown and that Q may all but be.
        """
        if self.one_sided_interval is not None:
            return self.one_sided_interval(mean, std_error, n, confidence)
        unseen = unseen_probability(n, confidence=confidence)
        lower, upper = normal_interval(mean, std_error, confidence=confidence)
        low, skewed = score_interval(np.maximum(mean, 0.0), std_error, n, bound=self.most, confidence=confidence)
        least = (1.0 - unseen) * mean + unseen * float(self.under_p(np.log(unseen)))
        return np.minimum(np.minimum(lower, low), least), np.maximum(upper, skewed)


# The metrics of the suite.


def _hellinger2(ratio: FloatArray) -> FloatArray:
    """``2 (1 - sech(l / 2))``, as ``2 tanh(l / 2) tanh(l / 4)``."""
    quarter = np.tanh(0.25 * ratio)
    return 4.0 * quarter * quarter / (1.0 + quarter * quarter)


def _tv(ratio: FloatArray) -> FloatArray:
    return np.abs(np.tanh(0.5 * ratio))


def _kl(ratio: FloatArray) -> FloatArray:
    """``(1 + t) l - 2 t`` with t = tanh(l / 2); 2 at l = -inf."""
    t = np.tanh(0.5 * ratio)
    ratio = np.maximum(ratio, -1e3)  # 1 + t is 0 there, and 0 * inf is not
    return np.maximum(t * ratio + (ratio - 2.0 * t), 0.0)


def _chi2(ratio: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):
        return 2.0 * np.expm1(ratio) * np.tanh(0.5 * ratio)


def _of_thresholds(ratio: FloatArray) -> FloatArray:
    raise TypeError("coverage is a function of the log-ratio and a threshold.")


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


HELLINGER2 = Metric(
    "hellinger2",
    _hellinger2,
    one_sided=lambda ratio: -2.0 * np.expm1(-0.5 * ratio),
    one_sided_interval=lambda mean, _, n, confidence: one_sided_hellinger2_interval(mean, n, confidence=confidence),
    rounding=ROUNDING**2,  # it is quadratic in the log-ratio
)
TV = Metric(
    "tv",
    _tv,
    one_sided=lambda ratio: -np.expm1(-np.maximum(ratio, 0.0)),
    one_sided_interval=lambda mean, error, n, confidence: score_interval(mean, error, n, confidence=confidence),
)
KL = Metric("kl", _kl, one_sided=lambda ratio: ratio, one_sided_interval=_one_sided_kl_interval)
CHI2 = Metric("chi2", _chi2)
COVERAGE = Metric("coverage", _of_thresholds)
_BUILT_IN = {metric.name: metric for metric in (HELLINGER2, TV, KL, CHI2, COVERAGE)}
_known = dict(_BUILT_IN)

#: the suite's own metrics; `metric_names` has the registered ones, too
METRICS = tuple(_BUILT_IN)
#: chi-squared is not among them: its estimators may have infinite variance, and no interval would hold
SAMPLED_METRICS = tuple(name for name, metric in _BUILT_IN.items() if metric.is_sampled)


def metric_names() -> tuple[str, ...]:
    """Names that `distance` knows: of the suite, then those registered."""
    return tuple(_known)


def register_metric(
    name: str,
    of_ratio: RatioFunction,
    *,
    one_sided: RatioFunction | None = None,
    one_sided_interval: IntervalFunction | None = None,
) -> Metric:
    """Make a metric known to `distance` and all its methods under a name; a second of that name replaces the first.

    Args:
        name: any that is not one of the suite's.
        of_ratio: b of ``D = (E_P b(l) + E_Q b(l)) / 2``, from an array of log-ratios ``l = log P - log Q``, infinite
            ones among them, to an array of that shape. It is 0 at 0, grows away from 0 on both sides, and its values at
            ``-inf`` and ``inf`` are what prefixes count for that only Q, and only P, can produce: for an f-divergence
            ``2 f(r) / (1 + r)`` with r = e^l, ``2 f(0)`` and ``2 lim f(r) / r``.
        one_sided: the function whose mean under P alone is the same distance, if it can be written more accurately than
            ``f(r) / r + f(0) (1 - 1 / r)`` as derived from b.
        one_sided_interval: ``(mean, std_error, n, confidence) -> (lower, upper)`` for that mean, if more is known of it
            than its standard error.

    Returns:
        The `Metric`, which ``metric=`` takes as well as its name.

    Raises:
        ValueError: a name of the suite's, or a function that is not as said; the message says where.

    Jensen-Shannon divergence (nats), ``KL(P, M) / 2 + KL(Q, M) / 2``, is the mean under M of the information that a
    prefix has about which of the two laws it is from:

    >>> import numpy as np
    >>> from scipy.special import entr, expit
    >>> from ntp_envs import BernoulliPolicy, distance, make_task
    >>> js = register_metric("jensen_shannon", lambda l: np.log(2) - entr(expit(l)) - entr(expit(-l)))
    >>> task = make_task("Contamination", horizon=64)
    >>> distance(task.expert, BernoulliPolicy(0.5, on="flips"), task, metric="jensen_shannon")
    DistanceCurve(jensen_shannon, H=64, final=0.693147, automaton, exact)
    """
    if name in _BUILT_IN:
        raise ValueError(f"{name!r} is a metric of the suite; give yours another name.")
    metric = _checked(Metric(name, of_ratio, one_sided, one_sided_interval))
    _known[name] = metric
    return metric


def _checked(metric: Metric) -> Metric:
    """The metric, if its function keeps the contract at some log-ratios."""
    check_callable(f"metric {metric.name!r}", metric.of_ratio, "(log-ratios) -> values of that shape")
    with np.errstate(all="ignore"):
        found = as_array(f"metric {metric.name!r}", metric.of_ratio(PROBES.copy()), np.float64)
    if found.shape != PROBES.shape:
        raise ValueError(
            f"metric {metric.name!r} made shape {found.shape} of {PROBES.shape} log-ratios; keep the shape."
        )
    if np.isnan(found).any():
        at = PROBES[np.isnan(found)][0]
        raise ValueError(
            f"metric {metric.name!r} is NaN at log P - log Q = {at}; an infinite ratio, of a prefix that one law "
            "excludes, needs a value too: the limit."
        )
    middle = len(PROBES) // 2
    away = np.concatenate([found[middle::-1], found[middle:]]).reshape(2, -1)  # both ways, from 0 to the ends
    rising = (away[:, 1:] >= away[:, :-1] * (1.0 - 1e-9) - 1e-12).all()
    if abs(found[middle]) > 1e-12 or not rising:
        raise ValueError(
            f"metric {metric.name!r} must be 0 at log P - log Q = 0 and grow away from it on both sides; it is "
            f"{found.tolist()} at {PROBES.tolist()}. Add a multiple of r - 1 to f until f'(1) = 0."
        )
    return metric


def check_metrics(metrics: Any) -> tuple[Metric, ...]:
    """Known metrics, or functions of the log-ratio, without repetition, in the order given.

    Raises:
        ValueError: an unknown name (the nearest is suggested), a function that is no metric, or none at all.
        TypeError: neither a name nor a function.
    """
    one = isinstance(metrics, (str, Metric)) or callable(metrics)
    if not one and not isinstance(metrics, Iterable):
        raise TypeError(f"metrics={metrics!r} must be a name, a function of the log-ratio, or a list of them.")
    found: dict[str, Metric] = {}
    for item in (metrics,) if one else metrics:
        metric = check_metric(item)
        if found.setdefault(metric.name, metric).of_ratio is not metric.of_ratio:
            raise ValueError(f"two metrics are called {metric.name!r}; register_metric gives a function a name.")
    if not found:
        raise ValueError(f"metrics is empty; choose from {', '.join(_known)}.")
    return tuple(found.values())


def check_metric(item: Any) -> Metric:
    """One of them."""
    if isinstance(item, Metric):
        return item
    if not callable(item):
        return _known[check_in("metric", item, _known)]
    name = getattr(item, "__name__", type(item).__name__)
    if name in _known:
        raise ValueError(f"a function called {name!r} would pass for the metric of that name; rename it.")
    return _checked(Metric(name, item))


def check_sampled(metrics: Any, *, one_sided: bool = False) -> tuple[Metric, ...]:
    """`check_metrics`, and ``NotTractableError`` for one that draws say nothing sure about."""
    found = check_metrics(metrics)
    for metric in found:
        if not metric.is_sampled:
            raise NotTractableError(
                f"{metric.name} has no Monte Carlo estimate: its variance may be infinite, so no interval would hold. "
                "Use metric='kl' or 'hellinger2', or policies that allow an exact method."
            )
        if one_sided and metric is not COVERAGE and metric.one_sided is None and not np.isfinite(metric.ends[0]):
            raise NotTractableError(
                f"{metric.name} is infinite where only q can produce a sequence, which draws from p cannot show; use "
                "method='monte carlo (bridge)'."
            )
    return found


# The coverage profile ``Cov_N = P(P / Q >= N)``: how much of P the other law gives less than 1/N of its due. A metric
# too, but for its thresholds. Source: Chen et al., arXiv 2510.15020. The two bounds are our reading of it; each is one
# line of algebra, given in its docstring.

#: the N of a coverage profile where none are given
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
    number = check_real("threshold", threshold, minimum=1.0)
    if number == 1.0:
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
