"""Confidence intervals for means of bounded or non-negative, often skewed, quantities."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Z95", "normal_interval", "score_interval"]

FloatArray = NDArray[np.float64]

Z95 = 1.959963984540054  # two-sided 95 % point of the standard normal


def normal_interval(mean: ArrayLike, std_error: ArrayLike, *, z: float = Z95) -> tuple[FloatArray, FloatArray]:
    """``mean -+ z * std_error``, elementwise."""
    centre, margin = np.asarray(mean, dtype=np.float64), z * np.asarray(std_error, dtype=np.float64)
    return centre - margin, centre + margin


def score_interval(
    mean: ArrayLike, std_error: ArrayLike, n: int, *, bound: float = 1.0, z: float = Z95
) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval for the mean of a quantity in [0, bound], at the precision actually reached.

    Wilson solves ``|mean - mu| = z sqrt(mu (1 - mu) / n)`` for mu. Here n is replaced by the effective number of
    Bernoulli draws ``x (1 - x) / std_error^2``, x = mean / bound (n over the design effect of survey sampling), so that
    stratified and less variable estimates get their shorter intervals. For a Bernoulli sample it is Wilson's
    interval; for an unbounded quantity (``bound=inf``) it is the limit with variance proportional to mu, the score
    interval of a Poisson mean. A mean of 0 or ``bound`` counts as n Bernoulli draws: the interval has the width 3.84/n.
    What was never drawn is invisible: a value of ``bound`` of probability below about 4/n may be missed.

    Args:
        mean, std_error: the estimate and its standard error, any one shape.
        n: number of draws.
        bound: the largest possible value, or ``inf`` (then a mean of 0 gets the upper end 2 * 3.84 / n).
        z: normal quantile, 1.96 for 95 %.

    Returns:
        ``(lower, upper)``, shaped like ``mean``, within [0, bound]. Where the mean is infinite both ends are.

    >>> lower, upper = score_interval(0.0, 0.0, 100)
    >>> float(lower), float(upper.round(4))
    (0.0, 0.037)
    """
    finite = np.isfinite(bound)
    scale = bound if finite else 1.0
    x = np.asarray(mean, dtype=np.float64) / scale
    x = np.clip(x, 0.0, 1.0 if finite else None)
    spread = x * (1.0 - x) if finite else x  # a Bernoulli's (Poisson's) variance at this mean
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (np.asarray(std_error, dtype=np.float64) / scale) ** 2
        per_draw = np.where(spread > 0, variance / spread, (1.0 if finite else 2.0) / n)  # 1 / effective n
        c = z * z * per_draw
        shrink = 1.0 / (1.0 + c) if finite else 1.0
        centre = (x + 0.5 * c) * shrink
        margin = np.sqrt(c * spread + 0.25 * c * c) * shrink
        lower, upper = np.minimum(centre - margin, x), np.maximum(centre + margin, x)
    infinite = np.isposinf(x)
    lower, upper = (np.where(infinite, np.inf, end) for end in (np.maximum(lower, 0.0), upper))
    return lower * scale, np.minimum(upper, 1.0 if finite else np.inf) * scale
