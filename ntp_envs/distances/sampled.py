"""Distances from samples, for policies whose log-probabilities are known: the bridge and the one-sided estimator.

With l_h = log P - log Q of the first h tokens, every estimator is the mean of a function of l_h (`metrics`), and the
running sum gives every prefix length in one pass. Source: our reading of the standard bridge argument; each identity is
one line.

Bridge: half the sequences from P and half from Q, that is from the mixture M = (P + Q) / 2, stratified.

* ``sum (sqrt P - sqrt Q)^2 = E_M 2 (1 - sech(l / 2))``, in [0, 2] pointwise, so the variance is at most
  ``(2 D - D^2) / n`` with D the squared distance and n / 2 sequences from each law, without any absolute continuity;
* ``TV = E_M |tanh(l / 2)|``;
* ``KL = E_M [(P l - P + Q) / M] = E_M [(1 + tanh(l / 2)) l - 2 tanh(l / 2)]``, pointwise non-negative.

One-sided: all sequences from P.

* ``sum (sqrt P - sqrt Q)^2 = 2 - 2 E_P e^{-l / 2}``, variance at most ``4 D (1 - D / 4) / n``;
* ``TV = E_P max(0, 1 - e^{-l})``; ``KL = E_P l``.

Coverage ``P(P / Q >= N)`` is a frequency among the sequences drawn from P in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import FloatArray
from ntp_envs.checked import check_policy
from ntp_envs.checks import check_fits, check_generator, check_in, check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.curve import DistanceCurve, Question, ask
from ntp_envs.distances.metrics import (
    COVERAGE,
    DEFAULT_THRESHOLDS,
    ROUNDING,
    SAMPLED_METRICS,
    Metric,
    check_sampled,
    check_thresholds,
)
from ntp_envs.intervals import CONFIDENCE, average_interval, each_of, score_interval, unseen_probability
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

#: tokens read together, and probabilities of next tokens: bounds the memory (some tens of MB) whatever n, H and A
BLOCK_TOKENS = 2**19
BLOCK_CELLS = 2**22


def monte_carlo_distances(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    n: int,
    rng: np.random.Generator,
    metrics: Any = SAMPLED_METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    estimator: str = "bridge",
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """Estimates at every prefix length, with standard errors and intervals (95 % unless ``confidence`` says otherwise).

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2]; KL is in nats, ``p`` first. The intervals are score
    intervals (`score_interval`), one for the draws of each law (`average_interval`); the one-sided squared Hellinger
    distance has one whose variance is known (`one_sided_hellinger2_interval`). None is narrower than what the draws can
    show: an event of one law of probability below about 8/n may not be among the n/2 draws from it (4/n, one-sided),
    and what it can add to a bounded metric is in the interval, however alike the draws are. It can add any amount to
    KL, and that is not in the interval of KL (`DistanceCurve.caveat`).

    The intervals hold at each prefix length by itself; all of them together hold less often, unless ``simultaneous``.

    Args:
        p, q: policies over the task's vocabulary, for at least its horizon.
        task: gives the prompts and the horizon H.
        n: sequences drawn in total, at least 4; half from each policy, or all from ``p`` if one-sided.
        rng: source of all randomness.
        metrics: any of ``SAMPLED_METRICS``, registered ones, or functions of the log-ratio.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        estimator: ``"bridge"``, or ``"one-sided"`` where sampling from ``q`` is not wanted.
        confidence: level of the intervals, in (0, 1).
        simultaneous: make all intervals of a curve hold together at this level (Bonferroni over the H lengths, times T
            thresholds for coverage), instead of each by itself.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: ``"chi2"`` and metrics that grow as fast: no estimator has a finite variance.
        TypeError, ValueError: a policy that does not fit the task or returns NaN, a bad n, rng, metric or estimator.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> same = monte_carlo_distances(task.expert, task.expert, task, n=100, rng=np.random.default_rng(0))
    >>> same["hellinger2"].values.tolist() == [0.0] * 8
    True
    """
    asked = ask(p, q, task, metrics, thresholds)
    n = check_int("n", n, minimum=4)
    check_in("estimator", estimator, ("bridge", "one-sided"))
    return estimated(asked, n, check_generator(rng), Level(confidence, simultaneous), estimator=estimator)


def estimated(
    asked: Question, n: int, rng: np.random.Generator, level: Level, *, estimator: str
) -> dict[str, DistanceCurve]:
    """`monte_carlo_distances` of a question that has been checked."""
    p, q, task = asked.p, asked.q, asked.task
    check_fits("n", n, 8.0 * task.horizon, f"log-ratios of {task.horizon} tokens")
    metrics = check_sampled(asked.metrics, one_sided=estimator == "one-sided")

    def log_ratios(source: Policy, count: int) -> Iterator[FloatArray]:
        for rows in blocks(count, task.horizon, task.vocab_size):
            prompts = task.sample_prompts(rows.stop - rows.start, rng)
            tokens, own = source.sample_with_log_probs(prompts, task.horizon, rng)
            of_p, of_q = (own if policy is source else policy.log_probs(prompts, tokens) for policy in (p, q))
            yield running_log_ratio(of_p, of_q)

    if estimator == "one-sided":
        return one_sided_curves(log_ratios(p, n), metrics, asked.levels, asked.log_levels, level)
    return bridge_curves(
        log_ratios(p, n - n // 2), log_ratios(q, n // 2), metrics, asked.levels, asked.log_levels, level, n
    )


def one_sided_distances(
    demonstrations: Demonstrations,
    q: Policy,
    *,
    p: Policy | None = None,
    metrics: Any = SAMPLED_METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """Distances from sequences that P has already produced: nothing is drawn.

    Squared Hellinger is ``sum (sqrt P - sqrt Q)^2`` in [0, 2]; KL is in nats, P first. Values are clipped to the
    metric's range; intervals as in `monte_carlo_distances`. Where both policies can be sampled the bridge has the
    smaller error in squared Hellinger: the bounds on the variances differ by a factor of 2 near equality, and often the
    variances by more.

    Args:
        demonstrations: n >= 2 unweighted sequences drawn from P.
        q: the other policy.
        p: the policy that made them; by default its stored ``expert_log_probs`` are used.
        metrics: any of ``SAMPLED_METRICS``, registered ones, or functions of the log-ratio.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        confidence, simultaneous: of the intervals.

    Returns:
        One curve a metric, H being the demonstrations' horizon.

    Raises:
        NotTractableError: ``"chi2"``, and metrics that grow as fast.
        ValueError: weighted demonstrations, no log-probabilities of P, other vocabularies, a horizon too short.

    >>> from ntp_envs import BernoulliPolicy, collect, make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> demos = collect(task, 100, np.random.default_rng(0), expert_log_probs=True)
    >>> one_sided_distances(demos, BernoulliPolicy(0.5), metrics=["tv"])["tv"].method
    'monte carlo (one-sided)'
    """
    found = check_sampled(metrics, one_sided=True)
    level = Level(confidence, simultaneous)
    _check_draws("the demonstrations", demonstrations)
    p, q = None if p is None else check_policy("p", p, demonstrations), check_policy("q", q, demonstrations)
    n = len(demonstrations)
    stored = demonstrations.expert_log_probs
    if p is None and stored is None:
        raise ValueError(
            "the demonstrations hold no expert_log_probs; pass p=, the policy that made them, or "
            "collect(..., expert_log_probs=True)."
        )

    def log_ratios() -> Iterator[FloatArray]:
        for rows in blocks(n, demonstrations.horizon, q.vocab_size):
            prompts, tokens = demonstrations.block(rows)
            of_p = stored[rows] if p is None and stored is not None else p.log_probs(prompts, tokens)  # type: ignore[union-attr]
            yield running_log_ratio(of_p, q.log_probs(prompts, tokens))

    return one_sided_curves(log_ratios(), found, *check_thresholds(thresholds), level)


def bridge_distances(
    of_p: Demonstrations,
    of_q: Demonstrations,
    *,
    p: Policy,
    q: Policy,
    metrics: Any = SAMPLED_METRICS,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """The bridge estimator on sequences that both policies have already produced: nothing is drawn.

    Conventions, intervals and clipping as in `monte_carlo_distances`. The two samples may differ in size; what they
    cannot show is decided by the smaller one: an event of its law of probability below about 4 over its size.

    Args:
        of_p, of_q: at least 2 unweighted sequences each, of one horizon, drawn from ``p`` and from ``q``.
        p, q: the policies.
        metrics: any of ``SAMPLED_METRICS``, registered ones, or functions of the log-ratio.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        confidence, simultaneous: of the intervals.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: ``"chi2"``, and metrics that grow as fast.
        ValueError: weighted demonstrations, other vocabularies or horizons, or a policy that gives probability zero to
            a sequence said to be its own.

    >>> import numpy as np
    >>> from ntp_envs import UniformPolicy, collect, make_task
    >>> task, rng = make_task("Contamination", horizon=8), np.random.default_rng(0)
    >>> learnt = UniformPolicy(2)
    >>> samples = collect(task, 100, rng), collect(task, 100, rng, policy=learnt)
    >>> bridge_distances(*samples, p=task.expert, q=learnt, metrics=["tv"])["tv"].n
    200
    """
    found, n = check_sampled(metrics), len(of_p) + len(of_q)
    level = Level(confidence, simultaneous)
    if of_p.horizon != of_q.horizon:
        raise ValueError(f"of_p has horizon={of_p.horizon} and of_q {of_q.horizon}; they must be equal.")
    for name, sample in (("of_p", of_p), ("of_q", of_q)):
        _check_draws(name, sample)
        p, q = check_policy("p", p, sample), check_policy("q", q, sample)

    def log_ratios(name: str, sample: Demonstrations) -> Iterator[FloatArray]:
        for rows in blocks(len(sample), sample.horizon, sample.vocab_size):
            prompts, tokens = sample.block(rows)
            by_p, by_q = p.log_probs(prompts, tokens), q.log_probs(prompts, tokens)
            if np.isneginf(by_p if name == "p" else by_q).any():
                raise ValueError(
                    f"policy {name} gives probability 0 to a sequence of of_{name}: it is not the policy that wrote "
                    "them all."
                )
            yield running_log_ratio(by_p, by_q)

    return bridge_curves(log_ratios("p", of_p), log_ratios("q", of_q), found, *check_thresholds(thresholds), level, n)


# Means of functions of the log-ratio over sequences, and from them curves with intervals.

RatioFunctions = dict[Metric, Callable[[FloatArray], FloatArray]]


def bridge_curves(
    from_p: Iterator[FloatArray],
    from_q: Iterator[FloatArray],
    metrics: tuple[Metric, ...],
    levels: FloatArray,
    log_levels: FloatArray,
    level: Level,
    n: int,
) -> dict[str, DistanceCurve]:
    """Curves from the log-ratios of draws from P and of draws from Q, n in all."""
    functions: RatioFunctions = {metric: metric.of_ratio for metric in metrics if metric is not COVERAGE}
    frequencies = _under_p([metric for metric in metrics if metric is COVERAGE], log_levels)
    of_p, of_q = _collect(from_p, functions | frequencies), _collect(from_q, functions)
    return {
        metric.name: _coverage_curve(of_p[metric], levels, "monte carlo (bridge)", level, n)
        if metric is COVERAGE
        else _bridge_curve(metric, of_p[metric], of_q[metric], level)
        for metric in metrics
    }


def one_sided_curves(
    log_ratios: Iterator[FloatArray],
    metrics: tuple[Metric, ...],
    levels: FloatArray,
    log_levels: FloatArray,
    level: Level,
) -> dict[str, DistanceCurve]:
    """Curves from the log-ratios of draws from P."""
    moments = _collect(log_ratios, _under_p(metrics, log_levels))
    return {metric.name: _one_sided_curve(metric, moments[metric], levels, level) for metric in metrics}


def _under_p(metrics: Iterable[Metric], log_levels: FloatArray) -> RatioFunctions:
    functions: RatioFunctions = {metric: metric.under_p for metric in metrics}
    if COVERAGE in functions:
        functions[COVERAGE] = lambda ratio: (ratio[:, :, None] >= log_levels).astype(np.float64)
    return functions


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
        metric: Metric,
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
            metric.name,
            value,
            *ends,
            method,
            n,
            std_error,
            thresholds,
            confidence=float(self.confidence),
            simultaneous=bool(self.simultaneous),
            unseen=float(unseen_probability(fewest, confidence=self.of_each(value.size))),
            unbounded=metric is not COVERAGE and not np.isfinite(metric.most),
        )


def _collect(log_ratios: Iterable[FloatArray], functions: RatioFunctions) -> dict[Metric, Moments]:
    """Moments over blocks of ``(B, H)`` log-ratios (sums of squares about block means, combined as by Chan et al.)."""
    n = 0
    mean: dict[Metric, FloatArray] = {}
    squares: dict[Metric, FloatArray] = {}
    for ratio in log_ratios:
        b = len(ratio)
        for name, function in functions.items():
            values = function(ratio)
            with np.errstate(invalid="ignore"):
                block = values.mean(axis=0)
                spread = ((values - block) ** 2).sum(axis=0)
                change = block - mean.get(name, 0.0)
                squares[name] = squares.get(name, 0.0) + spread + change**2 * (n * b / (n + b))
                mean[name] = mean.get(name, 0.0) + change * (b / (n + b))
                # an infinite block makes the mean infinite for good, not inf - inf
                infinite = np.isposinf(block) | np.isnan(mean[name])
                mean[name] = np.where(infinite, np.inf, mean[name])
        n += b
    with np.errstate(invalid="ignore"):
        return {
            name: Moments(mean[name], np.where(np.isposinf(mean[name]), 0.0, squares[name] / (n * max(n - 1, 1))), n)
            for name in functions
        }


def blocks(n: int, horizon: int, vocab_size: int = 1) -> Iterator[slice]:
    """Rows that go together, of sequences that policies over ``vocab_size`` tokens read a token of each at a time."""
    size = max(1, min(BLOCK_TOKENS // horizon, BLOCK_CELLS // vocab_size))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def running_log_ratio(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
    """``(B, H)`` log P - log Q of every prefix; once infinite it stays so."""
    with np.errstate(invalid="ignore"):
        ratio = np.cumsum(log_p - log_q, axis=1)
    broken = np.isnan(ratio)
    if broken.any():
        # -inf - -inf, or a policy that has no answer after a prefix it excludes: the first infinity decides
        infinite = np.isinf(ratio)
        first = np.where(infinite.any(axis=1), infinite.argmax(axis=1), ratio.shape[1])
        after = np.arange(ratio.shape[1]) > first[:, None]
        if (broken & ~after).any():
            raise ValueError("a policy returned NaN, or both policies exclude a sequence that one of them produced.")
        rows, columns = np.nonzero(after)
        ratio[rows, columns] = ratio[rows, first[rows]]
    return ratio


def _bridge_curve(metric: Metric, from_p: Moments, from_q: Moments, level: Level) -> DistanceCurve:
    """``E_M b = (E_P b + E_Q b) / 2``, each half from its own draws, with an interval."""
    value = 0.5 * (from_p.mean + from_q.mean)
    std_error = np.where(np.isposinf(value), 0.0, 0.5 * np.sqrt(from_p.variance + from_q.variance))
    ends = average_interval(
        (from_p.mean, from_q.mean),
        (from_p.std_error, from_q.std_error),
        (from_p.n, from_q.n),
        bound=max(metric.ends),
        confidence=level.of_each(value.size),
    )
    if not metric.symmetric and np.isfinite(metric.most):
        ends = _with_unseen_of_one(ends, (from_p, from_q), max(metric.ends), level.of_each(value.size))
    ends = _widen(ends, metric.rounding, metric.most)
    n, fewest = from_p.n + from_q.n, min(from_p.n, from_q.n)
    return level.curve(metric, "monte carlo (bridge)", value, ends, std_error, n, fewest=fewest)


def _with_unseen_of_one(
    ends: tuple[FloatArray, FloatArray], samples: tuple[Moments, Moments], bound: float, confidence: float
) -> tuple[FloatArray, FloatArray]:
    """Room for an event that the draws of one law have missed, where that law may carry the metric all by itself.

    `average_interval` makes room as if both means were about the average, which they are if the laws may change places.
    """
    lower, upper = ends
    average = 0.5 * (samples[0].mean + samples[1].mean)
    for sample in samples:
        half = 0.5 * unseen_probability(sample.n, confidence=confidence)
        lower = np.minimum(lower, average - half * sample.mean)
        upper = np.maximum(upper, average + half * (bound - sample.mean))
    return lower, upper


def _widen(ends: tuple[FloatArray, FloatArray], rounding: float, bound: float) -> tuple[FloatArray, FloatArray]:
    """The interval with room for rounding errors on both sides, within [0, bound]."""
    lower, upper = ends
    return np.clip(lower - rounding, 0.0, bound), np.clip(upper + rounding, 0.0, bound)


def _coverage_curve(moments: Moments, levels: FloatArray, method: str, level: Level, n: int) -> DistanceCurve:
    share = moments.mean
    ends = score_interval(share, moments.std_error, moments.n, confidence=level.of_each(share.size))
    return level.curve(COVERAGE, method, share, ends, moments.std_error, n, fewest=moments.n, thresholds=levels)


def _one_sided_curve(metric: Metric, moments: Moments, levels: FloatArray, level: Level) -> DistanceCurve:
    method, n, mean, std_error = "monte carlo (one-sided)", moments.n, moments.mean, moments.std_error
    if metric is COVERAGE:
        return _coverage_curve(moments, levels, method, level, n)
    ends = metric.interval_under_p(mean, std_error, n, level.of_each(mean.size))
    value = np.clip(mean, 0.0, metric.most)
    return level.curve(metric, method, value, _widen(ends, ROUNDING, metric.most), std_error, n, fewest=n)


def _check_draws(name: str, draws: Demonstrations) -> None:
    check_int(f"the number of sequences in {name}", len(draws), minimum=2)
    if not draws.are_draws:
        raise ValueError(f"{name} are weighted; draws of equal weight are needed: collect(task, n, rng).")
