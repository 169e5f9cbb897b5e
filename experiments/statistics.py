"""What an interval over replicates is, what a slope is and what a paired difference is: one definition of each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs._numerics import ROUNDING
from ntp_envs.distances.intervals import CONFIDENCE, check_confidence, student_margin

__all__ = ["growth_factor", "interval_words", "loglog_slope", "mean_interval", "paired_difference", "slope_interval"]

#: from so many replicates on, a bootstrap knows their spread and skewness
MANY = 20
NAN = float("nan")

Interval = tuple[float, float, float]


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, confidence: float = CONFIDENCE, resamples: int = 4999
) -> Interval:
    """The mean of replicates and the ends of its interval.

    Student's t; from 20 replicates on it is widened by the bootstrap (BCa) where that reaches farther, for skewed
    replicates. Under 20 a bootstrap alone misses too often: 15 % of the time with five normal ones.

    One replicate has no interval, nor have equal ones: they show no spread, and say nothing of what another one would
    be. Few replicates show neither skewness nor jumps: five exponential ones are covered 87 % of the time, and those of
    a learner that fails on one data set of five 68 % (``docs/calibration.md``).

    Args:
        values: ``(n,)`` replicates.
        rng: source of the resampling.
        confidence: of the interval.
        resamples: bootstrap resamples.

    Returns:
        ``(mean, lower, upper)``; ``nan`` for both ends where there is no interval; all three ``nan`` or infinite where
        a value is.

    Raises:
        ValueError: no values, or a level outside (0, 1).

    >>> import numpy as np
    >>> mean, lower, upper = mean_interval([1.0, 2.0, 3.0], np.random.default_rng(0))
    >>> mean, round(lower, 3), round(upper, 3)
    (2.0, -0.484, 4.484)
    """
    confidence = check_confidence(confidence)
    sample = np.asarray(values, dtype=np.float64).ravel()
    n = sample.size
    if n == 0:
        raise ValueError("values is empty; at least one replicate is needed.")
    mean = float(sample.mean())
    if not np.isfinite(sample).all():
        return mean, mean, mean
    if np.ptp(sample) <= ROUNDING * np.abs(sample).max():  # equal, whichever way each was rounded
        return float(sample[0]), NAN, NAN
    margin = student_margin(float(sample.std(ddof=1)) / math.sqrt(n), n, confidence=confidence)
    lower, upper = mean - margin, mean + margin
    if n >= MANY:
        from scipy.stats import bootstrap

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a degenerate BCa warns and returns nan
            found = bootstrap(
                (sample,), np.mean, confidence_level=confidence, n_resamples=resamples, method="BCa", rng=rng
            ).confidence_interval
        lower, upper = float(np.fmin(lower, found.low)), float(np.fmax(upper, found.high))
    return mean, lower, upper


def interval_words(replicates: int, what: str = "data sets") -> str:
    """What `mean_interval` of so many replicates is, for the note of a table or the caption of a figure.

    >>> interval_words(5)
    "Mean and 95 % interval (Student's t) over 5 data sets"
    """
    if replicates < 2:
        return f"One of the {what} only, so without an interval over {what}"
    kind = "Student's t" if replicates < MANY else "Student's t and bootstrap"
    return f"Mean and {100 * CONFIDENCE:g} % interval ({kind}) over {replicates} {what}"


def paired_difference(
    ours: ArrayLike,
    theirs: ArrayLike,
    rng: np.random.Generator,
    *,
    rounding: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """The mean of ``ours - theirs``, replicate by replicate on the same data, and the ends of its interval.

    Differences below ``rounding`` times the larger of 1 and the largest of ``theirs`` are none.

    >>> paired_difference([1.0, 2.0], [1.0, 2.0], np.random.default_rng(0))
    (0.0, nan, nan)
    """
    first, second = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    gaps = first - second
    size = max(1.0, float(np.abs(second).max()))
    return mean_interval(np.where(np.abs(gaps) < rounding * size, 0.0, gaps), rng, confidence=confidence)


def loglog_slope(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """Least-squares slope of log y against log x, to nine decimals (the rest is rounding error of the fit).

    ``nan`` with fewer than two points or a value that is not positive.

    >>> round(loglog_slope([1, 2, 4], [3, 6, 12]), 12)
    1.0
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.size < 2 or not (np.isfinite(ys).all() and (ys > 0).all() and (xs > 0).all()):
        return NAN
    return round(float(np.polyfit(np.log(xs), np.log(ys), 1)[0]), 9) + 0.0


def slope_interval(x: Sequence[float] | ArrayLike, values: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The slope of a log-log plot of means: `loglog_slope` of the means of replicates, and the ends of its interval.

    To first order the slope is the mean over replicates of ``sum_j a_j v_ij / mean_j``, a_j the weights of least
    squares; the interval is Student's t for those. Replicates of one column may share their data or not. As in
    `mean_interval`, one replicate has no interval, nor have equal ones.

    Args:
        x: ``(m,)`` positive numbers.
        values: ``(m, s)`` replicates at each of them.
        confidence: of the interval.

    Returns:
        ``(slope, lower, upper)``; all ``nan`` where a mean is not positive or m < 2, both ends where there is no
        interval.

    >>> slope_interval([1, 2, 4], [[3, 3], [6, 6], [12, 12]])
    (1.0, nan, nan)
    """
    sample = np.asarray(values, dtype=np.float64)
    means = sample.mean(axis=1)
    slope = loglog_slope(x, means)
    s = sample.shape[1]
    if not np.isfinite(slope) or not np.isfinite(sample).all():
        return NAN, NAN, NAN
    at = np.log(np.asarray(x, dtype=np.float64))
    at -= at.mean()
    parts = (at / (at @ at)) @ (sample / means[:, None])  # (s,)
    spread = float(parts.std(ddof=1)) if s > 1 else 0.0
    if spread <= 1e-12:
        return slope, NAN, NAN
    margin = student_margin(spread / math.sqrt(s), s, confidence=confidence)
    return slope, round(slope - margin, 9), round(slope + margin, 9)


def growth_factor(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """The factor by which y grows for each unit of x, by least squares of log y on x; ``nan`` as for `loglog_slope`.

    >>> round(growth_factor([1, 2, 3], [5, 10, 20]), 6)
    2.0
    """
    xs = np.asarray(x, dtype=np.float64)
    return float(np.exp(loglog_slope(np.exp(xs), y)))
