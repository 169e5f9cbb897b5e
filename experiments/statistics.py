"""Intervals and slopes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["growth_factor", "loglog_slope", "mean_interval"]


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, confidence: float = 0.95, resamples: int = 4999
) -> tuple[float, float, float]:
    """The mean of replicates and the ends of its bootstrap interval (BCa; percentile where BCa is undefined).

    Args:
        values: ``(n,)`` replicates. Equal ones, a single one included, give an interval of width zero: it then says
            nothing about the sampling error.
        rng: source of the resampling.
        confidence: of the interval.
        resamples: bootstrap resamples.

    Returns:
        ``(mean, lower, upper)``; all three ``nan`` or infinite where a value is.

    Raises:
        ValueError: no values.

    >>> import numpy as np
    >>> mean_interval([2.0, 2.0, 2.0], np.random.default_rng(0))
    (2.0, 2.0, 2.0)
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size == 0:
        raise ValueError("values is empty; at least one replicate is needed.")
    mean = float(sample.mean())
    if not np.isfinite(sample).all() or np.ptp(sample) == 0.0:
        return (mean if np.ptp(sample) != 0.0 else float(sample[0]),) * 3
    from scipy.stats import bootstrap

    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a degenerate BCa warns and returns nan; percentile is then taken
            found = bootstrap(
                (sample,), np.mean, confidence_level=confidence, n_resamples=resamples, method=method, rng=rng
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return mean, float(found.low), float(found.high)


def loglog_slope(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """Least-squares slope of log y against log x, to nine decimals (the rest is rounding error of the fit).

    ``nan`` with fewer than two points or a value that is not positive.

    >>> round(loglog_slope([1, 2, 4], [3, 6, 12]), 12)
    1.0
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if xs.size < 2 or not (np.isfinite(ys).all() and (ys > 0).all() and (xs > 0).all()):
        return float("nan")
    return round(float(np.polyfit(np.log(xs), np.log(ys), 1)[0]), 9) + 0.0


def growth_factor(x: Sequence[float] | ArrayLike, y: Sequence[float] | ArrayLike) -> float:
    """The factor by which y grows for each unit of x, by least squares of log y on x; ``nan`` as for `loglog_slope`.

    >>> round(growth_factor([1, 2, 3], [5, 10, 20]), 6)
    2.0
    """
    xs = np.asarray(x, dtype=np.float64)
    return float(np.exp(loglog_slope(np.exp(xs), y)))
