"""From moments of functions of the log-ratio to curves with intervals, for both sampled estimators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.arrays import FloatArray
from ntp_envs.checked import check_policy
from ntp_envs.checks import NotTractableError, check_generator, check_in, check_int
from ntp_envs.demonstrations import Demonstrations
from ntp_envs.distances.curve import DEFAULT_THRESHOLDS, DistanceCurve, check_metrics, check_pair, check_thresholds
from ntp_envs.intervals import (
    CONFIDENCE,
    average_interval,
    each_of,
    normal_interval,
    one_sided_hellinger2_interval,
    score_interval,
    unseen_probability,
)
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

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


# -- Distances from samples, for policies whose log-probabilities are known: bridge and one-sided estimators ----------
#
# With l_h = log P - log Q of the first h tokens, every estimator is the mean of a function of l_h, and the running sum
# gives every prefix length in one pass. Source: our reading of the standard bridge argument; each identity is one line.
#
# Bridge: half the sequences from P and half from Q, that is from the mixture M = (P + Q) / 2, stratified.
#
# * ``sum (sqrt P - sqrt Q)^2 = E_M 2 (1 - sech(l / 2))``, in [0, 2] pointwise, so the variance is at most
#   ``(2 D - D^2) / n`` with D the squared distance and n / 2 sequences from each law, without any absolute continuity;
# * ``TV = E_M |tanh(l / 2)|``;
# * ``KL = E_M [(P l - P + Q) / M] = E_M [(1 + tanh(l / 2)) l - 2 tanh(l / 2)]``, pointwise non-negative.
#
# One-sided: all sequences from P.
#
# * ``sum (sqrt P - sqrt Q)^2 = 2 - 2 E_P e^{-l / 2}``, variance at most ``4 D (1 - D / 4) / n``;
# * ``TV = E_P max(0, 1 - e^{-l})``; ``KL = E_P l``.
#
# Coverage ``P(P / Q >= N)`` is a frequency among the sequences drawn from P in both.


#: chi-squared is not among them: its estimators may have infinite variance, and no interval would hold
SAMPLED_METRICS = ("hellinger2", "tv", "kl", "coverage")

#: tokens read together: bounds the memory (some tens of MB) whatever n and H
BLOCK_TOKENS = 2**19


def monte_carlo_distances(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    n: int,
    rng: np.random.Generator,
    metrics: Iterable[str] = SAMPLED_METRICS,
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
        metrics: any of ``SAMPLED_METRICS``.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        estimator: ``"bridge"``, or ``"one-sided"`` where sampling from ``q`` is not wanted.
        confidence: level of the intervals, in (0, 1).
        simultaneous: make all intervals of a curve hold together at this level (Bonferroni over the H lengths, times T
            thresholds for coverage), instead of each by itself.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: ``"chi2"``, which has no estimator with a finite variance.
        TypeError, ValueError: a policy that does not fit the task or returns NaN, a bad n, rng, metric or estimator.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> same = monte_carlo_distances(task.expert, task.expert, task, n=100, rng=np.random.default_rng(0))
    >>> same["hellinger2"].values.tolist() == [0.0] * 8
    True
    """
    names = _check_sampled(metrics)
    p, q = check_pair(p, q, task)
    n = check_int("n", n, minimum=4)
    check_generator(rng)
    check_in("estimator", estimator, ("bridge", "one-sided"))
    levels, log_levels = check_thresholds(thresholds)
    level = Level(confidence, simultaneous)

    def log_ratios(source: Policy, count: int) -> Iterator[FloatArray]:
        for rows in _pieces(count, task.horizon):
            prompts = task.sample_prompts(rows.stop - rows.start, rng)
            tokens = source.sample(prompts, task.horizon, rng)
            yield _running_log_ratio(p.log_probs(prompts, tokens), q.log_probs(prompts, tokens))

    if estimator == "one-sided":
        moments = _collect(log_ratios(p, n), _one_sided_functions(names, log_levels))
        return {name: one_sided_curve(name, moments[name], levels, level) for name in names}
    functions = _bridge_functions(names)
    frequencies = _one_sided_functions(tuple(set(names) & {"coverage"}), log_levels)
    from_p = _collect(log_ratios(p, n - n // 2), functions | frequencies)
    from_q = _collect(log_ratios(q, n // 2), functions)
    return bridge_curves(names, from_p, from_q, levels, level, n)


def one_sided_distances(
    demonstrations: Demonstrations,
    q: Policy,
    *,
    p: Policy | None = None,
    metrics: Iterable[str] = SAMPLED_METRICS,
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
        metrics: any of ``SAMPLED_METRICS``.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        confidence, simultaneous: of the intervals.

    Returns:
        One curve a metric, H being the demonstrations' horizon.

    Raises:
        NotTractableError: ``"chi2"``.
        ValueError: weighted demonstrations, no log-probabilities of P, other vocabularies, a horizon too short.

    >>> from ntp_envs import BernoulliPolicy, collect, make_task
    >>> task = make_task("Contamination", horizon=8)
    >>> demos = collect(task, 100, np.random.default_rng(0), expert_log_probs=True)
    >>> one_sided_distances(demos, BernoulliPolicy(0.5), metrics=["tv"])["tv"].method
    'monte carlo (one-sided)'
    """
    names = _check_sampled(metrics)
    levels, log_levels = check_thresholds(thresholds)
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
        for rows in _pieces(n, demonstrations.horizon):
            prompts, tokens = demonstrations.prompts[rows], demonstrations.tokens[rows]
            of_p = stored[rows] if p is None and stored is not None else p.log_probs(prompts, tokens)  # type: ignore[union-attr]
            yield _running_log_ratio(of_p, q.log_probs(prompts, tokens))

    moments = _collect(log_ratios(), _one_sided_functions(names, log_levels))
    return {name: one_sided_curve(name, moments[name], levels, level) for name in names}


def bridge_distances(
    of_p: Demonstrations,
    of_q: Demonstrations,
    *,
    p: Policy,
    q: Policy,
    metrics: Iterable[str] = SAMPLED_METRICS,
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
        metrics: any of ``SAMPLED_METRICS``.
        thresholds: ``(T,)`` N of the coverage profile ``P(P / Q >= N)``.
        confidence, simultaneous: of the intervals.

    Returns:
        One curve a metric.

    Raises:
        NotTractableError: ``"chi2"``.
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
    names = _check_sampled(metrics)
    levels, log_levels = check_thresholds(thresholds)
    level = Level(confidence, simultaneous)
    if of_p.horizon != of_q.horizon:
        raise ValueError(f"of_p has horizon={of_p.horizon} and of_q {of_q.horizon}; they must be equal.")
    for name, sample in (("of_p", of_p), ("of_q", of_q)):
        _check_draws(name, sample)
        p, q = check_policy("p", p, sample), check_policy("q", q, sample)

    def log_ratios(name: str, sample: Demonstrations) -> Iterator[FloatArray]:
        for rows in _pieces(len(sample), sample.horizon):
            prompts, tokens = sample.prompts[rows], sample.tokens[rows]
            by_p, by_q = p.log_probs(prompts, tokens), q.log_probs(prompts, tokens)
            if np.isneginf(by_p if name == "p" else by_q).any():
                raise ValueError(
                    f"policy {name} gives probability 0 to a sequence of of_{name}: it is not the policy that wrote "
                    "them all."
                )
            yield _running_log_ratio(by_p, by_q)

    functions = _bridge_functions(names)
    frequencies = _one_sided_functions(tuple(set(names) & {"coverage"}), log_levels)
    from_p = _collect(log_ratios("p", of_p), functions | frequencies)
    from_q = _collect(log_ratios("q", of_q), functions)
    return bridge_curves(names, from_p, from_q, levels, level, len(of_p) + len(of_q))


# -- functions of the log-ratio ----------------------------------------------------------------------------------------

LogRatioFunctions = dict[str, Callable[[FloatArray], FloatArray]]


def _bridge_functions(names: Iterable[str]) -> LogRatioFunctions:
    known: LogRatioFunctions = {"hellinger2": _bridge_hellinger2, "tv": _bridge_tv, "kl": _bridge_kl}
    return {name: known[name] for name in names if name != "coverage"}


def _bridge_hellinger2(ratio: FloatArray) -> FloatArray:
    """``2 (1 - sech(l / 2))``, as ``2 tanh(l / 2) tanh(l / 4)``."""
    quarter = np.tanh(0.25 * ratio)
    return 4.0 * quarter * quarter / (1.0 + quarter * quarter)


def _bridge_tv(ratio: FloatArray) -> FloatArray:
    return np.abs(np.tanh(0.5 * ratio))


def _bridge_kl(ratio: FloatArray) -> FloatArray:
    """``(1 + t) l - 2 t`` with t = tanh(l / 2); 2 at l = -inf."""
    t = np.tanh(0.5 * ratio)
    ratio = np.maximum(ratio, -1e3)  # 1 + t is 0 there, and 0 * inf is not
    return np.maximum(t * ratio + (ratio - 2.0 * t), 0.0)


def _one_sided_functions(names: Iterable[str], log_levels: FloatArray) -> LogRatioFunctions:
    known: LogRatioFunctions = {
        "hellinger2": lambda ratio: -2.0 * np.expm1(-0.5 * ratio),
        "tv": lambda ratio: -np.expm1(-np.maximum(ratio, 0.0)),
        "kl": lambda ratio: ratio,
        "coverage": lambda ratio: (ratio[:, :, None] >= log_levels).astype(np.float64),
    }
    return {name: known[name] for name in names}


# -- sums over sequences -----------------------------------------------------------------------------------------------


def _collect(log_ratios: Iterable[FloatArray], functions: LogRatioFunctions) -> dict[str, Moments]:
    """Moments over blocks of ``(B, H)`` log-ratios (sums of squares about block means, combined as by Chan et al.)."""
    n = 0
    mean: dict[str, FloatArray] = {}
    squares: dict[str, FloatArray] = {}
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


def _pieces(n: int, horizon: int) -> Iterator[slice]:
    size = max(1, BLOCK_TOKENS // horizon)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _running_log_ratio(log_p: FloatArray, log_q: FloatArray) -> FloatArray:
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


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_sampled(metrics: Iterable[str]) -> tuple[str, ...]:
    names = check_metrics(metrics)
    if "chi2" in names:
        raise NotTractableError(
            "chi2 has no Monte Carlo estimate: its variance may be infinite, so no interval would hold. "
            "Use metric='kl' or 'hellinger2', or policies that allow an exact method."
        )
    return names


def _check_draws(name: str, draws: Demonstrations) -> None:
    check_int(f"the number of sequences in {name}", len(draws), minimum=2)
    if not draws.are_draws:
        raise ValueError(f"{name} are weighted; draws of equal weight are needed: collect(task, n, rng).")
