"""Several tasks at once: a score for each run, its mean or interquartile mean, who is better, and score profiles.

The statistics are those that Agarwal, Schwarzer, Castro, Courville and Bellemare ask for ("Deep Reinforcement Learning
at the Edge of the Statistical Precipice", NeurIPS 2021, arXiv:2108.13264), with two changes for the few data sets that
there are here. The stratified bootstrap is widened as Student's t is, since with five data sets alone it misses too
often. And the probability of improvement is that on the *same* data set, which both learners saw; its interval is that
of a share, which is not empty where one of them always wins.

Tasks are fixed: the intervals say what other data sets of these tasks might have given, not what other tasks might.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from experiments.charts import Figure, new_figure, no_data, say_band
from experiments.summary import NAN, Interval
from ntp_envs.intervals import CONFIDENCE, check_confidence, normal_quantile, score_interval, student_margin

#: share cut from either end by the interquartile mean
QUARTER = 0.25


def nats_apart(hellinger2: float) -> float:
    """A squared Hellinger distance D on the scale on which independent tokens add up: -log(1 - D/2), infinite at 2.

    >>> nats_apart(0.0), round(nats_apart(1.0), 3), nats_apart(2.0)
    (0.0, 0.693, inf)
    """
    return math.inf if hellinger2 >= 2.0 else -math.log1p(-hellinger2 / 2.0) + 0.0


def run_score(hellinger2: float, factor: float | None = None) -> float:
    """How well one run did, from 0 to 1, comparable across tasks.

    Where the best in class is known and is not the expert: 1 / C_apx, at most 1. It is 1 for the best that the class
    allows and 1/2 for twice its distance. Elsewhere there is nothing to divide by: 1 / (1 + x), x the whole texts'
    distance in additive nats (`nats_apart`). At a drift of r nats a token over H tokens that is T / (T + H), T = 1 / r
    being the tokens until one nat: 1 for the expert itself, 1/2 where the texts are as long as that, 0 where they have
    nothing in common. Distances that saturate at 2 are told apart, and an infinite one is no exception.

    A fit that stopped early counts as what it is, by the policy that it gave.

    Args:
        hellinger2: squared Hellinger distance D of whole texts, in [0, 2].
        factor: C_apx, where there is one.

    >>> run_score(0.02, factor=4.0), run_score(0.0), run_score(2.0), round(run_score(1.0), 3)
    (0.25, 1.0, 0.0, 0.591)
    """
    return 1.0 / (1.0 + nats_apart(hellinger2)) if factor is None else 1.0 / max(factor, 1.0)


def pooled_score(
    scores: ArrayLike,
    rng: np.random.Generator,
    *,
    trim: float = QUARTER,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
) -> Interval:
    """The (interquartile) mean of all runs, and the ends of its interval over data sets.

    Runs are resampled within each task (a stratified bootstrap). The farther of the two percentiles is taken to both
    sides, times ``sqrt(N / (N - 1)) t / z``, t of as many degrees of freedom as the tasks' variances have together
    (Satterthwaite). How often it covers is in ``docs/calibration.md``: too rarely for the interquartile mean where one
    task alone has all the spread and lies at the edge of the middle half.

    Args:
        scores: ``(M, N)`` in [0, 1], of N runs on each of M tasks.
        rng: source of the resampling.
        trim: share cut from either end: 0.25 for the interquartile mean, 0 for the mean, in which each task counts.
        confidence: of the interval.
        resamples: bootstrap resamples.

    Returns:
        ``(estimate, lower, upper)``, within [0, 1]; both ends ``nan`` where no task shows any spread.

    Raises:
        ValueError: no tasks, no runs, or a level outside (0, 1).

    >>> round(pooled_score([[0.0, 0.2], [0.4, 0.8]], np.random.default_rng(0))[0], 3)
    0.3
    """
    from scipy.stats import trim_mean

    sample, level = np.asarray(scores, dtype=np.float64), check_confidence(confidence)
    if sample.ndim != 2 or not sample.size:
        raise ValueError(f"scores has shape {sample.shape}; (tasks, runs) with at least one of each is needed.")
    M, N = sample.shape
    estimate = float(trim_mean(sample, trim, axis=None))
    spread = sample.var(axis=1, ddof=1) if N > 1 else np.zeros(M)
    if not spread.sum() > 1e-18:
        return estimate, NAN, NAN
    freedom = (N - 1) * float(spread.sum() ** 2 / (spread**2).sum())
    stretch = math.sqrt(N / (N - 1)) * student_margin(1.0, freedom + 1, confidence=level) / normal_quantile(level)
    drawn = sample[np.arange(M)[:, None], rng.integers(N, size=(resamples, M, N))]
    found = trim_mean(drawn.reshape(resamples, -1), trim, axis=1)
    low, high = np.quantile(found, [0.5 - level / 2, 0.5 + level / 2])
    reach = stretch * max(estimate - low, high - estimate)
    lower, upper = estimate - reach, estimate + reach
    return estimate, max(float(lower), 0.0), min(float(upper), 1.0)


#: scores this close are equal: iterative fits end within a tolerance
TIED = 1e-5


def improvement(ours: ArrayLike, theirs: ArrayLike, *, confidence: float = CONFIDENCE) -> Interval:
    """The probability that one learner scores higher than the other on the same data set of a task drawn uniformly.

    Ties count half. The interval is the score interval of a share of so many draws: runs spread less within tasks.

    Args:
        ours, theirs: ``(M, N)`` scores; entry by entry on the same data.
        confidence: of the interval.

    >>> improvement([[0.5, 0.9], [0.5, 0.1]], [[0.4, 0.2], [0.5, 0.3]])[0]  # two won, one lost, one tied
    0.625
    """
    gaps = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    better = np.where(np.abs(gaps) <= TIED, 0.5, gaps > 0)
    lower, upper = share_interval(float(better.mean()), better.size, confidence=confidence)
    return float(better.mean()), float(lower), float(upper)


def share_interval(share: ArrayLike, n: int, *, confidence: float = CONFIDENCE) -> tuple[Any, Any]:
    """The interval for shares of n draws, `ntp_envs.intervals.score_interval`."""
    at = np.asarray(share, dtype=np.float64)
    return score_interval(at, np.sqrt(at * (1.0 - at) / n), n, confidence=confidence)


def profile(scores: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """The share of ``(M, N)`` runs that score at least each threshold: Dolan and Moré's performance profile, of scores.

    >>> profile([[0.1, 0.5], [0.5, 0.9]], [0.0, 0.5, 0.6]).tolist()
    [1.0, 0.75, 0.25]
    """
    return (np.ravel(scores)[:, None] >= np.asarray(thresholds, dtype=np.float64)).mean(axis=0)


def profile_figure(scores: Mapping[str, NDArray[np.float64]], colours: Mapping[str, str], title: str) -> Figure:
    """A line for each agent of `profile` over all thresholds, with its 95 % band."""
    figure, axes = new_figure(title, "score", "share of runs that score at least this", size=(8.6, 4.6))
    thresholds = np.linspace(0.0, 1.0, 401)
    dashes = ("-", "--", ":", "-.")
    used: list[str] = []
    for agent, own in scores.items():
        share, colour = profile(own, thresholds), colours[agent]
        look: dict[str, Any] = {"color": colour, "linestyle": dashes[used.count(colour) % len(dashes)]}
        used.append(colour)
        axes.plot(thresholds, share, label=agent, **look)
        axes.fill_between(thresholds, *share_interval(share, own.size), color=colour, alpha=0.12, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if scores:
        say_band(axes, "each score")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
    else:
        no_data(axes)
    return figure
