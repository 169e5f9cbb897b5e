"""The coverage profile ``Cov_N = P(P / Q >= N)``: how much of P the other law gives less than 1/N of its due.

Source: Chen et al., arXiv 2510.15020. The two bounds below are our reading of it; each is one line of algebra, given
in its docstring.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ntp_envs._numerics import kl_terms
from ntp_envs._validation import as_array

__all__ = ["DEFAULT_THRESHOLDS", "check_thresholds", "coverage_bound_hellinger2", "coverage_bound_kl"]

FloatArray = NDArray[np.float64]

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
