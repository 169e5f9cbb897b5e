"""`distance` and `distance_curves`: the best available method, which the result names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from ntp_envs.automata import AutomatonPolicy
from ntp_envs.checked import own_cursor
from ntp_envs.checks import NotTractableError, WellSpecifiedError, check_generator, check_in, check_int, check_kind
from ntp_envs.distances.curve import DistanceCurve, Question, ask
from ntp_envs.distances.exact import by_pairs, check_automaton, enumerated, tree_size
from ntp_envs.distances.metrics import DEFAULT_THRESHOLDS, SAMPLED_METRICS, Metric, RatioFunction
from ntp_envs.distances.sampled import Level, estimated
from ntp_envs.intervals import CONFIDENCE
from ntp_envs.policies import Policy
from ntp_envs.tasks.base import Task

#: what ``method`` of `distance` may be
METHODS = (
    "auto",
    "automaton",
    "enumeration",
    "monte carlo",
    "monte carlo (bridge)",
    "monte carlo (one-sided)",
)

#: ``method="auto"`` enumerates a full tree of at most this many prefixes (a fraction of a second) ...
AUTO_PREFIXES = 2**22
#: ... or this many where a policy has no cursor of its own and reads every prefix anew, or where only pruning can help
AUTO_PREFIXES_SLOW = 2**16
#: ... and pruning is not tried on a larger vocabulary: the laws after all its first tokens are no quick question
AUTO_VOCABULARY = 2**10


def distance(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    metric: str | Metric | RatioFunction = "hellinger2",
    method: str = "auto",
    n: int = 20_000,
    rng: np.random.Generator | None = None,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> DistanceCurve:
    """A distance between two rollout laws at every prefix length h = 1..H, prompts drawn from the task.

    Args:
        p, q: policies over the task's vocabulary, for at least its horizon; KL, chi-squared and coverage are of ``p``
            relative to ``q``, so the expert comes first.
        task: gives the prompt law and the horizon H.
        metric: ``"hellinger2"`` (``sum (sqrt P - sqrt Q)^2`` in [0, 2]), ``"tv"``, ``"kl"`` (nats), ``"chi2"``, or
            ``"coverage"`` (``P(P / Q >= N)`` at each threshold); the name of one of your own (`register_metric`), or a
            function of the log-ratio as that takes it, which its own name then stands for.
        method: ``"automaton"``, ``"enumeration"``, ``"monte carlo"`` (the bridge estimator; ``"monte carlo
            (one-sided)"`` draws from ``p`` only), or ``"auto"``: the first of the three that is available and quick.
        n: sequences drawn, where sampled.
        rng: source of the draws, where sampled; ``np.random.default_rng(0)`` by default, so that a call without it
            is reproducible.
        thresholds: ``(T,)`` the N of a coverage profile.
        confidence: level of the intervals, where sampled.
        simultaneous: make the intervals hold at all h together, where sampled (Bonferroni); by default each holds at
            its own h.

    Returns:
        A `DistanceCurve` whose ``method`` says how it was obtained, whose ``band`` what the intervals are, and whose
        ``caveat`` what they cannot show: a sampled KL may rest on sequences that n draws have missed.

    Raises:
        NotTractableError: the method asked for cannot do this; the message gives the way round.
        TypeError, ValueError: a policy that does not fit the task, an unknown metric or method.

    >>> from ntp_envs import BernoulliPolicy, make_task
    >>> task = make_task("Contamination", horizon=64)
    >>> distance(task.expert, BernoulliPolicy(0.5, on="flips"), task, metric="tv")
    DistanceCurve(tv, H=64, final=1, automaton, exact)
    """
    asked = ask(p, q, task, (metric,), thresholds)
    (curve,) = _answer(asked, method, n, rng, Level(confidence, simultaneous)).values()
    return curve


def distance_curves(
    p: Policy,
    q: Policy,
    task: Task,
    *,
    metrics: Any = SAMPLED_METRICS,
    method: str = "auto",
    n: int = 20_000,
    rng: np.random.Generator | None = None,
    thresholds: ArrayLike = DEFAULT_THRESHOLDS,
    confidence: float = CONFIDENCE,
    simultaneous: bool = False,
) -> dict[str, DistanceCurve]:
    """Several distances between two rollout laws in one pass; arguments and errors as for `distance`.

    Args:
        metrics: each as for `distance`; by default squared Hellinger, TV, KL and coverage. ``"chi2"`` can be added
            where exact methods apply.

    Returns:
        One `DistanceCurve` a metric, in the order asked for. With ``method="auto"`` they may come from different
        methods: what an automaton cannot decide is enumerated, what cannot be enumerated is sampled.

    >>> from ntp_envs import BernoulliPolicy, make_task
    >>> list(distance_curves(BernoulliPolicy(0.1), BernoulliPolicy(0.2), make_task("Contamination")))
    ['hellinger2', 'tv', 'kl', 'coverage']
    """
    return _answer(ask(p, q, task, metrics, thresholds), method, n, rng, Level(confidence, simultaneous))


def _answer(
    asked: Question, method: str, n: int, rng: np.random.Generator | None, level: Level
) -> dict[str, DistanceCurve]:
    """One curve a metric, by the method asked for or by the first that can."""
    check_in("method", method, METHODS)
    n = check_int("n", n, minimum=4)
    rng = np.random.default_rng(0) if rng is None else check_generator(rng)
    found: dict[str, DistanceCurve] = {}
    if method == "automaton":
        for name, policy in (("p", asked.p), ("q", asked.q)):
            check_automaton(name, policy)
        found = by_pairs(asked)
    elif method == "enumeration":
        found = enumerated(asked)
    elif method == "auto":
        if isinstance(asked.p, AutomatonPolicy) and isinstance(asked.q, AutomatonPolicy):
            with suppress(NotTractableError):
                found = by_pairs(asked)
        if open_ := _not_in(found, asked):
            found |= _enumerated_if_quick(open_)
    if open_ := _not_in(found, asked):
        if method == "automaton":
            raise NotTractableError(
                f"{', '.join(metric.name for metric in open_.metrics)} cannot be had from pairs of automaton states "
                "here: prefixes that lead to one pair have different log-ratios. Use method='enumeration' or "
                "'monte carlo'."
            )
        estimator = "one-sided" if method == "monte carlo (one-sided)" else "bridge"
        found |= estimated(open_, n, rng, level, estimator=estimator)
    return {metric.name: found[metric.name] for metric in asked.metrics}


def _not_in(found: dict[str, DistanceCurve], asked: Question) -> Question | None:
    """The question with the metrics that have no curve yet."""
    left = tuple(metric for metric in asked.metrics if metric.name not in found)
    return replace(asked, metrics=left) if left else None


def _enumerated_if_quick(asked: Question) -> dict[str, DistanceCurve]:
    """Enumerate if that is sure to be quick; else walk a little way, in case few prefixes are possible at all."""
    limit = AUTO_PREFIXES if own_cursor(asked.p) and own_cursor(asked.q) else AUTO_PREFIXES_SLOW
    try:
        if tree_size(asked.task, len(asked.prompts[0])) > limit:
            if asked.task.vocab_size > AUTO_VOCABULARY:
                return {}
            limit = AUTO_PREFIXES_SLOW
        return enumerated(asked, limit)
    except NotTractableError:
        return {}


#: below this squared Hellinger distance the class is taken to contain the expert
WELL_SPECIFIED = 1e-14


@overload
def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = ...,
    n: int = ...,
    rng: np.random.Generator | None = ...,
    confidence: float = ...,
    with_interval: Literal[False] = ...,
) -> float: ...


@overload
def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = ...,
    n: int = ...,
    rng: np.random.Generator | None = ...,
    confidence: float = ...,
    with_interval: Literal[True],
) -> tuple[float, float, float]: ...


def approximation_factor(
    task: Task,
    policy: Policy,
    *,
    method: str = "auto",
    n: int = 20_000,
    rng: np.random.Generator | None = None,
    confidence: float = CONFIDENCE,
    with_interval: bool = False,
) -> float | tuple[float, float, float]:
    """``C_apx = D_H^2(P^policy, P*) / min_{pi in Pi} D_H^2(P^pi, P*)`` at the full horizon.

    Squared Hellinger distances ``sum (sqrt P - sqrt Q)^2``; the ratio is the same for authors who halve them. The
    factor is at least 1 for a member of the class (up to the ``tolerance`` of the best in class; a member may be below
    1 where that is ``nan``, from a local search), and may be less for a policy outside it. Source: Rohatgi, Block,
    Huang, Krishnamurthy and Foster, COLT 2025, arXiv 2502.12465.

    Args:
        task: gives the expert, the prompt law and ``best_in_class()``.
        policy: the learner's policy.
        method, n, rng: how the numerator is computed, as in `distance`.
        confidence: level of the interval.
        with_interval: also return the ends of the interval of the numerator's error (both equal to the value where it
            is exact; the denominator's error is ``task.best_in_class().tolerance``).

    Returns:
        The factor, or ``(value, lower, upper)``.

    Raises:
        WellSpecifiedError: the best in class is at distance 0 (1e-14 or less), so that there is no factor.
        NotTractableError: the task does not know its best in class, or the method cannot do this.
        TypeError, ValueError: as in `distance`.

    >>> from ntp_envs import make_task
    >>> task = make_task("Contamination", horizon=16)
    >>> round(approximation_factor(task, task.policy_class.policy(1e-5 + 1e-3 * (1 - 2e-5))), 3)
    14.058
    """
    best = check_kind("task", task, Task).best_in_class().hellinger2
    if best <= WELL_SPECIFIED:
        raise WellSpecifiedError(
            f"the policy class of {task.name} contains the expert (best in class at squared Hellinger distance "
            f"{best:.3g}), so the approximation factor is not defined; look at distance(...) itself."
        )
    curve = distance(task.expert, policy, task, method=method, n=n, rng=rng, confidence=confidence)
    if not with_interval:
        return curve.final / best
    return curve.final / best, float(curve.lower[-1]) / best, float(curve.upper[-1]) / best
