"""Confidence intervals: the one place that says what an interval of a mean is, and at which level.

All are for means of bounded or non-negative, often skewed, quantities, and none is narrower than what n draws can show:
an event that n draws have missed may still have the probability `unseen_probability`, whatever the draws look like.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import FloatArray
from ntp_envs.checks import check_flag, check_probability

#: level of every interval unless ``confidence=`` says otherwise
CONFIDENCE = 0.95
#: what captions and notes call the `score_interval` of a share
SHARE_INTERVAL = "Wilson"


def check_confidence(confidence: float) -> float:
    """``confidence`` as a ``float`` in (0, 1); ``TypeError`` or ``ValueError`` otherwise."""
    return check_probability("confidence", confidence)


def each_of(confidence: float, count: int, *, simultaneous: bool = True) -> float:
    """The level that each of ``count`` intervals needs for all of them to hold together (Bonferroni).

    ``confidence`` itself where they need not (``simultaneous=False``).

    >>> round(each_of(0.95, 5), 12)
    0.99
    """
    check_flag("simultaneous", simultaneous)
    level = check_confidence(confidence)
    return 1.0 - (1.0 - level) / count if simultaneous else level


def normal_quantile(confidence: float = CONFIDENCE) -> float:
    """z with ``P(|Z| <= z) = confidence`` for a standard normal Z; 1.96 at .95."""
    return NormalDist().inv_cdf(0.5 + 0.5 * check_confidence(confidence))


def unseen_probability(n: ArrayLike, *, confidence: float = CONFIDENCE) -> FloatArray:
    """The probability that an event may have although n draws have not shown it: ``z^2 / (n + z^2)``, Wilson's end.

    About 3.84 / n at 95 %. Shaped like ``n``, which need not be whole (an effective number of draws).

    >>> float(unseen_probability(100).round(4))
    0.037
    """
    z2 = normal_quantile(confidence) ** 2
    return z2 / (np.asarray(n, dtype=np.float64) + z2)


def normal_interval(
    mean: ArrayLike, std_error: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """``mean -+ z * std_error``, elementwise."""
    centre = np.asarray(mean, dtype=np.float64)
    margin = normal_quantile(confidence) * np.asarray(std_error, dtype=np.float64)
    return centre - margin, centre + margin


def student_margin(std_error: float, n: float, *, confidence: float = CONFIDENCE) -> float:
    """``t * std_error``, t the quantile of Student's distribution for the mean of ``n`` numbers; ``nan`` if n is 1.

    >>> round(student_margin(1.0, 5), 3)
    2.776
    """
    from scipy.special import stdtrit

    level = check_confidence(confidence)
    return float(stdtrit(n - 1, 0.5 + 0.5 * level)) * std_error if n > 1 else float("nan")


def least_share(successes: ArrayLike, n: ArrayLike, level: float) -> FloatArray:
    """Clopper and Pearson's one-sided lower bound on a share, above it with probability ``level`` at most.

    >>> float(least_share(9, 10, 0.05).round(4))
    0.6058
    """
    from scipy.special import betaincinv

    k = np.asarray(successes, dtype=np.float64)
    failures = np.maximum(np.asarray(n, dtype=np.float64) - k, 0.0)
    return np.where(k > 0, betaincinv(np.maximum(k, 1e-3), failures + 1.0, level), 0.0)


def score_interval(
    mean: ArrayLike, std_error: ArrayLike, n: float, *, bound: ArrayLike = 1.0, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """Wilson's score interval for the mean of a quantity in [0, bound], at the precision actually reached.

    Wilson solves ``|mean - mu| = z sqrt(mu (1 - mu) / n)`` for mu. Here n is replaced by the effective number of
    Bernoulli draws ``x (1 - x) / std_error^2``, x = mean / bound (n over the design effect of survey sampling), so that
    stratified and less variable estimates get their shorter intervals. For an unbounded quantity (``bound=inf``) it is
    the limit with variance proportional to mu, the score interval of a Poisson mean. Two things make it longer:

    * Few events: no tail is shorter than Clopper and Pearson's one-sided one at the same confidence. Wilson's lower end
      alone, for one event, misses 16 % of the time at its worst (Brown, Cai and DasGupta, "Interval Estimation for a
      Binomial Proportion", Statistical Science 16, 2001, change it in the same way). From ten events on it is longer.
    * No events: n draws, however alike, do not exclude an event of probability d = `unseen_probability` at which the
      quantity is 0 or ``bound``: the interval contains ``[(1 - d) mean, (1 - d) mean + d bound]``, for every mean. With
      ``bound=inf`` there is no such limit; the upper end is then at least ``mean + 2 d``, and rarer or larger values
      that no draw has shown are not in it.

    For a Bernoulli sample it is Wilson's interval but for the lower end at a few events (the upper end at a few
    failures).

    Args:
        mean, std_error: the estimate and its standard error, any one shape.
        n: number of independent draws, perhaps an effective one.
        bound: the largest possible value, or ``inf``; one number, or shaped like ``mean``.
        confidence: level of the interval, in (0, 1).

    Returns:
        ``(lower, upper)``, shaped like ``mean``, within [0, bound]. Where the mean is infinite both ends are.

    >>> lower, upper = score_interval(0.0, 0.0, 100)
    >>> float(lower), float(upper.round(4))
    (0.0, 0.037)
    """
    mean, bound = np.asarray(mean, dtype=np.float64), np.asarray(bound, dtype=np.float64)
    lower, upper = _drawn(mean, np.asarray(std_error, dtype=np.float64), bound, confidence)
    return _with_unseen(mean, lower, upper, n, bound, confidence)


def average_interval(
    means: tuple[FloatArray, FloatArray],
    std_errors: tuple[FloatArray, FloatArray],
    sizes: tuple[int, int],
    *,
    bound: float = 1.0,
    confidence: float = CONFIDENCE,
) -> tuple[FloatArray, FloatArray]:
    """Ends of an interval for the plain average of the means of two independent samples of quantities in [0, bound].

    Each sample has its own score interval, and the distances of their ends from the means add up as standard errors do
    (Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27, 2008). What
    no draw has shown is decided by the smaller sample: an event of its law has half the weight, and so twice its size
    in the place of n.

    Args:
        means, std_errors: of the two samples, any one shape.
        sizes: numbers of draws.
        bound, confidence: as in `score_interval`.
    """
    limit = np.asarray(bound, dtype=np.float64)
    ends = [_drawn(mean, error, limit, confidence) for mean, error in zip(means, std_errors)]
    average = 0.5 * (means[0] + means[1])
    with np.errstate(invalid="ignore"):
        below, above = (0.5 * np.hypot(*(mean - pair[i] for mean, pair in zip(means, ends))) for i in (0, 1))
        return _with_unseen(average, average - below, average + above, 2 * min(sizes), limit, confidence)


def _drawn(
    mean: FloatArray, std_error: FloatArray, bound: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """The score interval of what was drawn; of no width where there is no spread."""
    from scipy.special import gammaincinv

    z2 = normal_quantile(confidence) ** 2
    finite = np.isfinite(bound)
    scale = np.where(finite & (bound > 0), bound, 1.0)
    x = np.clip(mean / scale, 0.0, np.where(finite, 1.0, np.inf))
    rest = np.where(finite, 1.0 - x, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        per_draw = np.where(x * rest > 0, (std_error / scale) ** 2 / (x * rest), 0.0)  # 1 / effective n
        c = z2 * per_draw
        shrink = np.where(finite, 1.0 / (1.0 + c), 1.0)
        centre = (x + 0.5 * c) * shrink
        margin = np.sqrt(c * x * rest + 0.25 * c * c) * shrink

        def at_least(share: FloatArray) -> FloatArray:
            """Clopper and Pearson's lower bound on it, or the Poisson distribution's."""
            draws = 1.0 / np.maximum(per_draw, 1e-9)
            events = np.maximum(share * draws, 1e-3)
            few = np.minimum(events, 100.0)
            binomial = least_share(few, draws, 1.0 - confidence)
            poisson = gammaincinv(few, 1.0 - confidence) / draws
            return np.where(events < 100.0, np.where(finite, binomial, poisson), np.inf)

        lower = np.minimum(np.minimum(centre - margin, x), at_least(x))
        upper = np.maximum(np.maximum(centre + margin, x), np.where(finite, 1.0 - at_least(1.0 - x), 0.0))
    return np.where(np.isposinf(x), np.inf, lower) * scale, np.where(np.isposinf(x), np.inf, upper) * scale


def _with_unseen(
    mean: FloatArray, lower: FloatArray, upper: FloatArray, n: float, bound: FloatArray, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """The interval with room for an event that n draws have not shown, within [0, bound]."""
    unseen = unseen_probability(n, confidence=confidence)
    with np.errstate(invalid="ignore"):
        higher = np.where(np.isfinite(bound), mean + (bound - mean) * unseen, mean + 2.0 * unseen)
        ends = np.minimum(lower, mean * (1.0 - unseen)), np.maximum(upper, higher)
        ends = np.maximum(ends[0], 0.0), np.minimum(ends[1], bound)
    infinite = np.isposinf(mean)
    return np.where(infinite, np.inf, ends[0]), np.where(infinite, np.inf, ends[1])


def one_sided_hellinger2_interval(
    mean: ArrayLike, n: int, *, confidence: float = CONFIDENCE
) -> tuple[FloatArray, FloatArray]:
    """All D in [0, 2] with ``|mean - D| <= z sqrt(4 D (1 - D / 4) / n)``, for ``mean`` that of ``2 - 2 sqrt(Q / P)``.

    The variance needs no estimate: n times it is ``4 (Q(P > 0) - (1 - D / 2)^2)``, at most ``4 D (1 - D / 4)``. That of
    a sample says little, as it rests on rare sequences that Q likes better than P. A mean so far below 0 that no D
    agrees with it is nearest, in standard errors, to ``2 |mean| / (2 + |mean|)``: the interval goes from 0 to there.

    Args:
        mean: any shape, at most 2.
        n: sequences drawn from P.
        confidence: level of the interval.
    """
    m = np.asarray(mean, dtype=np.float64)
    c = normal_quantile(confidence) ** 2 / n
    inside = c * (4.0 * m + 4.0 * c - m * m)
    half = np.sqrt(np.maximum(inside, 0.0)) / (1.0 + c)
    centre = (m + 2.0 * c) / (1.0 + c)
    nearest = 2.0 * np.abs(m) / (2.0 + np.abs(m))
    # the product of the ends is m^2 / (1 + c): the lower one has the accuracy of the upper
    lower = np.where(
        (inside < 0.0) | (m <= 0.0), 0.0, np.minimum(m**2 / ((1.0 + c) * np.maximum(centre + half, 1e-300)), m)
    )
    upper = np.where(inside < 0.0, nearest, centre + half)
    return np.clip(lower, 0.0, 2.0), np.clip(upper, 0.0, 2.0)
